"""The split concat-and-convolve critic."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers.functional._precision import autocast
from blan_layers.functional._ways import contrast_loss
from blan_layers.kernels.blocks import cache_bytes
from blan_layers.kernels.choice import chosen_way


def concat_conv_logits(
    local_features: Tensor,
    global_features: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    r"""Score, at every location, the pair of the local feature vector and the image's global one.

    ``w3 relu(w2 relu(w1 [local_u; global] + b1) + b2) + b3``, three pointwise layers.

    The first layer is linear in the concatenation, ``w1 [l; g] = w1[:, :C] l + w1[:, C:] g``: the global half is
    computed once per image, and the replicated tensor of width C + D never exists.

    Args:
        local_features: Feature map.
        global_features: Summary vector of each image.
        w1: Weight of the first layer, its columns ordered [local; global].
        b1: Bias of the first layer.
        w2: Weight of the second layer.
        b2: Bias of the second layer.
        w3: Weight of the third layer.
        b3: Bias of the third layer.

    Shape:
        local_features (B, C, \*S), global_features (B, D), w1 (hidden, C + D), w2 (hidden, hidden), w3 (1, hidden)
        -> logits (B, \*S).

    Raises:
        TypeError: An input is not a floating-point tensor.
        ValueError: The inputs differ in batch size, their channels do not add up to those of ``w1``, or the weights
            do not fit one another.

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        appendix A.2 (concat-and-convolve).

    Example:
        >>> import torch
        >>> layers = [torch.randn(shape) for shape in ((5, 3 + 2), (5,), (5, 5), (5,), (1, 5), (1,))]
        >>> concat_conv_logits(torch.randn(4, 3, 8, 8), torch.randn(4, 2), *layers).shape
        torch.Size([4, 8, 8])
    """
    owner = "concat_conv_logits"
    check_pair(owner, local_features, global_features)
    if w1.ndim != 2 or w2.shape != (w1.shape[0], w1.shape[0]) or w3.shape != (1, w1.shape[0]):
        raise ValueError(
            f"{owner}: weights must be w1 (hidden, C + D), w2 (hidden, hidden) and w3 (1, hidden), got shapes "
            f"{_checks.shape(w1)}, {_checks.shape(w2)} and {_checks.shape(w3)}. Drop a kernel's axes by a view."
        )
    if local_features.shape[1] + global_features.shape[1] != w1.shape[1]:
        raise ValueError(
            f"{owner}: the channels of local_features and global_features must add up to the {w1.shape[1]} columns of "
            f"w1, got {local_features.shape[1]} + {global_features.shape[1]}. Pass the features that w1 was made for."
        )
    local, per_image = project_pair(local_features, global_features, w1, b1)
    return score_projections(local, per_image, w2, b2, w3, b3)


def check_pair(
    owner: str,
    local_features: Tensor,
    global_features: Tensor,
    local_channels: int | None = None,
    global_channels: int | None = None,
) -> None:
    """Refuse anything but maps (B, local_channels, *S) and their summaries (B, global_channels); None means any."""
    _checks.feature_map(owner, "local_features", local_features, local_channels)
    _checks.floating(owner, "global_features", global_features)
    if global_features.ndim != 2 or (global_channels is not None and global_features.shape[1] != global_channels):
        raise ValueError(
            f"{owner}: global_features must be (B, {'D' if global_channels is None else global_channels}), got shape "
            f"{_checks.shape(global_features)}. Pass one vector an image, of the width that the critic was built for."
        )
    if global_features.shape[0] != local_features.shape[0]:
        raise ValueError(
            f"{owner}: local_features and global_features must hold the same images, got batches of "
            f"{local_features.shape[0]} and {global_features.shape[0]}. Pass one global vector a map."
        )


def project_pair(local_features: Tensor, global_features: Tensor, w1: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the halves of the first layer: (B, *S, hidden) of every location and (B, hidden) of every image."""
    channels = local_features.shape[1]
    local = F.linear(local_features.movedim(1, -1), w1[:, :channels])
    return local, F.linear(global_features, w1[:, channels:], b1)


def score_projections(local: Tensor, per_image: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
    """Add the two projections, location by location, and apply the layers that follow."""
    per_location = per_image.reshape(per_image.shape[0], *(1 for _ in local.shape[1:-1]), per_image.shape[1])
    return score_sums(local + per_location, w2, b2, w3, b3)


def score_sums(first: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
    """Apply what follows the first layer's sums (..., hidden)."""
    hidden = torch.relu(F.linear(torch.relu(first), w2, b2))
    return F.linear(hidden, w3, b3).squeeze(-1)


def contrast_way(
    owner: str,
    local_features: Tensor,
    global_features: Tensor,
    mask: Tensor | None,
    layers: Sequence[Tensor],
    reduction: str,
    backend: _checks.Backend,
) -> _checks.Way:
    """Return the way that the loss of a concat-and-convolve critic takes, or, without layers, of another.

    Any but "reference" is :func:`contrast_sum`. "auto" takes it where the hidden layers of real and fake pairs leave
    the cache.
    """
    refusal = ""
    if not layers:
        refusal = "it knows 'bce' and 'jsd' with one negative a map, of ConcatConvCritic, alone"
    elif reduction == "none":
        refusal = "it forms gradients of a scalar and got reduction='none'"
    elif mask is not None and mask.requires_grad:
        refusal = "it has no gradient for the mask"
    tensors = local_features, global_features, *layers
    return chosen_way(owner, backend, tensors, lambda: _outgrows_cache(local_features, layers), refusal)


def contrast_sum(
    way: _checks.Way,
    local_features: Tensor,
    global_features: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Return the sum of ``softplus(-real) + softplus(fake)`` in one pass that keeps no activation.

    Args:
        way: "blocked" or "triton".
        local_features: Maps (B, C, *S).
        global_features: Summaries (B, D).
        indices: Whose summary (B,) makes each image's fake pairs.
        weights: Weights of the locations (B, *S), or None.
        w1: Weight of the first layer; this and those that follow as in :func:`concat_conv_logits`.
        b1: Bias of the first layer.
        w2: Weight of the second layer.
        b2: Bias of the second layer.
        w3: Weight of the third layer.
        b3: Bias of the third layer.
    """
    local_features, global_features, w1, b1, w2, b2, w3, b3 = autocast(
        local_features, global_features, w1, b1, w2, b2, w3, b3
    )
    channels = local_features.shape[1]
    own = F.linear(global_features, w1[:, channels:], b1)
    flat = None if weights is None else weights.flatten(1)
    layers = w1[:, :channels], w2, b2, w3, b3
    link = torch.cat([x[:0].flatten() for x in (local_features, own, *layers)])
    differentiates = link.requires_grad and torch.is_grad_enabled()
    total: Tensor = contrast_loss(way)(
        local_features.flatten(2), own, own[indices], flat, *layers, link if differentiates else None
    )
    return total


def _outgrows_cache(local_features: Tensor, layers: Sequence[Tensor]) -> bool:
    """Tell whether a hidden layer of every pair is larger than the cache."""
    pairs = 2 * local_features.shape[0] * local_features[0, 0].numel()
    return pairs * layers[2].shape[0] * local_features.element_size() > cache_bytes()
