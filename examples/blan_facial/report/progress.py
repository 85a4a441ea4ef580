"""The logs prepared for the page: curves, means of the epochs, and the LMIM bound in nats."""

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
"""Upper limit of the LMIM bound, in nats."""

WORDS = {"total": "objective", "lmim": "LMIM", "lr": "learning rate"}
"""Names on the page of logged quantities whose own names are not words."""

CHARTED = ("classification", "lmim", "reconstruction", "fusion")
"""The terms of the objective whose charts have their own titles."""


class Legend(NamedTuple):
    """A curve of a chart, and its last value."""

    name: str
    style: str
    last: str


class Chart(NamedTuple):
    """A drawing with its title and legend."""

    title: str
    note: str
    legend: tuple[Legend, ...]
    drawing: Markup


class Bound(NamedTuple):
    """The LMIM bound of a level, in nats."""

    level: str
    first: float
    """Mean of the first epoch."""
    last: float
    """Mean of the last epoch."""
    strip: Strip | None


def charts(history: History) -> list[Chart]:
    """Return the charts of the logged quantities."""
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
            "after every epoch, in percent",
            [
                (f"{VALIDATION}accuracy", "accuracy", "whole"),
                (f"{VALIDATION}balanced_accuracy", "balanced accuracy", "level-2"),
                (f"{VALIDATION}average_precision", "average precision", "level-3"),
            ],
            ".1f",
            lambda fraction: 100 * fraction,
        ),
        _chart(history, "Learning rate", "Adam's", [("lr", "rate", "whole")], ".2g"),
    ]
    return [chart for chart in found if chart is not None]


def bounds(history: History) -> list[Bound]:
    """Return the bound of every level with a critic."""
    found, axis = [], Axis(0, LIMIT)
    for level in LEVEL_NAMES:
        if f"lmim_{level}" in history.series:
            means = [LIMIT - loss for _, loss in sorted(history.by_epoch(f"lmim_{level}").items())]
            found.append(Bound(level, means[0], means[-1], strip(axis, means[-1], None, means[0], style_of(level))))
    return found


def epochs(history: History) -> tuple[list[str], list[tuple[int, list[float | None]]]]:
    """Return the names of the quantities, and their means in every epoch."""
    validated = [name for name in history.series if name.startswith(VALIDATION)]
    known = [name for name in ("total", *_terms(history), "lr", *validated) if name in history.series]
    means = [history.by_epoch(name) for name in known]
    numbers = sorted({number for of in means for number in of})
    return [_words(name) for name in known], [(number, [of.get(number) for of in means]) for number in numbers]


def _terms(history: History) -> list[str]:
    """Return the logged terms of the objective, with those common to all runs first."""
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
    """Return a chart of the quantities that were logged; None if there are none."""
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
