"""Channel gate, spatial gate and the residual that both of them gate.

The public functions take weights. The modules keep their multi-layer perceptron and their convolution as ordinary
submodules and hand them, as callables, to the passes over the large map that both share: :func:`gate_channels`,
:func:`gate_locations` and :func:`gate_both`. Those are plain operations, or the passes of
:mod:`blan_layers.kernels` where these are faster.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._ways import Passes, passes_of, pool_space
from blan_layers.kernels.blocks import core_cache_bytes
from blan_layers.kernels.choice import chosen_way

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
    backend: _checks.Backend = "auto",
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
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).

    Shape:
        x (B, C, \*S) with any number of spatial axes, w1 (hidden, C), b1 (hidden,), w2 (C, hidden), b2 (C,) -> as x.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: ``x`` does not fit ``w1``, ``w2`` does not, ``pools`` or ``form`` is unknown or contradicts the
            other, or ``backend`` is unknown or cannot be taken.

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
    _checks.choice(owner, "backend", backend, _checks.BACKENDS)
    check_pools(owner, pools, form)
    _check_mlp(owner, w1, w2)
    _checks.feature_map(owner, "x", x, w1.shape[1])
    output, _ = gate_channels(owner, x, partial(_mlp, w1, b1, w2, b2), pools, form, backend)
    return output


def spatial_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Layer | None = None,
    backend: _checks.Backend = "auto",
) -> Tensor:
    r"""Gate the locations of a map by what its channel pools say of them.

    ``x * sigmoid(norm(conv([mean_c(x); max_c(x)])))``; the maps stand in the order of the BLAN paper's Eq. 3, average
    first. (CBAM's published code has the maximum first: swap the two input channels of its weights.)

    Args:
        x: Feature map.
        weight: Weight of the convolution from the two pooled maps to one, of odd kernel sizes.
        bias: Its bias, or None.
        norm: Applied to the one-channel map before the sigmoid, or None.
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weight (1, 2, \*kernel), bias (1,) -> as x.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: ``x`` has not as many spatial axes as the kernel, a kernel size is even, or ``backend`` is unknown
            or cannot be taken.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.2; Zheng et al., "BLAN", Pattern
        Recognition 100, 2020, Eq. 3.

    Example:
        >>> import torch
        >>> spatial_attention(torch.randn(2, 8, 5, 6), torch.randn(1, 2, 7, 7)).shape
        torch.Size([2, 8, 5, 6])
    """
    owner = "spatial_attention"
    _checks.choice(owner, "backend", backend, _checks.BACKENDS)
    conv = _convolution(owner, x, weight, bias, norm)
    output, _ = gate_locations(owner, x, conv, backend)
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
    backend: _checks.Backend = "auto",
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
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weights as in :func:`channel_attention` and
        :func:`spatial_attention`, residual as x -> as x.

    Raises:
        TypeError: ``x`` or ``residual`` is not a floating-point tensor.
        ValueError: ``x`` does not fit the weights, ``residual`` does not have the shape of ``x``, or ``pools``,
            ``arrangement`` or ``form`` is unknown or contradicts another, or ``backend`` is unknown or cannot be taken.

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
    _checks.choice(owner, "backend", backend, _checks.BACKENDS)
    check_pools(owner, pools, form)
    _checks.choice(owner, "arrangement", arrangement, ARRANGEMENTS)
    _check_mlp(owner, w1, w2)
    conv = _convolution(owner, x, weight, bias, norm)
    _checks.feature_map(owner, "x", x, w1.shape[1])
    if residual is not None:
        _checks.feature_map(owner, "residual", residual, x.shape[1])
        _checks.same_layout(owner, "x", x, "residual", residual)
    mlp = partial(_mlp, w1, b1, w2, b2)
    output, _, _ = gate_both(owner, x, mlp, conv, pools, arrangement, form, residual, backend)
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


def gate_channels(
    owner: str, x: Tensor, mlp: Layer, pools: Sequence[Pool], form: Form, backend: _checks.Backend
) -> tuple[Tensor, Tensor]:
    """Return the map gated by channel, and its gate (B, C, 1, ...)."""
    way = _way(owner, backend, x)
    if way == "reference":
        return _plain_channels(x, mlp, pools, form)
    passes = passes_of(way)(x, pools)
    gate, shift = _channel_gate(passes.pool_space(None), mlp, pools, form, x)
    return passes.gate(gate, shift, None), _with_axes(gate, x.ndim)


def gate_locations(owner: str, x: Tensor, conv: Layer, backend: _checks.Backend) -> tuple[Tensor, Tensor]:
    """Return the map gated by location, and its gate (B, 1, *S)."""
    way = _way(owner, backend, x)
    if way == "reference":
        gate = _location_gate(_plain_channel_pools(x), conv, x)
        return x * gate, gate
    passes = passes_of(way)(x)
    gate = _location_gate(passes.pool_channels(None, None), conv, x)
    return passes.gate(None, None, gate), gate


def gate_both(
    owner: str,
    x: Tensor,
    mlp: Layer,
    conv: Layer,
    pools: Sequence[Pool],
    arrangement: Arrangement,
    form: Form,
    residual: Tensor | None,
    backend: _checks.Backend,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the map gated by both, plus the residual, and the gates (B, C, 1, ...) and (B, 1, *S)."""
    way = _way(owner, backend, x, residual)
    if way != "reference":
        return _gate_both_in_passes(passes_of(way)(x, pools, residual), x, mlp, conv, pools, arrangement, form)
    if arrangement == "spatial-channel":
        spatial_map = _location_gate(_plain_channel_pools(x), conv, x)
        output, channel_map = _plain_channels(x * spatial_map, mlp, pools, form)
    else:
        output, channel_map = _plain_channels(x, mlp, pools, form)
        looked_at = x if arrangement == "parallel" else output
        spatial_map = _location_gate(_plain_channel_pools(looked_at), conv, x)
        output = output * spatial_map
    return output if residual is None else output + residual, channel_map, spatial_map


def _gate_both_in_passes(
    passes: Passes, x: Tensor, mlp: Layer, conv: Layer, pools: Sequence[Pool], arrangement: Arrangement, form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    if arrangement == "spatial-channel":
        spatial_map = _location_gate(passes.pool_channels(None, None), conv, x)
        gate, shift = _channel_gate(passes.pool_space(spatial_map), mlp, pools, form, x)
        output = passes.gate(gate, None, spatial_map)
        if shift is not None:
            output = output + _with_axes(shift, x.ndim)
    else:
        gate, shift = _channel_gate(passes.pool_space(None), mlp, pools, form, x)
        looked_at = (None, None) if arrangement == "parallel" else (gate, shift)
        spatial_map = _location_gate(passes.pool_channels(*looked_at), conv, x)
        output = passes.gate(gate, shift, spatial_map)
    return output, _with_axes(gate, x.ndim), spatial_map


def _way(owner: str, backend: _checks.Backend, x: Tensor, residual: Tensor | None = None) -> _checks.Way:
    """Return the way that the passes take: "auto" leaves the plain one for maps that leave a core's cache."""
    return chosen_way(owner, backend, (x, residual), lambda: x.numel() * x.element_size() >= core_cache_bytes())


def _plain_channels(x: Tensor, mlp: Layer, pools: Sequence[Pool], form: Form) -> tuple[Tensor, Tensor]:
    pooled = pool_space(x, pools)
    gate, shift = _channel_gate(pooled, mlp, pools, form, x)
    gate = _with_axes(gate, x.ndim)
    return x * gate if shift is None else x * gate + _with_axes(shift, x.ndim), gate


def _plain_channel_pools(x: Tensor) -> Tensor:
    return torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)


def _channel_gate(
    pooled: Tensor, mlp: Layer, pools: Sequence[Pool], form: Form, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the gate (B, C, 1) of the pooled map (pools, B, C), and what the printed form adds beside it."""
    logits = at_least_float32(mlp(pooled))[..., None]
    if form == "cbam":
        return torch.sigmoid(logits.sum(0)).to(like.dtype), None
    return torch.sigmoid(logits[pools.index("avg")]).to(like.dtype), logits[pools.index("max")].to(like.dtype)


def _location_gate(maps: Tensor, conv: Layer, like: Tensor) -> Tensor:
    return torch.sigmoid(at_least_float32(conv(maps))).to(like.dtype)


def _with_axes(gate: Tensor, ndim: int) -> Tensor:
    """Return a channel gate (B, C, 1) with the map's number of axes."""
    return gate.view(*gate.shape, *(1 for _ in range(ndim - 3)))


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
