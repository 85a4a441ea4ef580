"""Files that are written whole or not at all."""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place once it is written and on the disk.

    If anything fails on the way, the temporary file is removed and whatever stood at ``path`` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def made_for(folder: Path, results: Sequence[str], *, overwrite: bool) -> str:
    """Make a folder for results and return "", or say what speaks against it: it holds some already."""
    found = [name for name in results if (folder / name).exists()]
    if found and not overwrite:
        return (
            f"the output folder must hold no results, got {', '.join(found)} in {folder}. "
            "Give --overwrite to replace them, or another --output."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return ""
