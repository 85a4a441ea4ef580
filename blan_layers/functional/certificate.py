r"""The lower bound of mutual information that a binary cross entropy certifies.

Let P be the joint distribution, Q the product of the marginals, and u = dP/dQ. The mean binary cross entropy h of any
critic that classifies pairs from P and Q, drawn equally often, is at least log 2 - JS(P, Q). So JS >= log 2 - h, and we
need the smallest mutual information I = KL(P, Q) for a given Jensen-Shannon divergence.

Both are means under Q: of u log u, and of (u log u - (u + 1) log((u + 1) / 2)) / 2. For any slope c let

    g(u) = u log u - c (u log u - (u + 1) log((u + 1) / 2)) / 2,      g''(u) = (u + 1 - c / 2) / (u (u + 1)).

Then KL - c JS = E_Q g(u) with E_Q u = 1, so that by Jensen's inequality it is at least the convex envelope of g at 1.
For c > 2, g is concave up to c / 2 - 1 and convex beyond. Its envelope is the tangent line through (0, g(0)) up to the
point of tangency, and the graph of g beyond. If this point is 1 / s with s <= 1, the envelope at 1 is attained by a u
that is 1 / s with probability s and 0 otherwise: P = (1, 0), Q = (s, 1 - s). As c increases from 2 / log 2, s takes all
values in (0, 1], so that these pairs form the whole lower edge of the joint range. With s = 1 - t they are

    I = -log s,      h = log 2 - JS = ((1 + s) log(1 + s) - s log s) / 2,      dh / dI = -s log(1 + 1 / s) / 2.

h decreases from log 2 at I = 0 towards 0, and the certificate is its inverse, a convex function. It is attained with I
= log k by two copies of a variable that takes k values equally often, where u is k or 0.

The inverse is computed in float64 by Newton's method on log h as a function of I. This function is concave: its slope
-1 / (1 + q) with q = log(1 + s) / (s log(1 + 1 / s)) decreases as I grows, since log q increases with s,

    s (1 + s) (log q)' = s / log(1 + s) + 1 / log(1 + 1 / s) - (1 + s) >= sqrt(1 + s) (1 + sqrt s) - (1 + s) >= 0

(a logarithmic mean is at least the geometric mean). So the step from I = 0 overshoots the solution, and every later
step lands between the previous one and the solution: no bracket is needed.
"""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._logits import softplus
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole

_STEPS = 8  # two more than every float64 needs to converge


@whole
def mutual_information_certificate(mean_bce: Tensor) -> Tensor:
    r"""Lower bound of the mutual information in nats that a mean binary cross entropy certifies.

    This is the I >= 0 that solves ``mean_bce = ((1 + s) log(1 + s) - s log s) / 2`` with ``s = exp(-I)``, the smallest
    information compatible with a Jensen-Shannon divergence of ``log 2 - mean_bce``. It is 0 for a ``mean_bce`` of log 2
    or more.

    ``mean_bce`` is the **mean** of the terms of real and fake pairs, log 2 for an uninformative critic. It is half of
    :func:`bce_loss`, which is their sum. The bound holds for every critic, if the mean is over pairs that the critic
    was not fitted to. It is tight: two copies of a variable that takes k values equally often attain log k. It is
    convex in the mean, so that variance from few pairs raises it: take the mean over all pairs first.

    It is differentiable any number of times, with slope ``-2 exp(I) / log(1 + exp(I))`` below log 2 and 0 above. At a
    mean of 0 it is infinite and has no gradient.

    Args:
        mean_bce: Mean binary cross entropy in nats, in which real and fake pairs have equal total weight.

    Shape:
        Any shape -> the same.

    Raises:
        TypeError: ``mean_bce`` is not a floating-point tensor.
        ValueError: A value of ``mean_bce`` is below 0 (checked only in eager mode).

    Reference:
        Harremoes and Vajda, "On pairs of f-divergences and their joint range", IEEE Transactions on Information Theory
        57, 2011; derivation in the module's docstring.

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
        s = torch.exp(-information.clamp(max=700))  # above zero; log(1 + s) / s is already 1 there
        rest = (1 + s) * torch.log1p(s) / s + information  # twice the cross entropy, over s
        excess = rest.log() - information - math.log(2) - target
        information = information + excess * rest / softplus(information)
    certificate = torch.where(exact == 0, math.inf, information.clamp(min=0))
    return certificate.to(at_least_float32(mean_bce).dtype)
