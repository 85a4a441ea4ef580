"""Summaries of the scores over the seeds, the configuration chosen on validation faces, and the tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from rich import box
from rich.table import Table

from deep_infomax.probe import Score
from deep_infomax.training import INFOMAX, TITLES, WayName

Scores: TypeAlias = Mapping[WayName, Mapping[int, Sequence[Score]]]
"""The scores of each method and number of labelled faces, one per seed."""


class Spread(NamedTuple):
    """Mean and standard deviation over the seeds, in percent."""

    mean: float
    deviation: float | None
    """Standard deviation; None with a single seed."""

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.deviation is None else f"{self.mean:.1f} ± {self.deviation:.1f}"


class Row(NamedTuple):
    """Scores of a method with a number of labelled faces."""

    way: WayName
    labels: int
    validation: Spread
    """Balanced accuracy on validation faces."""
    test: Spread
    """Balanced accuracy on test faces."""
    accuracy: Spread
    """Plain accuracy on test faces."""


def summarise(scores: Scores) -> list[Row]:
    """Return a row for each method and number of labelled faces."""
    return [
        Row(way, labels, *(_spread([getattr(score, name) for score in by_seed]) for name in Row._fields[2:]))
        for way, by_count in scores.items()
        for labels, by_seed in by_count.items()
    ]


def chosen(rows: Sequence[Row]) -> WayName | None:
    """Return the Deep InfoMax configuration that is best on validation faces, over all numbers of labels."""
    candidates = [way for way in dict.fromkeys(row.way for row in rows) if way in INFOMAX]
    return max(candidates, key=lambda way: on_validation(rows, way), default=None)


def on_validation(rows: Sequence[Row], way: WayName) -> float:
    """Return a method's balanced accuracy on validation faces in percent, averaged over all numbers of labels."""
    return statistics.mean(row.validation.mean for row in rows if row.way == way)


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table, with a line per method."""
    counts = list(dict.fromkeys(row.labels for row in rows))
    cells = {(row.way, row.labels): f"{row.test} ({row.accuracy.mean:.1f})" for row in rows}
    best = chosen(rows)
    lines = []
    for way in dict.fromkeys(row.way for row in rows):
        title = TITLES[way] + (" (chosen)" if way == best else "")
        lines.append([title, *(cells[way, count] for count in counts), f"{on_validation(rows, way):.1f}"])
    return ["encoder trained by", *(f"{count:,} labels" for count in counts), "validation"], lines


def markdown(rows: Sequence[Row], caption: str) -> str:
    """Return the table and its caption as Markdown."""
    header, lines = grid(rows)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)), "", caption]) + "\n"


def terminal(rows: Sequence[Row], caption: str) -> Table:
    """Return the table for the terminal."""
    header, lines = grid(rows)
    table = Table(title="Balanced accuracy on test faces, % (plain accuracy)", caption=caption, box=box.SIMPLE)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for line in lines:
        table.add_row(*line)
    return table


def _spread(values: Sequence[float]) -> Spread:
    deviation = 100 * statistics.stdev(values) if len(values) > 1 else None
    return Spread(100 * statistics.mean(values), deviation)
