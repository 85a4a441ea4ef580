"""Channel gate, spatial gate, and both together with a residual.

The public functions take weights. The modules pass their layers, as callables, to :func:`channel_factors`,
:func:`location_factor` and :func:`gate_both`, which the functions use too. The passes over the large map are plain
operations, or those of :mod:`blan_layers.kernels` where these are faster.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Proxy

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._torch import is_compiled_or_traced
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.kernels.choice import PLAIN_TENSORS, against_blocks, chosen_way, passes_of
from blan_layers.kernels.cpu import products
from blan_layers.kernels.cpu.attention import Amplify
from blan_layers.kernels.cpu.blocks import block_bytes, core_cache_bytes
from blan_layers.kernels.passes import PlainPasses

Pool: TypeAlias = Literal["avg", "max"]
Form: TypeAlias = Literal["cbam", "printed"]
Arrangement: TypeAlias = Literal["channel-spatial", "spatial-channel", "parallel"]

POOLS: tuple[Pool, ...] = ("avg", "max")
FORMS: tuple[Form, ...] = ("cbam", "printed")
VALID_POOLS = POOLS, ("max", "avg"), ("avg",), ("max",)
ARRANGEMENTS: tuple[Arrangement, ...] = ("channel-spatial", "spatial-channel", "parallel")
CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)

Layer: TypeAlias = Callable[[Tensor], Tensor]
Passes: TypeAlias = PlainPasses
"""The passes over a map: plain or fused."""


@whole
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
    r"""Gate the channels of a map by its spatial pools.

    ``x * sigmoid(MLP(avg(x)) + MLP(max(x)))`` with ``MLP(v) = w2 relu(w1 v + b1) + b2`` and one MLP for both pools.

    ``form="printed"`` is Eq. 2 of the BLAN paper as printed, ``x * sigmoid(MLP(avg(x))) + MLP(max(x))``. The text of
    the paper follows CBAM, where both branches are inside the sigmoid, and so does the default. The gradient of the
    maximum is shared equally among tied maxima.

    Args:
        x: Feature map.
        w1: Weight of the MLP's hidden layer.
        b1: Its bias, or None.
        w2: Weight of the MLP's output layer.
        b2: Its bias, or None.
        pools: Which of "avg" and "max" feed the gate; their branches are added.
        form: "cbam" or "printed"; "printed" needs both pools.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.

    Shape:
        x (B, C, \*S) with any number of spatial axes, w1 (hidden, C), b1 (hidden,), w2 (C, hidden), b2 (C,) -> (B, C,
        \*S).

    Raises:
        TypeError: ``x`` or a weight is not a floating-point tensor, or their dtypes differ.
        ValueError: ``x``, ``w2`` or a bias does not fit ``w1``, ``pools`` or ``form`` is unknown or they contradict
            each other, or ``backend`` is unknown or not available here.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.1; Zheng et al., "BLAN", Pattern
        Recognition 100, 2020, Eq. 2.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 5, 7)
        >>> channel_attention(x, torch.randn(4, 8), None, torch.randn(8, 4), None).shape
        torch.Size([2, 8, 5, 7])
    """
    _checks.choice("backend", backend, _checks.BACKENDS)
    check_pools(pools, form)
    _check_mlp(w1, b1, w2, b2)
    _checks.feature_map("x", x, w1.shape[1])
    _checks.same_dtype("x", x, w1.dtype)
    passes = passes_through(x, backend, pools)
    gate, shift = channel_factors(passes.pool_space(), partial(_mlp, w1, b1, w2, b2), torch.sigmoid, pools, form, x)
    return passes.gate(gate, shift)


@whole
def spatial_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Layer | None = None,
    backend: _checks.Backend = "auto",
) -> Tensor:
    r"""Gate the locations of a map by its channel pools.

    ``x * sigmoid(norm(conv([mean_c(x); max_c(x)])))``. The pooled maps are in the order of Eq. 3 of the BLAN paper,
    average first. (CBAM's published code has the maximum first: swap the two input channels of its weights.)

    Args:
        x: Feature map.
        weight: Weight of the convolution from the two pooled maps to one, of odd kernel sizes.
        bias: Its bias, or None.
        norm: Applied to the one-channel logits before the sigmoid, or None.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weight (1, 2, \*kernel), bias (1,) -> (B, C, \*S).

    Raises:
        TypeError: ``x`` or a weight is not a floating-point tensor, or their dtypes differ.
        ValueError: ``x`` does not have as many spatial axes as the kernel, a kernel size is even, ``bias`` is not one
            number, or ``backend`` is unknown or not available here.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.2; Zheng et al., "BLAN", Pattern
        Recognition 100, 2020, Eq. 3.

    Example:
        >>> import torch
        >>> spatial_attention(torch.randn(2, 8, 5, 6), torch.randn(1, 2, 7, 7)).shape
        torch.Size([2, 8, 5, 6])
    """
    _checks.choice("backend", backend, _checks.BACKENDS)
    conv = _convolution(x, weight, bias, norm)
    passes = passes_through(x, backend)
    maps = passes.for_convolution(passes.pool_channels())
    return passes.gate(spatial_gate=location_factor(maps, conv, torch.sigmoid, x))


@whole
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
        norm: Applied to the spatial logits before their sigmoid, or None.
        residual: Added to the gated map, or None.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.

    Shape:
        x (B, C, \*S) with 1, 2 or 3 spatial axes, weights as in :func:`channel_attention` and
        :func:`spatial_attention`, residual (B, C, \*S) -> (B, C, \*S).

    Raises:
        TypeError: ``x``, ``residual`` or a weight is not a floating-point tensor, or their dtypes differ.
        ValueError: ``x`` does not fit the weights, ``residual`` does not have the shape of ``x``, or ``pools``,
            ``arrangement`` or ``form`` is unknown or contradicts another, or ``backend`` is unknown or not available
            here.

    Reference:
        Zheng et al., "BLAN", Pattern Recognition 100, 2020, Eqs. 2 and 3, Table 5.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 5, 6)
        >>> mlp = torch.randn(4, 8), None, torch.randn(8, 4), None
        >>> dual_attention(x, *mlp, torch.randn(1, 2, 7, 7), residual=x).shape
        torch.Size([2, 8, 5, 6])
    """
    _checks.choice("backend", backend, _checks.BACKENDS)
    check_pools(pools, form)
    _checks.choice("arrangement", arrangement, ARRANGEMENTS)
    _check_mlp(w1, b1, w2, b2)
    conv = _convolution(x, weight, bias, norm)
    _checks.feature_map("x", x, w1.shape[1])
    _checks.same_dtype("x", x, w1.dtype)
    if residual is not None:
        _checks.feature_map("residual", residual, x.shape[1])
        _checks.same_layout("x", x, "residual", residual)
    mlp = partial(_mlp, w1, b1, w2, b2)
    passes = passes_through(x, backend, pools, residual)
    output, _, _ = gate_both(
        passes,
        lambda pooled: channel_factors(pooled, mlp, torch.sigmoid, pools, form, x),
        lambda maps: location_factor(passes.for_convolution(maps), conv, torch.sigmoid, x),
        arrangement,
    )
    return output


def check_pools(pools: Sequence[Pool], form: Form) -> None:
    """Refuse unknown or repeated pools, an unknown form, and the printed form with fewer than two pools."""
    if isinstance(pools, tuple) and pools in VALID_POOLS and form == "cbam":
        return
    _checks.choice("form", form, FORMS)
    if not isinstance(pools, Sequence) or isinstance(pools, str) or tuple(pools) not in VALID_POOLS:
        raise ValueError(
            said(
                f"pools must be a sequence of 'avg', 'max' or both, each once, got {_checks.shown(pools)}. "
                "Pass ('avg', 'max'), ('avg',) or ('max',)."
            )
        )
    if form == "printed" and len(pools) != 2:
        raise ValueError(
            said(f"form='printed' needs both pools, got {_checks.shown(pools)}. Pass pools=('avg', 'max').")
        )


def passes_through(
    x: Tensor,
    backend: _checks.Backend,
    pools: Sequence[Pool] = (),
    residual: Tensor | None = None,
    refusal: Callable[[], str] = lambda: "",
) -> Passes:
    """Return the passes over a map; "auto" takes fused ones for maps that are large enough.

    ``refusal`` returns why only the plain ones can be used, or "".
    """
    if backend == "auto" and not is_compiled_or_traced() and type(x) in PLAIN_TENSORS and not _is_large(x, residual):
        return PlainPasses(x, pools, residual)  # whatever else holds of the call
    way = chosen_way(backend, (x, residual), lambda: _is_large(x, residual), refusal)
    return passes_of(way)(x, pools, residual)


def _is_large(x: Tensor, residual: Tensor | None) -> bool:
    """Return whether fused passes are faster, as measured: without gradients and a residual there is less to fuse."""
    fuses = residual is not None or torch.is_grad_enabled()
    return x.numel() * x.element_size() >= (core_cache_bytes() if fuses else block_bytes())


def product(x: Tensor, weight: Tensor, bias: Tensor | None, refusal: Callable[[], str]) -> Tensor | None:
    """Return the 1x1 convolution of a map as products, or None where a convolution is faster or must run.

    ``refusal`` returns why it must run, or "".
    """
    if not products.multiplies(x, weight) or refusal() or against_blocks(x, weight, bias):
        return None
    return products.pointwise(x, weight, bias)


def amplified(x: Tensor, gate: Tensor) -> Tensor:
    """Return ``x (1 + gate)``."""
    if torch.is_grad_enabled() and not against_blocks(x, gate) and x.shape == gate.shape:
        output: Tensor = Amplify.apply(x, gate)
        return output
    return torch.addcmul(x, x, gate)


def channel_factors(
    pooled: Tensor, mlp: Layer, sigmoid: Layer, pools: Sequence[Pool], form: Form, x: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the gate (B, C, 1, ...) from the spatial pools (B, pools, C), and what the printed form adds to it."""
    logits = _precise(mlp(pooled))
    if form == "cbam":
        return sigmoid(_with_axes_of(x, logits.sum(1))).to(x.dtype), None
    gate = sigmoid(_with_axes_of(x, logits[:, pools.index("avg")])).to(x.dtype)
    return gate, _with_axes_of(x, logits[:, pools.index("max")]).to(x.dtype)


def location_factor(maps: Tensor, conv: Layer, sigmoid: Layer, x: Tensor) -> Tensor:
    """Return the gate (B, 1, *S) from the channel pools (B, 2, *S)."""
    return factor(conv(maps), sigmoid, x)


def factor(logits: Tensor, sigmoid: Layer, x: Tensor) -> Tensor:
    """Return the gate of these logits in the map's dtype, computed in at least float32."""
    return sigmoid(_precise(logits)).to(x.dtype)


def gate_both(
    passes: Passes,
    channel: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    location: Layer,
    arrangement: Arrangement,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the map gated by both, plus the residual, and the gates (B, C, 1, ...) and (B, 1, *S).

    ``channel`` computes the gate and the shift from the spatial pools, ``location`` the gate from the channel pools.
    """
    if arrangement == "spatial-channel":
        spatial_map = location(passes.pool_channels())
        gate, shift = channel(passes.pool_space(spatial_map))
        output = passes.gate(gate, None, spatial_map)
        return output if shift is None else output + shift, gate, spatial_map
    gate, shift = channel(passes.pool_space())
    looked_at = (None, None) if arrangement == "parallel" else (gate, shift)
    spatial_map = location(passes.pool_channels(*looked_at))
    return passes.gate(gate, shift, spatial_map), gate, spatial_map


def _precise(logits: Tensor) -> Tensor:
    """Return a gate's logits in at least float32, or unchanged in a traced graph, which must stay simple to rewrite."""
    return logits if isinstance(logits, Proxy) or logits.dtype == torch.float32 else at_least_float32(logits)


def _with_axes_of(x: Tensor, logits: Tensor) -> Tensor:
    """Return (B, C) logits with as many axes as the map."""
    traced = isinstance(x, Proxy) or isinstance(logits, Proxy)
    return logits.reshape(_gate_shape(x, logits) if traced else (*logits.shape, *[1] * (x.ndim - 2)))


@whole
def _gate_shape(x: Tensor, logits: Tensor) -> tuple[int, ...]:
    return *logits.shape, *(1 for _ in range(x.ndim - 2))


def _mlp(w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, pooled: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(pooled, w1, b1)), w2, b2)


def _check_mlp(w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> None:
    _checks.weights(w1=w1, b1=b1, w2=w2, b2=b2)
    if w1.ndim != 2 or w2.shape != (w1.shape[1], w1.shape[0]):
        raise ValueError(
            said(
                f"weights must be w1 (hidden, C) and w2 (C, hidden), got shapes {_checks.shape(w1)} and "
                f"{_checks.shape(w2)}. Remove the axes of a 1x1 kernel with flatten(1)."
            )
        )
    _checks.bias("b1", b1, w1)
    _checks.bias("b2", b2, w2)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, norm: Layer | None) -> Layer:
    """Return the "same" convolution of the two pooled maps, after checking that weight and map fit."""
    _checks.weights(weight=weight, bias=bias)
    kernel = tuple(weight.shape[2:])
    if weight.shape[:2] != (1, 2) or not 1 <= len(kernel) <= 3 or any(size % 2 == 0 for size in kernel):
        raise ValueError(
            said(
                f"weight must be (1, 2, *kernel) with 1 to 3 odd kernel sizes, got shape {_checks.shape(weight)}. "
                "Use kernel sizes such as 3, 5 or 7."
            )
        )
    _checks.bias("bias", bias, weight)
    if norm is not None and (isinstance(norm, type) or not callable(norm)):
        raise TypeError(
            said(f"norm must be a module or a function of one map, got {_checks.shown(norm)}. Pass a built module.")
        )
    _checks.feature_map("x", x, None, len(kernel))
    _checks.same_dtype("x", x, weight.dtype)
    padding = tuple(size // 2 for size in kernel)

    def conv(pooled: Tensor) -> Tensor:
        logits = CONVOLUTIONS[len(kernel) - 1](pooled, weight, bias, padding=padding)
        return logits if norm is None else norm(logits)

    return conv
