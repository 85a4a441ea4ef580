"""The tables of the paper: their rows and columns, and the run and the measure of each cell."""

from collections.abc import Callable, Mapping

from blan_facial import config as settings
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.network.model import LEVEL_NAMES
from blan_facial.tables.cells import DRAWN, PRESETS, SPOKEN, Cell, Data, Experiment, Name, Run
from blan_facial.tables.measures import Measure, best_level, millions, milliseconds, of_attribute, percent
from blan_facial.tables.worth import budget_plan, labels_plan, lmim_plan

FIGURE_ATTRIBUTES = (
    *("Bags_Under_Eyes", "Big_Nose", "Big_Lips", "Black_Hair", "Blond_Hair", "Brown_Hair", "Oval_Face", "Young"),
    "Arched_Eyebrows",
)


NO_OS = ("--no-os",)
BLAN = Run("blan", ())
BLAN_WITHOUT_OS = Run("blan-without-os", NO_OS)
RESNET = Run("resnet", ("--model", "resnet"))
MOON = Run("moon", ("--model", "moon"))
MCNN = Run("mcnn", ("--model", "mcnn"))

IDEAS = "MOON and MCNN of ours: their ideas on this project's encoder, w/ OS"

ABLATION = {
    "Enc": Run("enc", ("--no-decoder", "--no-lmim", "--no-fusion", *NO_OS)),
    "Enc + LMIM": Run("enc-lmim", ("--no-decoder", "--no-fusion", *NO_OS)),
    "Dec + LMIM": Run("dec-lmim", ("--no-encoder-features", "--no-fusion", *NO_OS)),
    "Enc + Dec + LMIM": Run("enc-dec-lmim", ("--join", "concat", "--no-fusion", *NO_OS)),
    "Enc + Dec + LMIM + RDAM": Run("enc-dec-lmim-rdam", ("--no-fusion", *NO_OS)),
    "Enc + Dec + LMIM + RDAM + SF": BLAN_WITHOUT_OS,
}


def experiment(name: Name, data: Data) -> Experiment:
    """Return the plan of a table for a data set."""
    return _PLANS[name](data)


OURS: dict[str, Measure] = {
    "balanced accuracy": percent("balanced_accuracy"),
    "average precision": percent("average_precision"),
    "parameters": millions,
}
"""Columns that the paper's accuracy tables lack."""


def _accuracies(runs: Mapping[str, Run], column: str) -> dict[tuple[str, str], Cell]:
    measures = {column: percent("accuracy")} | OURS
    return {(row, name): Cell(run, measure) for row, run in runs.items() for name, measure in measures.items()}


def _data_columns(data: Data) -> tuple[str, ...]:
    return ("CelebA", "LFWA", *((SPOKEN[data],) if data in DRAWN else ()))


def _table3(data: Data) -> Experiment:
    runs = {
        "MOON": MOON,
        "MCNN": MCNN,
        "ResNet (w/o OS)": Run("resnet-without-os", (*RESNET.options, *NO_OS)),
        "ResNet (w/ OS)": RESNET,
        "BLAN (w/o OS)": BLAN_WITHOUT_OS,
        "BLAN (w/ OS)": BLAN,
    }
    others = ("PANDA", "LNet+ANet", "Mid-level CNN features", "SOMP-branch-32", "PaW", "AFFAIR")
    return Experiment(
        "table3",
        f"Table 3: comparison ({IDEAS})",
        "CelebA and LFWA",
        (*others, *runs),
        (*_data_columns(data), *OURS),
        _accuracies(runs, SPOKEN[data]),
    )


def _table4(data: Data) -> Experiment:
    cells = _accuracies(ABLATION, "accuracy")
    return Experiment("table4", "Table 4: ablation, w/o OS", "CelebA", tuple(ABLATION), ("accuracy", *OURS), cells)


def _table5(data: Data) -> Experiment:
    cells = {}
    for arrangement in ("channel-spatial", "spatial-channel", "parallel"):
        for column, run in (("w/o OS", BLAN_WITHOUT_OS), ("w/ OS", BLAN)):
            if arrangement != "channel-spatial":
                run = Run(f"{run.name}-{arrangement}", (*run.options, "--arrangement", arrangement))
            cells[arrangement, column] = Cell(run, percent("accuracy"))
    return _grid("table5", "Table 5: arrangement of RDAM's gates, accuracy", cells)


def _table6(data: Data) -> Experiment:
    weights, own = ("1", "0.1", "0.01"), settings.PRESETS[PRESETS[data]]
    cells = {}
    for beta in weights:
        for alpha in weights:
            run = Run(f"blan-alpha-{alpha}-beta-{beta}", ("--alpha", alpha, "--beta", beta))
            same = (float(alpha), float(beta)) == (own.alpha, own.beta)
            cells[f"beta {beta}", f"alpha {alpha}"] = Cell(BLAN if same else run, percent("accuracy"))
    return _grid("table6", "Table 6: weights of LMIM and reconstruction, accuracy, w/ OS", cells)


def _table7(data: Data) -> Experiment:
    column = SPOKEN[data]
    keys = {column: ("accuracy", "accuracy"), "balanced accuracy": ("balanced", "balanced_accuracy")}
    keys["majority"] = ("majority", "majority_accuracy")
    cells = {
        (name, shown): Cell(BLAN, of_attribute(name, key))
        for shown, (key, _) in keys.items()
        for name in CELEBA_ATTRIBUTES
    }
    cells |= {("Average", shown): Cell(BLAN, percent(mean)) for shown, (_, mean) in keys.items()}
    return Experiment(
        "table7",
        "Table 7: accuracy by attribute, w/ OS",
        "CelebA and LFWA",
        (*CELEBA_ATTRIBUTES, "Average"),
        (*_data_columns(data), "balanced accuracy", "majority"),
        cells,
    )


def _table8(data: Data) -> Experiment:
    more = ("--lfwa-split", "80:10") if data == "lfwa" else ()
    less = {"lfwa": (), "celeba": ("--train-images", "101731")}.get(data, ("--train-images", "2500"))
    cells = {}
    for row, run in (("w/o OS", BLAN_WITHOUT_OS), ("w/ OS", BLAN)):
        for column, options in (("50:50", less), ("80:10", more)):
            named = Run(f"{run.name}-{column.replace(':', '-')}", (*run.options, *options)) if options else run
            cells[row, column] = Cell(named, percent("accuracy"))
    return _grid("table8", "Table 8: share of the images to train on, accuracy", cells)


def _table9(data: Data) -> Experiment:
    tests: tuple[Data, ...] = ("lfwa", "celeba", *((data,) if data in DRAWN else ()))
    cells = {}
    for suffix, run in (("w/o OS", BLAN_WITHOUT_OS), ("w/ OS", BLAN)):
        row = f"{SPOKEN[data]} ({suffix})"
        cells[row, SPOKEN[data]] = Cell(run, percent("accuracy"))
        if data == "celeba":
            cells[row, "LFWA"] = Cell(run, percent("accuracy"), test="lfwa")
        elif data == "lfwa":
            whole = Run(f"{run.name}-all", (*run.options, "--lfwa-split", "all"))
            cells[row, "CelebA"] = Cell(whole, percent("accuracy"), test="celeba")
    rows = tuple(f"{SPOKEN[trained]} ({suffix})" for suffix in ("w/o OS", "w/ OS") for trained in tests)
    return Experiment(
        "table9",
        "Table 9: trained on the row's data set, tested on the column's, accuracy",
        "LFWA and CelebA",
        rows,
        tuple(SPOKEN[test] for test in tests),
        cells,
    )


def _table10(data: Data) -> Experiment:
    runs = {"MOON": MOON, "MCNN": MCNN, "ResNet": RESNET, "BLAN": BLAN}
    measures = {"accuracy": percent("accuracy"), "ms/image": milliseconds, "parameters": millions}
    cells = {(row, name): Cell(run, measure) for row, run in runs.items() for name, measure in measures.items()}
    return Experiment(
        "table10",
        f"Table 10: accuracy, time of one image by itself, parameters in millions ({IDEAS}, as all of ours)",
        "CelebA, on a Titan X",
        ("SOMP-branch-32", "PaW", *runs),
        tuple(measures),
        cells,
    )


def _figure3(data: Data) -> Experiment:
    cells = {
        (name, level): Cell(BLAN, of_attribute(name, level)) for name in FIGURE_ATTRIBUTES for level in LEVEL_NAMES
    }
    cells |= {(name, "best level"): Cell(BLAN, best_level(name)) for name in FIGURE_ATTRIBUTES}
    return Experiment(
        "figure3",
        "Fig. 3: accuracy by level; * marks a best level that is significantly better than the second "
        "(exact paired test, Holm's correction over all attributes)",
        "CelebA",
        FIGURE_ATTRIBUTES,
        (*LEVEL_NAMES, "best level"),
        cells,
    )


def _grid(name: Name, title: str, cells: Mapping[tuple[str, str], Cell]) -> Experiment:
    rows, columns = (tuple(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    return Experiment(name, title, "LFWA", rows, columns, cells)


_PLANS: dict[Name, Callable[[Data], Experiment]] = {
    "table3": _table3,
    "table4": _table4,
    "table5": _table5,
    "table6": _table6,
    "table7": _table7,
    "table8": _table8,
    "table9": _table9,
    "table10": _table10,
    "figure3": _figure3,
    "labels": labels_plan,
    "budget": budget_plan,
    "lmim": lmim_plan,
}
