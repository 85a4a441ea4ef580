"""Parallel work in single-threaded processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], todo: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the results of a module-level function for each item as they are done, ``workers`` at a time.

    With one worker, the work runs in this process. Worker processes end with the iterator, even after an error.
    """
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers, _start) as pool:
            yield from pool.imap_unordered(function, todo)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(function, todo)
    finally:
        torch.set_num_threads(threads)


def _start() -> None:
    """Use one thread, and leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
