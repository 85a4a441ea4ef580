"""Files that are written whole or not at all."""

import json
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from shared.program import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place once it is written and on the disk.

    If anything fails on the way, the temporary file is removed and whatever stood at ``path`` stays as it was. A link
    stays a link, and the file that it leads to is replaced; a file keeps its permissions. What is no regular file, such
    as a pipe or ``/dev/stdout``, is written to directly.
    """
    path = Path(os.path.realpath(path))
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:  # a folder is refused here
            yield file
        return
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short, whatever the name of the file
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if (
            isinstance(error, OSError) and error.errno is not None and error.filename is None
        ):  # a full disk does not say where
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; nobody may write there now."""
    for file in folder.glob(f".{'[0-9a-f]' * 16}.tmp"):
        file.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def refuse_inputs(program: str, option: str, output: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        UserError: The output is one of the inputs, links followed.
    """
    if not output.exists():  # then the inputs, which may be a large folder's, are not looked for
        return
    for given in inputs:
        if given.exists() and output.samefile(given):
            raise UserError(
                f"{program}: {option} must not be an input file, got {output}, which is {given}. Name another."
            )


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock on a file that is made if need be, or yield False: another process holds it.

    The system releases the lock when the process ends, however it does; no child of it holds on.
    """
    with path.open("a+b") as file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def make_for(program: str, folder: Path, results: Sequence[str], *, overwrite: bool) -> None:
    """Make a folder for results.

    Raises:
        UserError: It holds some already, which are not to be replaced.
    """
    found = [name for name in results if (folder / name).exists()]
    if found and not overwrite:
        raise UserError(
            f"{program}: the output folder must not contain results, got {', '.join(found)} in {folder}. "
            "Give --overwrite to replace them, or another --output."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    """Put a folder's own entries on the disk, where the system can: a rename outlasts a loss of power then."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a file system that knows no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
