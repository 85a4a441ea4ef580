"""Parallel work in single-threaded processes."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from shared.program import UserError

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], todo: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the results of a module-level function for each item as they are done, ``workers`` at a time.

    With one worker, the work runs in this process. Worker processes end with the iterator, even after an error.

    Raises:
        UserError: A worker process was killed.
    """
    if workers > 1:
        others = {*multiprocessing.active_children()}
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start) as pool:
            try:
                with _interrupts_held():  # processes inherit it, and cannot ignore Ctrl-C before their imports are done
                    futures = [pool.submit(function, item) for item in todo]
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "worker processes must not be killed before their work is done, got one that was, perhaps for want "
                    "of memory. Use fewer, and start again."
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in {*multiprocessing.active_children()} - others:
                    process.terminate()
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(function, todo)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """Use one thread, and leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
