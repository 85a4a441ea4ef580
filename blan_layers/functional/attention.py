"""Channel gate, spatial gate and the residual that both of them gate.

The public functions take weights. The modules keep their multi-layer perceptron and their convolution as ordinary
submodules and hand them, as callables, to the passes over the large map that both share: :func:`gate_channels`,
:func:`gate_locations` and :func:`gate_both`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers.functional._precision import at_least_float32

Pool: TypeAlias = Literal["avg", "max"]
Form: TypeAlias = Literal["cbam", "printed"]
Arrangement: TypeAlias = Literal["channel-spatial", "spatial-channel", "parallel"]

POOLS: tuple[Pool, ...] = ("avg", "max")
FORMS: tuple[Form, ...] = ("cbam", "printed")
ARRANGEMENTS: tuple[Arrangement, ...] = ("channel-spatial", "spatial-channel", "parallel")
CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)

Layer: TypeAlias = Callable[[Tensor], Tensor]


def channel_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    pools: Sequence[Pool] = POOLS,
    form: Form = "cbam",
) -> Tensor:
    r"""Gate the channels of a map by what its spatial pools say of them.

    ``x * sigmoid(MLP(avg(x)) + MLP(max(x)))`` with ``MLP(v) = w2 relu(w1 v + b1) + b2``, one MLP for both pools.

    ``form="printed"`` is Eq. 2 of the BLAN paper to the letter, ``x * sigmoid(MLP(avg(x))) + MLP(max(x))``; its text
    follows CBAM, where both branches stand inside the sigmoid, and so does the default. The gradient of the maximum is
    shared equally among tied maxima.

    Args:
        x: Feature map.
        w1: Weight of the MLP's hidden layer.
        b1: Its bias, or None.
        w2: Weight of the MLP's output layer.
        b2: Its bias, or None.
        pools: Which of "avg" and "max" feed the gate; their branches are added.
        form: "cbam" or "printed"; "printed" needs both pools.

    Shape:
        x (B, C, \*S) with any number of spatial axes, w1 (hidden, C), b1 (hidden,), w2 (C, hidden), b2 (C,) -> as x.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: ``x`` does not fit ``w1``, ``w2`` does not, or ``pools`` or ``form`` is unknown or contradicts the
            other.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.1; Zheng et al., "BLAN", Pattern
        Recognition 100, 2020, Eq. 2.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 5, 7)
        >>> channel_attention(x, torch.randn(4, 8), None, torch.randn(8, 4), None).shape
        torch.Size([2, 8, 5, 7])
    """
    owner = "channel_attention"
    check_pools(owner, pools, form)
    _check_mlp(owner, w1, w2)
    _checks.feature_map(owner, "x", x, w1.shape[1])
    output, _ = gate_channels(x, partial(_mlp, w1, b1, w2, b2), pools, form)
    return output


def spatial_attention(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, norm: Layer | None = None) -> Tensor:
    r"""Gate the locations of a map by what its channel pools say of them.

    ``x * sigmoid(norm(conv([mean_c(x); max_c(x)])))``; the maps stand in the order of the BLAN paper's Eq. 3, average
    first. (CBAM's published code has the maximum first: swap the two input channels of its weights.)

    Args:
        x: Feature map.
        weight: Weight of the convolution from the two pooled maps to one, of odd kernel sizes.
        bias: Its bias, or None.
        norm: Applied to the one-channel map before the sigmoid, or None.

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weight (1, 2, \*kernel), bias (1,) -> as x.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: ``x`` has not as many spatial axes as the kernel, or a kernel size is even.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.2; Zheng et al., "BLAN", Pattern
        Recognition 100, 2020, Eq. 3.

    Example:
        >>> import torch
        >>> spatial_attention(torch.randn(2, 8, 5, 6), torch.randn(1, 2, 7, 7)).shape
        torch.Size([2, 8, 5, 6])
    """
    owner = "spatial_attention"
    conv = _convolution(owner, x, weight, bias, norm)
    output, _ = gate_locations(x, conv)
    return output


def dual_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pools: Sequence[Pool] = POOLS,
    arrangement: Arrangement = "channel-spatial",
    form: Form = "cbam",
    norm: Layer | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    r"""Gate a map by channel and by location, and add a residual.

    ``"channel-spatial"``: ``spatial(channel(x)) + residual``; ``"spatial-channel"``: ``channel(spatial(x)) +
    residual``; ``"parallel"``: ``channel(x) * spatial_map(x) + residual``, both gates computed from ``x``.

    Args:
        x: Feature map.
        w1: Weight of the channel MLP's hidden layer.
        b1: Its bias, or None.
        w2: Weight of the channel MLP's output layer.
        b2: Its bias, or None.
        weight: Weight of the spatial convolution, of odd kernel sizes.
        bias: Its bias, or None.
        pools: Pools of the channel gate.
        arrangement: "channel-spatial", "spatial-channel" or "parallel".
        form: "cbam" or "printed", see :func:`channel_attention`.
        norm: Applied to the spatial map before its sigmoid, or None.
        residual: Added to the gated map, or None.

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weights as in :func:`channel_attention` and
        :func:`spatial_attention`, residual as x -> as x.

    Raises:
        TypeError: ``x`` or ``residual`` is not a floating-point tensor.
        ValueError: ``x`` does not fit the weights, ``residual`` does not have the shape of ``x``, or ``pools``,
            ``arrangement`` or ``form`` is unknown or contradicts another.

    Reference:
        Zheng et al., "BLAN", Pattern Recognition 100, 2020, Eqs. 2 and 3, Table 5.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 5, 6)
        >>> mlp = torch.randn(4, 8), None, torch.randn(8, 4), None
        >>> dual_attention(x, *mlp, torch.randn(1, 2, 7, 7), residual=x).shape
        torch.Size([2, 8, 5, 6])
    """
    owner = "dual_attention"
    check_pools(owner, pools, form)
    _checks.choice(owner, "arrangement", arrangement, ARRANGEMENTS)
    _check_mlp(owner, w1, w2)
    conv = _convolution(owner, x, weight, bias, norm)
    _checks.feature_map(owner, "x", x, w1.shape[1])
    if residual is not None:
        _checks.feature_map(owner, "residual", residual, x.shape[1])
        _checks.same_layout(owner, "x", x, "residual", residual)
    output, _, _ = gate_both(x, partial(_mlp, w1, b1, w2, b2), conv, pools, arrangement, form, residual)
    return output


def check_pools(owner: str, pools: Sequence[Pool], form: Form) -> None:
    """Refuse unknown or repeated pools, an unknown form, and the printed form of fewer than two pools."""
    _checks.choice(owner, "form", form, FORMS)
    listed = isinstance(pools, Sequence) and not isinstance(pools, str)
    if not listed or sorted(pools, key=str) not in (["avg"], ["max"], ["avg", "max"]):
        raise ValueError(
            f"{owner}: pools must be a sequence of 'avg', 'max' or both, each once, got {pools!r}. "
            "Pass ('avg', 'max'), ('avg',) or ('max',)."
        )
    if form == "printed" and len(pools) != 2:
        raise ValueError(f"{owner}: form='printed' needs both pools, got {pools!r}. Pass pools=('avg', 'max').")


def gate_channels(x: Tensor, mlp: Layer, pools: Sequence[Pool], form: Form) -> tuple[Tensor, Tensor]:
    """Return the map gated by channel, and its gate (B, C, 1, ...)."""
    axes = tuple(range(2, x.ndim))
    logits = mlp(torch.stack([x.mean(axes) if pool == "avg" else x.amax(axes) for pool in pools]))
    logits = at_least_float32(logits).reshape(*logits.shape, *(1 for _ in axes))
    if form == "cbam":
        gate = torch.sigmoid(logits.sum(0)).to(x.dtype)
        return x * gate, gate
    gate = torch.sigmoid(logits[pools.index("avg")]).to(x.dtype)
    return x * gate + logits[pools.index("max")].to(x.dtype), gate


def gate_locations(x: Tensor, conv: Layer) -> tuple[Tensor, Tensor]:
    """Return the map gated by location, and its gate (B, 1, *S)."""
    gate = _location_gate(x, conv)
    return x * gate, gate


def gate_both(
    x: Tensor,
    mlp: Layer,
    conv: Layer,
    pools: Sequence[Pool],
    arrangement: Arrangement,
    form: Form,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the map gated by both, plus the residual, and the gates (B, C, 1, ...) and (B, 1, *S)."""
    if arrangement == "channel-spatial":
        output, channel_map = gate_channels(x, mlp, pools, form)
        output, spatial_map = gate_locations(output, conv)
    elif arrangement == "spatial-channel":
        output, spatial_map = gate_locations(x, conv)
        output, channel_map = gate_channels(output, mlp, pools, form)
    else:
        output, channel_map = gate_channels(x, mlp, pools, form)
        spatial_map = _location_gate(x, conv)
        output = output * spatial_map
    return output if residual is None else output + residual, channel_map, spatial_map


def _location_gate(x: Tensor, conv: Layer) -> Tensor:
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return torch.sigmoid(at_least_float32(conv(pooled))).to(x.dtype)


def _mlp(w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, pooled: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(pooled, w1, b1)), w2, b2)


def _check_mlp(owner: str, w1: Tensor, w2: Tensor) -> None:
    if w1.ndim != 2 or w2.shape != (w1.shape[1], w1.shape[0]):
        raise ValueError(
            f"{owner}: weights must be w1 (hidden, C) and w2 (C, hidden), got shapes {_checks.shape(w1)} and "
            f"{_checks.shape(w2)}. Drop the axes of a 1x1 kernel by a view."
        )


def _convolution(owner: str, x: Tensor, weight: Tensor, bias: Tensor | None, norm: Layer | None) -> Layer:
    """Return the "same" convolution of the two pooled maps, after checking the weight and that the map fits it."""
    kernel = tuple(weight.shape[2:])
    if weight.shape[:2] != (1, 2) or not 1 <= len(kernel) <= 3 or any(size % 2 == 0 for size in kernel):
        raise ValueError(
            f"{owner}: weight must be (1, 2, *kernel) with 1 to 3 odd kernel sizes, got shape "
            f"{_checks.shape(weight)}. Use kernel sizes such as 3, 5 or 7."
        )
    _checks.feature_map(owner, "x", x, None, len(kernel))
    padding = tuple(size // 2 for size in kernel)

    def conv(pooled: Tensor) -> Tensor:
        logits = CONVOLUTIONS[len(kernel) - 1](pooled, weight, bias, padding=padding)
        return logits if norm is None else norm(logits)

    return conv
