"""Blocks of a map that stay in the cache between the operations that pass over them."""

import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 2**10, "M": 2**20}

FALLBACK_BYTES = 2**20
"""Taken where the system does not tell the size of its second-level cache: that of most server cores."""


@lru_cache(maxsize=1)
def core_cache_bytes() -> int:
    """Return the size of a core's second-level cache."""
    for cache in sorted(CACHES.glob("index*")):
        try:
            level, size = ((cache / name).read_text().strip() for name in ("level", "size"))
        except OSError:  # some systems list a cache and leave its size out
            continue
        if level == "2":
            return int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)
    return FALLBACK_BYTES


def cache_bytes() -> int:
    """Return the second-level cache of all cores at work, which share every operation."""
    return core_cache_bytes() * torch.get_num_threads()


def block_bytes() -> int:
    """Return the size of a block: twice the second-level caches, as measured.

    What leaves them is still near, in the third level, and larger blocks are fewer calls and fewer starts of threads.
    """
    return 2 * cache_bytes()


def blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the images and the locations of each block of a map (B, C, N).

    Blocks are of whole images, or, where too few of them fit, of a part of their locations.
    """
    batch, channels, locations = x.shape
    for images in whole_images(x):
        bytes_of_location = len(range(batch)[images]) * channels * x.element_size()
        places = max(1, min(locations, block_bytes() // max(1, bytes_of_location)))
        for place in range(0, locations, places):
            yield images, slice(place, place + places)


def whole_images(x: Tensor) -> Iterator[slice]:
    """Yield blocks of whole images of a map (B, C, N), of an image a thread at least.

    A block's images are spread evenly over the batch. PyTorch gives each thread a contiguous share of what it works on:
    so a thread meets the same images in a block as in an operation on the whole map, and not those that another core
    has in its cache, from where they come several times slower.
    """
    count = math.ceil(x.numel() * x.element_size() / block_bytes())
    count = max(1, min(count, x.shape[0] // torch.get_num_threads()))
    for first in range(count):
        yield slice(first, None, count)


class _Workspace(threading.local):
    """Memory that a thread keeps, since the system takes longer to give a fresh page than a block takes to compute."""

    memory = torch.empty(0, dtype=torch.uint8, device="cpu")


_workspace = _Workspace()


def scratch(part: Tensor) -> Tensor:
    """Return room for a block of a map, in the map's layout.

    The next call in this thread returns the same memory.
    """
    size = part.numel() * part.element_size()
    if _workspace.memory.numel() < size:
        with torch.inference_mode(mode=False):  # it belongs to no mode, whichever is on: neither this one nor a device
            _workspace.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
    room = _workspace.memory[:size].view(part.dtype)
    return room.view(part.mT.shape).mT if part.stride(1) < part.stride(2) else room.view(part.shape)
