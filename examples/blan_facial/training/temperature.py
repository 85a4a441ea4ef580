"""The temperature that calibrates probabilities."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

COLDEST, HOTTEST = 0.01, 100.0
"""Between these a temperature is looked for."""


class Temperature(NamedTuple):
    """What the log-odds of a run's predictions are divided by, so that its probabilities are calibrated.

    It is positive, so that no prediction changes at the threshold 0.5.
    """

    value: float
    images: int
    """Of the validation split, on which it was fitted."""


def fit_temperature(odds: Tensor, labels: Tensor) -> float | None:
    r"""Return the temperature T under which the labels are most likely; None if none is between 0.01 and 100.

    With signs s = 2 y - 1, the mean negative log-likelihood mean(log(1 + exp(-s o / T))) is convex in 1 / T. The zero
    of its slope is found by bisection of log T, in float64. There is none where all answers are right, or where they
    say no more than chance.

    Args:
        odds: Log-odds o of the attributes, (n, N).
        labels: y, (n, N), 0 or 1; anything else is unknown and left out.

    Reference:
        Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017, with one temperature for
        all attributes.
    """
    known = (labels == 0) | (labels == 1)
    right = odds.double()[known] * (2 * labels[known] - 1)

    def too_cold(temperature: float) -> bool:
        return bool((right * torch.sigmoid(-right / temperature)).sum() < 0)

    low, high = math.log(COLDEST), math.log(HOTTEST)
    if not too_cold(COLDEST) or too_cold(HOTTEST):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(math.exp(middle)) else (low, middle)
    return math.exp((low + high) / 2)
