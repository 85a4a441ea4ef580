"""The chart of a machine's results: speed-ups of the library, with a panel per suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import hardware_of
from benchmarks.measure import Record
from benchmarks.table import heading
from shared.sheet import FAINT, INK, MARGIN, Sheet

WIN, DEFEAT, EVEN = "#0072b2", "#d55e00", "#999999"

PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
"""Background of words, so that no line crosses them."""

ROW, HEADING, GAP = 0.16, 0.24, 0.75  # inches
WORDS, BARS = 1.35, 3.3


def chart(content: Mapping[str, Any]) -> Figure:
    """Draw the suites below each other, with eager steps on the left and compiled ones on the right."""
    allocator = content["machine"].get("allocator")
    panels = []
    for suite, results in content["suites"].items():
        timed = [record for record in results["cases"] if _headline(record) is not None]
        panels.append((suite, [[r for r in timed if r["compiled"] == compiled] for compiled in (False, True)]))
    heights = [max(map(_height, columns)) for _, columns in panels]
    top = 0.6 + (0.16 if allocator else 0)
    sheet = Sheet(2 * (MARGIN + WORDS + BARS) + MARGIN, top + sum(h + GAP for h in heights) + MARGIN)
    sheet.title(
        hardware_of(content["machine"]),
        "Times faster than the peer named. Bars are medians, whiskers quartiles; "
        "grey, where they meet 1; a diamond stands at the speed-up over the fastest peer.",
    )
    if allocator:
        sheet.text(MARGIN, 0.58, f"Allocator: {allocator}", color=FAINT)
    for (suite, columns), height in zip(panels, heights, strict=True):
        for column, records in enumerate(columns):
            if records:
                left = MARGIN + column * (MARGIN + WORDS + BARS)
                words = f"{suite}, {('eager', 'compiled')[column]}"
                sheet.text(left, top + 0.22, words, fontsize=10, fontweight="bold")
                _draw(sheet.axes(left + WORDS, top + 0.5, BARS, _height(records)), records)
        top += height + GAP
    return sheet.figure


def over_fastest(record: Record) -> float:
    """Return the speed-up over the fastest peer; contenders that compute less are not peers."""
    speedups = [peer["speedup"]["median"] for peer in record["peers"].values() if peer.get("agrees")]
    return float(min(speedups))


def _headline(record: Record) -> tuple[str, Record] | None:
    """Return the first peer, if it was timed."""
    name, peer = next(iter(record["peers"].items()))
    return (name, peer["speedup"]) if "speedup" in peer else None


def _group(record: Record) -> tuple[str, str]:
    headline = _headline(record)
    return heading(record), headline[0] if headline else ""


def _height(records: Sequence[Record]) -> float:
    return ROW * len(records) + HEADING * len({_group(record) for record in records})


def _draw(axes: Axes, records: Sequence[Record]) -> None:
    place, ticks = 0.0, []
    widest = 1.0
    for subject, against in dict.fromkeys(map(_group, records)):
        axes.annotate(
            f"{subject}, against {against}",
            (-WORDS / BARS, place + HEADING / 2),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7.5,
            annotation_clip=False,
            bbox=PAPER,
        )
        place += HEADING
        for record in (each for each in records if _group(each) == (subject, against)):
            speedup = next(iter(record["peers"].values()))["speedup"]
            low, median, high = (speedup[name] for name in ("low", "median", "high"))
            y = place + ROW / 2
            axes.barh(y, median, ROW * 0.72, color=WIN if low > 1 else DEFEAT if high < 1 else EVEN)
            axes.plot([low, high], [y, y], color=INK, linewidth=0.8)
            axes.plot(
                over_fastest(record), y, "D", markersize=3, color="white", markeredgecolor=INK, markeredgewidth=0.7
            )
            axes.annotate(
                f"{median:.2f}", (high, y), (5, 0), textcoords="offset points", va="center", fontsize=6.5, bbox=PAPER
            )
            widest = max(widest, high)
            ticks.append((y, record["size"]))
            place += ROW
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1.15 * widest)
    axes.set_ylim(place, 0)
    axes.set_yticks([y for y, _ in ticks], [size for _, size in ticks], fontsize=6.5, color=FAINT)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
