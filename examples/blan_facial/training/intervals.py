"""Confidence intervals of the metrics by a bootstrap over people or, where people are unknown, over images."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

RESAMPLES, SEED, CONFIDENCE = 1000, 0, 0.95

_AT_ONCE = 100  # resamples held in memory at once


class Units(NamedTuple):
    """The sampling units of a test set: images of one person are correlated, so they count as one draw."""

    of: Tensor
    """The unit of each image, int64 (n,)."""
    total: int
    """The number U of units."""
    name: Literal["people", "images"]

    @classmethod
    def of_images(cls, images: int, groups: np.ndarray | None) -> "Units":
        """Return people as units, from the number (n,) of each image's person, or images if ``groups`` is None."""
        if groups is None:
            return cls(torch.arange(images), images, "images")
        numbers, of = np.unique(groups, return_inverse=True)
        return cls(torch.from_numpy(of), len(numbers), "people")

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of the images (n, ...) within each unit, (U, ...)."""
        return values.new_zeros(self.total, *values.shape[1:]).index_add_(0, self.of, values)


class Resampled(NamedTuple):
    """Metrics of R resamples, in which each drawn unit contributes all its images; undefined metrics are NaN."""

    accuracy: Tensor
    """(R, L, N)."""
    balanced: Tensor
    """Balanced accuracy (R, L, N), undefined where a resample contains only one of an attribute's two labels."""
    precision: Tensor
    """Average precision of the last column (R, N)."""


def resample(right: Tensor, probabilities: Tensor, labels: Tensor, units: Units) -> tuple[Resampled, Resampled]:
    """Return the metrics of the original images (R = 1) and of all resamples.

    Args:
        right: Whether the label is known and the answer correct, (L, n, N).
        probabilities: Probabilities of the last column, (n, N).
        labels: (n, N), 0 or 1; anything else is unknown.
        units: The sampling units.
    """
    counts = _Counts(right, labels, units)

    def metrics(weights: Tensor) -> Resampled:
        return Resampled(*counts.rates(weights), precisions(probabilities, labels, weights[:, units.of]))

    parts = zip(*(metrics(weights) for weights in _draws(units.total)), strict=True)
    return metrics(torch.ones(1, units.total)), Resampled(*(torch.cat(part) for part in parts))


def interval(resampled: Tensor, value: Tensor) -> list[float] | None:
    """Return the central 95 % interval of the resampled values (R,), or of their mean over the attributes (R, N).

    Resamples with an undefined value are left out. In the mean, an undefined attribute is replaced by its value in the
    test set, so that all resamples average the same attributes.

    Args:
        resampled: The resampled values.
        value: The values of the test set, () or (N,).
    """
    if resampled.ndim == 2:
        resampled = torch.where(resampled.isnan(), value, resampled).nanmean(1)
    known = resampled[~resampled.isnan()]
    if not len(known):
        return None
    tail = (1 - CONFIDENCE) / 2
    return torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=known.dtype)).tolist()


def precisions(probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the average precision (R, N) of resamples that contain each image ``weights`` (R, n) times."""
    columns = []
    for scores, truth in zip(probabilities.T, labels.T, strict=True):
        scores, order = scores.sort(descending=True)
        drawn = weights[:, order] * ((truth == 0) | (truth == 1))[order]
        positive = (truth == 1)[order]
        last = torch.searchsorted(-scores, -scores, right=True)[positive] - 1  # the last image with the same score
        found = (drawn * positive).cumsum(1)
        precision = found[:, last] / drawn.cumsum(1)[:, last].clamp(min=1)
        columns.append((precision * drawn[:, positive]).sum(1) / found[:, -1])
    return torch.stack(columns, 1).double()


class _Counts:
    """Correct answers on positives and on negatives, summed over any resample by one matrix product."""

    def __init__(self, right: Tensor, labels: Tensor, units: Units) -> None:
        sides = torch.stack([labels == 1, labels == 0])  # (2, n, N)
        hits = right[None] & sides[:, None]  # (2, L, n, N)
        self.shape = (2, right.shape[0] + 1, right.shape[2])
        self.columns = units.sums(torch.cat([hits, sides[:, None]], 1).permute(2, 0, 1, 3).flatten(1).float())
        self.both = sides.any(1).all(0)  # (N,)

    def rates(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return accuracy and balanced accuracy (R, L, N) of resamples with ``weights`` (R, U) copies of each unit."""
        sums = (weights @ self.columns).unflatten(1, self.shape).double()
        hits, totals = sums[:, :, :-1], sums[:, :, -1:]
        recalls = hits / totals
        return hits.sum(1) / totals.sum(1), torch.where(self.both, recalls.mean(1), recalls.nanmean(1))


def _draws(units: int) -> Iterator[Tensor]:
    """Draw how often each resample contains each unit, (R, U), a chunk of resamples at a time."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = torch.randint(units, (_AT_ONCE, units), generator=generator)
        yield torch.zeros(_AT_ONCE, units).scatter_add_(1, drawn, torch.ones(drawn.shape))
