"""Checking, averaging and exponentiating a critic's logits, for all objectives."""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.kernels import contrast


def softplus(logits: Tensor) -> Tensor:
    """Return log(1 + exp(logits)), accurate for every finite logit, in at least float32."""
    return contrast.softplus(at_least_float32(logits))


@whole
def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the values times their weights, if given."""
    return values if weights is None else values * weights


@whole
def mean(values: Tensor, weights: Tensor | None, dim: int | None = None) -> Tensor:
    """Return the mean over all values or along an axis, weighted if weights are given, in at least float32."""
    values = at_least_float32(values)
    if weights is None:
        return values.mean() if dim is None else values.mean(dim)
    weights = scaled(weights, values.dtype, dim)
    weighted = values * weights
    return weighted.sum() / weights.sum() if dim is None else weighted.sum(dim) / weights.sum(dim)


@whole
def log_mean_exp(logits: Tensor, weights: Tensor | None, dim: int | None = None) -> Tensor:
    """Return the log of the mean of exp(logits), with the mean of :func:`mean`."""
    logits = at_least_float32(logits)
    if dim is None:
        logits, weights, dim = logits.flatten(), None if weights is None else weights.flatten(), 0
    if weights is None:
        return logits.logsumexp(dim) - log_of(logits.shape[dim], logits)
    weights = scaled(weights, logits.dtype, dim)
    without = weights == 0
    logits = logits.masked_fill(without, -math.inf) + weights.masked_fill(without, 1).log()
    return logits.logsumexp(dim) - weights.sum(dim).log()


@whole
def scaled(weights: Tensor, dtype: torch.dtype, dim: int | None = None) -> Tensor:
    """Return weights over all values or along an axis, divided by the largest before they are cast to ``dtype``.

    No weight of a mean is then lost because it leaves the range of ``dtype``. The mean is independent of the divisor,
    which therefore needs no gradient.
    """
    if weights.dtype == torch.bool:
        return weights.to(dtype)
    wide = at_least_float32(weights)
    largest = wide.detach().amax() if dim is None else wide.detach().amax(dim, keepdim=True)
    return (wide / largest).to(dtype)


def log_of(count: int, like: Tensor) -> Tensor:
    """Return the log of a size as a tensor, symbolic if the size is."""
    return like.new_full((), count).log()


@whole
def steady_exp(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(exponent), continued by its tangent where it would leave the floating range, and 0 at -inf.

    This is a convex function below exp, so that a bound computed with it holds wherever no log density ratio exceeds
    that point: 60 in float32, 681 in float64. The gradient is bounded so that it fits logits of ``dtype``, float16
    included.
    """
    value = _exp_up_to(
        exponent, math.log(torch.finfo(exponent.dtype).max) - 28
    )  # leaves room for the tangent and for a sum
    if dtype is not torch.float16:
        return value
    gradient = _exp_up_to(exponent, 11.0)
    return gradient + (value - gradient).detach()


def _exp_up_to(exponent: Tensor, limit: float) -> Tensor:
    return exponent.clamp(max=limit).exp() * (1 + torch.relu(exponent - limit))


def counted_pairs(
    positive: Tensor,
    negative: Tensor,
    positive_weights: Tensor | None,
    negative_weights: Tensor | None,
    noun: str = "logits",
) -> tuple[Tensor, Tensor]:
    """Return the scores of real and of fake pairs, with zero for scores that have no weight and are not finite.

    Refuses empty sets of scores, and weights that do not have the shape of their scores.
    """
    named = ("positive", positive, positive_weights), ("negative", negative, negative_weights)
    for kind, scores, weights in named:
        _checks.floating(f"{kind}_{noun}", scores)
        if not _checks.traced(scores) and scores.numel() == 0:
            raise ValueError(
                said(
                    f"{kind}_{noun} must contain at least one score, got shape {_checks.shape(scores)}. "
                    "Pass the scores of at least one pair."
                )
            )
        check_weights(f"{kind}_weights", weights, scores.shape)
    return counted(positive, positive_weights), counted(negative, negative_weights)


def counted(scores: Tensor, weights: Tensor | None) -> Tensor:
    """Return the scores, with zero for those that have no weight and are not finite."""
    return scores if weights is None else scores.masked_fill((weights == 0) & ~scores.isfinite(), 0)


def check_weights(name: str, weights: object, wanted: torch.Size) -> None:
    """Refuse weights unless they are None, or boolean or non-negative, of the ``wanted`` shape, with a positive sum."""
    if weights is None or _checks.traced(weights):
        return
    if not isinstance(weights, Tensor) or not (weights.dtype == torch.bool or weights.is_floating_point()):
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(
            said(f"{name} must be a boolean or floating-point tensor, got {got}. Convert it, or leave it out.")
        )
    if weights.shape != wanted:
        raise ValueError(
            said(
                f"{name} must have a weight for every score, shape {tuple(wanted)}, got {_checks.shape(weights)}. "
                "Expand it to the scores."
            )
        )
    wide = at_least_float32(weights)
    if _checks.reads_values(wide) and not (bool((wide >= 0).all()) and 0 < wide.sum().item() < math.inf):
        raise ValueError(
            said(
                f"{name} must be at least 0 and have a finite sum above zero, got values from "
                f"{wide.min().item():g} to {wide.max().item():g}. Clamp them, or skip batches without weight."
            )
        )
