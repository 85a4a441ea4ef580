"""Estimates under weights of the pairs: the bootstrap of what held-out pairs show.

A pair that is drawn w times into a resample weighs w among the real pairs, and the fake pair of its x and the y of
another one, drawn v times, weighs w v. A pair's own x and y are never a fake pair, however often it is drawn. Each
resample then costs a product of a matrix with a vector.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from blan_layers.functional import mutual_information_certificate
from mutual_information.estimators import EstimatorName

RESAMPLES = 1000

_AT_ONCE = 100  # resamples that are held in memory together
_LARGEST = 600.0  # what an exponential is taken of at most, in float64


def bootstrap(estimator: EstimatorName, logits: Tensor, seed: int) -> tuple[float, Tensor]:
    """Return the estimate in nats, and those of a thousand resamples of the pairs.

    The same seed draws the same resamples, for the logits of other critics too.

    Args:
        estimator: Any but "alpha".
        logits: Of all pairs in each block (K, M, M), real ones on the diagonal.
        seed: Of the draws.
    """
    logits = logits.double()
    blocks, size, _ = logits.shape
    value = weighed(estimator, logits, logits.new_ones(1, blocks, size)).item()
    return value, torch.cat([weighed(estimator, logits, w.view(-1, blocks, size)) for w in _draws(blocks * size, seed)])


def weighed(estimator: EstimatorName, logits: Tensor, weights: Tensor) -> Tensor:
    """Return the estimates (R,) under weights (R, K, M) of the pairs, from logits (K, M, M)."""
    real, eye = logits.diagonal(dim1=-2, dim2=-1), torch.eye(logits.shape[-1], dtype=torch.bool)
    if estimator == "infonce":
        return _infonce(logits, real, eye, weights)
    of_real = _mean(softplus(-real) if estimator == "certificate" else real, weights)
    if estimator == "jsd":
        return of_real
    if estimator == "certificate":
        return mutual_information_certificate((of_real + _mean_of_fake(softplus(logits), eye, weights)) / 2)
    if estimator == "nwj":
        return of_real - _mean_of_fake((logits - 1).clamp(max=_LARGEST).exp(), eye, weights)
    if estimator == "smile":
        return of_real - _mean_of_fake(logits.clamp(-5, 5).exp(), eye, weights).log()
    largest = logits.masked_fill(eye, -math.inf).max()
    return of_real - largest - _mean_of_fake((logits - largest).exp(), eye, weights).log()


def effective_pairs(logits: Tensor) -> float:
    """Return how many fake pairs the mean of their exponentials rests on: (sum e^q)^2 / sum e^(2 q)."""
    fake = logits.double().masked_fill(torch.eye(logits.shape[-1], dtype=torch.bool), -math.inf).flatten()
    return math.exp(2 * fake.logsumexp(0).item() - (2 * fake).logsumexp(0).item())


def _infonce(logits: Tensor, real: Tensor, eye: Tensor, weights: Tensor) -> Tensor:
    others = logits.masked_fill(eye, -math.inf)
    largest = others.max(-1, keepdim=True).values
    per_pair = weights.movedim(0, -1)  # (K, M, R)
    mean = (others - largest).exp() @ per_pair / (per_pair.sum(1, keepdim=True) - per_pair)
    size = logits.shape[-1]
    rest = mean.log() + largest + math.log(size - 1)
    shown = math.log(size) + real.unsqueeze(-1) - rest.logaddexp(real.unsqueeze(-1))
    return (per_pair * shown).sum((0, 1)) / per_pair.sum((0, 1))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum((1, 2)) / weights.sum((1, 2))


def _mean_of_fake(values: Tensor, eye: Tensor, weights: Tensor) -> Tensor:
    per_block = weights.movedim(0, 1)  # (K, R, M)
    total = ((per_block @ values.masked_fill(eye, 0)) * per_block).sum((0, 2))
    return total / (per_block.sum(2).square().sum(0) - per_block.square().sum((0, 2)))


def _draws(pairs: int, seed: int) -> Iterator[Tensor]:
    generator = np.random.default_rng(seed)
    for _ in range(RESAMPLES // _AT_ONCE):
        yield torch.from_numpy(generator.multinomial(pairs, np.full(pairs, 1 / pairs), _AT_ONCE)).double()
