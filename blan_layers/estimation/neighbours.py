"""Mutual information in nats from distances to the nearest neighbours."""

import math

import torch
from torch import Tensor

MOST_ROWS = 5000
"""Maximum number of rows, since distances are between all pairs of rows."""

_AT_ONCE = 500


def nearest_neighbours(x: Tensor, y: Tensor, k: int = 3, discrete: tuple[bool, bool] = (False, False)) -> Tensor:
    r"""Return a term for each row, (n,), whose mean is the estimate in nats.

    The estimate is that of Kraskov et al., or of Gao et al. for tied values and categories.

    Let :math:`\rho_i` be the distance from pair i to its k-th neighbour, in the maximum norm over all columns of x and
    y, and :math:`n_x` and :math:`n_y` the numbers of rows that are nearer than that in x alone and in y alone. Then
    :math:`I = \psi(k) + \psi(n) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle`. Where :math:`\rho_i` is 0, all rows
    at this distance are counted, also in place of k. Different categories are infinitely far apart; a row with fewer
    than k others of its category uses those it has.

    Args:
        x: Numbers (n, d), or codes of categories.
        y: Numbers (n, d'), or codes.
        k: Number of neighbours.
        discrete: Whether x and y are codes.

    Reference:
        Kraskov, Stögbauer, Grassberger, "Estimating mutual information", Physical Review E 69, 2004 (the first of two
        estimators); Ross, "Mutual information between discrete and continuous data sets", PLoS ONE 9, 2014; Gao et
        al., "Estimating mutual information for discrete-continuous mixtures", NeurIPS 2017.
    """
    rows, found = len(x), []
    for start in range(0, rows, _AT_ONCE):
        stop = min(start + _AT_ONCE, rows)
        far_x, far_y = (_distances(side, start, stop, codes) for side, codes in zip((x, y), discrete, strict=True))
        joint = torch.maximum(far_x, far_y)
        nearest = joint.topk(k, largest=False).values
        met = nearest.isfinite().sum(1)
        reach = nearest.nan_to_num(posinf=-1.0).amax(1, keepdim=True)
        tied = reach == 0
        near_x, near_y, near = (((d < reach) | (tied & (d == 0))).sum(1) for d in (far_x, far_y, joint))
        count = torch.where(tied[:, 0], near, met)
        terms = torch.digamma(count.double()) - torch.digamma(near_x.double() + 1) - torch.digamma(near_y.double() + 1)
        found.append((terms + torch.digamma(torch.tensor(float(rows), dtype=torch.float64))).where(met > 0, 0.0))
    return torch.cat(found)


def _distances(side: Tensor, start: int, stop: int, codes: bool) -> Tensor:
    """Return the distances (m, n) of the given rows to all rows; a row is infinitely far from itself."""
    if codes:
        differs = (side[start:stop, None] != side).any(-1)
        far = torch.zeros(differs.shape, dtype=torch.float64).masked_fill_(differs, math.inf)
    else:
        far = torch.cdist(side[start:stop].double(), side.double(), p=math.inf)
    far[torch.arange(stop - start), torch.arange(start, stop)] = math.inf
    return far
