"""Critics without training: kernel density estimates around known pairs, for few columns or for lengths."""

from typing import NamedTuple

import torch
from torch import Tensor

from blan_layers.estimation.gaussian import GaussianCritic

BANDWIDTHS = (0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6)
MOST_COLUMNS = 6
"""Columns of x and y together beyond which kernels have almost no neighbours."""
MOST_PAIRS = 4096
"""Maximum number of known pairs."""

_FLOOR = 0.02  # weight of independence in the mixture
_LEAST = -30.0  # exponent: products of two are still normal float32 numbers


class KernelCritic(NamedTuple):
    r"""The log of the ratio of densities by Gaussian kernels, mixed with independence.

    :math:`\log((1 - e) n \sum_t a_t(x) b_t(y) + e)`, where a and b are the normalised kernels around the known pairs t.
    """

    x: Tensor
    y: Tensor
    bandwidth: float

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        near_x, near_y = self._kernel(x, self.x), self._kernel(y, self.y)
        return torch.log_((near_x @ near_y.T).mul_((1 - _FLOOR) * len(self.x)).add_(_FLOOR))

    def _kernel(self, values: Tensor, known: Tensor) -> Tensor:
        distance = values.square().sum(1, keepdim=True) + known.square().sum(1) - 2 * values @ known.T
        exponent = distance.mul_(-0.5 / self.bandwidth**2)
        near = exponent.sub_(exponent.amax(1, keepdim=True)).clamp_(min=_LEAST).exp_()
        normalised: Tensor = near.div_(near.sum(1, keepdim=True))
        return normalised


class Lengths(NamedTuple):
    """The distances of rows from the centre, in units of their covariance, as normal scores.

    The distance is the cubic norm: it compensates for the tails that ranks shorten, so that they count as much as in
    the squared norm of a t distribution.
    """

    critic: GaussianCritic
    known: tuple[Tensor, Tensor]

    def of(self, side: int, values: Tensor) -> Tensor:
        """Return the lengths (n, 1) of x (side 0) or y (side 1)."""
        length, known = _length(self.critic, side, values), self.known[side]
        rank = (torch.searchsorted(known, length) + torch.searchsorted(known, length, right=True) + 1).float() / 2
        scores: Tensor = torch.special.ndtri(rank / (len(known) + 1))
        return scores[:, None].float()


def fit_lengths(critic: GaussianCritic, x: Tensor, y: Tensor) -> Lengths:
    """Return the lengths, ranked by the given pairs."""
    return Lengths(critic, (_length(critic, 0, x).sort().values, _length(critic, 1, y).sort().values))


def _length(critic: GaussianCritic, side: int, values: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm((values.double() - critic.mean[side]) @ critic.white[side], 3, dim=1)
    return length
