"""Write the page and the pictures of existing runs: ``python examples/blan_facial/report --help``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

if not __package__:  # run as a folder, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from rich.console import Console

from blan_facial.config import ConfigError
from blan_facial.data.faces import DataError
from blan_facial.data.splits import load_split
from blan_facial.report.run_page import write_report
from blan_facial.report.sample import Sample, draw_sample
from blan_facial.results.finished import load_run
from blan_facial.results.weights_file import WEIGHTS
from blan_facial.training.checkpoint import RunError
from shared.program import log_to_terminal, print_error, run_program, worded
from shared.warned import summed

PROGRAM = "python examples/blan_facial/report"
DESCRIPTION = """Write report.html and the pictures into output folders of train.py, finished or not. Without the
data set, the pages show everything but the faces."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    log_to_terminal(logging.WARNING)
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="output folder of train.py")
    parser.add_argument("--data-root", type=Path, help="folder of the data set, if it differs from that in training")
    return run_program("report", partial(_write_all, parser.parse_args(arguments)))


def _write_all(settings: argparse.Namespace, console: Console) -> int:
    """Write all pages, and return 1 if one of them failed."""
    status = 0
    for folder in settings.folders:
        try:
            with summed("PIL", console):
                sample, reason = _sample(folder, settings.data_root, console)
            path = write_report(folder, sample, without_faces=reason)
        except (RunError, OSError) as error:
            print_error(worded("report", error))
            status = 1
        else:
            console.print(f"The report is {path}.", markup=False, highlight=False, soft_wrap=True)
    return status


def _sample(folder: Path, data_root: Path | None, console: Console) -> tuple[Sample | None, str]:
    """Return the same sample of faces as at the end of the run, or None and the reason why there is none.

    Raises:
        RunError: The folder is not that of a run, its files do not match each other, or the data cannot be read from
            the given folder.
    """
    if not (folder / WEIGHTS).is_file():
        return None, "The run has no weights yet, so there are no predictions to show."
    run = load_run(folder)
    try:
        config = replace(run.config, data_root=data_root or run.config.data_root)
        config.check()
        faces = load_split(config, "test", console)
        return draw_sample(
            run.model, faces, device="cpu", seed=config.seed
        ), "No face of the test split can be decoded."
    except (ConfigError, DataError, OSError, ValueError) as error:
        if data_root is not None:
            raise RunError(
                f"report: --data-root must be the folder of the data of {folder}, got {data_root}: {error}"
            ) from error
        return None, f"The faces are not shown, because the data of the run cannot be read: {error}"


if __name__ == "__main__":
    sys.exit(main())
