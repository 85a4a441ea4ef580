"""The processes of a run, one per device, and their communication apart from gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn

from blan_facial.machines.share import Share

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another that neither responds nor ends."""

_T = TypeVar("_T")


class PeerError(Exception):
    """An error occurred in another process, which reports it."""


class Processes:
    """Communication between the processes of a run.

    They communicate through their CPUs, so that no device has to be synchronised. A single process communicates
    nothing.

    Args:
        fabric: The launched Fabric of the run.

    Attributes:
        rank: Rank of this process.
        count: Number of processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank = fabric.global_rank
        self.count = fabric.world_size
        self._local_rank = fabric.local_rank
        self._group = distributed.new_group(backend="gloo", timeout=TIMEOUT) if self.count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The share of the data that this process loads."""
        return Share(self.rank, self.count)

    def numbers(self, *mine: int) -> Tensor:
        """Return the integers of every process, (processes, numbers)."""
        row = torch.tensor(mine)
        rows = [torch.empty_like(row) for _ in range(self.count)]
        if self._group is None:
            return row[None]
        distributed.all_gather(rows, row, group=self._group)
        return torch.stack(rows)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of float64 values over the processes."""
        if self._group is not None:
            values = values.clone()
            distributed.all_reduce(values, group=self._group)
        return values / self.count

    def collect(self, value: _T) -> Sequence[_T]:
        """Return the values of all processes in the first one, and only the own value in the others."""
        if self._group is None:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(value, values, group=self._group)
        return values or [value]

    def of_first(self, make: Callable[[], _T]) -> _T:
        """Call ``make`` in the first process, and return its result in all.

        Raises:
            PeerError: The call failed in the first process.
        """
        made: list[Any] = [None]
        with self.together():
            if self.first:
                made = [make()]
        if self._group is not None:
            distributed.broadcast_object_list(made, group=self._group)
        value: _T = made[0]
        return value

    @torch.no_grad()
    def spread_buffers(self, module: nn.Module) -> None:
        """Copy the first process's buffers to all processes; in training they differ."""
        for buffer in module.buffers() if self.count > 1 else ():
            distributed.broadcast(buffer, 0)

    def one_by_one(self, make: Callable[[], _T]) -> _T:
        """Call ``make`` in all processes, on each machine first in one, whose files on disk the others then find.

        Raises:
            PeerError: The call failed in another process.
        """
        made = []
        for turn in (True, False):
            with self.together():
                if (self._local_rank == 0) is turn:
                    made.append(make())
        return made[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Complete a block in all processes or in none: the first that fails raises its error, the others PeerError.

        The block itself must not wait for other processes.

        Raises:
            PeerError: An error occurred in another process.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:  # after any error, the others must not wait for this process
            error = raised
        failed = self.numbers(error is not None)[:, 0].tolist()
        if True not in failed:
            return
        if error is not None and failed.index(True) == self.rank:
            raise error
        raise PeerError(f"process {failed.index(True)} failed") from error


def lost_contact(error: RuntimeError) -> bool:
    """Return whether an error means that another process died; gloo's errors are recognisable only by its file path."""
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)
