"""Time, measured by turns: whatever slows the machine down slows all contenders down."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

MOST_ROUNDS = 400


class Quartiles(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of numbers, interpolated linearly."""
    return Quartiles(*np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Quartiles:
    """Return the quartiles of the ratios in each round, which a drift of the machine leaves alone."""
    return quartiles([a / b for a, b in zip(numerators, denominators, strict=True)])


def alternate(
    steps: Mapping[str, Callable[[], object]], seconds: float, least_rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time steps by turns, A B C A B C ..., and return the seconds of each in every round.

    Two rounds of warm-up tell how many fit into ``seconds``.
    """
    with _no_collector():
        _round(steps, device)
        warm = sum(_round(steps, device).values())
        rounds = min(MOST_ROUNDS, max(least_rounds, int(seconds / max(warm, 1e-9))))
        measured = [_round(steps, device) for _ in range(rounds)]
    return {name: [each[name] for each in measured] for name in steps}


def _round(steps: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    return {name: _seconds(step, device) for name, step in steps.items()}


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
