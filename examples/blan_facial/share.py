"""Export a finished run as a folder to share: ``python examples/blan_facial/share.py --help``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console

from blan_facial.results.finished import load_run
from blan_facial.results.pretrained import save_pretrained
from shared.program import run_program

PROGRAM = "python examples/blan_facial/share.py"
DESCRIPTION = """Write a finished run as a folder that others can load: weights, settings without the paths of this
machine, metrics, and a model card generated from them. Nothing is uploaded."""


@dataclass(frozen=True)
class Settings:
    """What to share, and where to write it."""

    run: tyro.conf.Positional[Path]
    """Output folder of the run."""
    folder: tyro.conf.Positional[Path]
    """Folder to create."""


def run(settings: Settings, console: Console) -> None:
    """Write the folder."""
    save_pretrained(load_run(settings.run), settings.folder)
    console.print(f"The model and its card are in {settings.folder}.", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("share", partial(run, settings))


if __name__ == "__main__":
    sys.exit(main())
