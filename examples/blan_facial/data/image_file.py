"""The one rule of what is an image file, and how it is read: for every data set and for ``predict.py``.

It is a regular file of a bounded size. In a folder that is read it lies in that folder, links followed. Pipes, sockets
and devices are none, since reading one may never end.
"""

import errno
import os
import stat
from pathlib import Path

from PIL import Image

LARGE = 2**24
"""Bytes, of a file or of its pixels, above which images are decoded one at a time and strip by strip."""

_HEADER = 2**20  # bytes that an image may have beside its pixels


class FileKindError(OSError):
    """What is there is no regular file, or a file of more bytes than an image may have."""


def limit_bytes() -> int:
    """Return how many bytes an image file may have: those of as many RGB pixels as may be decoded, and a header."""
    return 3 * (Image.MAX_IMAGE_PIXELS or 0) + _HEADER


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file; of one that is too large, no more than the limit is read.

    Raises:
        FileKindError: It is not regular, or has too many bytes.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        found, limit = os.fstat(descriptor), limit_bytes()
        if not stat.S_ISREG(found.st_mode):
            raise FileKindError(errno.EINVAL, "something that is not a regular file", str(path))
        if found.st_size > limit or len(data := file.read(limit + 1)) > limit:  # some say that they are empty
            raise FileKindError(errno.EFBIG, f"more than the {limit:,} bytes that an image may have", str(path))
    return data


def leaves(folder: Path, path: Path) -> bool:
    """Tell whether a path leads out of a folder, links followed."""
    return not path.resolve().is_relative_to(folder.resolve())
