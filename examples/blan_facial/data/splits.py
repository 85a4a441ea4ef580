"""Loading the splits of a run from any data set."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from blan_facial.config import Config, Data
from blan_facial.data.attributes import choose
from blan_facial.data.avatars import COUNTS, load_avatars
from blan_facial.data.avatars.drawing import Drawn
from blan_facial.data.celeba import load_celeba
from blan_facial.data.columns import read_columns
from blan_facial.data.faces import DataError, FaceDataset, NoSplitError
from blan_facial.data.labelled import keep_labels
from blan_facial.data.lfwa import load_lfwa
from blan_facial.data.parquet import load_parquet
from blan_facial.data.table import load_csv, read_table

_NAMED = 10  # attributes named in a warning


class Splits(NamedTuple):
    """Faces for training, validation and test."""

    train: FaceDataset
    validation: FaceDataset | None
    """None if the data set has no validation split."""
    test: FaceDataset

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return the numbers of positive, negative and unknown labels of each attribute, by split."""
        return {split.split: split.counts() for split in self if split is not None}


def load_splits(config: Config, console: Console) -> Splits:
    """Open the data set of a run, and show the progress of drawing and notes on missing parts.

    Raises:
        DataError: The folder cannot be used.
    """
    with Progress(console=console, transient=True) as bar:
        load = _reader(config, bar)
        train = load("train")
        if config.labelled is not None:
            train = keep_labels(train, config.labelled, config.seed)
        try:
            validation = load("validation")
        except NoSplitError:
            validation = None
        splits = Splits(train, validation, load("test"))
    _print_notes([split for split in splits if split is not None], console)
    _look_at_classes(splits.train, console, few=config.labelled is not None)
    return splits


def load_split(config: Config, split: str, console: Console) -> FaceDataset:
    """Open a single split in the same way.

    Raises:
        DataError: The folder cannot be used.
        NoSplitError: The data set has no such split.
    """
    with Progress(console=console, transient=True) as bar:
        faces = _reader(config, bar)(split)
    _print_notes([faces], console)
    return faces


def _look_at_classes(train: FaceDataset, console: Console, few: bool) -> None:
    """Warn of attributes whose known training labels are all the same, since they cannot be learnt.

    Raises:
        DataError: No attribute has both labels.
    """
    alike = [
        f"{attribute} ({'all yes' if counted['yes'] else 'all no' if counted['no'] else 'all unknown'})"
        for attribute, counted in train.counts().items()
        if not (counted["yes"] and counted["no"])
    ]
    if not alike:
        return
    named = ", ".join(alike[:_NAMED]) + (f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else "")
    if len(alike) == len(train.attributes):
        raise DataError(
            f"train: some attribute must have both yes and no among its training labels, got {named}. "
            + ("Raise --labelled." if few else "Label images of both kinds, or set what 0 and -1 mean with --unknown.")
        )
    warning = f"Attributes with only one kind of training label, which cannot be learnt: {named}."
    remedy = "Raise --labelled, or leave them out with --attributes" if few else "Leave them out with --attributes"
    console.print(f"{warning} {remedy}.", markup=False, highlight=False, style="yellow")


def _print_notes(splits: Sequence[FaceDataset], console: Console) -> None:
    for note in dict.fromkeys(note for split in splits for note in split.notes):
        console.print(note, markup=False, highlight=False)


def _reader(config: Config, bar: Progress) -> Callable[[str], FaceDataset]:
    """Return a function that opens a split, limited to the images that the run may use."""
    read = READERS[config.data](config, bar)

    def load(split: str) -> FaceDataset:
        faces, limit = read(split), _limit(config, split)
        if config.attributes:
            chosen, lacking = choose(config.attributes, faces.attributes)
            faces = faces.with_attributes((*chosen, *lacking))
        return faces if limit is None else faces.first(limit)

    return load


def _limit(config: Config, split: str) -> int | None:
    """Return the maximum number of images of a split; None for all."""
    limits = [config.images, config.train_images if split == "train" else None]
    return min((limit for limit in limits if limit is not None), default=None)


def _avatars(config: Config, bar: Progress) -> Callable[[str], FaceDataset]:
    def load(split: str) -> FaceDataset:
        task = bar.add_task(f"drawing {split} faces", total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        count = min(COUNTS[split], _limit(config, split) or COUNTS[split])
        drawn_as: Drawn = "avatars-hard" if config.data == "avatars-hard" else "avatars"
        return load_avatars(split, image_size=config.image_size, count=count, progress=show, drawn_as=drawn_as)

    return load


def _celeba(config: Config, _: Progress) -> Callable[[str], FaceDataset]:
    size, folder = config.image_size, config.image_folder
    return partial(load_celeba, config.data_root or Path(), image_size=size, image_folder=folder)


def _lfwa(config: Config, _: Progress) -> Callable[[str], FaceDataset]:
    size, folder = config.image_size, config.image_folder
    return partial(
        load_lfwa, config.data_root or Path(), image_size=size, partition=config.lfwa_split, image_folder=folder
    )


def _csv(config: Config, _: Progress) -> Callable[[str], FaceDataset]:
    columns = None if config.columns is None else read_columns(config.columns)
    table = read_table(config.labels or Path(), columns, unknown=config.unknown, attributes=config.attributes)
    return partial(load_csv, table, config.data_root or Path(), image_size=config.image_size)


def _parquet(config: Config, bar: Progress) -> Callable[[str], FaceDataset]:
    def load(split: str) -> FaceDataset:
        task = bar.add_task(f"reading {split} faces", total=None)
        faces = load_parquet(
            config.data_root or Path(),
            split,
            image_size=config.image_size,
            unknown=config.unknown,
            attributes=config.attributes,
        )
        bar.update(task, visible=False)
        return faces

    return load


READERS: dict[Data, Callable[[Config, Progress], Callable[[str], FaceDataset]]] = {
    "avatars": _avatars,
    "avatars-hard": _avatars,
    "celeba": _celeba,
    "lfwa": _lfwa,
    "csv": _csv,
    "parquet": _parquet,
}
"""Functions that make the reader of each data set, which opens its splits, from the settings of a run."""
