"""Work spread over processes of one thread each."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], todo: Sequence[T], workers: int) -> Iterator[R]:
    """Yield what a function of a module makes of each, as it is done, ``workers`` of them at a time.

    One worker is this process itself. Others end with the iterator, however it ends.
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
    """Take one thread, and leave it to the parent to end on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
