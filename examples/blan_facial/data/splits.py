"""The splits that a run needs, whatever the data set."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from blan_facial.config import Config
from blan_facial.data.avatars import COUNTS, load_avatars
from blan_facial.data.celeba import load_celeba
from blan_facial.data.faces import FaceDataset
from blan_facial.data.lfwa import load_lfwa
from blan_facial.data.table import load_csv, read_table


class Splits(NamedTuple):
    """Faces to learn from, to choose settings by, and to report on."""

    train: FaceDataset
    validation: FaceDataset | None
    """None where the data set has no such split."""
    test: FaceDataset


def load_splits(config: Config, console: Console) -> Splits:
    """Open the data set of a run, showing the progress of drawing it and what its folder lacks.

    Raises:
        DataError: The folder cannot be used.
    """
    with Progress(console=console, transient=True) as bar:
        load, validates = _loader(config, bar)
        splits = Splits(load("train"), load("validation") if validates else None, load("test"))
    _print_notes([split for split in splits if split is not None], console)
    return splits


def load_split(config: Config, split: str, console: Console) -> FaceDataset:
    """Open one split alone, in the same way.

    Raises:
        DataError: The folder cannot be used.
        ValueError: The data set has no such split.
    """
    with Progress(console=console, transient=True) as bar:
        faces = _loader(config, bar)[0](split)
    _print_notes([faces], console)
    return faces


def _print_notes(splits: Sequence[FaceDataset], console: Console) -> None:
    for note in dict.fromkeys(note for split in splits for note in split.notes):
        console.print(note, markup=False, highlight=False)


def _loader(config: Config, bar: Progress) -> tuple[Callable[[str], FaceDataset], bool]:
    """Return what opens a split, and whether there is one for validation."""

    def avatars(split: str) -> FaceDataset:
        task = bar.add_task(f"drawing {split} faces", total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        count = min(COUNTS[split], _limit(config, split) or COUNTS[split])
        return load_avatars(split, image_size=config.image_size, count=count, progress=show)

    if config.data == "avatars":
        return avatars, True
    root, size, folder = config.data_root or Path(), config.image_size, config.image_folder
    load: Callable[..., FaceDataset]
    if config.data == "celeba":
        load, validates = partial(load_celeba, image_folder=folder), True
    elif config.data == "lfwa":
        load = partial(load_lfwa, partition=config.lfwa_split, image_folder=folder)
        validates = config.lfwa_split == "80:10"
    else:
        table = read_table(config.labels or Path())
        load, validates = partial(load_csv, table), "validation" in table.splits

    def files(split: str) -> FaceDataset:
        faces, limit = load(root, split, image_size=size), _limit(config, split)
        return faces if limit is None else _First(faces, limit)

    return files, validates


def _limit(config: Config, split: str) -> int | None:
    """Return how many images of a split may be used; None: all."""
    limits = [config.images, config.train_images if split == "train" else None]
    return min((limit for limit in limits if limit is not None), default=None)


class _First(FaceDataset):
    """The first faces of a data set, at most ``count``."""

    def __init__(self, faces: FaceDataset, count: int) -> None:
        super().__init__(
            faces.name,
            faces.split,
            faces.attributes,
            faces.labels[:count],
            image_size=faces.image_size,
            notes=faces.notes,
        )
        self.shards = None if faces.shards is None else faces.shards[:count]
        self._faces = faces

    def image(self, index: int) -> np.ndarray:
        return self._faces.image(index)
