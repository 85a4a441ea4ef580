"""Calibration of the probabilities by a scale and a shift for each attribute."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Scaling(NamedTuple):
    """The calibration of a run's log-odds: scale * odds + shift, for each attribute.

    Scales are positive, so that the ranking of the images is unchanged. The shift moves the log-odds at which the
    answer becomes yes.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    images: int
    """Number of validation images on which it was fitted."""

    def __call__(self, odds: Tensor) -> Tensor:
        """Return calibrated log-odds, in float64, from log-odds (..., N)."""
        scale, shift = torch.tensor([self.scale, self.shift], dtype=torch.float64, device=odds.device)
        return odds.double() * scale + shift

    def of(self, places: Sequence[int]) -> "Scaling":
        """Return the scaling of a subset of the attributes, by index."""
        scale, shift = (tuple(values[place] for place in places) for values in self[:2])
        return Scaling(scale, shift, self.images)


def scaled(odds: Tensor, scaling: Scaling | None) -> Tensor:
    """Return the log-odds of a run (..., N) as it states them: calibrated, or without a scaling as they are."""
    return odds if scaling is None else scaling(odds)


def fit_scaling(odds: Tensor, labels: Tensor) -> Scaling | None:
    r"""Return the most probable scaling; None if no label is known, or the score of a known label is not finite.

    With z = exp(u + v) o + b it minimises, over a common u and over v and b of each attribute,

        sum (log(1 + exp(z)) - t z) + (u^2 + |v|^2 + |b|^2) / 2.

    The targets t are Platt's: of an attribute with p positive and q negative labels, (p + 1) / (p + 2) and 1 / (q + 2)
    instead of 1 and 0, so that right answers alone do not prove certainty. The squares are standard normal priors,
    which pull the scale of an attribute with few labels towards the common scale.

    Args:
        odds: Log-odds o of the attributes, (n, N).
        labels: (n, N), 0 or 1; anything else is unknown and left out.

    Reference:
        Platt, Probabilistic outputs for support vector machines, 1999: scale, shift and targets. Guo, Pleiss, Sun and
        Weinberger, On calibration of modern neural networks, ICML 2017: one scale for all outputs. The priors, which
        combine the two, are ours.
    """
    known = (labels == 0) | (labels == 1)
    if not known.any() or not odds[known].isfinite().all():
        return None
    odds = torch.where(known, odds.double(), 0.0)
    positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
    targets = torch.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2)).double()
    start = -odds[known].square().mean().clamp(min=1e-12).log() / 2  # where log-odds are of the order of 1
    common = start[None].clone().requires_grad_()
    own, shift = (torch.zeros(odds.shape[1], dtype=torch.float64, requires_grad=True) for _ in range(2))
    parameters = [common, own, shift]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        scaled = (common + own).exp() * odds + shift
        value = torch.where(known, softplus(scaled) - targets * scaled, 0.0).sum()
        value = value + sum(parameter.square().sum() for parameter in parameters) / 2
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
        scale = (common + own).exp()
    return Scaling(tuple(scale.tolist()), tuple(shift.tolist()), len(labels))
