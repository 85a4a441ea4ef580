"""The best level of each attribute, and whether it is significantly better than the second."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from blan_facial.training.intervals import CONFIDENCE, Units, interval


class Winner(NamedTuple):
    """The best level of an attribute compared with the second."""

    level: str
    runner_up: str
    margin: float
    """Difference in accuracy."""
    p_value: float
    significant: bool = False
    """Whether the difference is significant after Holm's correction over the attributes."""


def winners(right: Tensor, known: Tensor, names: Sequence[str], units: Units) -> list[Winner | None]:
    """Return the winner of every attribute; None for an attribute without known labels.

    Args:
        right: Whether the label is known and the level's answer correct, (K, n, N).
        known: Which labels are known, (n, N).
        names: The K levels.
        units: People or images.
    """
    found: dict[int, Winner] = {}
    for n, (best, second) in enumerate(right.sum(1).argsort(dim=0, descending=True, stable=True)[:2].T.tolist()):
        if count := int(known[:, n].sum()):
            gains = right[best, :, n].long() - right[second, :, n].long()
            p_value = sign_flip(units.sums(gains))
            found[n] = Winner(names[best], names[second], int(gains.sum()) / count, p_value)
    passed = dict(zip(found, holm([winner.p_value for winner in found.values()]), strict=True))
    return [found[n]._replace(significant=passed[n]) if n in found else None for n in range(known.shape[1])]


def mean_winner(accuracy: Tensor, resampled: Tensor, names: Sequence[str], several: bool) -> dict[str, Any]:
    """Return the level that is best on average, tested by a paired bootstrap.

    Args:
        accuracy: (K, N).
        resampled: (R, K, N).
        names: The K levels.
        several: Whether there are several units; a single one has no interval.
    """
    means = accuracy.nanmean(1)
    best, second = means.argsort(descending=True, stable=True)[:2].tolist()
    margins = resampled[:, best] - resampled[:, second], accuracy[best] - accuracy[second]
    span = interval(*margins) if several else None
    return {
        "level": names[best],
        "runner_up": names[second],
        "margin": (means[best] - means[second]).item(),
        "interval": span,
        "significant": span is not None and span[0] > 0,
    }


def sign_flip(gains: Tensor) -> float:
    """Return the exact two-sided p-value of a sum of gains under random signs of the units' gains.

    The gain of a unit is the number of its images on which only the first level is correct, minus the number on which
    only the second is. If the levels are equally good, the gains g and -g of a unit are equally likely. The positive
    part of the sum is then a sum of independent draws of |g| or 0, whose distribution is a convolution of binomials,
    one for each size of |g|. Images of one person may depend on one another in any way. Where each unit is one image,
    this is McNemar's exact test.

    Args:
        gains: Gain of each unit, int64 (U,).

    Reference:
        McNemar, 1947. Rosner, Glynn and Lee, The Wilcoxon signed rank test for paired comparisons of clustered data,
        Biometrics 62, 2006, which flips the signs of clusters.
    """
    chances = np.ones(1)
    for size, count in zip(*np.unique(gains[gains != 0].abs().numpy(), return_counts=True), strict=True):
        binomial = np.zeros(size * count + 1)
        binomial[::size] = _binomial(int(count))
        chances = np.convolve(chances, binomial)
    fewer = int(min(gains.clamp(min=0).sum(), gains.neg().clamp(min=0).sum()))
    return min(1.0, 2 * float(chances[: fewer + 1].sum()))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Return which of several tests are significant, by Holm's step-down correction."""
    passed = [False] * len(p_values)
    for place, test in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[test] > (1 - CONFIDENCE) / (len(p_values) - place):
            break
        passed[test] = True
    return passed


def _binomial(trials: int) -> np.ndarray:
    """Return the probability of each number of heads among tosses of a fair coin, (trials + 1,)."""
    k = torch.arange(trials + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    logs = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1) - n * torch.log(2 * torch.ones_like(n))
    return logs.exp().numpy()
