"""The processes of a run, one for each device, and what they agree on beside the gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn

from blan_facial.machines.share import Share

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another one that neither answers nor ends."""

_T = TypeVar("_T")


class PeerError(Exception):
    """Something went wrong in another process, which tells of it."""


class Processes:
    """What the processes of a run say to one another.

    They speak through their CPUs, so that no device is waited for. Where there is only one, nothing is said.

    Args:
        fabric: Device and processes of the run, launched.

    Attributes:
        rank: The number of this one.
        count: How many there are.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank = fabric.global_rank
        self.count = fabric.world_size
        self._local_rank = fabric.local_rank
        self._group = distributed.new_group(backend="gloo", timeout=TIMEOUT) if self.count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """What this one loads."""
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
        """Return the mean over the processes of float64 values."""
        if self._group is not None:
            values = values.clone()
            distributed.all_reduce(values, group=self._group)
        return values / self.count

    def collect(self, value: _T) -> Sequence[_T]:
        """Return the values of all processes in the first one, and in the others this one's alone."""
        if self._group is None:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(value, values, group=self._group)
        return values or [value]

    def of_first(self, make: Callable[[], _T]) -> _T:
        """Make something in the first process, and return it in all.

        Raises:
            PeerError: It could not be made there.
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
        """Give all processes the first one's buffers, which training keeps apart."""
        for buffer in module.buffers() if self.count > 1 else ():
            distributed.broadcast(buffer, 0)

    def one_by_one(self, make: Callable[[], _T]) -> _T:
        """Make something in all processes, on each machine in one before the others, which find what it kept on disk.

        Raises:
            PeerError: It could not be made in another process.
        """
        made = []
        for turn in (True, False):
            with self.together():
                if (self._local_rank == 0) is turn:
                    made.append(make())
        return made[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave a block in all processes or in none: the first that fails has its error, the others another's.

        The block itself must not wait for other processes.

        Raises:
            PeerError: An error came up in another process.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:  # whatever it is, the others must not wait for this process
            error = raised
        failed = self.numbers(error is not None)[:, 0].tolist()
        if True not in failed:
            return
        if error is not None and failed.index(True) == self.rank:
            raise error
        raise PeerError(f"process {failed.index(True)} failed") from error


def lost_contact(error: RuntimeError) -> bool:
    """Tell whether an error says that another process is gone: gloo knows them by nothing but its own path."""
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)
