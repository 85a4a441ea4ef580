"""Blocks of a map that stay in the cache between the operations that pass over them."""

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


def blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the images and the locations of each block of a map (B, C, N) that fits the cache.

    A block is as many whole images as fit, or, where none does, a part of one image's locations.
    """
    batch, channels, locations = x.shape
    room = max(1, cache_bytes() // (channels * x.element_size()))
    images, places = max(1, room // locations), min(room, locations)
    for image in range(0, batch, images):
        for place in range(0, locations, places):
            yield slice(image, image + images), slice(place, place + places)


def scratch(x: Tensor) -> Tensor:
    """Return room for a block of a map, in the map's layout: fresh memory for each block would cost more than it."""
    images, places = next(blocks(x), (slice(0), slice(0)))
    return torch.empty_like(x[images, :, places])
