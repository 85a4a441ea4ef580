"""Compare representations of faces by linear probes: ``python examples/deep_infomax/compare.py --help``."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deep_infomax.faces import ATTRIBUTES, Splits, load, split_counts
from deep_infomax.picture import probes_figure
from deep_infomax.probe import Score, measure
from deep_infomax.summary import Row, Scores, chosen, markdown, summarise, terminal
from deep_infomax.training import TITLES, Recipe, WayName, encoders
from shared.files import as_json, holding, replacing_together
from shared.parallel import each
from shared.program import UserError, check_given_once, refuse_below, refuse_repeats, refuse_seeds, run_program
from shared.sheet import style

PROGRAM = "python examples/deep_infomax/compare.py"
DESCRIPTION = """Train an encoder of drawn faces by Deep InfoMax, as an autoencoder, with a few labels, and not at
all. Compare linear probes that are fitted to its features with few labels."""

RESULTS = ("compare.json", "compare.md", "probes.png")
LABELS, FACES, EPOCHS, STEPS = (50, 200, 1000), 4000, 10, 200
QUICK_LABELS, QUICK_FACES, QUICK_EPOCHS, QUICK_STEPS = (20, 80), 400, 1, 20


class CompareError(UserError):
    """Invalid settings of the comparison."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to compare, how, and where to write the results."""

    ways: tuple[WayName, ...] = tuple(TITLES)
    """Methods of training the encoder."""
    labels: tuple[int, ...] | None = None
    """Numbers of labelled faces; smaller sets are subsets of larger ones. By default 50, 200 and 1000, or 20 and 80
    with --quick."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, with one training per method each, which have different initial weights and labelled faces."""
    quick: bool = False
    """Quick check with few faces and steps, whose results say little about the methods."""
    faces: int | None = None
    """Number of training faces; the validation split has a fifth as many, the test split two fifths. By default 4000,
    or 400 with --quick."""
    epochs: int | None = None
    """Passes over the unlabelled training faces; by default 10, or 1 with --quick."""
    steps: int | None = None
    """Training steps on labelled faces; by default 200, or 20 with --quick."""
    size: Literal[16, 32, 64] = 32
    """Side of the images in pixels."""
    width: int = 64
    """Channels of the encoder's map, which has 8 x 8 locations."""
    dimensions: int = 256
    """Width of the encoder's summary, the input of the probes."""
    workers: int = min(4, os.cpu_count() or 1)
    """Number of simultaneous trainings, each in its own process with one thread; 1 trains in this process."""
    output: Path = Path("runs/deep_infomax")
    """Output folder for compare.json, compare.md and probes.png."""
    overwrite: bool = False
    """Replace existing results in the output folder."""

    def check(self) -> None:
        """Refuse invalid settings.

        Raises:
            CompareError: A number is out of range, or a list is empty or has repeated values.
        """
        refuse_repeats(CompareError, "compare", ways=self.ways, labels=self.counts, seeds=self.seeds)
        least = {"faces": 10, "epochs": 1, "steps": 1, "width": 4, "dimensions": 1, "workers": 1}
        refuse_below(CompareError, "compare", self, **least)
        if min(self.counts) < 2:
            raise CompareError(f"compare: --labels must be at least 2, got {min(self.counts)}. Raise it.")
        if max(self.counts) > self.train_faces:
            raise CompareError(
                f"compare: --labels must be at most {self.train_faces}, the number of --faces, got {max(self.counts)}. "
                "Lower it, or raise --faces."
            )
        refuse_seeds(CompareError, "compare", seeds=self.seeds)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of labelled faces."""
        return (QUICK_LABELS if self.quick else LABELS) if self.labels is None else self.labels

    @property
    def train_faces(self) -> int:
        """Number of training faces."""
        return self.faces or (QUICK_FACES if self.quick else FACES)

    @property
    def recipe(self) -> Recipe:
        """The settings that all trainings share."""
        return Recipe(
            size=self.size,
            width=self.width,
            dimensions=self.dimensions,
            epochs=self.epochs or (QUICK_EPOCHS if self.quick else EPOCHS),
            steps=self.steps or (QUICK_STEPS if self.quick else STEPS),
        )


class Job(NamedTuple):
    """A training method and a seed."""

    seed: int
    way: WayName


class Time(NamedTuple):
    """Duration of a comparison in seconds."""

    seconds: float
    processor_seconds: float
    """Processor time of all trainings and probes, independent of other load on the machine."""


def run(settings: Settings, console: Console) -> None:
    """Draw faces, train, probe, summarise, and write table and picture."""
    settings.check()
    with holding("compare", settings.output, RESULTS, overwrite=settings.overwrite):
        started = time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            splits = _drawn(settings, progress)
            scores, processor = _train(settings, progress)
        taken = Time(time.perf_counter() - started, processor)
        rows = summarise(scores)
        caption = _caption(settings, splits, rows, taken)
        console.print(terminal(rows, caption))
        paths = [settings.output / name for name in RESULTS]
        with style(), replacing_together(*paths) as (described, table, picture):
            described.write(as_json(_as_json(settings, scores, rows, taken)))
            table.write(markdown(rows, caption).encode())
            figure = probes_figure(rows, _note(settings))
            figure.savefig(picture, format="png", dpi=figure.dpi, facecolor="white")
        console.print(f"Table and picture are in {settings.output}.", markup=False, highlight=False, soft_wrap=True)


def probe(settings: Settings, job: Job) -> tuple[Job, list[Score], float]:
    """Train an encoder; return its probes' scores by number of labelled faces, and the processor time in seconds."""
    started = time.process_time()
    splits = load(settings.size, settings.train_faces)
    order = torch.randperm(settings.train_faces, generator=torch.Generator().manual_seed(job.seed))
    labelled = [splits.train.take(order[:count]) for count in settings.counts]
    trained = encoders(job.way, settings.recipe, job.seed, splits.train.images, labelled)
    scores = [measure(encoder, known, splits) for encoder, known in zip(trained, labelled, strict=True)]
    return job, scores, time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("compare", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("compare", partial(run, settings), stopped="Stopped; nothing was written.")


def _drawn(settings: Settings, progress: Progress) -> Splits:
    """Draw the faces before the trainings start."""
    bar = progress.add_task("faces", total=sum(split_counts(settings.train_faces).values()))
    before = 0

    def show(drawn: int, count: int) -> None:
        nonlocal before
        progress.update(bar, completed=before + drawn)
        before += count * (drawn == count)

    splits = load(settings.size, settings.train_faces, show)
    progress.update(bar, completed=sum(len(faces.images) for faces in splits))
    return splits


def _train(settings: Settings, progress: Progress) -> tuple[Scores, float]:
    """Return the scores of all methods, and the processor time in seconds."""
    jobs = [Job(seed, way) for seed in settings.seeds for way in settings.ways]
    found: dict[Job, list[Score]] = {}
    processor = 0.0
    bar = progress.add_task("trainings", total=len(jobs))
    for job, scores, seconds in each(partial(probe, settings), jobs, min(settings.workers, len(jobs))):
        found[job] = scores
        processor += seconds
        progress.advance(bar)
    by_way: Scores = {
        way: {
            count: [found[Job(seed, way)][place] for seed in settings.seeds]
            for place, count in enumerate(settings.counts)
        }
        for way in settings.ways
    }
    return by_way, processor


def _caption(settings: Settings, splits: Splits, rows: Sequence[Row], taken: Time) -> str:
    frequent = splits.train.labels.mean(0).round()
    majority = 100 * (splits.test.labels == frequent).float().mean().item()
    choice = " Chosen: the configuration of Deep InfoMax that is best on validation faces." if chosen(rows) else ""
    seeds = ", ".join(map(str, settings.seeds))
    over = f"mean ± standard deviation over seeds {seeds}" if len(settings.seeds) > 1 else f"seed {seeds}"
    return (
        f"Balanced accuracy in %, {over} (plain accuracy), of {len(ATTRIBUTES)} attributes on "
        f"{len(splits.test.images):,} test faces of {settings.size} x {settings.size}. Last column: balanced accuracy "
        f"on {len(splits.validation.images):,} validation faces, mean of the columns before.{choice} Always the more "
        f"frequent label: 50.0 ({majority:.1f}). {_training(settings)}; {taken.seconds:,.0f} s, {settings.workers} "
        f"training{'s' * (settings.workers > 1)} at a time, {taken.processor_seconds:,.0f} s of processor time."
    )


def _note(settings: Settings) -> str:
    count = len(settings.seeds)
    over = f"mean and standard deviation of {count} seeds" if count > 1 else f"seed {settings.seeds[0]}"
    return f"balanced accuracy on test faces, mean of {len(ATTRIBUTES)} attributes, %; {over}\n{_training(settings)}"


def _training(settings: Settings) -> str:
    recipe = settings.recipe
    return (
        f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} of {settings.train_faces:,} faces without labels, "
        f"{recipe.steps} step{'s' * (recipe.steps > 1)} with labels, {recipe.dimensions} features"
    )


def _as_json(settings: Settings, scores: Scores, rows: Sequence[Row], taken: Time) -> dict[str, object]:
    """Return the content of compare.json."""
    described = {
        "ways": list(settings.ways),
        "labels": list(settings.counts),
        "seeds": list(settings.seeds),
        "faces": settings.train_faces,
        "workers": settings.workers,
        **settings.recipe._asdict(),
    }
    by_way = {
        way: {count: [score._asdict() for score in by_seed] for count, by_seed in by_count.items()}
        for way, by_count in scores.items()
    }
    return {
        "settings": described,
        "attributes": list(ATTRIBUTES),
        **taken._asdict(),
        "chosen": chosen(rows),
        "scores": by_way,
    }


if __name__ == "__main__":
    sys.exit(main())
