"""Drawn faces kept on disk, so that they are drawn once.

A file that is missing, broken or not ours is drawn anew and replaced; a folder that cannot be written costs a warning.
Two processes that draw the same faces at once both succeed: each writes a file of its own and renames it.
"""

import hashlib
import logging
import os
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from shared.files import replacing

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """The folder of drawn faces in `$XDG_CACHE_HOME`, in `~/.cache` or, without a home, among temporary files."""
    cache_folder = os.environ.get("XDG_CACHE_HOME")
    if not cache_folder:
        try:
            cache_folder = str(Path.home() / ".cache")
        except RuntimeError:  # neither HOME nor an entry in the list of users
            cache_folder = tempfile.gettempdir()
    return Path(cache_folder) / "blan-layers" / "avatars"


@cache
def fingerprint(drawn_as: str = "avatars") -> str:
    """Hash of all that decides what a face looks like: our drawing code and the libraries below it."""
    digest = hashlib.sha256()
    for module in ("design", "parts", "render", *(("hard",) if drawn_as == "avatars-hard" else ())):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    for library in ("numpy", "python-avatars", "resvg-py"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()[:12]


def read(
    path: Path, image_shape: tuple[int, ...], labels_shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and labels of a file, or None if it is missing or broken; the archive's checksums are verified."""
    try:
        with path.open("rb") as file, np.load(file) as archive:
            images, labels = archive["images"], archive["labels"]
    except FileNotFoundError:
        return None
    except Exception as error:  # a broken archive fails with whatever its reader runs into
        _log.warning("The cache %s is broken (%s); its faces are drawn again.", path, error)
        return None
    if (
        images.shape != image_shape
        or labels.shape != labels_shape
        or {images.dtype, labels.dtype} != {np.dtype(np.uint8)}
    ):
        _log.warning("The cache %s does not contain the faces that its name says; they are drawn again.", path)
        return None
    return images, labels


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Keep images and labels in a file, whole or not at all; a disk that refuses costs a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, images=images, labels=labels)
    except OSError as error:
        _log.warning("Drawn faces cannot be cached in %s (%s); the next run draws them again.", path.parent, error)
