"""The metrics in ``metrics.json`` other than the accuracies."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from blan_facial.training.calibration import calibration_errors, log_losses
from blan_facial.training.intervals import CONFIDENCE, RESAMPLES, SEED, Units, interval, resample
from blan_facial.training.scaling import Scaling
from blan_facial.training.thresholds import rates_at
from blan_facial.training.winners import mean_winner, winners

_SHARPNESS = {"calibration_error": calibration_errors, "nll": log_losses}


def statistics(
    odds: Tensor,
    labels: Tensor,
    names: Sequence[str],
    attributes: Sequence[str],
    *,
    levels: int,
    units: Units,
    scaling: Scaling | None = None,
) -> dict[str, Any]:
    """Return average precision and calibration of the prediction, and intervals, calibration and winners in detail.

    An interval is the central 95 % of a bootstrap with the same resamples for all columns. It draws people with all
    their images or, where people are unknown, single images. If an attribute has both labels but a resample contains
    only one of them, the resample is left out of the interval of the balanced accuracy and counted in ``left_out``.
    With one unit there is no interval.

    The winner of an attribute is the most accurate level. It is compared with the second by an exact sign-flip test
    over the units, which over images is McNemar's test. Holm's correction bounds the probability of any false winner
    among all attributes by 5 %. The winner of the mean is tested by a paired bootstrap. Unknown labels are ignored, and
    an attribute without known labels has no winner.

    The calibration error is the mean gap, over 15 bins of the predicted probability, between the probability and the
    fraction of images with the attribute. It has no interval, since resampling increases it. ``nll`` is the mean
    negative log-likelihood of the labels in nats. For the prediction, both are also given for the scaled probabilities,
    with their accuracy and balanced accuracy at 0.5. Undefined values are None: the average precision of an attribute
    that no image has, everything for an attribute without known labels, and the scaled values without a scaling.

    Args:
        odds: Log-odds of each attribute, (L, n, N); the attribute is predicted above 0.
        labels: (n, N), 0 or 1; anything else is unknown and left out.
        names: The L columns, levels first; the last one is the model's prediction.
        attributes: The N attributes.
        levels: Number of columns that are levels.
        units: People or images.
        scaling: The run's scaling; None if it has none.
    """
    known = (labels == 0) | (labels == 1)
    right = ((odds > 0) == labels.bool()) & known
    probabilities = odds.sigmoid()
    whole, resampled = resample(right, probabilities[-1], labels, units)
    precision = torch.stack([_average_precisions(column, labels) for column in probabilities])
    sharpness = {name: torch.stack([of(column, labels) for column in odds]) for name, of in _SHARPNESS.items()}
    scaled = _scaled(odds[-1], labels, scaling)
    several = (units.sums(known.long()) > 0).sum(0) > 1

    def span(values: Tensor, value: Tensor, of: slice | int) -> list[float] | None:
        return interval(values, value) if several[of].any() else None

    def column(level: int, of: slice | int) -> dict[str, Any]:
        """Describe a column, for one attribute or on average."""
        described = {
            "accuracy": _mean(whole.accuracy[0, level, of]),
            "accuracy_interval": span(resampled.accuracy[:, level, of], whole.accuracy[0, level, of], of),
            "balanced": _mean(whole.balanced[0, level, of]),
            "balanced_interval": span(resampled.balanced[:, level, of], whole.balanced[0, level, of], of),
            "average_precision": _mean(precision[level, of]),
        } | {name: _mean(values[level, of]) for name, values in sharpness.items()}
        if level == len(names) - 1:
            precisions = resampled.precision[:, of], whole.precision[0, of]
            described["average_precision_interval"] = span(*precisions, of)
            described |= {name: None if values is None else _mean(values[of]) for name, values in scaled.items()}
        return described

    everything = slice(None)
    best = winners(right[:levels], known, names, units) if levels else [None] * len(attributes)
    left_out = (resampled.balanced[:, -1].isnan() & ~whole.balanced[0, -1].isnan()).sum(0).tolist()
    return {
        "average_precision": _mean(precision[-1]),
        **{name: _mean(values[-1]) for name, values in sharpness.items()},
        "scaling": None if scaling is None else _as_json(scaling, attributes),
        **{name: None if values is None else _mean(values) for name, values in scaled.items()},
        "statistics": {
            "bootstrap": {
                "resampled": units.name,
                "units": units.total,
                "resamples": RESAMPLES,
                "seed": SEED,
                "confidence": CONFIDENCE,
            },
            "paired_test": "McNemar" if units.name == "images" else "sign flips of people",
            "mean": {
                "columns": {name: column(level, everything) for level, name in enumerate(names)},
                "winner": mean_winner(
                    whole.accuracy[0, :levels], resampled.accuracy[:, :levels], names, bool(several.any())
                )
                if levels
                else None,
            },
            "per_attribute": {
                attribute: {
                    "columns": {name: column(level, n) for level, name in enumerate(names)},
                    "winner": None if winner is None else winner._asdict(),
                    "left_out": left_out[n],
                }
                for n, (attribute, winner) in enumerate(zip(attributes, best, strict=True))
            },
        },
    }


def average_precision(probabilities: Tensor, labels: Tensor) -> float | None:
    """Return the mean over attributes of the average precision of probabilities (n, N); None if undefined for all."""
    return _mean(_average_precisions(probabilities, labels))


def _scaled(odds: Tensor, labels: Tensor, scaling: Scaling | None) -> Mapping[str, Tensor | None]:
    """Return the metrics of the scaled prediction, (N,) each; None without a scaling."""
    if scaling is None:
        return dict.fromkeys(f"scaled_{name}" for name in (*_SHARPNESS, "accuracy", "balanced_accuracy"))
    odds = scaling(odds)
    accuracy, balanced = rates_at(odds, labels, [0.0] * odds.shape[1])
    sharpness = {f"scaled_{name}": of(odds, labels) for name, of in _SHARPNESS.items()}
    return sharpness | {"scaled_accuracy": accuracy, "scaled_balanced_accuracy": balanced}


def _as_json(scaling: Scaling, attributes: Sequence[str]) -> dict[str, Any]:
    scale, shift = (dict(zip(attributes, values, strict=True)) for values in scaling[:2])
    return {"images": scaling.images, "scale": scale, "shift": shift}


def _average_precisions(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision of each attribute (N,), NaN without a positive label."""
    found = []
    for p, y in zip(probabilities.T, labels.T, strict=True):
        known = (y == 0) | (y == 1)
        found.append(binary_average_precision(p[known], y[known]).item() if (y == 1).any() else torch.nan)
    return torch.tensor(found, dtype=torch.float64)


def _mean(values: Tensor) -> float | None:
    mean = values.nanmean().item()
    return None if mean != mean else mean
