"""The picture of the metrics: every attribute's accuracy, level by level, beside the majority's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from blan_facial.results.terminal import best_level, score_names, tested_on
from shared.sheet import FAINT, INK, MARGIN, Sheet, spoken

ROW, CELL = 0.22, 0.52  # inches
MODEL = "#0072b2"


def accuracy_figure(metrics: Mapping[str, Any]) -> Figure:
    """Draw every attribute's accuracy as a dot plot beside a heat map of the levels, the largest gain first.

    Attributes without a known label are left out.
    """
    known = [row for row in metrics["per_attribute"].items() if row[1]["accuracy"] is not None]
    rows = sorted(known, key=lambda row: row[1]["majority"] - row[1]["accuracy"])
    mean = metrics["per_level"] | {"accuracy": metrics["accuracy"], "majority": metrics["majority_accuracy"]}
    names = [*(spoken(name) for name, _ in rows), "Mean"]
    values = [*(value for _, value in rows), mean]
    columns = score_names(metrics)

    words, dots, header, height = 1.5, 3.3, 0.95, ROW * len(names)
    cells = CELL * (1 + len(columns))
    left = MARGIN + words + dots + 0.3
    sheet = Sheet(left + cells + MARGIN, header + height + 0.65)
    sheet.title(
        "Accuracy by attribute and level",
        f"{tested_on(metrics)}, in percent; sorted by the gain over the majority's answer; "
        "framed: the best of AC1 to AC4.",
    )
    _draw_dots(sheet.axes(MARGIN + words, header, dots, height), names, values)
    scale = _draw_cells(sheet.axes(left, header, cells, height), values, columns)
    bar = sheet.axes(left + CELL, header + height + 0.16, cells - CELL, 0.1)
    sheet.color_bar(bar, scale, orientation="horizontal")
    bar.set_xlabel("points above the majority's answer", fontsize=7, labelpad=2)
    return sheet.figure


def _draw_dots(axes: Axes, names: Sequence[str], values: Sequence[Mapping[str, float]]) -> None:
    accuracy, majority = (100 * np.array([value[name] for value in values]) for name in ("accuracy", "majority"))
    rows = np.arange(len(names))
    axes.hlines(rows, majority, accuracy, color=MODEL, linewidth=1.5, alpha=0.4)
    axes.scatter(majority, rows, s=50, marker="|", color=FAINT, linewidth=1.5, label="majority")
    axes.scatter(accuracy, rows, s=26, color=MODEL, zorder=3, label="model")
    axes.axhline(len(names) - 1.5, color=FAINT, linewidth=0.6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    low = min(accuracy.min(), majority.min())
    axes.set_xlim(10 * np.floor((low - 2) / 10), 101.5)
    axes.set_yticks(rows, names)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2, handletextpad=0.2)


def _draw_cells(axes: Axes, values: Sequence[Mapping[str, float]], columns: Sequence[str]) -> ScalarMappable:
    percent = 100 * np.array([[value[name] for name in ("majority", *columns)] for value in values])
    gain = percent[:, 1:] - percent[:, :1]
    limit = max(1.0, np.abs(gain).max())
    scale = ScalarMappable(Normalize(-limit, limit), colormaps["PuOr"])
    colors = np.ones((*percent.shape, 4))
    colors[:, 1:] = scale.to_rgba(gain)
    axes.imshow(colors, aspect="auto", interpolation="nearest")
    inks = np.where(colors[..., :3] @ (0.299, 0.587, 0.114) > 0.55, INK, "white")
    for (row, column), ink in np.ndenumerate(inks):
        axes.text(column, row, f"{percent[row, column]:.1f}", color=ink, fontsize=7, ha="center", va="center_baseline")
    for row, value in enumerate(values):
        level = best_level(value)
        if level is None:
            continue
        column = 1 + columns.index(level)
        place, ink = (column - 0.46, row - 0.42), inks[row, column]
        axes.add_patch(Rectangle(place, 0.92, 0.84, fill=False, edgecolor=ink, linewidth=0.8))
    axes.axhline(len(values) - 1.5, color=FAINT, linewidth=0.6)
    axes.set_xticks(range(1 + len(columns)), ("majority", *columns))
    axes.set_yticks([])
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=8)
    axes.spines[:].set_visible(False)
    return scale
