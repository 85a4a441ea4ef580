"""Measure the mutual information between two files: ``python examples/mutual_information/between.py --help``."""

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
from mutual_information.arrays import FORMATS, read
from shared.files import make_parent, refuse_inputs, write_json
from shared.program import UserError, run_program

PROGRAM = "python examples/mutual_information/between.py"
DESCRIPTION = """Measure the mutual information between two arrays with one pair per row, on pairs that the critics
were not trained on, with an interval, a permutation test, and two other estimates."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and how."""

    x: tyro.conf.Positional[Path]
    """Array (n,) or (n, d): .npy, .csv or .tsv, with or without a header. In a table of categories or labels, the
    first line is a header if none of its fields occurs again in its column."""
    y: tyro.conf.Positional[Path]
    """Array with the same number of rows."""
    estimator: Literal["infonce", "nwj", "dv", "jsd", "smile", "certificate"] = "infonce"
    """A lower bound with low variance, capped at the log of the number of pairs in a fold (infonce); lower bounds
    without a cap but with high variance (nwj, dv); estimates that are not bounds (jsd, smile); or the information that
    the cross entropy certifies (certificate)."""
    preprocess: Literal["ranks", "standardise"] = "ranks"
    """Transform columns to normal scores (ranks), or to mean 0 and standard deviation 1 (standardise)."""
    discrete: Literal["x", "y", "both"] | None = None
    """Which array contains categories, as numbers or strings."""
    blocks: str | None = None
    """Number of consecutive rows of a series that form a block, or a file with the group label of each row."""
    units: Literal["nats", "bits"] = "nats"
    """Units of the result."""
    seed: int = 0
    """Seed of folds, training, bootstrap and permutations."""
    max_rows: int = 20_000
    """Maximum number of rows; larger arrays are subsampled."""
    json: Path | None = None
    """Also write the result to this file."""


def run(settings: Settings, console: Console) -> None:
    """Read the arrays, measure, print the result and write it."""
    if settings.json is not None:
        read = (settings.x, settings.y, Path(settings.blocks or settings.x))
        refuse_inputs("between", "--json", settings.json, read)
        make_parent(settings.json)
    try:
        found = _measure(settings, console)
    except (TypeError, ValueError) as error:  # the data cannot be measured
        raise UserError(str(error)) from error
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    if settings.json is not None:
        write_json(settings.json, found.as_json())


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
    if given is None:
        return None
    try:
        return int(given)
    except ValueError:
        path = Path(given)
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"between: --blocks must be a number of rows, or a .npy, .csv or .tsv file of labels, got {given}. "
            "Give either."
        )
    labels = read(path, categories=True)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("between", partial(run, settings), stopped="Stopped; nothing was written.")


if __name__ == "__main__":
    sys.exit(main())
