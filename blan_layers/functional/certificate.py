r"""What a binary cross entropy alone certifies of mutual information.

Let P be the joint distribution, Q the product of the marginals, and u = dP/dQ. The mean binary cross entropy h of any
critic that tells pairs of P from pairs of Q, drawn equally often, is at least log 2 - JS(P, Q). So JS >= log 2 - h, and
what is wanted is the least mutual information I = KL(P, Q) that goes with a Jensen-Shannon divergence.

Both are means under Q, of u log u and of (u log u - (u + 1) log((u + 1) / 2)) / 2. Take any slope c and

    g(u) = u log u - c (u log u - (u + 1) log((u + 1) / 2)) / 2,      g''(u) = (u + 1 - c / 2) / (u (u + 1)).

KL - c JS = E_Q g(u) with E_Q u = 1, so that by Jensen's inequality it is at least the convex envelope of g at 1. For
c > 2, g is concave up to c / 2 - 1 and convex from there: its envelope is the line through (0, g(0)) that touches the
graph, up to where it does, and the graph beyond. Where they touch at 1 / s with s <= 1, the envelope at 1 is reached by
a u that is 1 / s with probability s and 0 otherwise: P = (1, 0), Q = (s, 1 - s). As c goes from 2 / log 2 up, s goes
through all of (0, 1], so that these pairs make the whole lower edge of the joint range. With s = 1 - t they are

    I = -log s,      h = log 2 - JS = ((1 + s) log(1 + s) - s log s) / 2,      dh / dI = -s log(1 + 1 / s) / 2.

h falls from log 2 at I = 0 towards 0, and the certificate is its inverse, a convex function. Two copies of one variable
that takes k values equally often have u = k or 0: there, with I = log k, it is attained.

The inverse is found in float64 by Newton's method on log h as a function of I. That is concave: its slope -1 / (1 + q)
with q = log(1 + s) / (s log(1 + 1 / s)) falls as I grows, since log q rises with s,

    s (1 + s) (log q)' = s / log(1 + s) + 1 / log(1 + 1 / s) - (1 + s) >= sqrt(1 + s) (1 + sqrt s) - (1 + s) >= 0

(a logarithmic mean is no less than the geometric one). So the step from I = 0 lands beyond the solution, and every
later one between the last and the solution: no bracket is needed.
"""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._logits import softplus
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole

_STEPS = 8  # two more than bring every float64 to its last digits


@whole
def mutual_information_certificate(mean_bce: Tensor) -> Tensor:
    r"""Lower bound of the mutual information in nats that a mean binary cross entropy certifies.

    The I >= 0 that solves ``mean_bce = ((1 + s) log(1 + s) - s log s) / 2`` with ``s = exp(-I)``, the least that goes
    with the Jensen-Shannon divergence ``log 2 - mean_bce``; 0 from log 2 on.

    ``mean_bce`` is the **mean** of the two halves, log 2 for an uninformative critic: half of :func:`bce_loss`,
    which is their sum. The bound holds for every critic, where the mean is over pairs that the critic was not fitted
    to, and is attained: two copies of a variable that takes k values equally often have log k. It is convex in the
    mean, so that the variance of a few pairs raises it: take the mean over all pairs first.

    Differentiable any number of times, with the slope ``-2 exp(I) / log(1 + exp(I))`` below log 2 and 0 above; at a
    mean of 0 it is infinite and has no gradient.

    Args:
        mean_bce: Mean binary cross entropy in nats, over as many real as fake pairs or half of either mean.

    Shape:
        Any shape -> the same.

    Raises:
        TypeError: ``mean_bce`` is not a floating-point tensor.
        ValueError: ``mean_bce`` is below 0 somewhere, looked at in eager mode alone.

    Reference:
        Harremoes and Vajda, "On pairs of f-divergences and their joint range", IEEE Transactions on Information Theory
        57, 2011; derived in the module's docstring.

    Example:
        >>> import torch
        >>> mutual_information_certificate(torch.tensor([0.8, 0.5, 0.1, 0.01]))
        tensor([0.0000, 0.6121, 3.0024, 5.8342])
    """
    _checks.floating("mean_bce", mean_bce)
    if _checks.reads_values(mean_bce) and bool((mean_bce < 0).any()):
        raise ValueError(
            said(
                f"mean_bce must be at least 0, got {mean_bce.min().item():g}. "
                "Pass bce_loss(positive_logits, negative_logits) / 2."
            )
        )
    exact = mean_bce.to(torch.float64)
    target = exact.clamp(max=math.log(2)).log()
    information = 2 * (math.log(math.log(2)) - target)  # the step from 0, where the slope is -1/2
    for _ in range(_STEPS):
        s = torch.exp(-information.clamp(max=700))  # above zero, where log(1 + s) / s is 1 long since
        rest = (1 + s) * torch.log1p(s) / s + information  # twice the cross entropy, over s
        excess = rest.log() - information - math.log(2) - target
        information = information + excess * rest / softplus(information)
    certificate = torch.where(exact == 0, math.inf, information.clamp(min=0))
    return certificate.to(at_least_float32(mean_bce).dtype)
