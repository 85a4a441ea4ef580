"""Folders of data sets: their parts and their image files.

`image_file` defines what counts as an image file; links that lead out of the folder are refused.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from blan_facial.data.faces import DataError
from blan_facial.data.image_file import leaves, read_image_file


class ImageFiles:
    """The image files of a folder, by index.

    Args:
        folder: The folder.
        names: Their n names relative to it. An array stays shared between forked workers, whereas reading a list of
            strings copies its memory page by page.
    """

    def __init__(self, folder: Path, names: np.ndarray) -> None:
        self.folder = folder
        self.names = names

    def read(self, index: int) -> bytes:
        """Return the bytes of file `index`.

        Raises:
            OSError: The file cannot be read.
        """
        return read_image_file(self.place(index))

    def name(self, index: int) -> str:
        """Return the name of file `index` without its folder."""
        return self.place(index).name

    def place(self, index: int) -> Path:
        """Return the path of file `index`."""
        return self.folder / str(self.names[index])


def open_root(owner: str, root: Path | str, option: str = "--data-root") -> Path:
    """Return the folder of a data set.

    Args:
        owner: The function that reads it, for messages.
        root: The folder.
        option: The option that names it, for messages.

    Raises:
        DataError: The folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        state = "a file" if folder.exists() else "nothing there"
        raise DataError(f"{owner}: the data folder must exist, got {folder} ({state}). Name it with {option}.")
    return folder


def find_part(owner: str, places: Sequence[Path], remedy: str) -> Path:
    """Return the first existing path of a file or folder.

    Args:
        owner: The function that reads it, for messages.
        places: Possible paths.
        remedy: A sentence that says what to do if it is missing.

    Raises:
        DataError: None of them exists.
    """
    for place in places:
        if place.exists():
            return place
    raise DataError(f"{owner}: needs {places[0].name}, got nothing at {' or '.join(map(str, places))}. {remedy}")


def relative_name(where: str, name: str, remedy: str) -> str:
    """Return an image's name with forward slashes.

    Args:
        where: The source of the name, for messages.
        name: The name, with slashes or backslashes.
        remedy: A sentence that says what to do if it leaves the folder.

    Raises:
        DataError: The name is absolute or contains `..`.
    """
    image = PureWindowsPath(name.strip())
    if image.anchor or ".." in image.parts:
        raise DataError(f"{where}: images must be in the data folder, got the name {name!r}. {remedy}")
    return image.as_posix()


def find_files(owner: str, root: Path, names: Sequence[str]) -> np.ndarray:
    """Return which image files exist in a folder, listing each subfolder once.

    Args:
        owner: The function that reads them, for messages.
        root: The folder.
        names: n names relative to it, with forward slashes.

    Returns:
        bool (n,).

    Raises:
        DataError: A link leads out of the folder.
    """

    def follow(name: str) -> None:
        if leaves(root, root / name):
            target = os.path.realpath(root / name)
            raise DataError(
                f"{owner}: images must be in the data folder {root}, got {name}, a link to {target}. "
                "Copy the file into the folder, or name a folder that contains both."
            )

    listings: dict[str, dict[str, bool]] = {}
    found = np.zeros(len(names), dtype=bool)
    for place, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            follow(folder)
            listings[folder] = _list(root / folder)
        link = listings[folder].get(file)
        if link:
            follow(name)
        found[place] = link is not None
    return found


def _list(folder: Path) -> dict[str, bool]:
    """Return the regular files of a folder, and whether each is a link; empty if the folder does not exist."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        links = {entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()}
    # Unlike entry.is_file(), os.path.isfile() does not raise for a loop of links.
    return {name: link for name, link in links.items() if not link or os.path.isfile(folder / name)}
