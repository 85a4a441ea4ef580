"""Dividing a map (B, C, N) into tiles for the programs of a kernel, and launching kernels."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"""Elements of a tile: sixteen for each thread of a program's four warps, so two to eight wide loads are in flight."""

PROGRAMS = 1024
"""Programs that keep a large GPU busy: about eight for each of its multiprocessors."""


def tile(x: Tensor, along: int) -> tuple[int, int]:
    """Return the channels and the locations of a tile, powers of two.

    It is long along the axis that is dense in memory, and longest if the pass also reduces ``along`` that axis: 1 for
    channels, 2 for locations. The other axis gets the rest.
    """
    dense = 1 if x.stride(1) == 1 and x.stride(2) != 1 else 2
    length = _width(x.shape[dense], TILE // 2 if along == dense else TILE // 16)
    breadth = _width(x.shape[3 - dense], TILE // length)
    return (length, breadth) if dense == 1 else (breadth, length)


def splits(programs: int, steps: int) -> int:
    """Return the number of programs that share the steps of one reduction, so that there are enough in total."""
    return max(1, min(steps, PROGRAMS // max(1, programs)))


def blocks(size: int, width: int) -> int:
    """Return the number of tiles of a width that cover a size."""
    return -(-size // width)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and products: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def launch(kernel: Any, programs: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first tensor, in the precision of that tensor's accumulator."""
    precision = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):
        kernel[(programs,)](x, *arguments, ACC=precision, **constants)


def _width(size: int, most: int) -> int:
    return int(min(triton.next_power_of_2(size), max(1, most)))
