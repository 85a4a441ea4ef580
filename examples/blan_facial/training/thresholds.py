"""Thresholds for each attribute, fitted on faces that the model was not trained on."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["accuracy", "balanced"]


def fit_thresholds(odds: Tensor, labels: Tensor, criterion: Criterion) -> tuple[float, ...]:
    """Return the threshold of each attribute, as log-odds, above which it is predicted.

    All distinct candidates are tried: the midpoints between neighbouring log-odds, one below all, one above all, and 0.
    Of equally good candidates the one nearest to 0 is chosen. An attribute with only one label has threshold 0.

    Args:
        odds: Log-odds of the attributes, (n, N).
        labels: (n, N), 0 or 1; anything else is unknown and left out.
        criterion: The metric to maximise: the accuracy, or the mean of the accuracies on both labels.
    """
    return tuple(_fit(*pair, criterion) for pair in zip(odds.double().T, labels.T, strict=True))


def rates_at(odds: Tensor, labels: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return accuracy and balanced accuracy of each attribute, (N,) each; NaN where no label is known."""
    predicted = odds.double() > torch.tensor(thresholds, dtype=torch.float64)
    right = [((labels == label) & (predicted == bool(label))).sum(0).double() for label in (0, 1)]
    counts = [(labels == label).sum(0).double() for label in (0, 1)]
    balanced = torch.stack([hits / count for hits, count in zip(right, counts, strict=True)]).nanmean(0)
    return (right[0] + right[1]) / (counts[0] + counts[1]), balanced


def _fit(odds: Tensor, labels: Tensor, criterion: Criterion) -> float:
    known = (labels == 0) | (labels == 1)
    odds, order = odds[known].sort()
    positive = labels[known][order].double()
    positives = positive.sum()
    negatives = len(positive) - positives
    if not positives or not negatives:
        return 0.0
    middles = (odds[1:] + odds[:-1]) / 2
    zero = torch.zeros(1, dtype=torch.float64)
    cuts = torch.cat([zero, odds[:1] - 1, middles[odds[1:] > odds[:-1]], odds[-1:] + 1])
    below = torch.searchsorted(odds, cuts, right=True)  # number of negative answers
    rejected = torch.cat([zero, (1 - positive).cumsum(0)])[below]
    missed = below - rejected
    weights = (1.0, 1.0) if criterion == "accuracy" else (1 / positives, 1 / negatives)
    score = weights[0] * (positives - missed) + weights[1] * rejected
    best = cuts[score >= score.max() - 1e-12]
    return best[best.abs().argmin()].item()
