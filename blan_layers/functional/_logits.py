"""What every objective does with a critic's logits: check, average, exponentiate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers.functional._precision import at_least_float32


def softplus(logits: Tensor) -> Tensor:
    """Return log(1 + exp(logits)), exact for every finite logit, in float32 at least."""
    return -F.logsigmoid(-at_least_float32(logits))


def mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean, weighed if there are weights, in float32 at least."""
    values = at_least_float32(values)
    if weights is None:
        return values.mean()
    weights = weights.to(values.dtype)
    return (values * weights).sum() / weights.sum()


def log_mean_exp(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Return the log of the mean of exp(logits), weighed if there are weights, in float32 at least."""
    logits = at_least_float32(logits).flatten()
    if weights is None:
        return logits.logsumexp(0) - log_of(logits.numel(), logits)
    weights = weights.to(logits.dtype).flatten()
    return (logits + weights.log()).logsumexp(0) - weights.sum().log()


def log_of(count: int, like: Tensor) -> Tensor:
    """Return the log of a size as a tensor, which stays symbolic where the size is."""
    return like.new_full((), count).log()


def steady_exp(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(exponent), continued by its tangent where it would leave the floating range.

    A convex function below exp, so that a bound made with it holds wherever no log density ratio passes that point:
    60 in float32, 681 in float64. The gradient reaches logits of ``dtype``: those of float16 get one that fits them.
    """
    value = _exp_up_to(exponent, math.log(torch.finfo(exponent.dtype).max) - 28)  # room for the tangent, and for a sum
    if dtype is not torch.float16:
        return value
    gradient = _exp_up_to(exponent, 11.0)
    return gradient + (value - gradient).detach()


def _exp_up_to(exponent: Tensor, limit: float) -> Tensor:
    below = exponent.clamp(max=limit)
    return below.exp() * (1 + (exponent - below))


def check_pairs(
    owner: str,
    positive_logits: Tensor,
    negative_logits: Tensor,
    positive_weights: Tensor | None,
    negative_weights: Tensor | None,
) -> None:
    """Refuse anything but two sets of at least one score, and weights of their shapes."""
    check_scores(owner, "positive", positive_logits, positive_weights)
    check_scores(owner, "negative", negative_logits, negative_weights)


def check_scores(owner: str, kind: str, logits: Tensor, weights: Tensor | None, noun: str = "logits") -> None:
    """Refuse anything but at least one score, with weights of the same shape or none."""
    name = f"{kind}_{noun}"
    _checks.floating(owner, name, logits)
    if logits.numel() == 0:
        raise ValueError(
            f"{owner}: {name} must hold at least one score, got shape {_checks.shape(logits)}. "
            "Pass the scores of at least one pair."
        )
    check_weights(owner, f"{kind}_weights", weights, logits.shape)


def check_weights(owner: str, name: str, weights: object, wanted: torch.Size) -> None:
    """Refuse anything but None or boolean or non-negative weights of the ``wanted`` shape that can be divided by."""
    if weights is None:
        return
    if not isinstance(weights, Tensor) or not (weights.dtype == torch.bool or weights.is_floating_point()):
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(
            f"{owner}: {name} must be a boolean or floating-point tensor, got {got}. Convert it, or leave it out."
        )
    if weights.shape != wanted:
        raise ValueError(
            f"{owner}: {name} must have a weight for every score, shape {tuple(wanted)}, got {_checks.shape(weights)}. "
            "Expand it to the scores."
        )
    wide = at_least_float32(weights)
    if _checks.reads_values(wide) and not (bool((wide >= 0).all()) and 0 < wide.sum().item() < math.inf):
        raise ValueError(
            f"{owner}: {name} must be at least 0 and have a finite sum above zero, got values from "
            f"{wide.min().item():g} to {wide.max().item():g}. Clamp them, or skip a batch without any."
        )
