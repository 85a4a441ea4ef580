"""The concat-and-convolve loss of real and fake pairs by plain operations, which defines the faster versions."""

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 40.0
"""From here on, the softplus of a number equals the number to the last digit, in float64 too."""


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), accurate for every finite number, in exported graphs too."""
    return F.softplus(x, threshold=LINEAR)


def plain_contrast_sum(
    local: Tensor,
    own: Tensor,
    other: Tensor,
    weights: Tensor | None,
    w1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Return the sum over images b and locations u of ``weights[b, u] (softplus(-real) + softplus(fake))``.

    The logits are ``w3 relu(w2 relu(w1 local[b, u] + own[b]) + b2) + b3``; fake pairs have ``other`` instead of
    ``own``.

    Shape:
        local (B, C, N), own and other (B, hidden), weights (B, N) or None, w1 (hidden, C), w2 (hidden, hidden), w3
        (1, hidden) -> scalar.
    """
    first = F.linear(local.mT, w1).unsqueeze(1) + torch.stack([own, other], 1).unsqueeze(2)
    logits = F.linear(torch.relu(F.linear(torch.relu(first), w2, b2)), w3, b3).squeeze(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = softplus(-logits[:, 0]) + softplus(logits[:, 1])
    return (losses if weights is None else losses * weights).sum()


def plain_contrast_mean(
    local: Tensor,
    summaries: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
    count: float,
) -> Tensor:
    """Return :func:`plain_contrast_sum` over ``count``, for maps (B, C, *S), summaries (B, D) and ``indices`` (B,).

    The indices are those of the summaries in fake pairs. w1 (hidden, C + D) is the weight of the whole first layer.
    """
    channels = local.shape[1]
    own = F.linear(summaries, w1[:, channels:], b1)
    return plain_contrast_sum(local.flatten(2), own, own[indices], weights, w1[:, :channels], w2, b2, w3, b3) / count
