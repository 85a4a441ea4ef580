"""The picture: balanced accuracy against the number of labelled faces, with a line per method."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from deep_infomax.summary import Row, chosen
from deep_infomax.training import TITLES, WayName
from shared.sheet import INK, MARGIN, Sheet

WIDTH, HEIGHT, HEADER, NAMES = 4.3, 3.4, 0.8, 2.65  # inches
LEAST_GAP = 0.17
"""Minimum distance between the names of two lines, in inches."""

COLORS: dict[WayName, str] = {
    "local-infonce": "#0072b2",
    "local-infonce-prior": "#7b9ed9",
    "local-jsd": "#8c6bb1",
    "local-jsd-prior": "#b79fd0",
    "global-jsd": "#c2477f",
    "global-jsd-prior": "#dc9dbb",
    "autoencoder": "#009e73",
    "labels": "#d55e00",
    "random": "#777777",
}
MARKERS: dict[WayName, str] = {"autoencoder": "s", "labels": "D", "random": "v"}


def probes_figure(rows: Sequence[Row], note: str) -> Figure:
    """Draw a line per method, with a band for the standard deviation over the seeds and the name at its end.

    Args:
        rows: The summarised scores.
        note: A line on how they were measured.
    """
    sheet = Sheet(MARGIN + 0.35 + WIDTH + NAMES, HEADER + HEIGHT + 0.5)
    sheet.title("Linear probes of frozen features", note)
    axes = sheet.axes(MARGIN + 0.35, HEADER, WIDTH, HEIGHT)
    best = chosen(rows)
    ends: dict[WayName, float] = {}
    for way in dict.fromkeys(row.way for row in rows):
        own = sorted((row for row in rows if row.way == way), key=lambda row: row.labels)
        _draw_line(axes, own, bold=way == best)
        ends[way] = own[-1].test.mean
    _finish(axes, sorted({row.labels for row in rows}))
    low, high = axes.get_ylim()
    for way, top in _apart({way: HEADER + HEIGHT * (high - end) / (high - low) for way, end in ends.items()}).items():
        words, weight = (f"{TITLES[way]} (chosen)", "bold") if way == best else (TITLES[way], "normal")
        left = MARGIN + 0.35 + WIDTH + 0.03
        sheet.text(left, top, words, color=COLORS[way], va="center", fontsize=7.5, fontweight=weight)
    return sheet.figure


def _draw_line(axes: Axes, rows: Sequence[Row], *, bold: bool) -> None:
    way, labels = rows[0].way, [row.labels for row in rows]
    mean, deviation = zip(*(row.test for row in rows), strict=True)
    low, high = ([m + sign * (d or 0) for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
    axes.fill_between(labels, low, high, color=COLORS[way], alpha=0.16, linewidth=0)
    axes.plot(
        labels, mean, color=COLORS[way], marker=MARKERS.get(way, "o"), markersize=4, linewidth=2.2 if bold else 1.2
    )


def _finish(axes: Axes, labels: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{count:,}" for count in labels])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labelled faces", color=INK, labelpad=1)
    axes.margins(x=0.03)
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _apart(places: dict[WayName, float]) -> dict[WayName, float]:
    """Return the positions from top to bottom, each moved down until it does not overlap the one above it."""
    moved: dict[WayName, float] = {}
    last = float("-inf")
    for way in sorted(places, key=places.__getitem__):
        moved[way] = last = max(places[way], last + LEAST_GAP)
    return moved
