"""Run the paper's tables and Fig. 3: ``python examples/blan_facial/experiments.py --help``."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console

from blan_facial.config import PRESETS as TRAINING
from blan_facial.config import ConfigError
from blan_facial.tables.cells import (
    AVATAR_EPOCHS,
    DRAWN,
    PRESETS,
    SPOKEN,
    Cell,
    Data,
    Experiment,
    Name,
    Run,
    options_of,
)
from blan_facial.tables.entries import as_json, entries
from blan_facial.tables.layout import around, insert, markdown, terminal
from blan_facial.tables.measures import Result
from blan_facial.tables.plan import experiment
from blan_facial.tables.running import ExperimentError, Job, complete, places
from blan_facial.tables.worth import with_equal_seconds
from shared.files import make_parent, replacing, write_json
from shared.program import check_given_once, print_error, run_program

PROGRAM = "python examples/blan_facial/experiments.py"
DESCRIPTION = """Reproduce a table of the paper: train every row with every seed, or read finished runs, and compare
the results with the paper's. Options after -- are passed to train.py for every run. Repeating the command continues
unfinished runs."""


_OF_TABLE = {
    "seed": "Give --seeds before --",
    "epochs": "Give --epochs before --",
    "output": "Give --output before --",
    "data": "Give --data before --",
    "preset": "Leave it out; --data before -- defines it",
    "resume": "Leave it out; unfinished runs are continued",
    "overwrite": "Leave it out; a run starts over if its folder is removed",
}
"""The settings of ``train.py`` that the table makes for its runs, and what to do instead."""

_NAMED = frozenset({"model", "os"})
"""Settings that rows and titles name, even in a table whose rows all have the preset's."""
_SIZES = frozenset({"width", "summary_channels"})
"""Settings that rows make only to be fast; no row is named after them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run, on which data, and where to write the results."""

    table: tyro.conf.Positional[Name]
    """Table or figure to reproduce."""
    data: Data = "avatars"
    """Data set; its preset defines the model."""
    data_root: Path | None = None
    """Official folder of CelebA or LFWA."""
    other_root: Path | None = None
    """For table9, the folder of the other of CelebA and LFWA; without it, the cells of that test stay empty."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one run each."""
    epochs: int | None = None
    """Passes over the training images, the same for all rows; by default 5 for avatars, otherwise the preset's."""
    rows: str = ""
    """Run only rows whose names contain this regular expression, such as "^100 labels.*w/ OS"."""
    existing: bool = False
    """Show existing results without starting runs."""
    parallel: int | None = None
    """Number of simultaneous runs; by default one per GPU or, without a GPU, one per CPU core, at most 4."""
    output: Path = Path("runs/experiments")
    """Folder of the tables and of the runs, one per row and seed, which all tables share."""
    markdown: Path | None = None
    """Also write the table to this Markdown file, between its lines <!-- TABLE DATA --> and <!-- end of TABLE DATA
    -->."""

    def check(self) -> None:
        """Refuse invalid options.

        Raises:
            ExperimentError: An option is invalid.
        """
        for name in ("parallel", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExperimentError(f"experiments: --{name} must be at least 1, got {value}. Give a positive number.")
        try:
            re.compile(self.rows)
        except re.error as error:
            raise ExperimentError(
                f"experiments: --rows must be a regular expression, got {self.rows!r} ({error}). Correct it."
            ) from error
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            got = " ".join(map(str, self.seeds)) or "none"
            raise ExperimentError(f"experiments: --seeds must be different numbers, got {got}. Name each once.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    check_given_once("experiments", arguments[:cut], Settings)
    settings = tyro.cli(Settings, args=arguments[:cut], prog=PROGRAM, description=DESCRIPTION)
    work = partial(_run, settings, tuple(arguments[cut + 1 :]))
    return run_program("experiments", work, stopped="Stopped; the same command continues from there.")


def _run(settings: Settings, training: tuple[str, ...], console: Console) -> int:
    """Run the missing runs, show the table and write it; return 1 if a run failed."""
    settings.check()
    whole = experiment(settings.table, settings.data)
    _check_training(training, whole)
    plan = _chosen(whole, settings.rows)
    if settings.other_root is not None and all(cell.test is None for cell in plan.cells.values()):
        raise ExperimentError(
            f"experiments: --other-root is for table9 with CelebA or LFWA, got {settings.table} with {settings.data}. "
            "Leave it out."
        )
    if settings.markdown is not None:  # before the runs
        around(settings.markdown, f"{plan.name} {settings.data}")
        make_parent(settings.markdown)
    jobs, results, failures = _complete(settings, plan, training, console)
    if plan.name == "budget":
        plan = _chosen(with_equal_seconds(plan, results), settings.rows)
        jobs, results, failures = _complete(settings, plan, training, console)
    if plan.name == "lmim":
        results = _with_levels(settings, results, console)
    _write(settings, plan, results, jobs, console)
    for failure in failures:
        print_error(failure)
    return int(bool(failures))


def _check_training(training: Sequence[str], plan: Experiment) -> None:
    """Refuse options for all runs of a plan that would replace what the table sets or what its rows are.

    Raises:
        ExperimentError: There is such an option.
    """
    of_rows = (_NAMED | _settings([word for run in plan.runs for word in run.options]).keys()) - _SIZES
    for setting, option in _settings(training).items():
        if setting in _OF_TABLE:
            raise ExperimentError(
                f"experiments: options after -- must not be set by the table, got {option}. {_OF_TABLE[setting]}."
            )
        if setting in of_rows:
            raise ExperimentError(
                f"experiments: options after -- must not change what the rows of {plan.name} are, got {option}. "
                "Leave it out, or train that model with train.py."
            )


def _settings(words: Sequence[str]) -> dict[str, str]:
    """Return the options among the words of a command line by their settings, such as ``--no-os`` by ``os``."""
    options = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return {option[2:].removeprefix("no-").replace("-", "_"): option for option in options}


def _chosen(plan: Experiment, expression: str) -> Experiment:
    """Return the rows of a plan whose names contain an expression.

    Raises:
        ExperimentError: No such row has a run.
    """
    cells = {place: cell for place, cell in plan.cells.items() if re.search(expression, place[0])}
    if not cells:
        raise ExperimentError(
            f"experiments: --rows must match a row that has runs, got {expression!r}. Rows of {plan.name}: "
            f"{', '.join(dict.fromkeys(row for row, _ in plan.cells))}."
        )
    return replace(plan, rows=tuple(row for row in plan.rows if re.search(expression, row)), cells=cells)


def _complete(
    settings: Settings, plan: Experiment, training: tuple[str, ...], console: Console
) -> tuple[dict[Run, list[Job]], dict[Cell, list[Result]], list[str]]:
    """Run the missing runs of a plan, and return all its runs, their results, and error messages."""
    jobs = {run: [_job(settings, run, seed, training) for seed in settings.seeds] for run in plan.runs}
    ordered = [runs[place] for place in range(len(settings.seeds)) for runs in jobs.values()]
    failures = [] if settings.existing else complete(ordered, places(settings.parallel), console)
    results = {cell: _results(jobs[cell.run], cell.test, settings.other_root) for cell in plan.cells.values()}
    return jobs, results, failures


def _job(settings: Settings, run: Run, seed: int, training: tuple[str, ...]) -> Job:
    epochs = settings.epochs or (AVATAR_EPOCHS if settings.data in DRAWN else None)
    if run.longer != 1:
        epochs = max(1, round(run.longer * (epochs or TRAINING[PRESETS[settings.data]].epochs)))
    arguments = [*options_of(settings.data)]
    arguments += [] if settings.data_root is None else ["--data-root", str(settings.data_root)]
    arguments += [] if epochs is None else ["--epochs", str(epochs)]
    folder = settings.output / settings.data / run.name / f"seed-{seed}"
    job = Job(f"{run.name}, seed {seed}", folder, (*arguments, *run.options, *training, "--seed", str(seed)))
    try:
        job.config.check()
    except ConfigError as error:
        if not training:
            raise
        raise ExperimentError(
            f"experiments: options after -- must suit every row, got {' '.join(training)} for {run.name}: {error} "
            "--rows leaves rows out."
        ) from error
    return job


def _results(jobs: Sequence[Job], test: Data | None, other_root: Path | None) -> list[Result]:
    """Return the results of the finished runs of a row, on their own data set or another."""
    finished = [(job, metrics) for job in jobs if (metrics := job.metrics()) is not None]
    if test is None:
        return [Result(metrics, job.config, job.folder) for job, metrics in finished]
    if other_root is None:
        return []
    return [Result(job.tested_on(test, other_root), job.config, job.folder) for job, _ in finished]


def _with_levels(settings: Settings, results: dict[Cell, list[Result]], console: Console) -> dict[Cell, list[Result]]:
    """Add to the metrics of all results what the levels of the models hold."""
    from blan_facial.tables.levels import levels_of  # with lightning, which takes long to import

    folders = list(dict.fromkeys(result.folder for found in results.values() for result in found))
    levels = levels_of(folders, len(places(settings.parallel)), console)
    return {
        cell: [result._replace(metrics={**result.metrics, "levels": levels[result.folder]}) for result in found]
        for cell, found in results.items()
    }


def _budget(settings: Settings, jobs: dict[Run, list[Job]]) -> str:
    """Return a description of what all rows have in common."""
    config = next(iter(jobs.values()))[0].config
    seeds = ", ".join(map(str, settings.seeds))
    count = config.epochs + config.extend
    length = f"{count} epoch{'s' * (count != 1)} of batches of {config.batch_size}"
    length += f", at most {config.max_steps:,} steps" if config.max_steps else ""
    return f"{SPOKEN[settings.data]}, {length}, seeds {seeds}"


def _write(
    settings: Settings,
    plan: Experiment,
    results: dict[Cell, list[Result]],
    jobs: dict[Run, list[Job]],
    console: Console,
) -> None:
    """Show the table, and write it as JSON, Markdown and a web page."""
    from blan_facial.tables.table_page import write_table_page  # templates and pictures take long to import

    cells, budget = entries(plan, results), _budget(settings, jobs)
    content: dict[str, Any] = {
        "experiment": plan.name,
        "title": plan.title,
        "data": settings.data,
        "seeds": list(settings.seeds),
        "budget": budget,
        "paper": plan.paper_data,
        "cells": [as_json(cell) for cell in cells],
    }
    folder = settings.output / settings.data
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(plan, cells, budget)
    write_json(folder / f"{plan.name}.json", content)
    with replacing(folder / f"{plan.name}.md") as file:
        file.write(text.encode())
    write_table_page(folder / f"{plan.name}.html", plan, cells, budget, jobs)
    if settings.markdown is not None:
        insert(settings.markdown, f"{plan.name} {settings.data}", text)
    console.print(terminal(plan, cells, budget))
    console.print(f"The table is in {folder / plan.name}.html, .md and .json.", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
