"""The Donsker-Varadhan bound with MINE's gradient."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._logits import counted_pairs, log_mean_exp, mean
from blan_layers.functional._tracing import whole


class MINEStep(NamedTuple):
    """The result of one step of MINE.

    Attributes:
        value: The Donsker-Varadhan bound of the batch in nats, with MINE's gradient.
        running_log_mean: The log of the running mean after the batch, without gradient.
    """

    value: Tensor
    running_log_mean: Tensor


@whole
def mine_objective(
    positive_logits: Tensor,
    negative_logits: Tensor,
    running_log_mean: Tensor,
    *,
    momentum: float = 0.01,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> MINEStep:
    r"""Donsker-Varadhan bound in nats with the gradient of mutual information neural estimation, to be maximised.

    The value is ``mean positive_logits - log m`` with ``m = mean exp(negative_logits)``; the gradient is that of
    ``mean positive_logits - m / running``, with ``running <- (1 - momentum) running + momentum m`` held constant.

    The gradient of log m divides by the mean of one batch, which biases it; a running mean over many batches removes
    that bias. It is kept as its log, which cannot overflow. It is updated with the mean of the batch before the
    division, so that no gradient is more than 1 / momentum times that of :func:`dv_lower_bound`.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        running_log_mean: Log of the running mean of exp(negative_logits); minus infinity before the first batch. A
            mean that is not finite starts again, such as one that an exponential average of weights made NaN.
        momentum: Weight of this batch in the running mean, above 0 and at most 1; 1 gives the gradient of the
            Donsker-Varadhan bound.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately, running_log_mean (); weights of the shapes of their scores -> two scalars.

    Raises:
        TypeError: Logits or ``running_log_mean`` are not floating-point tensors, weights are neither boolean nor
            floating-point, or ``momentum`` is not a number.
        ValueError: Logits are empty, weights have the wrong shape, a negative value or no finite sum above zero,
            ``running_log_mean`` is not a scalar, or ``momentum`` is not above 0 and at most 1.

    Reference:
        Belghazi et al., "Mutual information neural estimation", ICML 2018, section 3.2.

    Example:
        >>> import torch
        >>> mine_objective(torch.full((4,), 3.0), torch.ones(4, 2), torch.tensor(-torch.inf))
        MINEStep(value=tensor(2.), running_log_mean=tensor(1.))
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    _checks.floating("running_log_mean", running_log_mean)
    if running_log_mean.ndim:
        raise ValueError(
            said(
                f"running_log_mean must be a scalar, got shape {_checks.shape(running_log_mean)}. "
                "Pass what the last step returned, or torch.tensor(-torch.inf)."
            )
        )
    momentum = checked_momentum("momentum", momentum)
    log_mean = log_mean_exp(negative, negative_weights)
    now, before = log_mean.detach(), running_log_mean.detach().to(log_mean.dtype)
    kept = math.log1p(-momentum) if momentum < 1 else -math.inf
    running = torch.where(before.isfinite(), torch.logaddexp(before + kept, now + math.log(momentum)), now)
    running = torch.where(now.isfinite(), running, before)  # a batch that overflowed is ignored
    corrected = now + (now - running).exp() * (log_mean - now)
    return MINEStep(mean(positive, positive_weights) - corrected, running)


def checked_momentum(name: str, value: float) -> float:
    """Return a momentum, or raise unless it is above 0 and at most 1."""
    momentum = _checks.number(name, value, 0.01)
    if not 0 < momentum <= 1:
        raise ValueError(said(f"{name} must be above 0 and at most 1, got {value!r}. Pass, for example, 0.01."))
    return momentum
