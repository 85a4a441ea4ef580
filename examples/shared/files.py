"""Atomic writing of files, and locks."""

import errno
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

from shared.program import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
"""The file in a run's output folder that the run locks."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of ``path``, which replaces ``path`` after it has been written to disk.

    On failure, the temporary file is removed, ``path`` is unchanged, and the error names it. A link stays a link, and
    its target is replaced; a file keeps its permissions. Anything but a regular file, such as a pipe or
    ``/dev/stdout``, is written to directly.
    """
    path = Path(os.path.realpath(path))
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:  # raises for a folder
            yield file
        return
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short for any file name
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                temporary.chmod(stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be created, nothing can be removed
            temporary.unlink()
        own = (None, str(temporary))  # errors of a full disk lack the path
        if isinstance(error, OSError) and error.errno is not None and error.filename in own:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers; nobody may write to the folder at the same time."""
    for file in folder.glob(f".{'[0-9a-f]' * 16}.tmp"):
        file.unlink()


@contextmanager
def replacing_together(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Open several files like :func:`replacing`; none is replaced before all have been written to disk."""
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(path)) for path in paths]
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())


def as_json(content: Any) -> bytes:
    """Return readable JSON; NaN and infinities, which JSON lacks, become null."""
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON."""
    with replacing(path) as file:
        file.write(as_json(content))


def refuse_inputs(program: str, option: str, output: Path, inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input.

    Args:
        program: Name of the program in messages.
        option: The option that names the output.
        output: The file to write.
        inputs: Files, and folders of which every file is an input, at any depth.

    Raises:
        UserError: The output is one of the inputs, after following links.
    """
    if not output.exists():  # avoids listing the inputs, which may fill a large folder
        return
    for given in chain.from_iterable((path, *path.rglob("*")) for path in inputs):
        if given.exists() and output.samefile(given):
            raise UserError(
                f"{program}: {option} must not be an input file, got {output}, which is {given}. Name another."
            )


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file, which is created if needed; yield whether it succeeded or another process holds the lock.

    The system releases the lock when the process ends for any reason; child processes do not inherit it.
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


def make_parent(output: Path) -> None:
    """Create the folder of an output, before the work whose result is written to it.

    Raises:
        OSError: The output is a folder, or its folder cannot be created or written to.
    """
    path = Path(os.path.realpath(output))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
    replaced = path.is_file() or not path.exists()
    if not os.access(path.parent if replaced else path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))


@contextmanager
def holding(program: str, folder: Path, results: Sequence[str], *, overwrite: bool) -> Iterator[None]:
    """Create a folder for results if needed, and lock it against other runs.

    Raises:
        OSError: The folder cannot be created, or a result cannot be written to it.
        UserError: It is or passes through a file, already contains results, without ``overwrite``, or another run has
            locked it.
    """
    if not next(path for path in (folder, *folder.absolute().parents) if path.exists()).is_dir():
        raise UserError(
            f"{program}: --output must be a folder, got {folder}, which is or passes through a file. Give another."
        )
    for name in results:
        make_parent(folder / name)
    with locked(folder / LOCK) as ours:
        if not ours:
            raise UserError(
                f"{program}: the output folder must be free, got {folder}, where another run is working. "
                "Wait for it, or give another --output."
            )
        found = [name for name in results if (folder / name).exists()]
        if found and not overwrite:
            raise UserError(
                f"{program}: the output folder must not contain results, got {', '.join(found)} in {folder}. "
                "Give --overwrite to replace them, or another --output."
            )
        yield


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk where the system supports it, so that a rename survives a power failure."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems without support
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
