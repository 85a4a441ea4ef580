"""Scaling of columns, fitted to some rows and applicable to any rows."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blan_layers.estimation.arrays import Array, Side

Preprocess: TypeAlias = Literal["ranks", "standardise"]

Rows: TypeAlias = npt.NDArray[np.intp]

_MOST_DEVIATIONS = 1e4

PREPROCESSES: tuple[Preprocess, ...] = ("ranks", "standardise")


def scale(side: Side, rows: Rows, preprocess: Preprocess) -> Callable[[Rows], Tensor]:
    r"""Return a function that scales any rows of a side, (n, d) in float32, as fitted to the given rows.

    Ranks become normal scores, :math:`\Phi^{-1}((r - 1/2) / n)`; equal values share the score of their mean rank. Other
    rows are interpolated linearly between the neighbouring scores, and clamped to the outermost ones. "standardise"
    scales to mean 0 and standard deviation 1, and clamps to 10,000 standard deviations, so that no square overflows.
    Categories become indicator columns, one fewer than there are categories, divided by their standard deviation.
    """
    kind = _indicators if side.discrete else {"ranks": _normal_scores, "standardise": _standardised}[preprocess]
    columns = [kind(column[rows], column) for column in side.values.T]

    def apply(chosen: Rows) -> Tensor:
        scaled = [column(side.values[chosen, place]) for place, column in enumerate(columns)]
        return torch.from_numpy(np.concatenate(scaled, 1, dtype=np.float32))

    return apply


def untied_scores(values: Array, rng: np.random.Generator) -> Tensor:
    r"""Return the normal scores (n, d) of the columns of ``values``, with equal values in random order.

    The order among equal values is independent of everything else, so that the scores are continuous and contain the
    same information as the values.
    """
    evenly = torch.special.ndtri((torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values))
    scores = torch.empty(values.shape, dtype=torch.float64)
    for place, column in enumerate(values.T):
        order = np.lexsort((rng.random(len(column)), column))
        scores[torch.from_numpy(order), place] = evenly
    return scores


def _normal_scores(column: Array, whole: Array) -> Callable[[Array], Array]:
    knots, counts = np.unique(column, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(column)
    scores = torch.special.ndtri(torch.from_numpy(middle)).numpy()
    return lambda values: _interpolated(values, knots, scores)[:, None]


def _interpolated(values: Array, knots: Array, scores: Array) -> Array:
    """Return the scores of values between knots, clamped to the outermost ones; no difference or slope overflows."""
    if len(knots) == 1:
        return np.full(len(values), scores[0])
    above = np.searchsorted(knots, values).clip(1, len(knots) - 1)
    (low, high), (first, last) = ((of[above - 1], of[above]) for of in (knots, scores))
    half = np.where(np.maximum(np.abs(low), np.abs(high)) > 1, 0.5, 1.0)
    with np.errstate(over="ignore"):  # clamped all the same
        share = (half * values - half * low) / (half * high - half * low)
    scaled: Array = first + share.clip(0, 1) * (last - first)
    return scaled


def _standardised(column: Array, whole: Array) -> Callable[[Array], Array]:
    unit = np.abs(column).max() or 1.0  # so that no square overflows
    mean, deviation = (column / unit).mean(), (column / unit).std() or 1.0

    def apply(values: Array) -> Array:
        with np.errstate(over="ignore"):  # clamped all the same
            scaled = (values / unit - mean) / deviation
        clamped: Array = np.clip(scaled, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        return clamped[:, None]

    return apply


def _indicators(column: Array, whole: Array) -> Callable[[Array], Array]:
    codes = np.unique(whole)[:-1]
    shares = (column[:, None] == codes).mean(0)
    deviation = np.sqrt(np.maximum(shares * (1 - shares), 1 / len(column)))
    return lambda values: ((values[:, None] == codes) - shares) / deviation
