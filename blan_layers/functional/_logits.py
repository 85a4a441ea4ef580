"""What every objective does with a critic's logits: check, average, exponentiate."""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.kernels import contrast


def softplus(logits: Tensor) -> Tensor:
    """Return log(1 + exp(logits)), exact for every finite logit, in float32 at least."""
    return contrast.softplus(at_least_float32(logits))


@whole
def weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return values times their weights, if there are any."""
    return values if weights is None else values * weights


@whole
def mean(values: Tensor, weights: Tensor | None, dim: int | None = None) -> Tensor:
    """Return the mean of all or along an axis, weighted if there are weights, in float32 at least."""
    values = at_least_float32(values)
    if weights is None:
        return values.mean() if dim is None else values.mean(dim)
    weights = weights.to(values.dtype)
    weighted = values * weights
    return weighted.sum() / weights.sum() if dim is None else weighted.sum(dim) / weights.sum(dim)


@whole
def log_mean_exp(logits: Tensor, weights: Tensor | None, dim: int | None = None) -> Tensor:
    """Return the log of the mean of exp(logits), which is taken as :func:`mean` takes it."""
    logits = at_least_float32(logits)
    if dim is None:
        logits, weights, dim = logits.flatten(), None if weights is None else weights.flatten(), 0
    if weights is None:
        return logits.logsumexp(dim) - log_of(logits.shape[dim], logits)
    weights = weights.to(logits.dtype)
    without = weights == 0
    logits = logits.masked_fill(without, -math.inf) + weights.masked_fill(without, 1).log()
    return logits.logsumexp(dim) - weights.sum(dim).log()


def log_of(count: int, like: Tensor) -> Tensor:
    """Return the log of a size as a tensor, which stays symbolic where the size is."""
    return like.new_full((), count).log()


@whole
def steady_exp(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(exponent), continued by its tangent where it would leave the floating range, and 0 at -inf.

    A convex function below exp, so that a bound made with it holds wherever no log density ratio passes that point:
    60 in float32, 681 in float64. The gradient reaches logits of ``dtype``: those of float16 get one that fits them.
    """
    value = _exp_up_to(exponent, math.log(torch.finfo(exponent.dtype).max) - 28)  # room for the tangent, and for a sum
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
    """Return the scores of real and of fake pairs; those without weight may be anything, and are zero if not finite.

    Anything but two sets of at least one score, and weights of their shapes or none, is refused.
    """
    named = ("positive", positive, positive_weights), ("negative", negative, negative_weights)
    for kind, scores, weights in named:
        _checks.floating(f"{kind}_{noun}", scores)
        if not _checks.traced(scores) and scores.numel() == 0:
            raise ValueError(
                said(
                    f"{kind}_{noun} must hold at least one score, got shape {_checks.shape(scores)}. "
                    "Pass the scores of at least one pair."
                )
            )
        check_weights(f"{kind}_weights", weights, scores.shape)
    return counted(positive, positive_weights), counted(negative, negative_weights)


def counted(scores: Tensor, weights: Tensor | None) -> Tensor:
    """Return the scores, with zero for what is not finite and has no weight."""
    return scores if weights is None else scores.masked_fill((weights == 0) & ~scores.isfinite(), 0)


def check_weights(name: str, weights: object, wanted: torch.Size) -> None:
    """Refuse anything but None or boolean or non-negative weights of the ``wanted`` shape that can be divided by."""
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
                f"{wide.min().item():g} to {wide.max().item():g}. Clamp them, or skip a batch without any."
            )
        )
