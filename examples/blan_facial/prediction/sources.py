"""From what a user names to images: files, folders, and lists that are read as they come."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from blan_facial.data.faces import SUFFIXES
from blan_facial.data.image_file import leaves

LIST = Path("-")
"""The name of the list on standard input."""

_CHUNK = 1 << 16  # bytes
_LONGEST = 1 << 13  # bytes of a line, twice what a path may have


class Source(NamedTuple):
    """An image to be read."""

    path: Path
    name: str
    """Where it is in the folder that it was found in; of an image named by itself, its file name."""


class Problem(NamedTuple):
    """Why something gives no image."""

    message: str


class Sources:
    """Finds images, in the order in which they are named and, in a folder, in that of their names.

    Args:
        paths: Image files, folders and `LIST`.
        names: Where the list is read from, a path a line.
        root: A folder that all images must lie in, links followed; relative paths start there. None: anywhere, and
            relative paths start in the working folder.

    Attributes:
        skipped: Files in folders that were passed over, since their names are not those of images.
    """

    def __init__(self, paths: Sequence[Path], names: IO[bytes], *, root: Path | None = None) -> None:
        self.paths = paths
        self.names = names
        self.root = root
        self.skipped = 0

    def batches(self, size: int) -> Iterator[list[Source | Problem]]:
        """Yield what is found, at most ``size`` at a time and, from a list, no later than the next line is waited for.

        The batches of files and folders are full but for the last, so that their scores do not depend on the time.
        """
        batch: list[Source | Problem] = []
        for found in self._found():
            if found is not None:
                batch.append(found)
            if batch and (found is None or len(batch) == size):
                yield batch
                batch = []
        if batch:
            yield batch

    def _found(self) -> Iterator[Source | Problem | None]:
        """Yield images and problems, and None wherever nothing more may come for a while."""
        for path in self.paths:
            if path != LIST:
                yield from self._find(path)
                continue
            for lines in _lines(self.names):
                for line in lines:
                    yield from self._find(Path(os.fsdecode(line)))
                yield None

    def _find(self, path: Path) -> Iterator[Source | Problem]:
        path = path if self.root is None else self.root / path
        try:
            if not self._leaves_root(path) and path.is_dir():
                yield from self._find_in(path)
            else:
                yield self._source(path, path.name)
        except (OSError, RuntimeError, ValueError) as error:  # whatever the system has against the path
            name = str(path) if len(str(path)) <= _LONGEST // 2 else f"{str(path)[:80]}..."
            yield Problem(f"{name}: must be an image file or a folder, got {reason(error)}. Correct the path.")

    def _find_in(self, folder: Path) -> Iterator[Source | Problem]:
        skipped, found = self.skipped, False
        unreadable: list[OSError] = []
        for parent, subfolders, files in os.walk(folder, onerror=unreadable.append):
            subfolders.sort()
            links = {file for file in files if os.path.islink(os.path.join(parent, file))}
            for file in sorted(files):
                path = Path(parent, file)
                if path.suffix.lower() not in SUFFIXES or file.startswith("."):
                    self.skipped += 1
                    continue
                found = True
                if file in links and leaves(folder, path) and not self._leaves_root(path):
                    yield Problem(
                        f"{path}: must be in the folder {folder}, got a link out of it. Name the file itself."
                    )
                else:
                    yield self._source(path, path.relative_to(folder).as_posix())
        for error in unreadable:
            yield Problem(f"{error.filename}: must be a readable folder, got {reason(error)}. Leave it out.")
        if not found and not unreadable:
            others = self.skipped - skipped
            yield Problem(
                f"{folder}: must contain images ({', '.join(sorted(SUFFIXES))}), got {others} other files. "
                "Name another."
            )

    def _source(self, path: Path, name: str) -> Source | Problem:
        """Return an image file, unless it is none that may be read."""
        if self._leaves_root(path):
            return Problem(f"{path}: must be in --root {self.root}, got a path outside it. Leave it out.")
        if not path.is_file():
            state = "something else" if path.exists() else "nothing there"
            return Problem(f"{path}: must be an image file or a folder, got {state}. Correct the path.")
        return Source(path, name)

    def _leaves_root(self, path: Path) -> bool:
        return self.root is not None and leaves(self.root, path)


def reason(error: Exception) -> str:
    """Return what an error says, without the path that the message names already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _lines(stream: IO[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines that are there, whenever some come; blank ones are left out, and no more is kept than a path has.

    A line that is longer is cut to what no system takes for a path.
    """
    rest = b""
    read = getattr(stream, "read1", stream.read)  # what is there, where there is a choice
    while chunk := read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:_LONGEST]
        yield [line[:_LONGEST].rstrip(b"\r") for line in lines if line.strip()]
    if rest.strip():
        yield [rest.rstrip(b"\r")]
