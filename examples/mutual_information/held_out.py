"""Compare trained critics with known information: ``python examples/mutual_information/held_out.py --help``."""

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from blan_layers import LMIMLoss
from mutual_information.tasks import TASKS
from shared.parallel import each
from shared.program import UserError, check_given_once, refuse_below, refuse_repeats, refuse_seeds, run_program

PROGRAM = "python examples/mutual_information/held_out.py"
DESCRIPTION = """Train LMIMLoss with its concat critic on correlated Gaussians in 5 dimensions, and compare its
estimates on held-out pairs with the truth. Ends with status 1 if an error exceeds the limit."""

DIMENSIONS, HELD_OUT, CANDIDATES = 5, 16384, 512

Objective: TypeAlias = Literal["jsd", "nwj", "infonce"]


class Recipe(NamedTuple):
    """Training of a critic by an objective, and the estimators computed from it."""

    estimator: Literal["positive_logit", "nwj", "infonce"]
    negatives: Literal["shift", "all"]
    num_negatives: int | None
    hidden_channels: int
    batch_size: int
    steps: int


RECIPES: dict[Objective, Recipe] = {
    "jsd": Recipe("positive_logit", "shift", 4, 128, 512, 800),
    "nwj": Recipe("nwj", "shift", 4, 128, 512, 800),
    "infonce": Recipe("infonce", "all", None, 64, 64, 1000),
}


class Case(NamedTuple):
    """A training to run."""

    objective: Objective
    information: float
    seed: int


class Outcome(NamedTuple):
    """The estimates of a trained critic on held-out pairs."""

    case: Case
    estimate: float

    @property
    def error(self) -> float:
        """Return the estimate minus the true information."""
        return self.estimate - self.case.information


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train and compare with the truth."""

    levels: tuple[float, ...] = (1.0, 2.0)
    """True information in nats."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one training each."""
    limit: float = 0.15
    """Maximum error of an estimate, in nats."""
    workers: int = min(2, os.cpu_count() or 1)
    """Number of simultaneous trainings."""

    def check(self) -> None:
        """Refuse invalid settings.

        Raises:
            UserError: A number is out of range, or a list is empty or has repeated values.
        """
        refuse_repeats(UserError, "held_out", levels=self.levels, seeds=self.seeds)
        for name, values in (("levels", self.levels), ("limit", (self.limit,))):
            for value in values:
                if not 0 < value < math.inf:
                    raise UserError(f"held_out: --{name} must be above 0 and finite, got {value}. Give, say, 0.5.")
        refuse_seeds(UserError, "held_out", seeds=self.seeds)
        refuse_below(UserError, "held_out", self, workers=1)


def held_out(case: Case, recipe: Recipe | None = None) -> Outcome:
    """Train a critic, and estimate the information on held-out pairs.

    The learning rate rises and falls over the run. InfoNCE uses 512 candidates, the others 16 fake pairs per real pair.
    """
    recipe = recipe or RECIPES[case.objective]
    torch.manual_seed(case.seed)
    generator = torch.Generator().manual_seed(case.seed)
    make = partial(LMIMLoss, DIMENSIONS, DIMENSIONS, objective=case.objective, negatives=recipe.negatives)
    loss = make(hidden_channels=recipe.hidden_channels, num_negatives=recipe.num_negatives)
    optimizer = torch.optim.Adam(loss.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=recipe.steps)
    for _ in range(recipe.steps):
        optimizer.zero_grad()
        loss(*_draw(case, recipe.batch_size, generator)).backward()
        optimizer.step()
        schedule.step()
    more = None if recipe.num_negatives is None else 16
    measure = make(critic=loss.critic, num_negatives=more).eval()
    unseen = torch.Generator().manual_seed(2**32 + case.seed)
    batches = [_draw(case, CANDIDATES, unseen) for _ in range(HELD_OUT // CANDIDATES)]
    return Outcome(case, float(np.mean([measure.estimate(*b, estimator=recipe.estimator).item() for b in batches])))


def run(settings: Settings, console: Console) -> int:
    """Train, show the estimates, and return 0 if all are within the limit."""
    settings.check()
    started = time.perf_counter()
    cases = [
        Case(objective, information, seed)
        for objective in RECIPES
        for information in settings.levels
        for seed in settings.seeds
    ]
    with console.status("training"):
        outcomes = {outcome.case: outcome for outcome in each(held_out, cases, min(settings.workers, len(cases)))}
    table = Table("trained by", "measured by", "truth", *(f"seed {seed}" for seed in settings.seeds), box=box.SIMPLE)
    for objective, recipe in RECIPES.items():
        for information in settings.levels:
            found = [outcomes[Case(objective, information, seed)] for seed in settings.seeds]
            shown = (f"{outcome.estimate:.3f} ({outcome.error:+.3f})" for outcome in found)
            table.add_row(objective, recipe.estimator, f"{information:g}", *shown)
    console.print(table)
    worst = np.abs([outcome.error for outcome in outcomes.values()]).max()  # NaN if one is
    seconds = time.perf_counter() - started
    console.print(
        f"Largest error {worst:.3f} nats, limit {settings.limit:g}; {seconds:.0f} s, {settings.workers} at a time."
    )
    return int(not worst <= settings.limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("held_out", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("held_out", partial(run, settings))


def _draw(case: Case, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw vectors, as maps of one location, and summaries."""
    x, y = TASKS["gaussian"].draw(count, DIMENSIONS, case.information, generator)
    return x.unsqueeze(-1), y


if __name__ == "__main__":
    sys.exit(main())
