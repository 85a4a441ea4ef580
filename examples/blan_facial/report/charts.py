"""Charts as inline SVG. The page's style sheet defines their colours, by class, for light and dark screens."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from markupsafe import Markup

from shared.svg import element

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26  # margins for the words around a plot

BINS = 150
"""Maximum number of points of a curve; more steps are averaged, and a band shows their range."""


Scale: TypeAlias = Callable[[float], float]


class Curve(NamedTuple):
    """A quantity as a function of the epoch."""

    name: str
    style: str
    """CSS class of its colour."""
    epochs: np.ndarray
    values: np.ndarray


class Bar(NamedTuple):
    """A value with its uncertainty."""

    name: str
    value: float
    low: float
    high: float
    style: str


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers within [low, high], about `count` of them."""
    step = _step(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def rounded(low: float, high: float) -> tuple[float, float]:
    """Return round numbers that enclose [low, high]."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    step = _step(low, high, 5)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)


def curves(
    label: str, lines: Sequence[Curve], *, end: float, taken_up: Sequence[float] = (), limit: float | None = None
) -> Markup:
    """Draw quantities as functions of the epoch.

    Args:
        label: Description of the chart for screen readers.
        lines: The curves. A single one has a band from the smallest to the largest of the steps behind each point.
        end: Total number of epochs, where the axis ends.
        taken_up: Epochs at which the run was resumed.
        limit: An upper bound, drawn as a line; None if there is none.
    """
    condensed = [_condense(line) for line in lines]
    everything = np.concatenate([line.values for line in lines])
    low, high = np.quantile(everything, (0.002, 0.998)).tolist()  # robust to a few outliers
    high = high if limit is None else limit
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    margin = 0.06 * (high - low)
    low, high = low - margin, high + margin

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * epoch / end

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = []
    for tick in ticks(low, high):
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick)))
        parts.append(element("text", _number(tick), x=LEFT - 6, y=y(tick) + 4, text_anchor="end"))
    for tick in ticks(0, end, 5):
        parts.append(element("text", _number(tick), x=x(tick), y=HEIGHT - 8, text_anchor="middle"))
    parts += [element("line", class_="taken-up", x1=x(at), x2=x(at), y1=TOP, y2=HEIGHT - BOTTOM) for at in taken_up]
    if limit is not None:
        parts.append(element("line", class_="limit", x1=LEFT, x2=WIDTH - RIGHT, y1=y(limit), y2=y(limit)))
    drawn = []
    for line, (epochs, means, lows, highs) in zip(lines, condensed, strict=True):
        if len(lines) == 1 and (highs > lows).any():
            edge = [*zip(epochs, highs, strict=True), *zip(epochs[::-1], lows[::-1], strict=True)]
            drawn.append(element("polygon", class_=f"band {line.style}", points=_path(edge, x, y)))
        points = list(zip(epochs, means, strict=True))
        drawn.append(element("polyline", class_=f"curve {line.style}", points=_path(points, x, y)))
        if len(points) <= 30:
            drawn += [element("circle", class_=f"dot {line.style}", cx=x(e), cy=y(v), r=2.5) for e, v in points]
    inside = element(
        "svg",
        *drawn,
        x=LEFT,
        y=0,
        width=WIDTH - LEFT,
        height=HEIGHT - BOTTOM + 1,
        viewBox=f"{LEFT} 0 {WIDTH - LEFT} {HEIGHT - BOTTOM + 1}",
    )
    return _image(label, WIDTH, HEIGHT, *parts, inside)


def levels(attribute: str, bars: Sequence[Bar]) -> Markup:
    """Draw an attribute's accuracies side by side with their intervals, on their own scale."""
    width, height, top, bottom, left = 168, 112, 20, 22, 8
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    if high - low < 0.2:
        low, high = low - 0.1, high + 0.1

    def x(place: int) -> float:
        return left + (width - 2 * left) * (place + 0.5) / len(bars)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    levels_only = [(x(place), y(bar.value)) for place, bar in enumerate(bars) if bar.name.startswith("AC")]
    parts = [element("polyline", class_="thread", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in levels_only))]
    for place, bar in enumerate(bars):
        parts.append(
            element("line", class_=f"whisker {bar.style}", x1=x(place), x2=x(place), y1=y(bar.low), y2=y(bar.high))
        )
        parts.append(element("circle", class_=f"dot {bar.style}", cx=x(place), cy=y(bar.value), r=4))
        parts.append(
            element("text", f"{bar.value:.1f}", class_="value", x=x(place), y=y(bar.high) - 5, text_anchor="middle")
        )
        parts.append(element("text", bar.name, x=x(place), y=height - 6, text_anchor="middle"))
    said = ", ".join(f"{bar.name} {bar.value:.1f}" for bar in bars)
    return _image(f"Accuracy of {attribute} in percent: {said}", width, height, *parts)


def _condense(line: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return epochs, means, minima and maxima of at most `BINS` points."""
    parts = np.array_split(np.arange(len(line.values)), min(BINS, len(line.values)))
    of = [(line.epochs[part].mean(), *(f(line.values[part]) for f in (np.mean, np.min, np.max))) for part in parts]
    epochs, means, lows, highs = np.array(of).T
    return epochs, means, lows, highs


def _step(low: float, high: float, count: int) -> float:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)


def _image(label: str, width: float, height: float, *parts: Markup) -> Markup:
    return element(
        "svg", *parts, role="img", aria_label=label, viewBox=f"0 0 {width} {height}", width=width, height=height
    )


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) >= 1e-3 or not value else f"{value:.0e}".replace("e-0", "e-")
