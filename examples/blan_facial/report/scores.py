"""The metrics prepared for the page: on average, by attribute and by level."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from blan_facial.data.attributes import spoken
from blan_facial.network.model import LEVEL_NAMES
from blan_facial.published import published
from blan_facial.report.charts import Bar, levels
from blan_facial.results.terminal import averages, score_names

PAPER = {"celeba": "CelebA", "lfwa": "LFWA"}
"""The data sets with a column in the paper's Table 7."""

Interval = Sequence[float] | None


class Axis(NamedTuple):
    """A horizontal scale."""

    low: float
    high: float

    def place(self, value: float | None) -> float | None:
        """Return the position of a value from the left, in percent of the width."""
        if value is None:
            return None
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


class Strip(NamedTuple):
    """A value on an axis; all positions are in percent of its width."""

    at: float
    low: float | None
    high: float | None
    mark: float | None
    """Position of a value to compare with."""
    style: str
    dots: tuple[float, ...] = ()
    """Positions of the single values behind it."""
    paper: float | None = None
    """Position of the paper's value."""


class Score(NamedTuple):
    """A line of the overview."""

    name: str
    note: str
    value: float | None
    interval: Interval
    strip: Strip | None


def axis_of(shares: Iterable[float | None]) -> Axis:
    """Return an axis that covers all shares, from a multiple of a tenth to 1."""
    known = [share for share in shares if share is not None] or [0.0]
    return Axis(min(math.floor(10 * min(known) + 1e-9), 9) / 10, 1.0)


def strip(
    axis: Axis, value: float | None, interval: Interval = None, mark: float | None = None, style: str = ""
) -> Strip | None:
    """Return the strip of a value; None if there is no value."""
    at = axis.place(value)
    if at is None:
        return None
    low, high = (axis.place(edge) for edge in interval) if interval is not None else (None, None)
    return Strip(at, low, high, axis.place(mark), style)


def style_of(name: str) -> str:
    """Return the CSS class for the colour of a level or of other scores."""
    return f"level-{name.removeprefix('AC')}" if name in LEVEL_NAMES else "whole"


def described(metrics: Mapping[str, Any], attribute: str | None = None) -> Mapping[str, Any]:
    """Return the statistics of an attribute or of the average."""
    statistics = metrics["statistics"]
    of: Mapping[str, Any] = statistics["mean"] if attribute is None else statistics["per_attribute"][attribute]
    return of


def overview(metrics: Mapping[str, Any]) -> tuple[Axis, list[Score]]:
    """Return the average of every set of scores, and of always giving the more frequent answer."""
    of = described(metrics)["columns"]
    names = score_names(metrics)
    found = [("majority", "the more frequent answer", metrics["majority_accuracy"], None)]
    notes = {"sum": "summed scores" if len(names) > 1 else "the model's scores", "fused": "weighted by W_s"}
    for name in names:
        note = notes.get(name, f"level {name.removeprefix('AC')}")
        found.append((name, note, metrics["per_level"][name], of[name]["accuracy_interval"]))
    axis = axis_of(value for *_, value, _ in found)
    return axis, [
        Score(name, note, value, interval, strip(axis, value, interval, found[0][2], style_of(name)))
        for name, note, value, interval in found
    ]


class Attribute(NamedTuple):
    """The line of an attribute or of the average."""

    name: str
    accuracy: float | None
    interval: Interval
    strip: Strip | None
    majority: float | None
    gain: float | None
    balanced: float | None
    balanced_interval: Interval
    precision: float | None
    precision_interval: Interval
    calibration: float | None
    scaled_calibration: float | None
    paper: float | None
    """The paper's accuracy."""


def attributes(metrics: Mapping[str, Any]) -> tuple[Axis, list[Attribute], Attribute]:
    """Return the lines of all attributes, and that of the average."""
    per_attribute = metrics["per_attribute"]
    axis = axis_of(of[name] for of in per_attribute.values() for name in ("accuracy", "majority"))
    column = PAPER.get(metrics["data"])

    def line(row: str, of: Mapping[str, Any], attribute: str | None = None) -> Attribute:
        predicted = described(metrics, attribute)["columns"][score_names(metrics)[-1]]
        accuracy, majority, interval = of["accuracy"], of["majority"], predicted["accuracy_interval"]
        paper = published().get(("table7", row, column)) if column else None
        return Attribute(
            spoken(row),
            accuracy,
            interval,
            strip(axis, accuracy, interval, majority),
            majority,
            None if accuracy is None or majority is None else accuracy - majority,
            of["balanced"],
            predicted["balanced_interval"],
            predicted["average_precision"],
            predicted["average_precision_interval"],
            predicted["calibration_error"],
            predicted["scaled_calibration_error"],
            paper / 100 if isinstance(paper, float) else None,
        )

    rows = [line(name, of, name) for name, of in per_attribute.items()]
    return axis, rows, line("Average", averages(metrics))


class Cell(NamedTuple):
    """A level's accuracy, coloured by its distance from the average of the levels."""

    value: float | None
    heat: float
    """Depth of the colour in percent of the maximum; negative below the average."""
    best: bool


class Level(NamedTuple):
    """An attribute's accuracy at every level."""

    name: str
    cells: tuple[Cell, ...]
    winner: Mapping[str, Any] | None
    """Level, runner-up, margin, p-value and significance, as ``metrics.json`` has them."""
    paper: str | None
    """The best level that the paper names."""


def by_level(metrics: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Level], Level]:
    """Return the names of the scores, the lines of all attributes, and that of the average."""
    names = score_names(metrics)
    distances = [abs(d) for of in metrics["per_attribute"].values() for d in _deviations(of, names) if d is not None]
    deep = deepest(distances, 0.01)

    def line(name: str, of: Mapping[str, Any], attribute: str | None = None) -> Level:
        winner = described(metrics, attribute)["winner"]
        best = None if winner is None else winner["level"]
        cells = tuple(
            Cell(of[column], depth(d, deep), column == best)
            for column, d in zip(names, _deviations(of, names), strict=True)
        )
        paper = published().get(("figure3", name, "best level")) if metrics["data"] == "celeba" else None
        return Level(spoken(name), cells, winner, None if paper is None else str(paper))

    rows = [line(name, of, name) for name, of in metrics["per_attribute"].items()]
    return names, rows, line("Average", metrics["per_level"])


def deepest(distances: Sequence[float], least: float) -> float:
    """Return the distance that gets the deepest colour, robust to a few large distances."""
    return max(least, sorted(distances)[int(0.95 * len(distances))] if distances else 0.0)


def depth(distance: float | None, deep: float) -> float:
    """Return the colour depth of a signed distance, from -100 to 100."""
    return 0.0 if distance is None else 100 * max(-1.0, min(1.0, distance / deep))


def left_out(metrics: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the attributes with only one label in over 5 % of the resamples, and the number of these resamples."""
    many = metrics["statistics"]["bootstrap"]["resamples"] / 20
    counts = {spoken(name): of["left_out"] for name, of in metrics["statistics"]["per_attribute"].items()}
    return [(name, count) for name, count in counts.items() if count > many]


def winners(rows: Sequence[Level]) -> list[tuple[str, int, int]]:
    """Return for every level the number of attributes for which it is the best, and significantly the best."""
    best = [row.winner for row in rows if row.winner is not None]
    each = Counter(winner["level"] for winner in best)
    sure = Counter(winner["level"] for winner in best if winner["significant"])
    return [(level, each[level], sure[level]) for level in LEVEL_NAMES] if best else []


def multiples(metrics: Mapping[str, Any]) -> list[tuple[str, Markup, bool]]:
    """Return a small chart for each attribute and the average, and whether its best level is significantly the best."""
    names = [name for name in score_names(metrics) if name != "sum"]
    if not set(names) & set(LEVEL_NAMES):
        return []
    found = []
    for attribute, of in [*metrics["per_attribute"].items(), (None, metrics["per_level"])]:
        known = [name for name in names if of[name] is not None]
        if not known:
            continue
        statistics, bars = described(metrics, attribute), []
        for name in known:
            interval = statistics["columns"][name]["accuracy_interval"] or (of[name], of[name])
            bars.append(Bar(name, 100 * of[name], 100 * interval[0], 100 * interval[1], style_of(name)))
        title = "Average" if attribute is None else spoken(attribute)
        found.append((title, levels(title, bars), bool((statistics["winner"] or {}).get("significant"))))
    return found


def _deviations(of: Mapping[str, Any], names: Sequence[str]) -> list[float | None]:
    """Return the difference of each accuracy from the average of the levels."""
    known = [of[name] for name in names if name in LEVEL_NAMES and of[name] is not None]
    if len(known) < 2:
        return [None] * len(names)
    average = sum(known) / len(known)
    return [None if of[name] is None else of[name] - average for name in names]
