"""How sure the metrics are: intervals over images, calibration, and which level wins an attribute."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision, binary_calibration_error

RESAMPLES, SEED, CONFIDENCE, BINS = 1000, 0, 0.95, 15

_AT_ONCE = 100  # resamples that are held in memory together

_Winner: TypeAlias = tuple[int, int, float, float, bool]
"""The best level, the second, their margin, its p-value and significance."""


def statistics(
    probabilities: Tensor,
    predictions: Tensor,
    labels: Tensor,
    names: Sequence[str],
    attributes: Sequence[str],
    *,
    levels: int,
) -> dict[str, Any]:
    """Return what ``metrics.json`` says beside the accuracies.

    An interval is the middle 95 % of a bootstrap over images, the same resamples for all columns. The winner of an
    attribute is the most accurate level; McNemar's exact test sets it against the second, and Holm's correction keeps
    the chance of one false winner among all attributes at 5 %. The winner of the mean is told by a paired bootstrap.
    Unknown labels count for nothing, and an attribute without a known one has no winner.

    The calibration error is the mean gap, over 15 bins of the probability of the attribute, between that and the share
    of images that have it. It has no interval, since resampling raises it. What is undefined is None: the average
    precision of an attribute that no image has, and all that is said of one without a known label.

    Args:
        probabilities: Of the attribute being there, (L, n, N).
        predictions: 0 or 1, (L, n, N).
        labels: (n, N), 0 or 1; anything else is unknown and left out.
        names: The L columns, levels first; the last one is the model's prediction.
        attributes: The N attributes.
        levels: How many of the columns are levels.
    """
    known = (labels == 0) | (labels == 1)
    right = (predictions == labels) & known
    counts = _Counts(right, labels)
    sharpness = [[_sharpness(p, y) for p, y in zip(level.T, labels.T, strict=True)] for level in probabilities]
    precision, calibration = torch.tensor(sharpness, dtype=torch.float64).permute(2, 0, 1)
    accuracy, balanced = counts.rates(torch.ones(1, len(labels)))
    resampled = [
        (*counts.rates(weights), _precisions(probabilities[-1], labels, weights)) for weights in _resamples(len(labels))
    ]
    accuracies, balances, precisions = (torch.cat(parts) for parts in zip(*resampled, strict=True))

    def column(level: int, of: slice | int) -> dict[str, Any]:
        """Describe a column, for one attribute or on average."""
        described = {
            "accuracy": _mean(accuracy[0, level, of]),
            "accuracy_interval": _interval(accuracies[:, level, of]),
            "balanced": _mean(balanced[0, level, of]),
            "balanced_interval": _interval(balances[:, level, of]),
            "average_precision": _mean(precision[level, of]),
            "calibration_error": _mean(calibration[level, of]),
        }
        if level == len(names) - 1:
            described["average_precision_interval"] = _interval(precisions[:, of])
        return described

    everything = slice(None)
    best = _winners(right[:levels], known) if levels else None
    return {
        "average_precision": _mean(precision[-1]),
        "calibration_error": _mean(calibration[-1]),
        "statistics": {
            "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE},
            "mean": {
                "columns": {name: column(level, everything) for level, name in enumerate(names)},
                "winner": _mean_winner(accuracy[0, :levels], accuracies[:, :levels], names) if levels else None,
            },
            "per_attribute": {
                attribute: {
                    "columns": {name: column(level, n) for level, name in enumerate(names)},
                    "winner": best and _named(best[n], names),
                }
                for n, attribute in enumerate(attributes)
            },
        },
    }


class _Counts:
    """Right answers on positives and on negatives, summed over any resample by one matrix product."""

    def __init__(self, right: Tensor, labels: Tensor) -> None:
        sides = torch.stack([labels == 1, labels == 0])  # (2, n, N)
        hits = right[None] & sides[:, None]  # (2, L, n, N)
        self.shape = (2, right.shape[0] + 1, right.shape[2])
        self.columns = torch.cat([hits, sides[:, None]], 1).permute(2, 0, 1, 3).flatten(1).float()

    def rates(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return accuracy and balanced accuracy (R, L, N) of resamples that take each image so often (R, n)."""
        sums = (weights @ self.columns).unflatten(1, self.shape).double()
        hits, totals = sums[:, :, :-1], sums[:, :, -1:]
        return hits.sum(1) / totals.sum(1), (hits / totals).nanmean(1)


def _resamples(images: int) -> Iterator[Tensor]:
    """Draw how often each resample takes each image, (R, n), some resamples at a time."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = torch.randint(images, (_AT_ONCE, images), generator=generator)
        yield torch.zeros(_AT_ONCE, images).scatter_add_(1, drawn, torch.ones(drawn.shape))


def _sharpness(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return average precision and calibration error, NaN where they are not defined."""
    known = (labels == 0) | (labels == 1)
    probabilities, labels = probabilities[known], labels[known]
    if not len(labels):
        return torch.nan, torch.nan
    calibration = binary_calibration_error(probabilities, labels, n_bins=BINS).item()
    return binary_average_precision(probabilities, labels).item() if labels.any() else torch.nan, calibration


def _precisions(probabilities: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the average precision (R, N) of resamples."""
    columns = []
    for scores, truth in zip(probabilities.T, labels.T, strict=True):
        scores, order = scores.sort(descending=True)
        drawn = weights[:, order] * ((truth == 0) | (truth == 1))[order]
        positive = (truth == 1)[order]
        last = torch.searchsorted(-scores, -scores, right=True)[positive] - 1  # of those with the same score
        found = (drawn * positive).cumsum(1)
        precision = found[:, last] / drawn.cumsum(1)[:, last].clamp(min=1)
        columns.append((precision * drawn[:, positive]).sum(1) / found[:, -1])
    return torch.stack(columns, 1).double()


def _winners(right: Tensor, known: Tensor) -> list[_Winner | None]:
    """Return for every attribute that has a known label who wins it."""
    order = right.sum(1).argsort(dim=0, descending=True, stable=True)[:2].T.tolist()
    counts = known.sum(0).tolist()
    found = {}
    for n, (best, second) in enumerate(order):
        if not counts[n]:
            continue
        wins = int((right[best, :, n] & ~right[second, :, n]).sum())
        losses = int((right[second, :, n] & ~right[best, :, n]).sum())
        found[n] = best, second, (wins - losses) / counts[n], mcnemar(wins, losses)
    significant = dict(zip(found, holm([p for *_, p in found.values()]), strict=True))
    return [(*found[n], significant[n]) if n in found else None for n in range(len(counts))]


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of as uneven a split of the images on which two levels differ."""
    trials, fewer = wins + losses, min(wins, losses)
    k = torch.arange(fewer + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    logs = (
        torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1) - n * torch.log(torch.tensor(2.0).double())
    )
    return min(1.0, 2 * logs.logsumexp(0).exp().item())


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Say which of several tests are significant, by Holm's step-down correction."""
    passed = [False] * len(p_values)
    for place, test in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[test] > level / (len(p_values) - place):
            break
        passed[test] = True
    return passed


def _mean_winner(accuracy: Tensor, resampled: Tensor, names: Sequence[str]) -> dict[str, Any]:
    means = accuracy.nanmean(1)
    best, second = means.argsort(descending=True, stable=True)[:2].tolist()
    interval = _interval(resampled[:, best] - resampled[:, second])
    return {
        "level": names[best],
        "runner_up": names[second],
        "margin": (means[best] - means[second]).item(),
        "interval": interval,
        "significant": interval is not None and interval[0] > 0,
    }


def _named(winner: _Winner | None, names: Sequence[str]) -> dict[str, Any] | None:
    if winner is None:
        return None
    best, second, margin, p_value, significant = winner
    return {
        "level": names[best],
        "runner_up": names[second],
        "margin": margin,
        "p_value": p_value,
        "significant": significant,
    }


def _mean(values: Tensor) -> float | None:
    mean = values.nanmean().item()
    return None if mean != mean else mean


def _interval(resampled: Tensor) -> list[float] | None:
    """Return the middle of the resampled values (R,), or of the attributes' mean (R, N)."""
    values = resampled if resampled.ndim == 1 else resampled.nanmean(1)
    values = values[~values.isnan()]
    if not len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    return torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
