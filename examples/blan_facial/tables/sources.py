"""The state of a data set, by which kept results are found again only while the data are the same."""

import hashlib
import os
from functools import cache

from rich.console import Console

from blan_facial.config import Config
from blan_facial.data.faces import FaceDataset
from blan_facial.data.folders import ImageFiles
from blan_facial.data.splits import load_split
from blan_facial.data.zipped import ZipImages


def data_digest(config: Config, *splits: str) -> str:
    """Return a digest of the labels and image files of splits of a run's data set, computed once per process.

    Images are not read: a file counts as another if its name, size or time of change differs.

    Raises:
        DataError: The data set cannot be used.
    """
    place = Config(
        data=config.data,
        data_root=config.data_root,
        image_folder=config.image_folder,
        lfwa_split=config.lfwa_split,
    )
    return read_once(place, splits)


@cache
def read_once(config: Config, splits: tuple[str, ...]) -> str:
    """Return the digest of splits of the data set that settings name."""
    found = hashlib.sha256()
    for split in splits:
        faces = load_split(config, split, Console(quiet=True))
        parts = [faces.labels.tobytes(), b"" if faces.boxes is None else faces.boxes.tobytes(), _state_of_images(faces)]
        for part in parts:
            found.update(hashlib.sha256(part).digest())
    return found.hexdigest()


def _state_of_images(faces: FaceDataset) -> bytes:
    """Return what changes if image files do: names, sizes and times, or the entries of an archive."""
    images = faces.images
    if isinstance(images, ZipImages):
        return os.fsencode("\0".join(images.members.tolist())) + images.places.tobytes()
    if isinstance(images, ImageFiles):
        states = [(name, os.stat(images.folder / name)) for name in images.names.tolist()]
        return os.fsencode("\0".join(f"{name}\0{of.st_size}\0{of.st_mtime_ns}" for name, of in states))
    return b""  # drawn
