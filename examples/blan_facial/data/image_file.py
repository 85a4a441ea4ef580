"""Reading image files, with the same rules for every data set and for ``predict.py``.

An image file is a regular file of bounded size. Within a folder it must lie in that folder after following links.
Pipes, sockets and devices are refused, since reading them may never end.
"""

import errno
import os
import stat
from pathlib import Path

from PIL import Image

LARGE = 2**24
"""Size in bytes, of a file or of its pixels, above which images are decoded one at a time and in strips."""

_HEADER = 2**20  # bytes allowed in addition to the pixels


class FileKindError(OSError):
    """The path is not a regular file, or the file is too large for an image."""


def limit_bytes() -> int:
    """Return the maximum size of an image file: the bytes of the maximum number of RGB pixels, plus a header."""
    return 3 * (Image.MAX_IMAGE_PIXELS or 0) + _HEADER


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file; never more than the limit are read.

    Raises:
        FileKindError: The file is not regular, or too large.
        OSError: The file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        found, limit = os.fstat(descriptor), limit_bytes()
        if not stat.S_ISREG(found.st_mode):
            raise FileKindError(errno.EINVAL, "something that is not a regular file", str(path))
        if found.st_size > limit or len(data := file.read(limit + 1)) > limit:  # some report size 0
            raise FileKindError(errno.EFBIG, f"more than the {limit:,} bytes that an image may have", str(path))
    return data


def leaves(folder: Path, path: Path) -> bool:
    """Return whether a path leads out of a folder, after following links; a loop of links leads nowhere."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # resolve() raises for loops
