"""Finding the parts of a data set that the user has downloaded."""

from collections.abc import Sequence
from pathlib import Path

from blan_facial.data.faces import DataError


def open_root(owner: str, root: Path | str) -> Path:
    """Return the data set's folder.

    Args:
        owner: The function that reads it, for messages.
        root: The folder.

    Raises:
        DataError: There is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        state = "a file" if folder.exists() else "nothing there"
        raise DataError(f"{owner}: the data folder must exist, got {folder} ({state}). Name it with --data-root.")
    return folder


def find_part(owner: str, places: Sequence[Path], remedy: str) -> Path:
    """Return the first of some places of a file or folder that exists.

    Args:
        owner: The function that reads it, for messages.
        places: Where it may be, under one name.
        remedy: What to do if it is missing, one sentence.

    Raises:
        DataError: None of them exists.
    """
    for place in places:
        if place.exists():
            return place
    raise DataError(f"{owner}: needs {places[0].name}, got nothing at {' or '.join(map(str, places))}. {remedy}")
