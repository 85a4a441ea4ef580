"""The parts of a table: its runs, its cells, and the options of its data set."""

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
    "lmim",
]

PRESETS: dict[Data, str] = {"avatars": "demo", "avatars-hard": "demo", "celeba": "celeba", "lfwa": "lfwa"}
SPOKEN: dict[str, str] = {"avatars": "avatars", "avatars-hard": "harder avatars", "celeba": "CelebA", "lfwa": "LFWA"}
DRAWN: tuple[Data, ...] = ("avatars", "avatars-hard")
AVATAR_EPOCHS = 5
"""Passes over the drawn faces in every run of every table, so that 18 runs fit into 25 minutes on two cores."""


@dataclass(frozen=True)
class Run:
    """A training, repeated for each seed."""

    name: str
    options: tuple[str, ...]
    longer: float = 1.0
    """Factor on the number of epochs of the table's other runs."""


class Cell(NamedTuple):
    """The source of one of our values."""

    run: Run
    measure: Measure
    test: Data | None = None
    """Another data set to test the run on; None for its own test."""


@dataclass(frozen=True)
class Experiment:
    """A table with our cells by (row, column); the paper's values are in ``published.json``."""

    name: Name
    title: str
    paper_data: str
    """The data on which the paper's values were measured."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all cells, without repetition."""
        return tuple(dict.fromkeys(cell.run for cell in self.cells.values()))


def options_of(data: Data) -> tuple[str, ...]:
    """Return the options of ``train.py`` for every run on a data set, except for its folder."""
    return ("--preset", PRESETS[data], *(("--data", data) if data == "avatars-hard" else ()))
