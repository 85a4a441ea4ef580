"""Finding the images that a user names: files, folders, and lists that are read as they arrive."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from blan_facial.data.faces import SUFFIXES
from blan_facial.data.image_file import leaves

LIST = Path("-")
"""The argument that stands for a list on standard input."""

_CHUNK = 1 << 16  # bytes
_LONGEST = 1 << 13  # bytes of a line, twice the maximum of a path


class Source(NamedTuple):
    """An image to read."""

    path: Path
    name: str
    """Path relative to the folder in which it was found; the file name for an image named directly."""


class Problem(NamedTuple):
    """The reason why an argument gives no image."""

    message: str


class Sources:
    """Finds images in the order of the arguments and, within a folder, in the order of their names.

    Args:
        paths: Image files, folders and `LIST`.
        names: Stream of the list, with one path per line.
        root: Folder that must contain all images after following links; relative paths start there. None allows all
            folders, and relative paths start in the working folder.

    Attributes:
        skipped: Number of files in folders that were skipped because their names are not those of images.
    """

    def __init__(self, paths: Sequence[Path], names: IO[bytes], *, root: Path | None = None) -> None:
        self.paths = paths
        self.names = names
        self.root = root
        self.skipped = 0

    def batches(self, size: int) -> Iterator[list[Source | Problem]]:
        """Yield batches of at most ``size`` items; those of a list are yielded before waiting for its next line.

        All batches of files and folders but the last are full, so that their scores do not depend on timing.
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
        """Yield images and problems, and None wherever the next item may take a while."""
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
        except (OSError, RuntimeError, ValueError) as error:  # any problem of the system with the path
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
        """Return an image file, or the problem if it must not be read."""
        if self._leaves_root(path):
            return Problem(f"{path}: must be in --root {self.root}, got a path outside it. Leave it out.")
        if not path.is_file():
            state = "something else" if path.exists() else "nothing there"
            return Problem(f"{path}: must be an image file or a folder, got {state}. Correct the path.")
        return Source(path, name)

    def _leaves_root(self, path: Path) -> bool:
        return self.root is not None and leaves(self.root, path)


def reason(error: Exception) -> str:
    """Return the text of an error, without the path, which the message already contains."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _lines(stream: IO[bytes]) -> Iterator[list[bytes]]:
    """Yield the available lines as they arrive, without blank ones.

    A line is truncated to a length that no system accepts for a path, so that memory is bounded.
    """
    rest = b""
    read = getattr(stream, "read1", stream.read)  # returns the available bytes, where supported
    while chunk := read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:_LONGEST]
        yield [line[:_LONGEST].rstrip(b"\r") for line in lines if line.strip()]
    if rest.strip():
        yield [rest.rstrip(b"\r")]
