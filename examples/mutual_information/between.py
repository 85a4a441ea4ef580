"""Measure information between two files: ``python examples/mutual_information/between.py --help``."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from blan_layers.estimation import InformationEstimate, information_between
from mutual_information.arrays import read
from shared.files import refuse_inputs, write_json
from shared.program import UserError, run_program

PROGRAM = "python examples/mutual_information/between.py"
DESCRIPTION = """Measure the mutual information between two arrays with one pair per row, on pairs that the critics
were not trained on, with an interval, a permutation test, and two other estimates."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and how."""

    x: tyro.conf.Positional[Path]
    """Array (n,) or (n, d): .npy, .csv or .tsv, with or without a header."""
    y: tyro.conf.Positional[Path]
    """Array with as many rows."""
    estimator: Literal["infonce", "nwj", "dv", "jsd", "smile", "certificate"] = "infonce"
    """A lower bound of low variance, capped at the log of the pairs in a fold (infonce), lower bounds without cap and
    of high variance (nwj, dv), estimates that are no bound (jsd, smile), or what the cross entropy certifies."""
    preprocess: Literal["ranks", "standardise"] = "ranks"
    """Turn columns into normal scores, or bring them to mean 0 and deviation 1."""
    discrete: Literal["x", "y", "both"] | None = None
    """Which array holds categories, numbers or strings."""
    blocks: str | None = None
    """Rows in a stretch of a series, or a file with the label of each row's group."""
    units: Literal["nats", "bits"] = "nats"
    """Units of the result."""
    seed: int = 0
    """Of folds, training, bootstrap and shuffles."""
    max_rows: int = 20_000
    """Of more rows, so many are drawn."""
    json: Path | None = None
    """Also write the result to this file."""


def run(settings: Settings, console: Console) -> None:
    """Read, measure, print and write."""
    if settings.json is not None:
        read = (settings.x, settings.y, Path(settings.blocks or settings.x))
        refuse_inputs("between", "--json", settings.json, read)
    try:
        found = _measure(settings, console)
    except (TypeError, ValueError) as error:  # the data cannot be measured
        raise UserError(str(error)) from error
    if settings.json is not None:
        write_json(settings.json, found.as_json())
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)


def _measure(settings: Settings, console: Console) -> InformationEstimate:
    options = {name: value for name, value in asdict(settings).items() if name not in ("x", "y", "blocks", "json")}
    x, y = (
        read(path, categories=settings.discrete in (name, "both"))
        for name, path in (("x", settings.x), ("y", settings.y))
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)
        return information_between(
            x,
            y,
            blocks=_blocks(settings.blocks),
            **options,
            progress=lambda done, what: bar.update(task, completed=done, description=what),
        )


def _blocks(given: str | None) -> Any:
    if given is None or given.lstrip("-").isdecimal():
        return None if given is None else int(given)
    labels = read(Path(given), categories=True)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("between", partial(run, settings), stopped="Stopped; nothing was written.")


if __name__ == "__main__":
    sys.exit(main())
