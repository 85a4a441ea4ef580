"""Worker processes that load batches for training: they are monitored, and waiting for them is bounded.

Batches pass through shared memory, which on Linux is the file system ``/dev/shm`` and is small in containers.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import TypeVar

from torch import Tensor
from torch.utils.data import get_worker_info

from shared.program import UserError

POLL = 1.0
"""Seconds between checks of the workers while waiting for them."""

PATIENCE = 300.0
"""Maximum seconds to wait for a batch; less than the time that processes wait for each other."""

_ROOM = "or give more shared memory (docker run --shm-size 2g)"
_SHARED = "/dev/shm"

_T = TypeVar("_T")


class WorkerError(UserError):
    """A worker process could not start, ended, or lacked memory for a batch."""


def share_memory(*tensors: Tensor) -> None:
    """In a worker, move tensors to shared memory; its queue would drop them silently when memory is lacking.

    Raises:
        WorkerError: There is not enough shared memory.
    """
    if get_worker_info() is None:
        return
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except (OSError, RuntimeError) as error:
        size = sum(tensor.nbytes for tensor in tensors) / 2**20
        raise WorkerError(
            f"--workers: a batch, {size:.1f} MiB, must fit into the shared memory, {_room()}, got "
            f"{str(error).splitlines()[0]}. Use --workers 0, a smaller --batch-size, {_ROOM}."
        ) from None  # a worker's traceback is of no use here


def watched(
    start: Callable[[], Iterator[_T]], count: int, stopping: Callable[[], object] | None = None
) -> Iterator[_T | None]:
    """Yield the batches of a DataLoader's workers.

    Args:
        start: Starts the workers and returns the DataLoader's iterator, whose ``timeout`` is ``POLL``.
        count: Number of workers.
        stopping: Returns whether a stop was requested. If so, None is yielded while waiting for workers.

    Raises:
        WorkerError: Workers could not be started, one ended, or none responded for ``PATIENCE`` seconds.
    """
    batches, workers = _started(start, count)
    asked = time.monotonic()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (EOFError, OSError, RuntimeError) as error:
            if "Traceback" in str(error):  # raised inside a worker, reported by torch with its traceback
                raise
            if not str(error).startswith("DataLoader timed out"):
                raise _lost(workers, error) from error
            if stopping is not None and stopping():
                yield None
            elif time.monotonic() - asked > PATIENCE:
                raise WorkerError(
                    f"--workers: a batch must arrive within {PATIENCE:.0f} s, got none. Check the disk of the images, "
                    "or use --workers 0."
                ) from error
            continue
        yield batch
        asked = time.monotonic()


def leave_process_group(worker: int) -> None:
    """Keep an interrupt that a terminal or `timeout` sends to the process group from ending a worker mid-batch.

    The main process decides how to handle the interrupt, and ends the worker by its own signal.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _started(start: Callable[[], Iterator[_T]], count: int) -> tuple[Iterator[_T], list[BaseProcess]]:
    """Start workers, and return their batches and the processes.

    torch's signal handler would raise an error at any point, even in the middle of a step, when a worker ends. The
    handler is therefore removed, and the end is noticed while waiting for the worker.
    """
    others = multiprocessing.active_children()
    number = getattr(signal, "SIGCHLD", None)
    handler = None if number is None else signal.getsignal(number)
    try:
        del [multiprocessing.Lock() for _ in range(4 * count + 10)][:]  # torch cannot undo a partial start
        batches = start()
    except OSError as error:
        raise WorkerError(
            f"--workers: processes must start, with free shared memory, {_room()}, got "
            f"{error.strerror or error}. Use --workers 0, {_ROOM}."
        ) from error
    finally:
        if number is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    return batches, [child for child in multiprocessing.active_children() if child not in others]


def _lost(workers: list[BaseProcess], error: Exception) -> WorkerError:
    """Return the error that explains why a worker ended."""
    status = next((worker.exitcode for worker in workers if worker.exitcode), None)
    if status is None:
        return WorkerError(
            f"--workers: processes must deliver their batches, got {str(error).splitlines()[0]} "
            "Use fewer --workers, or --workers 0."
        )
    how = f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
    if -status == getattr(signal, "SIGBUS", None):
        why, remedy = f", perhaps for lack of shared memory, {_room()}", f"Use --workers 0, {_ROOM}"
    else:
        why = ", perhaps for lack of memory" if -status == getattr(signal, "SIGKILL", None) else ""
        remedy = "Use fewer --workers, or --workers 0"
    return WorkerError(f"--workers: processes must run until everything is loaded, got one that {how}{why}. {remedy}.")


def _room() -> str:
    """Return the name and the size of the shared memory."""
    if not os.path.isdir(_SHARED):
        return "the system's"
    usage = shutil.disk_usage(_SHARED)
    return f"{_SHARED} with {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB free"
