"""Estimates in nats from the logits of all pairs (M, M), with real pairs on the diagonal, under weights of the pairs.

A pair that is drawn w times into a resample has weight w among the real pairs. The fake pair of its x with the y of
another pair, drawn v times, has weight w v. A pair's own x and y never form a fake pair, however often it is drawn.
Each resample then costs one matrix-vector product.
"""

import math
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import softplus

from blan_layers.functional import mutual_information_certificate

Estimator: TypeAlias = Literal["infonce", "nwj", "dv", "jsd", "smile", "certificate"]

_LARGEST = 600.0  # largest exponent, in float64
_CLIP = 5.0


class Critic(Protocol):
    """Anything that computes the logits (n, m) of all pairs."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits of x (n, d) and y (m, d')."""


def shown(critic: Critic, pairs: tuple[Tensor, Tensor]) -> float:
    """Return the InfoNCE estimate of a critic on pairs, in nats."""
    return infonce(critic.logits(*pairs)).mean().item()


def infonce(logits: Tensor) -> Tensor:
    """Return the term of each real pair (..., M) in the mean of InfoNCE, from logits (..., M, M)."""
    return logits.diagonal(dim1=-2, dim2=-1) - logits.logsumexp(-1) + math.log(logits.shape[-1])


def weighted(estimator: Estimator, logits: Tensor, weights: Tensor) -> Tensor:
    """Return the estimates (R,) under weights (R, M) of the pairs, from logits (M, M) in float64."""
    return _WEIGHTED[estimator](logits, weights)


def effective_pairs(logits: Tensor) -> float:
    """Return the effective number of fake pairs in the mean of exponentials: (sum e^q)^2 / sum e^(2 q)."""
    fake = _fake(logits.double(), -math.inf).flatten()
    return math.exp(2 * fake.logsumexp(0).item() - (2 * fake).logsumexp(0).item())


def _infonce(logits: Tensor, weights: Tensor) -> Tensor:
    real, others = logits.diagonal(), _fake(logits, -math.inf)
    largest = others.amax(1, keepdim=True)
    mean = (others - largest).exp() @ weights.T / (weights.sum(1) - weights.T)  # (M, R)
    rest = mean.log() + largest + math.log(len(real) - 1)
    shown = math.log(len(real)) + real[:, None] - rest.logaddexp(real[:, None])
    return _mean(shown.T, weights)


def _nwj(logits: Tensor, weights: Tensor) -> Tensor:
    fake = _fake((logits - 1).clamp(max=_LARGEST).exp(), 0)
    return _mean(logits.diagonal(), weights) - _mean_of_fake(fake, weights)


def _dv(logits: Tensor, weights: Tensor) -> Tensor:
    others = _fake(logits, -math.inf)
    fake = _mean_of_fake((others - others.amax()).exp(), weights).log()
    return _mean(logits.diagonal(), weights) - fake - others.amax()


def _jsd(logits: Tensor, weights: Tensor) -> Tensor:
    return _mean(logits.diagonal(), weights)


def _smile(logits: Tensor, weights: Tensor) -> Tensor:
    fake = _fake(logits.clamp(-_CLIP, _CLIP).exp(), 0)
    return _mean(logits.diagonal(), weights) - _mean_of_fake(fake, weights).log()


def _certificate(logits: Tensor, weights: Tensor) -> Tensor:
    fake = _mean_of_fake(_fake(softplus(logits), 0), weights)
    return mutual_information_certificate((_mean(softplus(-logits.diagonal()), weights) + fake) / 2)


def _fake(values: Tensor, of_real: float) -> Tensor:
    return values.masked_fill(torch.eye(len(values), dtype=torch.bool), of_real)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum(1) / weights.sum(1)


def _mean_of_fake(values: Tensor, weights: Tensor) -> Tensor:
    total = ((weights @ values) * weights).sum(1)
    return total / (weights.sum(1).square() - weights.square().sum(1))


_WEIGHTED: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {
    "infonce": _infonce,
    "nwj": _nwj,
    "dv": _dv,
    "jsd": _jsd,
    "smile": _smile,
    "certificate": _certificate,
}

ESTIMATORS: tuple[Estimator, ...] = tuple(_WEIGHTED)
