"""Train estimators on tasks with known information: ``python examples/mutual_information/measure.py --help``."""

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mutual_information.estimators import ESTIMATORS, CriticName, EstimatorName
from mutual_information.picture import staircase_figure
from mutual_information.staircase import Estimates, Staircase, climb_all, jobs
from mutual_information.summary import Row, markdown, summarise, terminal
from mutual_information.tasks import TASKS, TaskName
from shared.files import as_json, holding, replacing_together
from shared.program import UserError, check_given_once, refuse_below, refuse_repeats, refuse_seeds, run_program
from shared.sheet import style

PROGRAM = "python examples/mutual_information/measure.py"
DESCRIPTION = """Train estimators of mutual information on tasks with known information that rises in steps. Draw the
estimates, and write bias, standard deviation and root mean square error."""

RESULTS = ("measure.json", "measure.md", "staircase.png")
STEPS, QUICK_STEPS = 1000, 60


class MeasureError(UserError):
    """Invalid settings, or a failed training."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, how, and where to write the results."""

    tasks: tuple[TaskName, ...] = tuple(TASKS)
    """Tasks with known information."""
    estimators: tuple[EstimatorName, ...] = tuple(ESTIMATORS)
    """Estimators."""
    levels: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 10.0)
    """Levels of information in nats, in this order."""
    quick: bool = False
    """Quick check with few steps per level, whose results say little about the estimators."""
    steps: int | None = None
    """Training steps at each level; by default 1000, or 60 with --quick."""
    batch_size: int = 64
    """Number of pairs per batch; all combinations are scored."""
    dimensions: int = 20
    """Dimensions of each side of a pair."""
    critic: CriticName = "separable"
    """Critic; concat sees both sides at once and takes several times as long."""
    hidden_channels: int | None = None
    """Width of the critic's hidden layers; by default 256."""
    lr: float = 1e-3
    """Adam's learning rate."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, with one training each; the table covers all of them, the picture shows the first."""
    workers: int = min(4, os.cpu_count() or 1)
    """Number of simultaneous trainings, each in its own process with one thread; 1 trains in this process."""
    output: Path = Path("runs/mutual_information")
    """Output folder for measure.json, measure.md and staircase.png."""
    overwrite: bool = False
    """Replace existing results in the output folder."""

    def check(self) -> None:
        """Refuse invalid settings.

        Raises:
            MeasureError: A number is out of range, or a list is empty or has repeated values.
        """
        lists = {name: getattr(self, name) for name in ("tasks", "estimators", "levels", "seeds")}
        refuse_repeats(MeasureError, "measure", **lists)
        least = {"steps": 1, "batch_size": 2, "dimensions": 1, "hidden_channels": 1, "workers": 1}
        refuse_below(MeasureError, "measure", self, **least)
        if not 0 < self.lr < math.inf:
            raise MeasureError(f"measure: --lr must be a positive number, got {self.lr}. Give a number above 0.")
        refuse_seeds(MeasureError, "measure", seeds=self.seeds)
        if self.critic == "bilinear" and self.hidden_channels is not None:
            raise MeasureError(
                f"measure: --hidden-channels has no effect with --critic bilinear, got {self.hidden_channels}. "
                "Leave it out."
            )
        for task in self.tasks:
            least_level = TASKS[task].least(self.dimensions)
            if not all(least_level < level < math.inf for level in self.levels):
                raise MeasureError(
                    f"measure: --levels must be above {least_level:.3g} nats for the task {task} in {self.dimensions} "
                    f"dimensions, got {' '.join(f'{level:g}' for level in self.levels)}. Raise them, or leave "
                    "the task out."
                )

    @property
    def staircase(self) -> Staircase:
        """The settings that all trainings share."""
        return Staircase(
            levels=self.levels,
            steps=self.steps or (QUICK_STEPS if self.quick else STEPS),
            batch_size=self.batch_size,
            dimensions=self.dimensions,
            critic=self.critic,
            hidden_channels=self.hidden_channels,
            lr=self.lr,
        )


def run(settings: Settings, console: Console) -> None:
    """Train, summarise, and write table and picture."""
    settings.check()
    with holding("measure", settings.output, RESULTS, overwrite=settings.overwrite):
        started = time.perf_counter()
        results = _train(settings, console)
        rows = summarise(results, settings.levels)
        seconds = time.perf_counter() - started
        caption = _caption(settings, seconds)
        console.print(terminal(rows, caption))
        paths = [settings.output / name for name in RESULTS]
        with style(), replacing_together(*paths) as (described, table, picture):
            described.write(as_json(_as_json(settings, rows, seconds)))
            table.write(markdown(rows, caption).encode())
            figure = staircase_figure(results, settings.levels, settings.batch_size, _note(settings))
            figure.savefig(picture, format="png", dpi=figure.dpi, facecolor="white")
        console.print(f"Table and picture are in {settings.output}.", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("measure", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("measure", partial(run, settings), stopped="Stopped; nothing was written.")


def _train(settings: Settings, console: Console) -> dict[tuple[TaskName, EstimatorName], list[Estimates]]:
    """Return the estimates of all trainings, by seed."""
    todo = jobs(settings.tasks, settings.estimators, settings.seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found: dict[tuple[TaskName, EstimatorName, int], Estimates] = {}
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("trainings", total=len(todo))
        for job, estimates in climb_all(todo, settings.staircase, min(settings.workers, len(todo))):
            for name, values in estimates.items():
                if not np.isfinite(values).all():
                    raise MeasureError(
                        f"measure: estimates must stay finite, got {values[~np.isfinite(values)][0]} from {name} on "
                        f"{job.task}, seed {job.seed}. Lower --lr."
                    )
                found[job.task, name, job.seed] = values
            progress.advance(bar)
    return {
        (task, name): [found[task, name, seed] for seed in settings.seeds]
        for task in settings.tasks
        for name in settings.estimators
    }


def _caption(settings: Settings, seconds: float) -> str:
    seeds = f"seed{'s' * (len(settings.seeds) > 1)} {', '.join(map(str, settings.seeds))}"
    return (
        f"Bias ± standard deviation (root mean square error) in nats, over the last quarter of each level's "
        f"{settings.staircase.steps:,} steps: {settings.critic} critic, batches of {settings.batch_size}, "
        f"{settings.dimensions} dimensions, {seeds}; {seconds:,.0f} s on {settings.workers} "
        f"core{'s' * (settings.workers > 1)}."
    )


def _note(settings: Settings) -> str:
    return (
        f"{settings.critic} critic, batches of {settings.batch_size} fresh pairs, {settings.dimensions} dimensions, "
        f"{settings.staircase.steps:,} steps a level"
    )


def _as_json(settings: Settings, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """Return the content of measure.json."""
    described = asdict(settings.staircase) | {"seeds": list(settings.seeds), "workers": settings.workers}
    return {"settings": described, "seconds": seconds, "rows": [row._asdict() for row in rows]}


if __name__ == "__main__":
    sys.exit(main())
