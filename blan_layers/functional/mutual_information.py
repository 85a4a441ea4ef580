"""The split concat-and-convolve critic."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._precision import autocast
from blan_layers.functional._tracing import whole
from blan_layers.kernels.choice import Way, chosen_way, contrast_mean_of
from blan_layers.kernels.cpu.blocks import core_cache_bytes


@whole
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
    r"""Score, at every location, the pair of the local feature vector and the summary vector of the image.

    ``w3 relu(w2 relu(w1 [local_u; global] + b1) + b2) + b3``, three pointwise layers.

    The first layer is linear in the concatenation, ``w1 [l; g] = w1[:, :C] l + w1[:, C:] g``: the global half is
    computed once per image, and the replicated tensor of width C + D is never built.

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
        TypeError: An input or a weight is not a floating-point tensor, or their dtypes differ.
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
    check_pair(local_features, global_features)
    _checks.weights(w1=w1, b1=b1, w2=w2, b2=b2, w3=w3, b3=b3)
    if w1.ndim != 2 or w2.shape != (w1.shape[0], w1.shape[0]) or w3.shape != (1, w1.shape[0]):
        raise ValueError(
            said(
                "weights must be w1 (hidden, C + D), w2 (hidden, hidden) and w3 (1, hidden), got shapes "
                f"{_checks.shape(w1)}, {_checks.shape(w2)} and {_checks.shape(w3)}. "
                "Remove the axes of a kernel with flatten(1)."
            )
        )
    for name, bias, weight in (("b1", b1, w1), ("b2", b2, w2), ("b3", b3, w3)):
        _checks.bias(name, bias, weight)
    channels = local_features.shape[1]
    if channels + global_features.shape[1] != w1.shape[1]:
        raise ValueError(
            said(
                f"the channels of local_features and global_features must add up to the {w1.shape[1]} columns of w1, "
                f"got {channels} + {global_features.shape[1]}. Pass the features that w1 was built for."
            )
        )
    _checks.same_dtype("local_features", local_features, w1.dtype)
    _checks.same_dtype("global_features", global_features, w1.dtype)
    local = F.linear(local_features.movedim(1, -1), w1[:, :channels])
    summary = F.linear(global_features, w1[:, channels:], b1)
    first = local + summary.reshape(summary.shape[0], *(1 for _ in local.shape[1:-1]), summary.shape[1])
    hidden = torch.relu(F.linear(torch.relu(first), w2, b2))
    return F.linear(hidden, w3, b3).squeeze(-1).clone()


def check_pair(
    local_features: Tensor,
    global_features: Tensor,
    local_channels: int | None = None,
    global_channels: int | None = None,
) -> None:
    """Refuse anything but maps (B, local_channels, *S) and their summaries (B, global_channels); None means any."""
    pair = "local_features", local_features, "global_features", global_features
    _checks.in_order(*pair, (local_channels, global_channels))
    _checks.feature_map("local_features", local_features, local_channels)
    _checks.floating("global_features", global_features)
    if _checks.traced(local_features, global_features):
        return
    if global_features.ndim != 2 or (global_channels is not None and global_channels != global_features.shape[1]):
        otherwise = "Pass one vector per image, of the width that the critic was built for."
        raise ValueError(
            said(
                f"global_features must be (B, {'D' if global_channels is None else global_channels}), got shape "
                f"{_checks.shape(global_features)}. "
                f"{_checks.remedy_of_vectors('global_features', global_features, global_channels, otherwise)}"
            )
        )
    remedy = "Pass one global vector per map"
    _checks.same_images("local_features", local_features, "global_features", global_features, remedy)


def contrast_way(
    backend: _checks.Backend,
    local_features: Tensor,
    global_features: Tensor,
    layers: Sequence[Tensor],
    refusal: Callable[[], str],
) -> Way:
    """Return how to compute the loss of a concat-and-convolve critic; all but "reference" use :func:`contrast_mean`.

    "auto" does so where a hidden layer of real and fake pairs exceeds the cache of a core and ``refusal`` is empty.
    """

    def fills_cache() -> bool:
        pairs = 2 * local_features.shape[0] * local_features[0, 0].numel()
        return bool(layers) and pairs * layers[3].shape[0] * local_features.element_size() >= core_cache_bytes()

    return chosen_way(backend, (local_features, global_features, *layers), fills_cache, refusal, compiles=True)


def contrast_mean(
    way: Way,
    local_features: Tensor,
    global_features: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    layers: Sequence[Tensor],
    count: float,
) -> Tensor:
    """Return the sum of ``softplus(-real) + softplus(fake)`` over ``count``, in one pass that stores no activations.

    Args:
        way: "blocked" or "triton".
        local_features: Maps (B, C, *S).
        global_features: Summaries (B, D).
        indices: Index (B,) of the summary in each image's fake pairs.
        weights: Weights of the locations (B, *S), or None.
        layers: Weight and bias of each layer, as in :func:`concat_conv_logits`.
        count: The divisor of the sum.
    """
    tensors = autocast(local_features, global_features, *layers)
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    local_features, global_features, *layers = tensors
    flat = None if weights is None else weights.flatten(1)
    return contrast_mean_of(way)(local_features, global_features, indices, flat, *layers, float(count), differentiates)
