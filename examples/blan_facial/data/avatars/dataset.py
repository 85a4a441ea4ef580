"""The data set of avatars: drawn in parallel the first time, read from the cache thereafter."""

import os
from pathlib import Path
from typing import Final

import numpy as np

from blan_facial.data.avatars import cache as disk
from blan_facial.data.avatars.design import ATTRIBUTES
from blan_facial.data.avatars.drawing import DRAWN, Drawn, Progress, draw_faces
from blan_facial.data.faces import SPLITS, FaceDataset, check_request

COUNTS: Final = {"train": 4000, "validation": 800, "test": 1600}
MIN_IMAGE_SIZE: Final = 16


def load_avatars(
    split: str,
    *,
    image_size: int,
    count: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    drawn_as: Drawn = "avatars",
) -> FaceDataset:
    """Draw the faces of a split, or read them if they were drawn before.

    A face depends on the seed, the split and its index alone: neither on `count` nor on `workers`.

    Args:
        split: One of `SPLITS`; no two splits share a face.
        image_size: Side of the images in pixels, at least 16.
        count: Number of faces, by default that of `COUNTS`.
        seed: Seed of the whole data set, not negative.
        workers: Processes that draw, by default one for each CPU.
        cache: Folder of drawn faces, by default `blan-layers/avatars` in the user's cache folder.
        progress: Called with (faces drawn, count) after each face; not at all if the faces were drawn before.
        drawn_as: The set: "avatars", or the harder "avatars-hard".

    Raises:
        ValueError: An argument is out of its range.
        RuntimeError: A drawing process ended early.
    """
    check_request("load_avatars", split, image_size)
    count = COUNTS[split] if count is None else count
    workers = (os.cpu_count() or 1) if workers is None else workers
    for name, value, least in (
        ("image_size", image_size, MIN_IMAGE_SIZE),
        ("count", count, 1),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ValueError(f"load_avatars: {name} must be at least {least}, got {value}.")
    if drawn_as not in DRAWN:
        raise ValueError(f"load_avatars: drawn_as must be one of {', '.join(DRAWN)}, got {drawn_as!r}.")
    name = f"{split}-{image_size}px-{count}-seed{seed}-{disk.fingerprint(drawn_as)}.npz"
    path = (cache or disk.default_folder()) / (name if drawn_as == "avatars" else f"{drawn_as}-{name}")
    drawn = disk.read(path, (count, image_size, image_size, 3), (count, len(ATTRIBUTES)))
    if drawn is None:
        drawn = draw_faces(
            count,
            seed=seed,
            split=SPLITS.index(split),
            image_size=image_size,
            workers=workers,
            progress=progress,
            drawn_as=drawn_as,
        )
        disk.write(path, *drawn)
    images, labels = drawn
    return FaceDataset(
        name=drawn_as,
        split=split,
        attributes=ATTRIBUTES,
        labels=labels.astype(np.int8),
        images=images,
        image_size=image_size,
    )
