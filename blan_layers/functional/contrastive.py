"""Contrastive losses and lower bounds of mutual information, from the logits of all pairs of a batch."""

import math

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._logits import check_weights, counted, log_of, mean, scaled, steady_exp
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole


@whole
def infonce_lower_bound(logits: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Contrastive lower bound of the mutual information in nats, to be maximised.

    ``log N + mean_i log_softmax(logits[i])[i]``

    A row contains the scores of one item with N candidates; its own candidate is on the diagonal. The mean over batches
    is a lower bound for every critic and never exceeds log N. Its variance is small. Transpose the logits to identify
    the item of each candidate instead.

    Args:
        logits: Score of each item (rows) with each candidate (columns).
        weights: Boolean or non-negative weights of the items, for a weighted mean.

    Shape:
        logits (\*, N, N) with N >= 2, averaged over the leading axes; weights (\*, N) -> scalar.

    Raises:
        TypeError: ``logits`` is not a floating-point tensor, or ``weights`` is neither boolean nor floating-point.
        ValueError: ``logits`` is not square, is empty or has fewer than 2 items, or ``weights`` has the wrong shape, a
            negative value or no finite sum above zero.

    Reference:
        van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", 2018, Eq. 4; Poole et
        al., "On variational bounds of mutual information", ICML 2019, section 2.3.

    Example:
        >>> import torch
        >>> infonce_lower_bound(torch.eye(4) * 1e4)  # log 4
        tensor(1.3863)
    """
    logits = _counted_square(logits, weights)
    own = at_least_float32(logits).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    return log_of(logits.shape[-1], own) + mean(own, weights)


@whole
def alpha_lower_bound(
    logits: Tensor, log_baseline: Tensor | float, *, alpha: float, weights: Tensor | None = None
) -> Tensor:
    r"""Lower bound of the mutual information in nats between TUBA (alpha 0) and InfoNCE (alpha 1), to be maximised.

    ``1 + mean_{i, j != i} (logits[i, i] - c[i, j]) - mean_{i, j != i} exp(logits[i, j] - c[i, i])``, where
    ``c[i, j] = log((1 - alpha) exp(log_baseline) + alpha mean_{k != j} exp(logits[i, k]))``

    Leaving one candidate out keeps the bound exact: for real pairs the mean includes the item's own candidate among its
    N - 1, for fake pairs it does not. The bound never exceeds 1 + log((N - 1) / alpha). A small alpha has low bias and
    high variance, a large alpha the opposite. With alpha 0 it is :func:`tuba_lower_bound` of the diagonal and the other
    logits; with alpha 1 it is :func:`infonce_lower_bound` with N - 1 candidates, averaged over the one left out.

    Args:
        logits: Score of each item (rows) with each candidate (columns).
        log_baseline: Log of the baseline: a number, or a tensor with one value per item.
        alpha: Weight of the candidates' mean, in [0, 1].
        weights: Boolean or non-negative weights of the items, for a weighted mean.

    Shape:
        logits (\*, N, N) with N >= 2, averaged over the leading axes; log_baseline (\*, N), weights (\*, N) -> scalar.

    Raises:
        TypeError: ``logits`` or a tensor ``log_baseline`` are not floating-point, ``weights`` is neither boolean nor
            floating-point, or ``alpha`` or ``log_baseline`` is not a number.
        ValueError: ``logits`` is not square, is empty or has fewer than 2 items, ``weights`` or ``log_baseline`` has
            the wrong shape, or ``alpha`` is not in [0, 1].

    Reference:
        Poole et al., "On variational bounds of mutual information", ICML 2019, section 2.4.

    Example:
        >>> import torch
        >>> alpha_lower_bound(torch.zeros(4, 4), 0.0, alpha=0.5)  # an uninformative critic
        tensor(0.)
    """
    logits = _counted_square(logits, weights)
    alpha = _checks.number("alpha", alpha, 0.5)
    if not 0 <= alpha <= 1:
        raise ValueError(said(f"alpha must be from 0 to 1, got {alpha!r}. Pass, for example, 0.5."))
    wide, items = at_least_float32(logits), logits.shape[-1]
    mixed = _mixed(_per_item(log_baseline, wide, weights), _log_mean_of_others(wide), alpha)
    own, left_out = (x.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) for x in (wide, mixed))
    others = 1 - torch.eye(items, dtype=wide.dtype, device=wide.device)
    pairs = others.expand_as(wide) if weights is None else others * scaled(weights, wide.dtype).unsqueeze(-1)
    return 1 + mean(own - mixed, pairs) - mean(steady_exp(wide - left_out, logits.dtype), pairs)


@whole
def supervised_contrastive_loss(
    logits: Tensor, positives: Tensor, *, candidates: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    r"""Supervised contrastive loss with several positives per item, averaged outside the log; to be minimised.

    ``-mean_i mean_{p in P(i)} log(exp(logits[i, p]) / sum_{a in A(i)} exp(logits[i, a]))``

    P(i) are the positives of item i, and A(i) its candidates. The loss is log N for an uninformative critic with N
    candidates. With one positive per item it is the loss of InfoNCE and NT-Xent. For a batch z of unit vectors with
    labels, the paper's loss has the logits ``z @ z.T / temperature``, and no item is its own candidate: the candidates
    are ``others = ~torch.eye(len(z), dtype=torch.bool)``, the positives ``(labels[:, None] == labels) & others``.

    Args:
        logits: Score of each item (rows) with each candidate (columns).
        positives: Boolean: which candidates are positives of each item.
        candidates: Boolean: which columns are candidates of each item; None means all. They must include the positives.
        weights: Boolean or non-negative weights of the items, for a weighted mean; items without positives need weight
            zero.

    Shape:
        logits, positives and candidates (N, M), weights (N,) -> scalar.

    Raises:
        TypeError: ``logits`` is not a floating-point tensor, ``positives`` or ``candidates`` is not a boolean tensor,
            or ``weights`` is neither boolean nor floating-point.
        ValueError: ``logits`` is not (N, M) or is empty, ``positives`` or ``candidates`` has the wrong shape, an item
            with weight has no positive, a positive is not a candidate, or ``weights`` has the wrong shape, a negative
            value or no finite sum above zero.

    Reference:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, Eq. 2 (L_out).

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> others = ~torch.eye(4, dtype=torch.bool)
        >>> supervised_contrastive_loss(torch.zeros(4, 4), (labels[:, None] == labels) & others, candidates=others)
        tensor(1.0986)
    """
    _checks.floating("logits", logits)
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(
            said(f"logits must be (N, M) with N and M above 0, got shape {_checks.shape(logits)}. Score items in rows.")
        )
    _check_boolean("positives", positives, logits)
    if candidates is not None:
        _check_boolean("candidates", candidates, logits)
    check_weights("weights", weights, logits.shape[:1])
    _check_positives(positives, candidates, weights)
    among = torch.ones_like(positives) if candidates is None else candidates
    if weights is not None:
        logits = counted(logits, weights.unsqueeze(-1))
    return -mean(mean_log_share(logits, positives, among, 1), weights)


def mean_log_share(logits: Tensor, positives: Tensor, candidates: Tensor, dim: int) -> Tensor:
    """Return the mean log share of the positives among the candidates, along an axis, or 0 without positives."""
    shares = at_least_float32(logits).masked_fill(~candidates, -math.inf).log_softmax(dim)
    return shares.masked_fill(~positives, 0).sum(dim) / positives.sum(dim).clamp(min=1)


def _check_boolean(name: str, chosen: object, logits: Tensor) -> None:
    """Refuse anything but a boolean tensor of the shape of the logits."""
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool:
        got = chosen.dtype if isinstance(chosen, Tensor) else type(chosen).__name__
        raise TypeError(said(f"{name} must be a boolean tensor, got {got}. Compare labels, or pass {name}.bool()."))
    if chosen.shape != logits.shape:
        raise ValueError(
            said(
                f"{name} must have a value for every logit, shape {_checks.shape(logits)}, got "
                f"{_checks.shape(chosen)}. Expand it to the logits."
            )
        )


def _check_positives(positives: Tensor, candidates: Tensor | None, weights: Tensor | None) -> None:
    """Refuse items without positives, and positives that are not candidates, where values may be read."""
    if not _checks.reads_values(positives):
        return
    without = ~positives.any(1)
    if weights is not None:
        without = without & (weights != 0)
    if bool(without.any()):
        raise ValueError(
            said(
                f"positives must contain one for each item, got none for item {int(without.byte().argmax())}. "
                "Give such items weight zero."
            )
        )
    if candidates is not None and bool((positives & ~candidates).any()):
        raise ValueError(
            said("positives must be among the candidates, got one that is not. Remove it, or make it a candidate.")
        )


def _log_mean_of_others(logits: Tensor) -> Tensor:
    """Return, for each entry of a row, the log of the mean of exp(logits) over the other entries."""
    largest = logits.argmax(-1, keepdim=True) == torch.arange(logits.shape[-1], device=logits.device)
    share = logits.softmax(-1).masked_fill(largest, 0)  # at most half, so that 1 - share is accurate
    rest = logits.logsumexp(-1, keepdim=True) + torch.log1p(-share)
    rest_of_largest = logits.masked_fill(largest, -math.inf).logsumexp(-1, keepdim=True)
    total = torch.where(largest, rest_of_largest, rest)
    return total - log_of(logits.shape[-1] - 1, logits)


def _mixed(log_baseline: Tensor, log_mean: Tensor, alpha: float) -> Tensor:
    """Return the log of the mixture of baseline and mean, with weights 1 - alpha and alpha."""
    if alpha == 0:
        return log_baseline.expand_as(log_mean)
    if alpha == 1:
        return log_mean
    return torch.logaddexp(log_baseline + math.log(1 - alpha), log_mean + math.log(alpha))


def _per_item(log_baseline: Tensor | float, logits: Tensor, weights: Tensor | None) -> Tensor:
    """Return the log baseline of each row, as a column, with zero for rows without weight where it is not finite."""
    if not isinstance(log_baseline, Tensor):
        return logits.new_zeros((1, 1)) + _checks.number("log_baseline", log_baseline, 0.0)  # new_full may overflow
    _checks.floating("log_baseline", log_baseline)
    if log_baseline.ndim and log_baseline.shape != logits.shape[:-1]:
        raise ValueError(
            said(
                f"log_baseline must be a number or have a value for every item, shape {tuple(logits.shape[:-1])}, "
                f"got {_checks.shape(log_baseline)}. Expand it to the rows of the logits."
            )
        )
    if log_baseline.ndim:
        log_baseline = counted(log_baseline, weights)
    return at_least_float32(log_baseline).unsqueeze(-1)


def _counted_square(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Return the checked logits, with finite values in rows without weight."""
    _checks.floating("logits", logits)
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(
            said(
                f"logits must be square (*, N, N), with each row's own candidate on the diagonal, got shape "
                f"{_checks.shape(logits)}. Score every item with every candidate."
            )
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            said(
                f"needs at least 2 items to contrast, got logits of shape {_checks.shape(logits)}. Use a larger batch."
            )
        )
    if logits.numel() == 0:
        raise ValueError(
            said(f"needs at least one batch of items, got logits of shape {_checks.shape(logits)}. Skip empty batches.")
        )
    check_weights("weights", weights, logits.shape[:-1])
    return logits if weights is None else counted(logits, weights.unsqueeze(-1))
