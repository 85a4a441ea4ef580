"""Bounds and estimates of mutual information from logits of real and of fake pairs."""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._logits import counted, counted_pairs, log_mean_exp, mean, steady_exp
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole

CLIP = 5.0
"""The default clip of SMILE, from its authors."""


@whole
def dv_lower_bound(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Donsker and Varadhan's lower bound of the mutual information in nats, to be maximised.

    ``mean positive_logits - log mean exp(negative_logits)``

    Tight for the log density ratio plus any constant. A lower bound only in the limit of many negatives: the log of the
    mean over a batch is biased, which biases the value upwards, and the gradient too (see :func:`mine_objective`).

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
        Belghazi et al., "Mutual information neural estimation", ICML 2018, theorem 1.

    Example:
        >>> import torch
        >>> dv_lower_bound(torch.full((4,), 3.0), torch.full((4, 2), 1.0))
        tensor(2.)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    return mean(positive, positive_weights) - log_mean_exp(negative, negative_weights)


@whole
def nwj_lower_bound(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Nguyen, Wainwright and Jordan's lower bound of the mutual information in nats, to be maximised.

    ``mean positive_logits - mean exp(negative_logits - 1)``, also called f-GAN KL and MINE-f.

    Unbiased, and tight for one plus the log density ratio. Its variance grows exponentially with the information.

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
        Nguyen, Wainwright, Jordan, "Estimating divergence functionals and the likelihood ratio by convex risk
        minimization", 2010; Poole et al., "On variational bounds of mutual information", ICML 2019, section 2.2.

    Example:
        >>> import torch
        >>> nwj_lower_bound(torch.ones(4), torch.ones(4, 2))  # an uninformative critic
        tensor(0.)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    exponentials = steady_exp(at_least_float32(negative) - 1, negative.dtype)
    return mean(positive, positive_weights) - mean(exponentials, negative_weights)


@whole
def tuba_lower_bound(
    positive_logits: Tensor,
    negative_logits: Tensor,
    log_baseline: Tensor | float,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Tractable unnormalised Barber-Agakov lower bound of the mutual information in nats, to be maximised.

    ``1 + mean(positive_logits - log_baseline) - mean exp(negative_logits - log_baseline)``

    An unbiased lower bound for every baseline, tight for the log density ratio plus the log baseline. With the constant
    log baseline 1 it is :func:`nwj_lower_bound`; with the log of the mean of exp(negative_logits) it is
    :func:`dv_lower_bound`.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        log_baseline: Log of the baseline: a number, or a tensor that broadcasts to both the positive and the negative
            scores and depends on only one side of the pairs.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Logits or a tensor ``log_baseline`` are not floating-point, weights are neither boolean nor
            floating-point, or ``log_baseline`` is neither a number nor a tensor.
        ValueError: Logits are empty, weights have the wrong shape, a negative value or no finite sum above zero, or
            ``log_baseline`` does not broadcast to the logits.

    Reference:
        Poole et al., "On variational bounds of mutual information", ICML 2019, section 2.2.

    Example:
        >>> import torch
        >>> tuba_lower_bound(torch.zeros(4), torch.zeros(4, 2), log_baseline=0.0)  # an uninformative critic
        tensor(0.)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    positive = counted(_less("positive_logits", positive, log_baseline), positive_weights)
    negative = counted(_less("negative_logits", negative, log_baseline), negative_weights)
    exponentials = steady_exp(negative, negative_logits.dtype)
    return 1 + mean(positive, positive_weights) - mean(exponentials, negative_weights)


@whole
def smile_estimate(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    clip: float = CLIP,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Smoothed mutual information lower-bound estimate in nats: Donsker-Varadhan with clipped negatives.

    ``mean positive_logits - log mean clip(exp(negative_logits), exp(-clip), exp(clip))``

    Despite its name it is not a bound: clipping can raise it above the information without limit. It is meant for
    measuring with a critic trained by :func:`jsd_objective`, and should not be maximised itself. Its best critic is the
    log density ratio, without an added constant.

    Args:
        positive_logits: Scores of real pairs.
        negative_logits: Scores of fake pairs.
        clip: Absolute value at which negative logits are clipped, above zero; infinity gives :func:`dv_lower_bound`.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Logits are not floating-point tensors, weights are neither boolean nor floating-point, or ``clip`` is
            not a number.
        ValueError: Logits are empty, weights have the wrong shape, a negative value or no finite sum above zero, or
            ``clip`` is not above zero.

    Reference:
        Song and Ermon, "Understanding the limitations of variational mutual information estimators", ICLR 2020,
        section 5.

    Example:
        >>> import torch
        >>> smile_estimate(torch.full((4,), 3.0), torch.full((4,), 9.0), clip=1.0)
        tensor(2.)
    """
    positive, negative = counted_pairs(positive_logits, negative_logits, positive_weights, negative_weights)
    clip = _checks.number("clip", clip, CLIP)
    if not clip > 0:
        raise ValueError(said(f"clip must be above zero, got {clip!r}. Pass, for example, 5.0."))
    negative = at_least_float32(negative)
    limit = clip if clip <= torch.finfo(negative.dtype).max else math.inf
    return mean(positive, positive_weights) - log_mean_exp(negative.clamp(-limit, limit), negative_weights)


@whole
def club_upper_bound(
    positive_log_likelihood: Tensor,
    negative_log_likelihood: Tensor,
    *,
    positive_weights: Tensor | None = None,
    negative_weights: Tensor | None = None,
) -> Tensor:
    r"""Contrastive log-ratio upper bound of the mutual information in nats, to be minimised.

    ``mean log p(y | x) over real pairs - mean log p(y | x) over fake pairs``

    This is an upper bound only for the **true** conditional distribution. It then exceeds the information by KL(product
    of the marginals, joint distribution). With a model q(y | x), fitted separately by maximising the mean
    log-likelihood of real pairs, it is an estimate. It remains a bound while KL(joint, q(y | x) p(x)) is at most
    KL(product, q(y | x) p(x)). :class:`~blan_layers.CLUB` contains such a model, a normal distribution.

    Args:
        positive_log_likelihood: log q(y | x) of real pairs, normalised over y.
        negative_log_likelihood: log q(y | x) of fake pairs.
        positive_weights: Boolean or non-negative weights of the positive scores, for a weighted mean.
        negative_weights: Likewise for the negative scores.

    Shape:
        Any two shapes, averaged separately; weights of the shapes of their scores -> scalar.

    Raises:
        TypeError: Log-likelihoods are not floating-point tensors, or weights are neither boolean nor floating-point.
        ValueError: Log-likelihoods are empty, or weights have the wrong shape, a negative value or no finite sum above
            zero.

    Reference:
        Cheng et al., "CLUB: A contrastive log-ratio upper bound of mutual information", ICML 2020, section
        3, theorems 3.1 and 3.2.

    Example:
        >>> import torch
        >>> club_upper_bound(torch.full((4,), -1.0), torch.full((4, 2), -3.0))
        tensor(2.)
    """
    scores = positive_log_likelihood, negative_log_likelihood
    positive, negative = counted_pairs(*scores, positive_weights, negative_weights, noun="log_likelihood")
    return mean(positive, positive_weights) - mean(negative, negative_weights)


def _less(name: str, logits: Tensor, log_baseline: Tensor | float) -> Tensor:
    """Return the logits minus the baseline, which must broadcast to their shape."""
    logits = at_least_float32(logits)
    if not isinstance(log_baseline, Tensor):
        return logits - _checks.number("log_baseline", log_baseline, 0.0)
    _checks.floating("log_baseline", log_baseline)
    fits = log_baseline.ndim <= logits.ndim and all(
        size in (1, wanted) for size, wanted in zip(log_baseline.shape[::-1], logits.shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            said(
                f"log_baseline must broadcast to {name}, got shapes {_checks.shape(log_baseline)} and "
                f"{_checks.shape(logits)}. Subtract it from the logits yourself, and pass log_baseline=0.0."
            )
        )
    return logits - log_baseline
