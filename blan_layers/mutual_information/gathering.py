"""Summaries of all processes, with gradients."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function


class _Gathered(Function):
    """The rows of all processes, in the order of their ranks; each row's gradient is the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        return _all_rows(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.narrow(0, rank() * ctx.count, ctx.count)


def gathered(rows: Tensor) -> Tensor:
    """Return the rows (B, ...) of all processes (world B, ...), this process's first; without a group, the rows."""
    if world_size() == 1:
        return rows
    everyone = _with_gradient(rows) if rows.is_floating_point() else _all_rows(rows)
    return everyone.roll(-rank() * rows.shape[0], 0)


def world_size() -> int:
    """Return the number of processes, one without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 without a group."""
    return distributed.get_rank() if world_size() > 1 else 0


def _all_rows(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _with_gradient(rows: Tensor) -> Tensor:
    everyone: Tensor = _Gathered.apply(rows)
    return everyone
