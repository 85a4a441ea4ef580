r"""Mutual information by canonical correlation: from all pairs at once, and as a critic for unseen pairs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""Candidate shares of the chance level that are subtracted from squared correlations."""

_RIDGE = 1e-6
_LEAST_VARIANCE = 1e-12  # of columns in units of their own scale; a rare value may be missing from the fitted rows
_LARGEST = 1 - 1e-12

LEAST_LOGIT = -50.0
"""Lowest logit whose exponential is still a normal float32 number, also after a softmax."""


def canonical_correlation(x: Tensor, y: Tensor) -> float:
    r"""Return :math:`-\frac12 \sum \log(1 - \rho_i^2)` over canonical correlations, in nats, corrected for few rows.

    For n rows and d columns of Gaussians, the log determinant of the sample covariance is too small by :math:`d \log(m
    / 2) - \sum_{i=1}^d \psi((m + 1 - i) / 2)`, m = n - 1, on average.

    Reference:
        Misra, Singh, Demchuk, "Estimation of the entropy of a multivariate normal distribution", Journal of
        Multivariate Analysis 92, 2005.
    """
    x, y = x.double(), y.double()
    free = len(x) - 1
    values = 0.0
    for sign, part in ((1, x), (1, y), (-1, torch.cat([x, y], 1))):
        width = part.shape[1]
        determinant = torch.linalg.eigvalsh(torch.cov(part.T).reshape(width, width)).clamp(min=1e-15).log().sum()
        halves = (free - torch.arange(width, dtype=torch.float64)) / 2
        values += sign * (determinant.item() + width * math.log(free / 2) - torch.digamma(halves).sum().item()) / 2
    return values


class GaussianCritic(NamedTuple):
    """The log density ratio of Gaussians, in canonical variables."""

    mean: tuple[Tensor, Tensor]
    turn: tuple[Tensor, Tensor]
    """Maps from columns to canonical variables, (d, r) and (d', r)."""
    white: tuple[Tensor, Tensor]
    """Maps from columns to whitened columns, (d, d) and (d', d')."""
    correlations: Tensor
    """Sample correlations of the r canonical variables."""
    chance: tuple[float, float]
    """The numbers of columns of x and y, divided by the number of rows."""
    kept: Tensor
    """The shrunk correlations that the logits use."""

    def shrunk(self, share: float) -> "GaussianCritic":
        r"""Return the critic with :math:`\sqrt{\rho^2 - s (\sqrt{d / n} + \sqrt{d' / n})^2}`, or 0 below that.

        The sum of the two roots is the largest sample correlation between independent Gaussians.
        """
        largest = (math.sqrt(self.chance[0]) + math.sqrt(self.chance[1])) ** 2
        kept = (self.correlations.square() - share * largest).clamp(0, _LARGEST**2).sqrt()
        return self._replace(kept=kept)

    def truncated(self, count: int) -> "GaussianCritic":
        """Return the critic without all but the largest ``count`` of its correlations."""
        return self._replace(kept=torch.cat([self.kept[:count], torch.zeros_like(self.kept[count:])]))

    def canonical(self, side: int, values: Tensor) -> Tensor:
        """Return the canonical variables of x (side 0) or y (side 1)."""
        return (values - self.mean[side]) @ self.turn[side]

    def encode(self, side: int, values: Tensor) -> Tensor:
        """Return the codes (n, r + 2) whose inner products are the logits."""
        u, rho = self.canonical(side, values), self.kept
        across, along = rho / (1 - rho**2), rho**2 / (1 - rho**2) / 2
        one, square = torch.ones_like(u[:, :1]), -(u.square() @ along)[:, None]
        if side:
            return torch.cat([u, square, one], 1)
        return torch.cat([u * across, one, square - torch.log1p(-(rho**2)).sum() / 2], 1)

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        return (self.encode(0, x.double()) @ self.encode(1, y.double()).T).clamp_(min=LEAST_LOGIT).float()


def fit_gaussian(x: Tensor, y: Tensor) -> GaussianCritic:
    """Return the critic fitted to the pairs, without shrinkage."""
    (mean_x, white_x), (mean_y, white_y) = _whitening(x.double()), _whitening(y.double())
    across = ((x - mean_x) @ white_x).T @ ((y - mean_y) @ white_y) / len(x)
    left, correlations, right = torch.linalg.svd(across, full_matrices=False)
    chance = x.shape[1] / len(x), y.shape[1] / len(x)
    turn = white_x @ left, white_y @ right.T
    return GaussianCritic((mean_x, mean_y), turn, (white_x, white_y), correlations, chance, correlations).shrunk(0.0)


def _whitening(values: Tensor) -> tuple[Tensor, Tensor]:
    mean = values.mean(0)
    spectrum, axes = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    least = max(_RIDGE * spectrum.amax().item(), _LEAST_VARIANCE)
    return mean, axes / spectrum.clamp(min=least).sqrt() @ axes.T
