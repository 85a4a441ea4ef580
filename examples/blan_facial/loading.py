"""Measure the loading of images apart from training: ``python examples/blan_facial/loading.py --help``."""

import dataclasses
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import tyro
from rich.console import Console
from rich.table import Table

from blan_facial.config import Config, ConfigError, parse
from blan_facial.data.faces import DataError, FaceDataset
from blan_facial.data.loading import Batch
from blan_facial.data.splits import load_split
from blan_facial.machines.devices import make_fabric
from blan_facial.network.builder import build
from blan_facial.training.loop import TrainingStep, training_loader
from shared.program import print_error

PROGRAM = "python examples/blan_facial/loading.py"
DESCRIPTION = """Measure how many training images a second the workers load, and how many the model trains on, each by
itself, so that one sees which of the two waits. Options after -- are those of train.py."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and for how long."""

    workers: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of processes that load images."""
    seconds: float = 5.0
    """Time of each measurement, after its warm-up."""


class Rates(NamedTuple):
    """Images a second."""

    loading: dict[int, float]
    """By the number of workers."""
    training: float
    """With a batch that is in memory."""


def measure(settings: Settings, config: Config, console: Console) -> Rates:
    """Measure loading with each number of workers, then training.

    Raises:
        ConfigError: The settings contradict one another or are out of range.
        DataError: The data set cannot be used.
    """
    if not settings.seconds > 0 or not settings.workers or min(settings.workers) < 0:
        raise ConfigError(
            f"loading: needs a time above 0 and numbers of workers of 0 or more, got --seconds {settings.seconds} and "
            f"--workers {' '.join(map(str, settings.workers)) or 'none'}. Correct them."
        )
    faces = load_split(config, "train", console)
    try:
        batch = next(_batches(dataclasses.replace(config, workers=0), faces))
        loading = {workers: _loading_rate(config, faces, workers, settings.seconds) for workers in settings.workers}
        return Rates(loading, _training_rate(config, faces, batch, settings.seconds))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def table_of(rates: Rates) -> Table:
    """Lay out the rates, and who waits with each number of workers."""
    table = Table(title="Training images a second", caption_justify="left")
    table.caption = (
        f"The model by itself trains on {rates.training:.0f} a second. On a CPU both share the cores in a run, "
        "where each is slower."
    )
    for column in ("workers", "loading", "per process"):
        table.add_column(column, justify="right")
    table.add_column("who waits")
    for workers, rate in rates.loading.items():
        if workers == 0:  # one after the other, in one process
            share = rates.training / (rate + rates.training)
            waits = f"training, for {100 * share:.0f} % of the time"
        elif rate < rates.training:
            waits = f"training, for {100 * (1 - rate / rates.training):.0f} % of the time"
        else:
            waits = "the workers"
        table.add_row(str(workers), f"{rate:.0f}", f"{rate / max(workers, 1):.0f}", waits)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    console = Console()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    settings = tyro.cli(Settings, args=arguments[:cut], prog=PROGRAM, description=DESCRIPTION)
    try:
        console.print(table_of(measure(settings, parse(arguments[cut + 1 :]), console)))
    except (ConfigError, DataError, OSError) as error:
        print_error(str(error))
        return 1
    return 0


def _batches(config: Config, faces: FaceDataset) -> Generator[Batch, None, None]:
    """Yield the training batches of one epoch after another, as a run does."""
    loader = training_loader(config, faces)
    while True:
        yield from loader
        loader.batch_sampler.epoch += 1


def _loading_rate(config: Config, faces: FaceDataset, workers: int, seconds: float) -> float:
    batches = _batches(dataclasses.replace(config, workers=workers), faces)
    for _ in range(1 + 2 * workers):  # until they have started, and what they loaded meanwhile is used up
        next(batches)
    images, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        images += len(next(batches).images)
    batches.close()  # which ends the workers
    return images / elapsed


def _training_rate(config: Config, faces: FaceDataset, batch: Batch, seconds: float) -> float:
    """Time forward, backward and Adam's step, until the device is done with them."""
    fabric = make_fabric(config)
    step = TrainingStep(*build(config, faces.attributes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types Module.to without it
    if config.compile:
        step.compile()
    step = fabric.setup_module(step)
    adam = torch.optim.Adam(step.parameters(), lr=config.lr)
    images, labels = fabric.to_device(batch.images), fabric.to_device(batch.labels)

    def train() -> None:
        adam.zero_grad()
        total, _ = step(images, labels)
        fabric.backward(total)
        adam.step()
        total.item()  # waits for the device

    for _ in range(3):
        train()
    steps, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        train()
        steps += 1
    return steps * len(batch.images) / elapsed


if __name__ == "__main__":
    sys.exit(main())
