"""Curves of a table with their spread: a metric of each model against labels or seconds."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from blan_facial.report.charts import ticks
from blan_facial.tables.cells import Experiment
from blan_facial.tables.entries import Entry, Ours
from blan_facial.tables.worth import BUDGETS, COUNTS, MODELS, REST, SUPPRESSIONS
from shared.svg import FAINT, MARGIN, element, png, text

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 170, 12, 40

SHOWN = ("balanced accuracy", "average precision")
_COLORS = dict(
    zip(
        (*MODELS, REST),
        ("#5a6170", "#0b7a70", "#b07a10", "#2269b8", "#b4347a", "#6d4fd0", "#c2311f"),
        strict=True,
    )
)
"""The colour of each model, the same in all panels."""

Point = tuple[float, Ours]


def curves(plan: Experiment, entries: Sequence[Entry]) -> list[tuple[str, Markup]]:
    """Return the title and the drawing of each panel; none for a table without curves or without runs."""
    cells = {(entry.row, entry.column): entry.ours for entry in entries}
    panels = []
    for suppression in SUPPRESSIONS if plan.name in ("labels", "budget") else ():
        for column in SHOWN:
            lines: dict[str, list[Point]] = {}
            for model in (*MODELS, REST):
                points = _points(plan.name, model, suppression, column, cells)
                if points:
                    lines[model] = sorted(points, key=lambda point: point[0])
            if lines:
                across = "labelled faces" if plan.name == "labels" else "seconds of training"
                panels.append((f"{column} in percent, {suppression}", _panel(across, lines)))
    return panels


def sheet(title: str, note: str, drawings: Sequence[tuple[str, Markup]]) -> bytes:
    """Return a PNG of the panels, two per row."""
    parts = []
    for place, (name, drawing) in enumerate(drawings):
        line, column = divmod(place, 2)
        moved = f"translate({MARGIN + column * (WIDTH + 20)} {84 + line * (HEIGHT + 40)})"
        parts.append(
            element("g", text(name, 0, 0, size=13), element("g", drawing, transform="translate(0 8)"), transform=moved)
        )
    return png(title, note, 2 * (MARGIN + WIDTH) + 20, 84 + -(-len(drawings) // 2) * (HEIGHT + 40), *parts)


def _points(
    name: str, model: str, suppression: str, column: str, cells: Mapping[tuple[str, str], Ours | None]
) -> list[Point]:
    found = []
    places = [f"{count:,} labels" for count in COUNTS] if name == "labels" else BUDGETS
    for place, count in zip(places, COUNTS, strict=False):
        row = f"{place}, {model}, {suppression}"
        ours, time = cells.get((row, column)), cells.get((row, "seconds"))
        if ours is not None and time is not None:
            found.append((float(count if name == "labels" else time.mean), ours))
    return found


def _panel(across: str, lines: Mapping[str, Sequence[Point]]) -> Markup:
    """Draw means as curves and spreads as bars over a logarithmic axis, with the name of each curve at its end."""
    points = [point for line in lines.values() for point in line]
    edges = [float(ours.mean) + sign * (ours.spread or 0.0) for _, ours in points for sign in (-1, 1)]
    low, high = min(edges) - 0.5, max(edges) + 0.5
    first, last = min(at for at, _ in points), max(at for at, _ in points)

    def x(at: float) -> float:
        part = math.log(at / first) / math.log(last / first) if last > first else 0.5
        return LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * part

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = []
    for tick in ticks(low, high, 5):
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), stroke="#8884"))
        parts.append(text(f"{tick:g}", LEFT - 6, y(tick) + 4, color=FAINT, text_anchor="end"))
    for at in _marks(points):
        parts.append(text(f"{at:,.0f}", x(at), HEIGHT - BOTTOM + 16, color=FAINT, text_anchor="middle"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(across, middle, HEIGHT - 6, color=FAINT, text_anchor="middle"))
    heights = _apart({name: y(float(line[-1][1].mean)) for name, line in lines.items()})
    for place, (name, line) in enumerate(lines.items()):
        color = _COLORS[name]
        aside = 3.0 * (place - (len(lines) - 1) / 2)  # so that spreads do not overlap
        path = " ".join(f"{x(at) + aside:.1f},{y(float(ours.mean)):.1f}" for at, ours in line)
        parts.append(element("polyline", points=path, fill="none", stroke=color, stroke_width=1.8))
        for at, ours in line:
            spread, mean = ours.spread or 0.0, float(ours.mean)
            ends = {"x1": x(at) + aside, "x2": x(at) + aside, "y1": y(mean - spread), "y2": y(mean + spread)}
            parts.append(element("line", stroke=color, **ends))
            parts.append(element("circle", cx=x(at) + aside, cy=y(mean), r=3.0, fill=color))
        parts.append(text(name, WIDTH - RIGHT + 6, heights[name] + 4, color=color))
    said = "; ".join(f"{name}: {', '.join(f'{at:g} {ours}' for at, ours in line)}" for name, line in lines.items())
    return element(
        "svg", *parts, role="img", aria_label=said, viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT
    )


def _marks(points: Sequence[Point]) -> list[float]:
    """Return the labelled positions of the axis: all points or, if there are many, the ends."""
    places = sorted({at for at, _ in points})
    return places if len(places) <= len(COUNTS) else [places[0], places[-1]]


def _apart(heights: Mapping[str, float], least: float = 14.0) -> dict[str, float]:
    """Move overlapping names apart."""
    found: dict[str, float] = {}
    bottom = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        bottom = found[name] = max(height, bottom + least)
    return found
