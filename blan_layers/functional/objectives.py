r"""Objectives of a critic's logits, and the properties of each.

P is the joint distribution, Q the product of the marginals; p are logits of pairs from P, q are logits of pairs from Q,
and E is the mean over the given pairs. r = dP/dQ is the density ratio, I = E_P log r the mutual information, JS the
Jensen-Shannon divergence of P and Q. Values above the line are in nats, those below it in the unit of their divergence.

==================== ================================ ============================= ======================= ===========
name                 formula                          for every critic              best critic             at most
==================== ================================ ============================= ======================= ===========
bce_loss             E softplus(-p) + E softplus(q)   at least 2 log 2 - 2 JS       log r                   none
jsd_objective        2 log 2 - bce_loss               lower bound of 2 JS <= I      log r                   2 log 2
certificate [1]      of bce_loss / 2                  lower bound of I              log r                   none
dv_lower_bound       E p - log E e^q                  lower bound of I [2]          log r + any constant    none
mine_objective       the same, gradient corrected     lower bound of I [2]          log r + any constant    none
nwj_lower_bound      E p - E e^(q - 1)                lower bound of I              1 + log r               none
tuba_lower_bound     1 + E(p - b) - E e^(q - b)       lower bound of I              b + log r               none
infonce_lower_bound  log N + E log softmax(row)[own]  lower bound of I              log r + c per row       log N
alpha_lower_bound    tuba, its baseline mixed [3]     lower bound of I              b + log r               [3]
smile_estimate       E p - log E clip(e^q)            an estimate, no bound         log r                   none
club_upper_bound     ``E log p(y|x) - E log p(y'|x)`` upper bound of I [4]          the true conditional    none
E p                  E p                              an estimate, no bound         log r                   none
f-divergence: gan    -E softplus(-p) - E softplus(q)  lower bound of 2 JS - 2 log 2 log r                   0
f-divergence: jsd    jsd_objective                    lower bound of 2 JS <= I      log r                   2 log 2
f-divergence: kl     nwj_lower_bound                  lower bound of I              1 + log r               none
f-divergence: rkl    -E e^-p - E(q - 1)               lower bound of KL(Q, P)       log r                   none
-------------------- -------------------------------- ----------------------------- ----------------------- -----------
chi_squared          E p - E(q + q^2 / 4)             lower bound of E_Q (r - 1)^2  2 (r - 1)               none
squared_hellinger    E(1 - e^-p) - E(e^q - 1)         of E_Q (sqrt(r) - 1)^2        log(r) / 2              2
wasserstein          E p - E q                        an objective, no bound [5]    the steepest allowed    none
==================== ================================ ============================= ======================= ===========

[1] :func:`mutual_information_certificate`. [2] In the limit of many q: see its bias. [3] The baseline is (1 - a) e^b +
a m, where m is the mean of e^logit over N - 1 candidates. The maximum is 1 + log((N - 1) / a), or log(N - 1) for a = 1,
where the best critic is log r + one constant per row. [4] Only for the true conditional. [5] For 1-Lipschitz critics it
is a lower bound of the earth mover's distance between P and Q; for others it is unbounded.

Bias and variance at the best critic, with N independent pairs in each mean (a row of N candidates for infonce):

==================== =============================================================== ===================================
name                 bias as a measure of I                                          variance
==================== =============================================================== ===================================
bce, jsd, gan        downwards: 2 JS is about I / 2 where r is near 1, never > 1.386 small, of order 1 / N
certificate          downwards: about 0.72 I where r is near 1; raised by variance   that of bce / 2 times its slope^2
nwj, kl, tuba        none; but a typical batch shows more once I > log N             at least (e^I - 1) / N
dv, mine             upwards, by about half of that variance while that is small     about the same while that is small
infonce              downwards, I - log N and more where I > log N                   small, falls as I passes log N
alpha                between tuba's (a = 0) and infonce's (a = 1)                    between theirs
smile                of either sign, more as clip falls                              at most of order e^(2 clip) / N
club                 upwards, KL(Q, P)                                               of log r under P and under Q, / N
E p                  none                                                            of log r under P, / N
==================== =============================================================== ===================================

From the logits on, everything is computed in at least float32, with softplus, logsumexp, and exponentials that continue
along their tangent where they would overflow (from e^60 in float32).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from blan_layers import _checks
from blan_layers.functional._logits import counted_pairs, mean, softplus, steady_exp
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole

Divergence: TypeAlias = Literal["gan", "jsd", "kl", "rkl", "chi_squared", "squared_hellinger", "wasserstein"]
ObjectiveName: TypeAlias = Literal[
    "bce", "jsd", "nwj", "rkl", "chi_squared", "squared_hellinger", "wasserstein", "infonce", "dv", "mine"
]


@whole
def bce_loss(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Binary cross entropy of distinguishing real from fake pairs, to be minimised.

    ``mean softplus(-positive_logits) + mean softplus(negative_logits)``

    It is 2 log 2 for an uninformative critic. Half-precision logits give a float32 loss.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Logits are not floating-point tensors, or weights are neither boolean nor floating-point.
        ValueError: Logits are empty, or weights have the wrong shape, a negative value or no finite sum above zero.

    Reference:
        Zheng et al., "BLAN", Pattern Recognition 100, 2020, Eq. 5 and the text below it.

    Example:
        >>> import torch
        >>> bce_loss(torch.zeros(8), torch.zeros(8, 3))  # 2 log 2
        tensor(1.3863)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    return mean(softplus(-positive), positive_weights) + mean(softplus(negative), negative_weights)


@whole
def jsd_objective(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Jensen-Shannon objective of Deep InfoMax, to be maximised.

    ``2 log 2 - bce_loss(positive_logits, negative_logits)``

    For every critic it is a lower bound of twice the Jensen-Shannon divergence between the joint distribution and the
    product of the marginals. It is hence at most 2 log 2 = 1.386 nats, and also a lower bound of the mutual
    information.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Logits are not floating-point tensors, or weights are neither boolean nor floating-point.
        ValueError: Logits are empty, or weights have the wrong shape, a negative value or no finite sum above zero.

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        Eq. 4, shifted by 2 log 2 to make an uninformative critic score 0.

    Example:
        >>> import torch
        >>> jsd_objective(torch.full((4,), 20.0), torch.full((4,), -20.0))  # perfectly separated
        tensor(1.3863)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    fooled = mean(softplus(negative), negative_weights)
    return 2 * math.log(2) - mean(softplus(-positive), positive_weights) - fooled


@whole
def f_divergence_objective(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    divergence: Divergence,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Variational lower bound of an f-divergence between real and fake pairs, to be maximised.

    ``mean g(positive_logits) - mean f*(g(negative_logits))``, where f* is the convex conjugate of f, and the activation
    g maps any logit to the domain of f*:

    ==================  ====================================  ================  ================  ============
    divergence          f(u), of the ratio u of real to fake  g(v)              f*(g(v))          best logit v
    ==================  ====================================  ================  ================  ============
    gan                 u log u - (u + 1) log(u + 1)          -softplus(-v)     softplus(v)       log u
    jsd                 the same + (u + 1) log 2              the same + log 2  the same - log 2  log u
    kl                  u log u                               v                 e^(v - 1)         1 + log u
    rkl                 -log u                                -e^-v             v - 1             log u
    chi_squared         (u - 1)^2                             v                 v + v^2 / 4       2 (u - 1)
    squared_hellinger   (sqrt u - 1)^2                        1 - e^-v          e^v - 1           log(u) / 2
    ==================  ====================================  ================  ================  ============

    "jsd" is :func:`jsd_objective`, twice the Jensen-Shannon divergence. "kl" is :func:`nwj_lower_bound`, whose
    divergence is the mutual information. "wasserstein", ``mean positive_logits - mean negative_logits``, is not an
    f-divergence: it is bounded only for a 1-Lipschitz critic, by the earth mover's distance.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        divergence: A name from the table, or "wasserstein".
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Logits are not floating-point tensors, or weights are neither boolean nor floating-point.
        ValueError: Logits are empty, weights have the wrong shape, a negative value or no finite sum above zero, or
            ``divergence`` is unknown.

    Reference:
        Nowozin, Cseke, Tomioka, "f-GAN: Training generative neural samplers using variational divergence
        minimization", NeurIPS 2016, tables 1 and 2; Hjelm et al., ICLR 2019, appendix A.

    Example:
        >>> import torch
        >>> f_divergence_objective(torch.zeros(4), torch.zeros(4), divergence="squared_hellinger")
        tensor(0.)
    """
    terms = {record.divergence: record for record in OBJECTIVES.values() if record.divergence is not None}
    _checks.choice("divergence", divergence, tuple(terms))
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    record = terms[divergence]
    return mean(record.of_positive(positive), positive_weights) - mean(record.of_negative(negative), negative_weights)


def _exp(logits: Tensor, sign: int = 1, shift: float = 0.0) -> Tensor:
    return steady_exp(sign * at_least_float32(logits) + shift, logits.dtype)


def _pearson(logits: Tensor) -> Tensor:
    wide = at_least_float32(logits)
    return wide + wide.square() / 4


@dataclass(frozen=True)
class Objective:
    """What a critic is trained to maximise, and its properties.

    The objective of :func:`f_divergence_objective` is the mean of the first term minus the mean of the second.
    """

    of_positive: Callable[[Tensor], Tensor] = at_least_float32
    """g of a real pair's logit."""
    of_negative: Callable[[Tensor], Tensor] = at_least_float32
    """f*(g) of a fake pair's logit."""
    divergence: Divergence | None = None
    """Its name among the divergences."""
    log_ratio_behind: float | None = None
    """How far its best critic is above the log density ratio, if the two differ by a constant."""
    each: Literal["location", "candidates", "batch"] = "location"
    """What a value belongs to: a location of a pair, a location among all candidates, or all pairs together."""


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "bce": Objective(lambda p: -softplus(-p), softplus, "gan", log_ratio_behind=0.0),
    "jsd": Objective(
        lambda p: math.log(2) - softplus(-p), lambda q: softplus(q) - math.log(2), "jsd", log_ratio_behind=0.0
    ),
    "nwj": Objective(at_least_float32, lambda q: _exp(q, shift=-1.0), "kl", log_ratio_behind=1.0),
    "rkl": Objective(lambda p: -_exp(p, sign=-1), lambda q: at_least_float32(q) - 1, "rkl", log_ratio_behind=0.0),
    "chi_squared": Objective(at_least_float32, _pearson, "chi_squared"),
    "squared_hellinger": Objective(lambda p: 1 - _exp(p, sign=-1), lambda q: _exp(q) - 1, "squared_hellinger"),
    "wasserstein": Objective(divergence="wasserstein"),
    "infonce": Objective(each="candidates"),
    "dv": Objective(each="batch"),
    "mine": Objective(each="batch"),
}
"""Every objective of the losses. A new one needs a record here, a twin in ``reference`` and a row in the table."""
