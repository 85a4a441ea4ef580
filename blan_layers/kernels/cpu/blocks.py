"""Blocks of a map that stay in the cache between the operations that pass over them."""

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 2**10, "M": 2**20}

FALLBACK_BYTES = 2**20
"""The size of most server cores' second-level cache, used where the system does not report one."""


def read_cache_bytes(caches: Path) -> int:
    """Return the size of a second-level cache as reported by the system."""
    for cache in sorted(caches.glob("index*")):
        try:
            level, size = ((cache / name).read_text().strip() for name in ("level", "size"))
        except OSError:  # some systems list a cache and leave its size out
            continue
        if level == "2":
            return int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)
    return FALLBACK_BYTES


CORE_CACHE_BYTES = read_cache_bytes(CACHES)


def core_cache_bytes() -> int:
    """Return the size of a core's second-level cache."""
    return CORE_CACHE_BYTES


def cache_bytes() -> int:
    """Return the total second-level cache of all cores in use, which share every operation."""
    return core_cache_bytes() * torch.get_num_threads()


def block_bytes() -> int:
    """Return the size of a block: twice the second-level caches, as measured.

    What leaves these caches is still in the third level, and larger blocks need fewer calls and thread starts.
    """
    return 2 * cache_bytes()


def blocks(x: Tensor) -> Sequence[tuple[slice, slice]]:
    """Return the images and the locations of each block of a map (B, C, N).

    Blocks consist of whole images, or of a part of the locations where too few whole images fit.
    """
    return _split(x.shape, x.element_size(), block_bytes(), torch.get_num_threads())[1]


def whole_images(x: Tensor) -> Sequence[slice]:
    """Return blocks of whole images of a map (B, C, N), of at least one image per thread.

    A block's images are spread evenly over the batch. PyTorch gives each thread a contiguous share of its input, so
    that a thread works on the same images in a block as in an operation on the whole map. Images in the cache of
    another core would take several times longer to read.
    """
    return _split(x.shape, x.element_size(), block_bytes(), torch.get_num_threads())[0]


@lru_cache(maxsize=256)
def _split(
    shape: tuple[int, int, int], element_bytes: int, most_bytes: int, threads: int
) -> tuple[tuple[slice, ...], tuple[tuple[slice, slice], ...]]:
    """Return both kinds of blocks, the same for all maps of a shape."""
    batch, channels, locations = shape
    count = math.ceil(batch * channels * locations * element_bytes / most_bytes)
    count = max(1, min(count, batch // threads))
    whole = tuple(slice(first, None, count) for first in range(count))
    parts: list[tuple[slice, slice]] = []
    for images in whole:
        bytes_of_location = len(range(batch)[images]) * channels * element_bytes
        places = max(1, min(locations, most_bytes // max(1, bytes_of_location)))
        parts += [(images, slice(place, place + places)) for place in range(0, locations, places)]
    return whole, tuple(parts)


class _Workspace(threading.local):
    """Memory that a thread keeps, since a fresh page from the system takes longer than computing a block."""

    memory = torch.empty(0, dtype=torch.uint8, device="cpu")


_workspace = _Workspace()


def workspace(count: int, dtype: torch.dtype) -> Tensor:
    """Return memory for ``count`` numbers. The next call in this thread returns the same memory."""
    size = count * dtype.itemsize
    if _workspace.memory.numel() < size:
        with torch.inference_mode(mode=False):  # it belongs to no mode, whichever is on: neither this one nor a device
            _workspace.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    return _workspace.memory[:size].view(dtype)


def scratch(part: Tensor) -> Tensor:
    """Return memory of :func:`workspace` for a block of a map, in the layout of the map."""
    room = workspace(part.numel(), part.dtype)
    return room.view(part.mT.shape).mT if part.stride(1) < part.stride(2) else room.view(part.shape)
