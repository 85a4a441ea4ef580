"""Timing in turns, so that a slowdown of the machine affects all contenders."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

MOST_ROUNDS = 400

SHORT = 0.1
"""Seconds."""

LARGEST_HEAP_BLOCK = 31 * 2**20
"""Bytes. glibc keeps freed memory for blocks up to the size of the largest block ever freed, at most 32 MiB. Freeing
such a block at the start puts all contenders into the state of a process that has trained for a while."""


class Quartiles(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of numbers by linear interpolation."""
    return Quartiles(*np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Quartiles:
    """Return the quartiles of the ratios within each round, which are robust to drift of the machine."""
    return quartiles([a / b for a, b in zip(numerators, denominators, strict=True)])


def alternate(
    steps: Mapping[str, Callable[[], object]], seconds: float, least_rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time steps in turns, A B C A B C ..., and return the seconds of each in every round.

    The turn of a short step begins with an unmeasured step, since the previous contender left its own data in the
    caches and its own holes in the heap. Warm-up determines which steps are short, and how many rounds fit into
    ``seconds``.
    """
    torch.empty(LARGEST_HEAP_BLOCK, dtype=torch.uint8)
    with _no_collector():
        for step in steps.values():
            _seconds(step, device)
        warm = {name: _seconds(step, device) for name, step in steps.items()}
        short = {name for name, taken in warm.items() if taken < SHORT}
        turns = sum(taken * (1 + (name in short)) for name, taken in warm.items())
        rounds = min(MOST_ROUNDS, max(least_rounds, int(seconds / max(turns, 1e-9))))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                if name in short:
                    step()
                times[name].append(_seconds(step, device))
    return times


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Disable Python's garbage collector during the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
