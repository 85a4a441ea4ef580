"""The staircase: a critic is trained on fresh batches while the information rises step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mutual_information.estimators import (
    ESTIMATORS,
    CriticName,
    EstimatorName,
    ObjectiveName,
    build_critic,
    build_objective,
    clip,
    score,
)
from mutual_information.tasks import TASKS, TaskName
from shared.parallel import each

Estimates = npt.NDArray[np.float64]
"""Estimates in nats, (levels, steps per level)."""


@dataclass(frozen=True, kw_only=True)
class Staircase:
    """The settings that all trainings share."""

    levels: tuple[float, ...]
    """Levels of information in nats, in this order."""
    steps: int
    """Training steps at each level."""
    batch_size: int
    dimensions: int
    critic: CriticName
    hidden_channels: int | None
    lr: float


class Job(NamedTuple):
    """A training, and the estimators computed from its critic."""

    task: TaskName
    objective: ObjectiveName
    seed: int
    estimators: tuple[EstimatorName, ...]


def jobs(tasks: Sequence[TaskName], estimators: Sequence[EstimatorName], seeds: Sequence[int]) -> list[Job]:
    """Return the trainings that these estimators need; estimators with the same objective share one."""
    shared: dict[ObjectiveName, list[EstimatorName]] = {}
    for name in estimators:
        shared.setdefault(ESTIMATORS[name].objective, []).append(name)
    return [
        Job(task, objective, seed, tuple(names))
        for seed in seeds
        for task in tasks
        for objective, names in shared.items()
    ]


def climb(job: Job, staircase: Staircase) -> dict[EstimatorName, Estimates]:
    """Train a critic through all levels, and return the estimates on every batch before training on it.

    Each step draws a new batch, so that every estimate is computed on pairs that the critic has not seen.
    """
    task, d = TASKS[job.task], staircase.dimensions
    torch.manual_seed(job.seed)
    critic = build_critic(staircase.critic, (d, d), staircase.hidden_channels, maps=task.maps)
    generator = torch.Generator().manual_seed(job.seed)
    objective = build_objective(job.objective)
    optimizer = torch.optim.Adam(critic.parameters(), staircase.lr, fused=True)
    estimates = {name: np.empty((len(staircase.levels), staircase.steps)) for name in job.estimators}
    for level, information in enumerate(staircase.levels):
        for step in range(staircase.steps):
            logits = score(critic, *task.draw(staircase.batch_size, d, information, generator))
            for name, values in estimates.items():
                values[level, step] = ESTIMATORS[name].estimate(logits.detach())
            optimizer.zero_grad()
            (-objective(logits)).backward()
            clip(job.objective, critic)
            optimizer.step()
    return estimates


def climb_all(
    todo: Sequence[Job], staircase: Staircase, workers: int
) -> Iterator[tuple[Job, dict[EstimatorName, Estimates]]]:
    """Run the trainings, ``workers`` at a time, and yield each when it is done."""
    yield from each(partial(_climb, staircase), todo, workers)


def _climb(staircase: Staircase, job: Job) -> tuple[Job, dict[EstimatorName, Estimates]]:
    return job, climb(job, staircase)
