"""What a table is made of: its runs, its cells, and the data sets that it may be measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from blan_facial.tables.measures import Measure

Data: TypeAlias = Literal["avatars", "avatars-hard", "celeba", "lfwa"]
Name: TypeAlias = Literal[
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "table9",
    "table10",
    "figure3",
    "labels",
    "budget",
]

PRESETS: dict[Data, str] = {"avatars": "demo", "avatars-hard": "demo", "celeba": "celeba", "lfwa": "lfwa"}
SPOKEN: dict[str, str] = {"avatars": "avatars", "avatars-hard": "harder avatars", "celeba": "CelebA", "lfwa": "LFWA"}
DRAWN: tuple[Data, ...] = ("avatars", "avatars-hard")
AVATAR_EPOCHS = 5
"""Passes over the drawn faces in every run of every table, so that 18 runs fit into 25 minutes on two cores."""


@dataclass(frozen=True)
class Run:
    """What to train, once for each seed."""

    name: str
    options: tuple[str, ...]
    longer: float = 1.0
    """How many times as many epochs it has as the table's other runs."""


class Cell(NamedTuple):
    """Where a value of ours comes from."""

    run: Run
    measure: Measure
    test: Data | None = None
    """Another data set to test the run on; None: its own test."""


@dataclass(frozen=True)
class Experiment:
    """A table: its cells of ours by (row, column); the paper's are in ``published.json``."""

    name: Name
    title: str
    paper_data: str
    """What the paper's own values were measured on."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all cells, each once."""
        return tuple(dict.fromkeys(cell.run for cell in self.cells.values()))


def options_of(data: Data) -> tuple[str, ...]:
    """Return the options of ``train.py`` that every run on a data set has, but for its folder."""
    return ("--preset", PRESETS[data], *(("--data", data) if data == "avatars-hard" else ()))
