"""Upper ends of intervals around entropy and information of categories, from their counts."""

import math
from statistics import NormalDist

import numpy as np

from blan_layers.estimation.arrays import Array

LEVEL = 0.05
"""Level of the test and of the interval."""

TAIL = NormalDist().inv_cdf(1 - LEVEL / 2)


def entropy_at_most(column: Array, rows: float) -> float:
    r"""Return the upper end for the entropy of a column, in nats, from so many independent rows.

    The entropy of the observed shares has the standard error of :math:`-\log p` and is too small by a multiple,
    :math:`1 / 2 n`, of a chi-squared variable with as many degrees of freedom as categories, less one.
    """
    shares = np.unique(column, return_counts=True)[1] / len(column)
    entropy = -(shares * np.log(shares)).sum()
    error = math.sqrt(max((shares * np.log(shares) ** 2).sum() - entropy**2, 0.0) / rows)
    return float(min(entropy + TAIL * error + _chance(len(shares) - 1, rows), math.log(len(shares))))


def information_at_most(x: Array, y: Array) -> float:
    r"""Return the upper end for the information of two arrays of categories, in nats, from independent rows (n, d).

    The information of the observed shares has the standard error of :math:`\log p(x, y) / p(x) p(y)` and is on average
    too large by :math:`f / 2 n`, the mean of a chi-squared variable with :math:`f = (|x| - 1) (|y| - 1)` degrees of
    freedom, from which it may differ to either side.

    Reference:
        Miller, "Note on the bias of information estimates", in: Information Theory in Psychology, 1955.
    """
    left, right = (np.unique(side, axis=0, return_inverse=True)[1].reshape(-1) for side in (x, y))
    joint = np.unique(left * (right.max() + 1) + right, return_inverse=True)[1].reshape(-1)
    of_left, of_right, of_both = (np.bincount(codes)[codes].astype(float) for codes in (left, right, joint))
    terms = np.log(len(joint) * of_both / (of_left * of_right))
    freedom, rows = int(left.max()) * int(right.max()), len(joint)
    observed = max(terms.mean() - freedom / 2 / rows, 0.0)
    return float(observed + TAIL * terms.std() / math.sqrt(rows) + _chance(freedom, rows))


def _chance(freedom: int, rows: float) -> float:
    r"""Return the upper end of :math:`1 / 2 n` times a chi-squared variable."""
    return (math.sqrt(freedom) + TAIL / math.sqrt(2)) ** 2 / 2 / rows
