"""What the logs say, ready for the page: curves, the means of the epochs, and LMIM in nats."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from blan_facial.network.model import LEVEL_NAMES
from blan_facial.report.charts import Curve, curves
from blan_facial.report.history import VALIDATION, History
from blan_facial.report.scores import Axis, Strip, strip, style_of

LIMIT = 2 * math.log(2)
"""Nats that the bound of LMIM cannot pass."""

WORDS = {"total": "objective", "lmim": "LMIM", "lr": "learning rate"}
"""What the page calls logged quantities whose names are no words; the others have their own names."""

CHARTED = ("classification", "lmim", "reconstruction", "fusion")
"""The terms of the objective whose charts have words of their own."""


class Legend(NamedTuple):
    """A line of a chart, and where it ends."""

    name: str
    style: str
    last: str


class Chart(NamedTuple):
    """A drawing with its words."""

    title: str
    note: str
    legend: tuple[Legend, ...]
    drawing: Markup


class Bound(NamedTuple):
    """What LMIM's critic of a level told, in nats."""

    level: str
    first: float
    """Mean of the first epoch."""
    last: float
    """Mean of the last epoch."""
    strip: Strip | None


def charts(history: History) -> list[Chart]:
    """Draw everything logged that is worth a look."""
    cls = [(f"cls_{level}", level, style_of(level)) for level in LEVEL_NAMES]
    lmim = [(f"lmim_{level}", level, style_of(level)) for level in LEVEL_NAMES]
    several = all(name in history.series for name, *_ in cls)
    levels = [*cls, ("fusion", "fused", "whole")] if several else [("classification", "scores", "whole")]
    found = [
        _chart(history, "Objective", "the weighted sum of all losses", [("total", "objective", "whole")]),
        _chart(history, "Classification loss", "of each level, unweighted", levels),
        _chart(
            history,
            "Mutual information",
            "lower bound by level, in nats",
            lmim,
            ".2f",
            lambda loss: LIMIT - loss,
            LIMIT,
        ),
        _chart(
            history, "Reconstruction error", "mean square, normalised pixels", [("reconstruction", "error", "whole")]
        ),
        *(
            _chart(history, _words(name).capitalize(), "unweighted", [(name, _words(name), "whole")])
            for name in _terms(history)
            if name not in CHARTED
        ),
        _chart(
            history,
            "Validation",
            "accuracy after every epoch, in percent",
            [(f"{VALIDATION}accuracy", "accuracy", "whole"), (f"{VALIDATION}balanced_accuracy", "balanced", "level-2")],
            ".1f",
            lambda accuracy: 100 * accuracy,
        ),
        _chart(history, "Learning rate", "Adam's", [("lr", "rate", "whole")], ".2g"),
    ]
    return [chart for chart in found if chart is not None]


def bounds(history: History) -> list[Bound]:
    """Return the bound of every level that has a critic."""
    found, axis = [], Axis(0, LIMIT)
    for level in LEVEL_NAMES:
        if f"lmim_{level}" in history.series:
            means = [LIMIT - loss for _, loss in sorted(history.by_epoch(f"lmim_{level}").items())]
            found.append(Bound(level, means[0], means[-1], strip(axis, means[-1], None, means[0], style_of(level))))
    return found


def epochs(history: History) -> tuple[list[str], list[tuple[int, list[float | None]]]]:
    """Return the names of the quantities, and the mean of each in every epoch."""
    validated = [name for name in history.series if name.startswith(VALIDATION)]
    known = [name for name in ("total", *_terms(history), "lr", *validated) if name in history.series]
    means = [history.by_epoch(name) for name in known]
    numbers = sorted({number for of in means for number in of})
    return [_words(name) for name in known], [(number, [of.get(number) for of in means]) for number in numbers]


def _terms(history: History) -> list[str]:
    """Return the terms of the objective that were logged, those of every run first."""
    others = {"total", "epoch", "step", "lr"}
    logged = [name for name in history.series if name not in others and not name.startswith(VALIDATION)]
    terms = [name for name in logged if not name.endswith(tuple(f"_{level}" for level in LEVEL_NAMES))]
    return sorted(terms, key=lambda name: CHARTED.index(name) if name in CHARTED else len(CHARTED))


def _words(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))


def _chart(
    history: History,
    title: str,
    note: str,
    wanted: Sequence[tuple[str, str, str]],
    digits: str = ".3g",
    change: Callable[[np.ndarray], np.ndarray] = np.positive,
    limit: float | None = None,
) -> Chart | None:
    """Draw those of the quantities that were logged; None if none was."""
    lines, legend = [], []
    for name, called, style in wanted:
        if name in history.series:
            lines.append(Curve(called, style, history.epochs(name), change(history.series[name].values)))
            last = change(np.array([history.by_epoch(name)[max(history.by_epoch(name))]]))[0]
            legend.append(Legend(called, style, f"{last:{digits}}"))
    if not lines:
        return None
    said = ", ".join(f"{called} {last}" for called, _, last in legend)
    drawing = curves(
        f"{title}, {note}; in the last epoch {said}", lines, end=history.end, taken_up=history.taken_up, limit=limit
    )
    return Chart(title, note, tuple(legend), drawing)
