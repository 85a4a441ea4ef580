"""The staircase picture: estimates of every estimator on every task over the training steps, with the truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mutual_information.estimators import ESTIMATORS
from mutual_information.staircase import Estimates
from mutual_information.summary import Results
from mutual_information.tasks import TASKS
from shared.sheet import FAINT, INK, MARGIN, Sheet

WIDTH, HEIGHT, GAP, NAMES, HEADER = 1.75, 0.98, 0.14, 1.3, 0.98  # inches
RAW, SMOOTH, TRUTH, CAP = "#9ecae9", "#0b559f", "#000000", "#d55e00"
POINTS = 500
"""Maximum number of single estimates in a panel."""


def staircase_figure(results: Results, levels: Sequence[float], batch_size: int, note: str) -> Figure:
    """Draw a row per estimator and a column per task, for the first seed.

    Args:
        results: The estimates.
        levels: The truth in nats.
        batch_size: Number of candidates, which caps some estimators.
        note: A line on how they were measured.
    """
    tasks = list(dict.fromkeys(task for task, _ in results))
    estimators = list(dict.fromkeys(estimator for _, estimator in results))
    width = max(MARGIN + NAMES + len(tasks) * (WIDTH + GAP) + MARGIN - GAP, 6.2)
    sheet = Sheet(width, HEADER + len(estimators) * (HEIGHT + GAP) + 0.42)
    sheet.title("Estimates of mutual information over training, in nats", note)
    _draw_key(sheet)
    for line, estimator in enumerate(estimators):
        top = HEADER + line * (HEIGHT + GAP)
        kind = ESTIMATORS[estimator]
        sheet.text(MARGIN, top + 0.32, kind.title, fontsize=9, fontweight="bold")
        sheet.text(MARGIN, top + 0.52, kind.kind.replace(" given", "\ngiven"), fontsize=7, color=FAINT)
        for column, task in enumerate(tasks):
            axes = sheet.axes(MARGIN + NAMES + column * (WIDTH + GAP), top, WIDTH, HEIGHT)
            _draw_panel(axes, results[task, estimator][0], levels, kind.cap(batch_size))
            axes.tick_params(labelleft=column == 0, labelbottom=line == len(estimators) - 1)
            if line == 0:
                axes.set_title(TASKS[task].title, fontsize=9, fontweight="bold", pad=4)
    steps = next(iter(results.values()))[0].size
    sheet.text(
        MARGIN + NAMES + (len(tasks) * (WIDTH + GAP) - GAP) / 2,
        sheet.height - 0.16,
        f"training steps, {steps:,} in all",
        color=FAINT,
        ha="center",
        va="center",
    )
    return sheet.figure


def smoothed(values: np.ndarray, span: float) -> np.ndarray:
    """Return the running mean with exponentially decaying weights, which fall to 1 / e over ``span`` values."""
    keep = np.exp(-1 / span)
    mean, out = float(values[0]), np.empty(len(values))
    for place, value in enumerate(values):
        mean = keep * mean + (1 - keep) * float(value)
        out[place] = mean
    return out


def _draw_panel(axes: Axes, estimates: Estimates, levels: Sequence[float], cap: float) -> None:
    count, steps = estimates.shape
    limit = max(levels) * 1.35
    raw = estimates.ravel()
    shown = np.arange(0, len(raw), max(1, len(raw) // POINTS))
    axes.plot(shown, raw[shown], color=RAW, linewidth=0.6)
    smooth = np.concatenate([smoothed(level, max(1.0, steps / 20)) for level in estimates])
    axes.plot(shown, smooth[shown], color=SMOOTH, linewidth=1.4)
    axes.step([*range(0, count * steps, steps), count * steps], [*levels, levels[-1]], where="post", **_TRUTH)
    if cap < limit:
        axes.axhline(cap, **_CAP)
    axes.set_xlim(0, count * steps)
    axes.set_ylim(0, limit)
    axes.set_xticks(range(0, count * steps + 1, steps), [])
    if count * steps >= 1000:
        axes.set_xticks([0, count * steps], ["0", f"{count * steps / 1000:g}k"])
    axes.set_yticks([0, *levels])
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)


_TRUTH: dict[str, Any] = {"color": TRUTH, "linewidth": 0.9}
_CAP: dict[str, Any] = {"color": CAP, "linewidth": 1.0, "linestyle": (0, (4, 2))}


def _draw_key(sheet: Sheet) -> None:
    lines = [
        Line2D([], [], **_TRUTH),
        Line2D([], [], color=RAW, linewidth=1.0),
        Line2D([], [], color=SMOOTH, linewidth=1.4),
        Line2D([], [], **_CAP),
    ]
    sheet.figure.legend(
        lines,
        ["truth", "one batch", "running mean", "cap"],
        loc="upper right",
        bbox_to_anchor=(1 - MARGIN / sheet.width, 1 - 0.1 / sheet.height),
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0,
    )
