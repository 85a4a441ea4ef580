"""What BLAN is worth: its rivals and itself on few and on many labels, and on equal budgets. These tables are ours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from blan_facial.config import PRESETS as TRAINING
from blan_facial.config import TUNED
from blan_facial.network.model import LEVEL_NAMES
from blan_facial.tables.cells import DRAWN, PRESETS, Cell, Data, Experiment, Name, Run
from blan_facial.tables.measures import Measure, Result, information, kept, percent, probe, seconds

COUNTS = (100, 300, 1000, 4000)
"""Labelled faces of ``labels``; the rest of the training split has none."""

MEASURES: dict[str, Measure] = {
    "balanced accuracy": percent("balanced_accuracy"),
    "average precision": percent("average_precision"),
    "accuracy": percent("accuracy"),
    "calibration error": percent("scaled_calibration_error"),
    "epoch kept": kept,
    "seconds": seconds,
}

_SMALL = ("--width", "8")
"""Of drawn faces, so that all runs of ``labels`` with three seeds take less than an hour on two cores."""
_NARROW = ("--summary-channels", "64")
_ENCODER = ("--no-decoder", "--no-lmim", "--no-fusion")


def _option(name: str, value: object) -> tuple[str, ...]:
    """Return a setting as the command line has it."""
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return (f"--{words}" if value else f"--no-{words}",)
    return f"--{words}", str(value)


MODELS = {
    "ResNet": ("--model", "resnet"),
    "MOON": ("--model", "moon"),
    "MCNN": ("--model", "mcnn"),
    "Enc": _ENCODER,
    "BLAN": (),
    "BLAN tuned": tuple(word for name, value in TUNED.items() for word in _option(name, value)),
}
REST = "BLAN tuned and the rest"
"""BLAN, trained on the faces without labels, too."""

SUPPRESSIONS = {"w/ OS": "with os", "w/o OS": "without os"}
_WITHOUT = ("ResNet", "Enc", "BLAN tuned")
"""Models that ``labels`` trains without overfitting suppression too."""

ALPHAS = (0, 0.01, 0.1, 1, 10)
"""Weights of LMIM in ``lmim``."""

OF_LEVELS: dict[str, Measure] = {
    **{name: MEASURES[name] for name in ("balanced accuracy", "average precision")},
    **{f"nats, {level}": information(level) for level in LEVEL_NAMES},
    **{f"probe, {level}": probe(level) for level in LEVEL_NAMES},
}
"""Columns of ``lmim``."""

LONGER = 4
"""How many times as many epochs as others a run to convergence has."""

BUDGETS = ("equal epochs", "equal seconds", "to convergence")


def labels_plan(data: Data) -> Experiment:
    """Return the models on each number of labels, with and without overfitting suppression and unlabelled faces."""
    rows: dict[str, Run] = {}
    for count in COUNTS:
        labelled = () if _all(data, count) else ("--labelled", str(count))
        for suppression in SUPPRESSIONS:
            for model in MODELS if suppression == "w/ OS" else _WITHOUT:
                rows[f"{count:,} labels, {model}, {suppression}"] = _run(
                    data, count, model, suppression, (*MODELS[model], *labelled)
                )
            if labelled:
                rows[f"{count:,} labels, {REST}, {suppression}"] = _run(
                    data, count, REST, suppression, (*MODELS["BLAN tuned"], *labelled, "--unlabelled")
                )
    cells = {place: cell for row, run in rows.items() for place, cell in _cells(row, run).items()}
    return _experiment("labels", "Few and many labels: the model of the best epoch by validation", tuple(rows), cells)


def budget_plan(data: Data) -> Experiment:
    """Return the models on equal epochs and to convergence; :func:`with_equal_seconds` adds those on equal seconds."""
    cells: dict[tuple[str, str], Cell] = {}
    for suppression in SUPPRESSIONS:
        for model, options in MODELS.items():
            run = _run(data, COUNTS[-1] if data in DRAWN else None, model, suppression, options)
            cells |= _cells(_row("equal epochs", model, suppression), run)
            longer = Run(f"{run.name}-to-convergence", run.options, float(LONGER))
            cells |= _cells(_row("to convergence", model, suppression), longer)
    rows = tuple(_row(budget, model, of) for budget in BUDGETS for of in SUPPRESSIONS for model in MODELS)
    return _experiment("budget", "Equal epochs, equal seconds, and to convergence", rows, cells)


def lmim_plan(data: Data) -> Experiment:
    """Return BLAN tuned with weaker and stronger LMIM, on few labels with the unlabelled rest and on all labels."""
    cells: dict[tuple[str, str], Cell] = {}
    own = TRAINING[PRESETS[data]].alpha
    few = ("--labelled", str(COUNTS[1]), "--unlabelled")
    for count, model, options in ((COUNTS[1], REST, few), (COUNTS[-1] if data in DRAWN else None, "BLAN tuned", ())):
        for alpha in ALPHAS:
            weighted = () if alpha == own else ("--alpha", str(alpha)) if alpha else ("--no-lmim",)
            run = _run(data, count, model, "w/ OS", (*MODELS["BLAN tuned"], *options, *weighted))
            if weighted:
                run = replace(run, name=f"{run.name}-alpha-{alpha}")
            labels = "all labels" if count is None else f"{count:,} labels"
            row = f"{labels}{' and the rest' * (model == REST)}, alpha {alpha}"
            cells |= {(row, column): Cell(run, measure) for column, measure in OF_LEVELS.items()}
    title = (
        "LMIM by its weight: the information between a level's maps and summaries, which it maximises, and the average "
        "precision of linear probes of the level's maps"
    )
    return _experiment("lmim", title, tuple(dict.fromkeys(row for row, _ in cells)), cells, tuple(OF_LEVELS))


def with_equal_seconds(plan: Experiment, results: Mapping[Cell, Sequence[Result]]) -> Experiment:
    """Add runs that have the epochs in which each model trains as long as the slowest does on equal epochs.

    Args:
        plan: That of :func:`budget_plan`.
        results: Its finished runs. A model of which there are none gets no run on equal seconds.
    """
    cells = dict(plan.cells)
    for suppression in SUPPRESSIONS:
        times = {}
        for model in MODELS:
            cell = plan.cells.get((_row("equal epochs", model, suppression), "seconds"))
            if cell is not None and (found := results.get(cell)):
                time = sum(of.metrics["train_seconds"] for of in found) / len(found)
                times[model] = cell.run, found[0].config.epochs, time
        slowest = max((time for *_, time in times.values()), default=0.0)
        for model, (own, few, time) in times.items():
            epochs = round(few * slowest / time)
            name = f"{own.name}-equal-seconds-{epochs}-epochs"  # other seeds or rows make for another length and run
            run = own if epochs == few else Run(name, own.options, epochs / few)
            cells |= _cells(_row("equal seconds", model, suppression), run)
    return replace(plan, cells=cells)


def _row(budget: str, model: str, suppression: str) -> str:
    return f"{budget}, {model}, {suppression}"


def _run(data: Data, count: int | None, model: str, suppression: str, options: Sequence[str]) -> Run:
    labels = "all-labels" if count is None or _all(data, count) else f"{count}-labels"
    words = f"{labels} {model} {SUPPRESSIONS[suppression]}".lower().replace(" ", "-")
    small = _SMALL if data in DRAWN else ()
    narrow = _NARROW if data in DRAWN and model not in ("ResNet", "MOON") else ()
    suppressed = () if suppression == "w/ OS" else ("--no-os",)
    validated = ("--lfwa-split", "80:10") if data == "lfwa" else ()  # its official halves have no validation images
    return Run(words, ("--keep", "best", *validated, *small, *narrow, *options, *suppressed))


def _all(data: Data, count: int) -> bool:
    """Say whether so many labels are all that there are."""
    return data in DRAWN and count == COUNTS[-1]


def _experiment(
    name: Name,
    title: str,
    rows: tuple[str, ...],
    cells: Mapping[tuple[str, str], Cell],
    columns: tuple[str, ...] = tuple(MEASURES),
) -> Experiment:
    return Experiment(name, title, "none of this", rows, columns, cells)


def _cells(row: str, run: Run) -> dict[tuple[str, str], Cell]:
    return {(row, column): Cell(run, measure) for column, measure in MEASURES.items()}
