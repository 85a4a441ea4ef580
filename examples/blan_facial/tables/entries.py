"""The cells of a table: our values over the seeds, and the paper's."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blan_facial.published import published
from blan_facial.tables.cells import Cell, Experiment
from blan_facial.tables.measures import Result


class Ours(NamedTuple):
    """One of our values over the seeds."""

    mean: float | str
    """The mean or, for names, the most frequent one."""
    spread: float | None
    """Sample standard deviation; None with one seed, and for names."""
    values: tuple[float | str, ...]
    """One value per finished seed."""

    def __str__(self) -> str:
        if isinstance(self.mean, str):
            count = self.values.count(self.mean)
            return self.mean if count == len(self.values) else f"{self.mean} ({count} of {len(self.values)})"
        return f"{self.mean:.2f}" + (f" ± {self.spread:.2f}" if self.spread else "")


class Entry(NamedTuple):
    """A filled cell."""

    row: str
    column: str
    ours: Ours | None
    paper: float | str | None

    @property
    def source(self) -> str:
        """Whether the cell has our value, the paper's, both or none."""
        names = [name for name, value in (("ours", self.ours), ("paper", self.paper)) if value is not None]
        return " and ".join(names) or "empty"


def entries(experiment: Experiment, results: Mapping[Cell, Sequence[Result]]) -> list[Entry]:
    """Fill every cell, row by row, from its finished runs."""
    found = []
    for row in experiment.rows:
        for column in experiment.columns:
            cell = experiment.cells.get((row, column))
            values = [] if cell is None else [cell.measure(result) for result in results.get(cell, ())]
            ours = _summary([value for value in values if value is not None])
            found.append(Entry(row, column, ours, published().get((experiment.name, row, column))))
    return found


def as_json(entry: Entry) -> dict[str, Any]:
    """Return a cell in JSON types."""
    ours = None if entry.ours is None else {**entry.ours._asdict(), "values": list(entry.ours.values)}
    return {"row": entry.row, "column": entry.column, "ours": ours, "paper": entry.paper, "source": entry.source}


def _summary(values: Sequence[float | str]) -> Ours | None:
    if not values:
        return None
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers:
        return Ours(Counter(values).most_common(1)[0][0], None, tuple(values))
    return Ours(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, tuple(values))
