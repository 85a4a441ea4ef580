"""Measure the library and its peers: ``python benchmarks/run.py --help``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script, from anywhere
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(ROOT), str(ROOT / "examples")]

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import peers
from benchmarks.contest import Case
from benchmarks.machine import circumstances, machine, name_of
from benchmarks.measure import Record, differs, measure
from benchmarks.record import RESULTS, merge, prepared
from benchmarks.suites import SUITES, cases_of
from benchmarks.table import table
from shared.program import UserError, run_program

WIDTH = 120
"""Columns of the output outside a terminal."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the library and its peers on the same inputs, taking turns, after checking that they agree."""

    suite: Literal["attention", "lmim", "model", "all"] = "all"
    """Suite to measure."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device to measure on."""
    quick: bool = False
    """Quick look: few rounds, nothing compiled, no memory."""
    only: str | None = None
    """Measure only the cases whose label contains this text."""
    output: Path | None = None
    """JSON file of the results; by default benchmarks/results/MACHINE.json. With --quick or --only, results are shown
    and by default not written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = tyro.cli(Options, args=arguments, prog="python benchmarks/run.py")
    return run_program("run", partial(run, options), stopped="Stopped; the unfinished suite was not written.")


def run(options: Options, console: Console) -> int:
    """Measure, write and show one suite after the other; return 1 if a peer differs from ours.

    Raises:
        RecordError: The output contains results of another machine, or something else.
        UserError: The device is missing, or no case is to be measured.
    """
    if not console.is_terminal:
        console.width = WIDTH
    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("run: --device cuda needs a GPU, got none. Use --device cpu.")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    described = machine(device)
    output = options.output
    if output is None and not options.quick and options.only is None:
        output = RESULTS / f"{name_of(described)}.json"
    chosen = {name: _chosen(name, options, device) for name in (SUITES if options.suite == "all" else (options.suite,))}
    if not any(chosen.values()):
        label = cases_of(next(iter(chosen)), device)[0].label
        raise UserError(
            f"run: --only must be part of the label of a case to measure, got {options.only!r}. "
            f"Give another part, as of {label!r}."
        )
    if output is not None:
        prepared(output, described)  # before any work
    if peers.timm() is None:
        console.print("timm is not installed: its CbamModule is left out.")
    failed = False
    for name, cases in chosen.items():
        if not cases:
            continue
        circumstance = circumstances()
        records = _measure_suite(name, cases, options, device, console)
        failed = failed or any(map(differs, records))
        if output is not None:
            merge(output, described, circumstance, name, records)  # first, since printing may fail
        console.print(table(name, records))
        if output is not None:
            console.print(f"Written to {output}.", soft_wrap=True)
    if failed:
        console.print("A peer differs from ours by more than rounding and was not timed.", style="bold red")
    return int(failed)


def _chosen(name: str, options: Options, device: torch.device) -> list[Case]:
    """Return the cases of a suite that are to be measured."""
    return [
        case
        for case in cases_of(name, device)
        if (options.only or "") in case.label and not (options.quick and (case.compiled or not case.timed))
    ]


def _measure_suite(
    name: str, cases: Sequence[Case], options: Options, device: torch.device, console: Console
) -> list[Record]:
    records = []
    columns = BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=len(cases))
        for case in cases:
            progress.update(task, description=f"{name}: {case.label}")
            if not console.is_terminal:
                console.print(f"{name}: {case.label}")
            seconds, rounds = (1.0, 3) if options.quick else (4.0, case.least_rounds)
            records.append(measure(case, name, device, seconds, rounds, look=options.quick))
            progress.advance(task)
    return records


if __name__ == "__main__":
    sys.exit(main())
