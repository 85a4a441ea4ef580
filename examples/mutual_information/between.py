"""Measure information between two files: ``python examples/mutual_information/between.py --help``."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console

from blan_facial.files import write_json
from blan_facial.terminal import print_error
from mutual_information.arrays import read
from mutual_information.estimators import CriticName
from mutual_information.information import Information, Units, information_between

PROGRAM = "python examples/mutual_information/between.py"
DESCRIPTION = """Measure the mutual information between two arrays, row by row a pair, on pairs that no critic was
trained on, with the interval of a bootstrap and a check by shuffled pairs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and how."""

    x: tyro.conf.Positional[Path]
    """Array (n,) or (n, d): .npy, .csv or .tsv, with or without a header."""
    y: tyro.conf.Positional[Path]
    """Array with as many rows."""
    estimator: Literal["infonce", "nwj", "dv", "mine", "jsd", "smile", "certificate"] = "infonce"
    """A lower bound of low variance, capped at the log of the candidates (infonce), lower bounds without cap and of
    high variance (nwj, dv, mine), estimates that are no bound (jsd, smile), or what the cross entropy certifies."""
    critic: CriticName = "separable"
    """Critic; concat sees both sides at once, and is slower."""
    hidden_channels: int | None = None
    """Width of the critic's hidden layers; by default 64."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A critic for each; the first also draws the parts."""
    held_out: float = 0.3
    """Share of the pairs that is measured."""
    stopping: float = 0.2
    """Share of the pairs that ends the training."""
    candidates: int = 1024
    """Held-out pairs that are scored with one another."""
    batch_size: int = 256
    """Pairs in a training batch."""
    max_steps: int = 3000
    """Training steps at most."""
    lr: float = 1e-3
    """AdamW's learning rate."""
    confidence: float = 0.95
    """Of the interval."""
    units: Units = "nats"
    """Units of the result."""
    shuffled: bool = True
    """Do all of it once more with shuffled pairs, which should show nothing."""
    json: Path | None = None
    """Also write the result to this file."""


def run(settings: Settings, console: Console) -> Information:
    """Read, measure and write."""
    options = {name: value for name, value in asdict(settings).items() if name not in ("x", "y", "json")}
    x, y = read(settings.x), read(settings.y)
    with console.status("reading") as status:
        found = information_between(x, y, **options, progress=lambda line: status.update(f"training on {line}"))
    if settings.json is not None:
        write_json(settings.json, found.as_json())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    console, errors = Console(), Console(stderr=True)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    try:
        found = run(settings, console)
    except KeyboardInterrupt:
        errors.print("\nStopped; nothing was written.")
        return 128 + signal.SIGINT
    except (TypeError, ValueError, OSError) as error:
        print_error(errors, str(error))
        return 1
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
