"""Compare skip connections of a U-Net: ``python examples/segmentation/train.py --help``."""

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from blan_layers import RDAM, AttentionGate
from segmentation.picture import maps_figure, masks_figure
from segmentation.shapes import LEAST_SIZE, draw
from segmentation.unet import Plain, SkipFactory, UNet
from shared.files import as_json, holding, replacing_together
from shared.parallel import each
from shared.program import UserError, check_given_once, refuse_below, refuse_repeats, refuse_seeds, run_program
from shared.sheet import style

PROGRAM = "python examples/segmentation/train.py"
DESCRIPTION = """Train a small U-Net with each kind of skip connection on drawn shapes, compare its masks on held-out
images, and draw the masks and the gates."""

Kind: TypeAlias = Literal["plain", "attention-gate", "rdam"]

SKIPS: dict[Kind, SkipFactory] = {
    "plain": lambda channels, coarse: Plain(),
    "attention-gate": lambda channels, coarse: AttentionGate(channels, coarse, norm=nn.BatchNorm2d),
    "rdam": lambda channels, coarse: RDAM(
        channels,
        decoder_channels=coarse,
        resize="nearest",
        conv_norm=nn.BatchNorm2d,
        conv_activation=nn.ReLU,
        reduction_ratio=4,
    ),
}
DEPTH, BATCH, IMAGES, HELD_OUT, SHOWN = 3, 16, 2048, 512, 10
LEARNING_RATE = 1e-2
SCORES, MASKS, MAPS = RESULTS = ("scores.json", "masks.png", "maps.png")


class TrainError(UserError):
    """Invalid settings of the training."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, how, and where to write the results."""

    kinds: tuple[Kind, ...] = tuple(SKIPS)
    """Kinds of skip connections."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one training per kind each, which have different initial weights and images; the pictures show the
    first."""
    steps: int = 600
    """Training steps, with 16 images each."""
    size: int = 32
    """Side of the images in pixels."""
    width: int = 16
    """Channels of the U-Net's finest level."""
    workers: int = min(4, os.cpu_count() or 1)
    """Number of simultaneous trainings, each in its own process with one thread; 1 trains in this process."""
    output: Path = Path("runs/segmentation")
    """Output folder for scores.json, masks.png and maps.png."""
    overwrite: bool = False
    """Replace existing results in the output folder."""

    def check(self) -> None:
        """Refuse invalid settings.

        Raises:
            TrainError: A number is out of range, or a list is empty or has repeated values.
        """
        refuse_repeats(TrainError, "train", kinds=self.kinds, seeds=self.seeds)
        refuse_below(TrainError, "train", self, steps=1, size=LEAST_SIZE, width=1, workers=1)
        refuse_seeds(TrainError, "train", seeds=self.seeds)


class Job(NamedTuple):
    """A training."""

    seed: int
    kind: Kind


class Score(NamedTuple):
    """The result of a training."""

    iou: float
    """Intersection over union of the filled shapes, averaged over the held-out images."""
    dice: float
    """Dice coefficient of the filled shapes, averaged over the held-out images."""
    parameters: int
    milliseconds: float
    """Median time of a training step on one thread."""


def run(settings: Settings, console: Console) -> None:
    """Train, test, and write scores and pictures."""
    settings.check()
    with holding("train", settings.output, RESULTS, overwrite=settings.overwrite):
        started = time.perf_counter()
        jobs = [Job(seed, kind) for seed in settings.seeds for kind in settings.kinds]
        found: dict[Job, Score] = {}
        networks: dict[Kind, UNet] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("trainings", total=len(jobs))
            for job, score, network in each(partial(train, settings), jobs, min(settings.workers, len(jobs))):
                found[job] = score
                if job.seed == settings.seeds[0]:
                    networks[job.kind] = network
                progress.advance(bar)
        scores = {kind: [found[Job(seed, kind)] for seed in settings.seeds] for kind in settings.kinds}
        seconds = time.perf_counter() - started
        console.print(_table(settings, scores, seconds))
        described = asdict(settings) | {"output": str(settings.output)}
        by_kind = {kind: [score._asdict() for score in by_seed] for kind, by_seed in scores.items()}
        figures = _figures(settings, {kind: networks[kind] for kind in settings.kinds})
        paths = [settings.output / name for name in (SCORES, *figures)]
        with style(), replacing_together(*paths) as files:
            files[0].write(as_json({"settings": described, "seconds": seconds, "scores": by_kind}))
            for file, figure in zip(files[1:], figures.values(), strict=True):
                figure.savefig(file, format="png", dpi=100, facecolor="white", bbox_inches="tight")
        if MAPS not in figures:
            (settings.output / MAPS).unlink(missing_ok=True)
        console.print(f"Scores and pictures are in {settings.output}.", markup=False, highlight=False, soft_wrap=True)


def train(settings: Settings, job: Job) -> tuple[Job, Score, UNet]:
    """Train a network and test it on held-out images."""
    images, masks = _drawn(IMAGES, settings, 1, job.seed)
    torch.manual_seed(job.seed)
    network = UNet(settings.width, DEPTH, skip=SKIPS[job.kind])
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=settings.steps)
    generator = torch.Generator().manual_seed(job.seed)  # the same batches for all kinds
    seconds = []
    for batch in torch.randint(len(images), (settings.steps, BATCH), generator=generator):
        started = time.perf_counter()
        loss = segmentation_loss(network(images[batch]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - started)
    images, masks = _drawn(HELD_OUT, settings, 0)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    score = Score(*agreement(predict(network, images), masks), parameters, 1000 * statistics.median(seconds))
    return job, score, network


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return binary cross entropy plus 1 minus the soft Dice coefficient of each image."""
    truth, probability = masks.to(logits.dtype), logits.sigmoid()
    both, either = (probability * truth).sum((1, 2, 3)), (probability + truth).sum((1, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, truth) + 1 - ((2 * both + 1) / (either + 1)).mean()


def predict(network: UNet, images: Tensor) -> Tensor:
    """Return the masks that a network predicts in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in images.split(64)]) > 0


def agreement(found: Tensor, masks: Tensor) -> tuple[float, float]:
    """Return intersection over union and Dice coefficient of masks (N, 1, H, W), averaged over the images."""
    both, sizes = (found & masks).sum((1, 2, 3)), (found.sum((1, 2, 3)) + masks.sum((1, 2, 3)))
    return (both / (sizes - both)).mean().item(), (2 * both / sizes).mean().item()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("train", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("train", partial(run, settings), stopped="Stopped; nothing was written.")


def _drawn(count: int, settings: Settings, *seed: int) -> tuple[Tensor, Tensor]:
    images, masks = map(torch.from_numpy, draw(count, settings.size, seed))
    return images.contiguous(memory_format=torch.channels_last), masks


def _table(settings: Settings, scores: Mapping[Kind, Sequence[Score]], seconds: float) -> Table:
    runs = min(settings.workers, len(settings.kinds) * len(settings.seeds))
    several = f"Mean ± standard deviation over seeds {', '.join(map(str, settings.seeds))}"
    caption = (
        f"{several if len(settings.seeds) > 1 else f'Seed {settings.seeds[0]}'}; {HELD_OUT} held-out images of "
        f"{settings.size} x {settings.size}; {settings.steps:,} step{'s' * (settings.steps > 1)}, width "
        f"{settings.width}; {seconds:,.0f} s in all, {runs} run{'s' if runs > 1 else ''} at a time."
    )
    table = Table("skips", caption=caption, box=box.SIMPLE)
    for name in ("IoU, %", "Dice, %", "parameters", "ms per step"):
        table.add_column(name, justify="right")
    for kind, by_seed in scores.items():
        iou, dice, parameters, milliseconds = zip(*by_seed, strict=True)
        step = f"{statistics.median(milliseconds):.0f}"
        table.add_row(kind, _spread(iou), _spread(dice), f"{parameters[0]:,}", step)
    return table


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _figures(settings: Settings, networks: Mapping[Kind, UNet]) -> dict[str, Figure]:
    """Return pictures of the first held-out images by name; there are no maps without spatial gates."""
    images, masks = _drawn(SHOWN, settings, 0)
    figures = {
        MASKS: masks_figure(images, masks, {kind: predict(network, images) for kind, network in networks.items()})
    }
    with style():
        named = {kind.replace("-", " "): network for kind, network in networks.items()}
        if maps := maps_figure(images[: SHOWN // 2], named):
            figures[MAPS] = maps
    return figures


if __name__ == "__main__":
    sys.exit(main())
