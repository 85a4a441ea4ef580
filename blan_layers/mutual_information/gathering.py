"""Gathering the summaries of all processes, with gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function


class _Gathered(Function):
    """The rows of all processes, ordered by rank; the gradient of each row is summed over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        return _all_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total: Tensor = _Summed.apply(gradients[0])
        return total.narrow(0, sum(ctx.counts[: rank()]), ctx.counts[rank()]), None


class _Summed(Function):
    """The sum over all processes, which is its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _Summed.apply(gradients[0])
        return total


def gathered(rows: Tensor) -> Tensor:
    """Return the rows (B, ...) of all processes, this process's first; without a process group, return the rows.

    Batch sizes may differ between processes, which exchange them first.
    """
    if world_size() == 1:
        return rows
    counts = _counts(rows)
    everyone = _with_gradient(rows, counts) if rows.is_floating_point() else _all_rows(rows, counts)
    return everyone.roll(-sum(counts[: rank()]), 0)


def by_rank(rows: Tensor, batch: int) -> Tensor:
    """Return the rows of :func:`gathered` in the order of all processes, given the size of this one's batch."""
    return rows if world_size() == 1 else rows.roll(sum(_counts(rows[:batch])[: rank()]), 0)


def exchanged(rows: Tensor, batch: int) -> Tensor:
    """Return what each of P processes has computed for this process's batch, (P, B, ...), with gradients.

    Args:
        rows: What this process has computed for the batches of all processes (N, ...), in the order of
            :func:`gathered`.
        batch: Size B of this process's batch.
    """
    if world_size() == 1:
        return rows.unsqueeze(0)
    counts = _counts(rows[:batch])
    first = sum(counts[: rank()])
    everyone = _with_gradient(rows.roll(first, 0), [rows.shape[0]] * world_size())
    return everyone.reshape(world_size(), *rows.shape).narrow(1, first, batch)


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return distributed.get_rank() if world_size() > 1 else 0


def _counts(rows: Tensor) -> Sequence[int]:
    """Return the number of rows of each process."""
    own = torch.tensor([rows.shape[0]], device=rows.device)
    found = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(found, own)
    counts: list[int] = torch.cat(found).tolist()
    return counts


def _all_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    rows, missing = rows.contiguous(), max(counts) - rows.shape[0]
    if missing:  # all processes send the same size
        rows = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
    parts = [torch.empty_like(rows) for _ in counts]
    distributed.all_gather(parts, rows)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _with_gradient(rows: Tensor, counts: Sequence[int]) -> Tensor:
    everyone: Tensor = _Gathered.apply(rows, counts)
    return everyone
