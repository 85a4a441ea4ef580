"""The operations on the large map of the attention gates, and the way through them.

Maps are (B, C, N) with any strides, channel gates and shifts (B, C, 1), spatial gates (B, 1, N). Everything is computed
in float32, or float64 for itself, and stored in the map's dtype. What each operation moves, in maps, smaller tensors
aside (pools of the smaller tensors cost the share of them in the map):

==================== ==================================================================
pool_space           reads x
pool_channels        reads x
gate                 reads x and the residual, writes the output
gate_sums            reads x and the output's gradient
pool_channels_sums   reads x (where the channel gate is inside the pool)
pool_space_sums      reads x (where the spatial gate is inside the pool)
map_gradient         reads x and the output's gradient, writes the map's
==================== ==================================================================

So a channel gate followed by a spatial one reads x three times and writes once, and six passes take it back. The
gradient of the map is written once, by :func:`branch`: it hands out a slot, a tensor of one element, for whatever else
that gradient depends on, and each operation returns to its slots, for a gradient, what it knows of it. An operation that
is given no slots has the gradient of its map itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.library import custom_op

from blan_layers.kernels.gpu.gating import (
    gate_kernel,
    gate_sums_kernel,
    map_gradient_kernel,
    pool_channels_sums_kernel,
    pool_space_sums_kernel,
)
from blan_layers.kernels.gpu.once import refuse_batches, refuse_second_derivative
from blan_layers.kernels.gpu.pooling import gather_kernel, pool_channels_kernel, pool_space_kernel
from blan_layers.kernels.gpu.tiles import accumulator, blocks, launch, splits, tile

Gradients: TypeAlias = tuple[Tensor | None, ...]

GATHERED = 256
"""Pools that one program puts together."""


class Slots(NamedTuple):
    """Where the operations leave what the map's gradient depends on."""

    d_output: Tensor | None = None
    """(B, C, N), of the gating, as are the next two"""
    gate: Tensor | None = None
    """(B, C, 1)"""
    spatial: Tensor | None = None
    """(B, 1, N)"""
    d_maps: Tensor | None = None
    """(B, 2, N), of the pools over channels, as are the next three"""
    map_extremes: Tensor | None = None
    """(B, 2, N), in the accumulator's dtype: maxima and how many elements attain them"""
    map_gate: Tensor | None = None
    """(B, C, 1)"""
    map_shift: Tensor | None = None
    """(B, C, 1)"""
    d_pooled: Tensor | None = None
    """(pools, B, C), of the pools over space, as are the next two"""
    extremes: Tensor | None = None
    """(2, B, C), in the accumulator's dtype"""
    pool_gate: Tensor | None = None
    """(B, 1, N)"""


@custom_op("blan_layers::pool_space", mutates_args=())
def pool_space(
    x: Tensor,
    gate: Tensor | None,
    pools: str,
    d_pooled: Tensor | None = None,
    extremes: Tensor | None = None,
    pool_gate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pool ``x``, or ``x * gate``, over locations: (pools, B, C), and the maxima with their ties, (2, B, C).

    ``pools`` is "avg", "max" or both, comma between them; the last three arguments are slots.
    """
    pooled, maxima = _empty_pools(x, pools)
    batch, channels, locations = x.shape
    width, length = tile(x, along=2)
    rows = blocks(channels, width)
    share = splits(batch * rows, blocks(locations, length))
    parts = _empty_parts(x, share, batch * channels)
    mean, peak = _planes(pools)
    launch(
        pool_space_kernel, batch * rows * share, x, _dense(gate), pooled, maxima, parts, batch * channels,
        channels, locations, *x.stride(), share, MEAN=mean, PEAK=peak, WHOLE=share == 1, BC=width, BN=length,
    )  # fmt: skip
    if share > 1:
        _gather(parts, pooled, maxima, batch * channels, channels, channels, batch * channels, share, locations, pools)
    return pooled, maxima


@custom_op("blan_layers::pool_channels", mutates_args=())
def pool_channels(
    x: Tensor,
    gate: Tensor | None,
    shift: Tensor | None,
    d_maps: Tensor | None = None,
    map_extremes: Tensor | None = None,
    map_gate: Tensor | None = None,
    map_shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and maximum over channels of ``x``, or of ``x * gate + shift``, (B, 2, N), and the maxima with their ties.

    The last four arguments are slots.
    """
    maps, maxima = _empty_maps(x)
    batch, channels, locations = x.shape
    width, length = tile(x, along=1)
    columns = blocks(locations, length)
    share = splits(batch * columns, blocks(channels, width))
    parts = _empty_parts(x, share, batch * locations)
    launch(
        pool_channels_kernel, batch * columns * share, x, _dense(gate), _dense(shift), maps, maxima, parts,
        batch * locations, channels, locations, *x.stride(), share, WHOLE=share == 1, BC=width, BN=length,
    )  # fmt: skip
    if share > 1:
        _gather(parts, maps, maxima, batch * locations, locations, 2 * locations, locations, share, channels, "avg,max")
    return maps, maxima


@custom_op("blan_layers::gate", mutates_args=())
def gate(
    x: Tensor,
    gate: Tensor | None,
    shift: Tensor | None,
    spatial: Tensor | None,
    residual: Tensor | None,
    d_output: Tensor | None = None,
    slot_gate: Tensor | None = None,
    slot_spatial: Tensor | None = None,
) -> Tensor:
    """Return ``(x * gate + shift) * spatial + residual``, whatever of these is given; the last three are slots."""
    output = _empty_output(x, residual)
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    strides = (0, 0, 0) if residual is None else residual.stride()
    launch(
        gate_kernel, batch * blocks(channels, width) * blocks(locations, length), x, _dense(gate), _dense(shift),
        _dense(spatial), residual, output, channels, locations, *x.stride(), *strides, *output.stride(),
        BC=width, BN=length,
    )  # fmt: skip
    return output


@custom_op("blan_layers::branch", mutates_args=())
def branch(
    x: Tensor, pools: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the slots of ``x``, for pools over space that are named and an output of the dtype.

    Its backward writes the gradient of ``x``.
    """
    slots = _empty_slots(x, pools, dtype)
    return tuple(slots)  # type: ignore[return-value]  # ten of them, as annotated for the schema


@custom_op("blan_layers::gate_sums", mutates_args=())
def gate_sums(
    x: Tensor, d_output: Tensor, gate: Tensor | None, shift: Tensor | None, spatial: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate, shift and spatial gate, each empty where there is none of it."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    columns = blocks(locations, length)
    share = splits(batch * columns, blocks(channels, width))
    d_gate, d_shift = (_empty_sums(x, factor, columns, channels) for factor in (gate, shift))
    d_spatial = _empty_sums(x, spatial, share, locations)
    launch(
        gate_sums_kernel, batch * columns * share, x, d_output, _dense(gate), _dense(shift), _dense(spatial), d_gate,
        d_shift, d_spatial, batch, channels, locations, *x.stride(), *d_output.stride(), share, BC=width, BN=length,
    )  # fmt: skip
    return _summed(d_gate, gate, x), _summed(d_shift, shift, x), _summed(d_spatial, spatial, x)


@custom_op("blan_layers::pool_channels_sums", mutates_args=())
def pool_channels_sums(
    x: Tensor, gate: Tensor, shift: Tensor | None, d_maps: Tensor, extremes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients that pools over channels give the gate and the shift inside them, or an empty one."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=2)
    rows = blocks(channels, width)
    share = splits(batch * rows, blocks(locations, length))
    d_gate, d_shift = (_empty_sums(x, factor, share, channels) for factor in (gate, shift))
    launch(
        pool_channels_sums_kernel, batch * rows * share, x, _dense(gate), _dense(shift), _dense(d_maps), extremes,
        d_gate, d_shift, batch, channels, locations, *x.stride(), share, BC=width, BN=length,
    )  # fmt: skip
    return _summed(d_gate, gate, x), _summed(d_shift, shift, x)


@custom_op("blan_layers::pool_space_sums", mutates_args=())
def pool_space_sums(x: Tensor, gate: Tensor, d_pooled: Tensor, extremes: Tensor, pools: str) -> Tensor:
    """Return the gradient that pools over space give the spatial gate inside them."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=1)
    columns = blocks(locations, length)
    share = splits(batch * columns, blocks(channels, width))
    d_gate = _empty_sums(x, gate, share, locations)
    mean, peak = _planes(pools)
    launch(
        pool_space_sums_kernel, batch * columns * share, x, _dense(gate), _dense(d_pooled), extremes, d_gate, batch,
        channels, locations, *x.stride(), share, MEAN=mean, PEAK=peak, BC=width, BN=length,
    )  # fmt: skip
    return _summed(d_gate, gate, x)


@custom_op("blan_layers::map_gradient", mutates_args=())
def map_gradient(
    x: Tensor,
    d_output: Tensor | None,
    gate: Tensor | None,
    spatial: Tensor | None,
    d_maps: Tensor | None,
    map_extremes: Tensor | None,
    map_gate: Tensor | None,
    map_shift: Tensor | None,
    d_pooled: Tensor | None,
    extremes: Tensor | None,
    pool_gate: Tensor | None,
    pools: str,
) -> Tensor:
    """Return the gradient of a map from what its slots were left."""
    d_x = torch.empty_like(x)
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    strides = (0, 0, 0) if d_output is None else d_output.stride()
    mean, peak = _planes(pools)
    small = map(_dense, (gate, spatial, d_maps, map_extremes, map_gate, map_shift, d_pooled, extremes, pool_gate))
    launch(
        map_gradient_kernel, batch * blocks(channels, width) * blocks(locations, length), x, d_output, *small, d_x,
        batch, channels, locations, *x.stride(), *strides, *d_x.stride(), MEAN=mean, PEAK=peak, BC=width, BN=length,
    )  # fmt: skip
    return d_x


pool_space.register_fake(lambda x, gate, pools, *_: _empty_pools(x, pools))
pool_channels.register_fake(lambda x, *_: _empty_maps(x))
gate.register_fake(lambda x, gate, shift, spatial, residual, *_: _empty_output(x, residual))
branch.register_fake(lambda x, pools, dtype: tuple(_empty_slots(x, pools, dtype)))
gate_sums.register_fake(lambda x, d_output, *factors: tuple(_like(factor, x) for factor in factors))
pool_channels_sums.register_fake(lambda x, gate, shift, *_: (_like(gate, x), _like(shift, x)))
pool_space_sums.register_fake(lambda x, gate, *_: _like(gate, x))
map_gradient.register_fake(lambda x, *_: torch.empty_like(x))

for _operation in (gate_sums, pool_channels_sums, pool_space_sums, map_gradient):
    _operation.register_autograd(refuse_second_derivative)


def _keep_pool_space(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, ctx.pools, slot, *_ = inputs
    _keep(ctx, slot, output[1], x, gate, output[1])


def _differentiate_pool_space(ctx: Any, d_pooled: Tensor | None, _: None) -> Gradients:
    refuse_batches(d_pooled)
    if d_pooled is None:
        return (None,) * 6
    x, gate, extremes = ctx.saved_tensors
    d_gate = None
    if gate is not None and ctx.needs_input_grad[1]:
        d_gate = pool_space_sums(x, gate, d_pooled, extremes, ctx.pools)
    terms = d_pooled, extremes if "max" in ctx.pools else None, gate
    if ctx.has_slots:
        return None, d_gate, None, *terms
    return _own_gradient(ctx, x, Slots(None, None, None, None, None, None, None, *terms)), d_gate, None, None, None, None


pool_space.register_autograd(_differentiate_pool_space, setup_context=_keep_pool_space)


def _keep_pool_channels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, shift, slot, *_ = inputs
    ctx.pools = ""
    _keep(ctx, slot, output[1], x, gate, shift, output[1])


def _differentiate_pool_channels(ctx: Any, d_maps: Tensor | None, _: None) -> Gradients:
    refuse_batches(d_maps)
    if d_maps is None:
        return (None,) * 7
    x, gate, shift, extremes = ctx.saved_tensors
    d_gate = d_shift = None
    if gate is not None and any(ctx.needs_input_grad[1:3]):
        d_gate, d_shift = pool_channels_sums(x, gate, shift, d_maps, extremes)
    terms = d_maps, extremes, gate, shift
    d_shift = None if shift is None else d_shift
    if ctx.has_slots:
        return None, d_gate, d_shift, *terms
    return _own_gradient(ctx, x, Slots(None, None, None, *terms)), d_gate, d_shift, None, None, None, None


pool_channels.register_autograd(_differentiate_pool_channels, setup_context=_keep_pool_channels)


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gate, shift, spatial, residual, slot, *_ = inputs
    ctx.pools = ""
    ctx.residual_dtype = None if residual is None else residual.dtype
    _keep(ctx, slot, None, x, gate, shift, spatial)


def _differentiate_gate(ctx: Any, d_output: Tensor | None) -> Gradients:
    refuse_batches(d_output)
    if d_output is None:
        return (None,) * 8
    x, *factors = ctx.saved_tensors
    sums: Gradients = None, None, None
    if any(ctx.needs_input_grad[1:4]):
        sums = gate_sums(x, d_output, *factors)
    d_factors = (None if factor is None else d for factor, d in zip(factors, sums, strict=True))
    d_residual = d_output.to(ctx.residual_dtype) if ctx.needs_input_grad[4] else None
    terms = d_output, factors[0], factors[2]
    if ctx.has_slots:
        return None, *d_factors, d_residual, *terms
    return _own_gradient(ctx, x, Slots(*terms)), *d_factors, d_residual, None, None, None


gate.register_autograd(_differentiate_gate, setup_context=_keep_gate)


def _keep_branch(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    x, ctx.pools, _ = inputs
    _keep(ctx, None, None, x)


def _differentiate_branch(ctx: Any, *terms: Tensor | None) -> Gradients:
    (x,) = ctx.saved_tensors
    return _own_gradient(ctx, x, Slots(*terms)), None, None


branch.register_autograd(_differentiate_branch, setup_context=_keep_branch)


class TritonPasses:
    """The passes over one map, (B, C, *S): pools, and the gating that ends them."""

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        self.shape, self.x, self.pools = x.shape, x.flatten(2), ",".join(pools)
        self.residual = None if residual is None else residual.flatten(2)
        self.slots = Slots()
        if torch.is_grad_enabled() and x.requires_grad:
            self.slots = Slots(*branch(self.x, self.pools, _output_dtype(x, residual)))

    def pool_space(self, spatial_gate: Tensor | None) -> Tensor:
        """Return the pools of the map, or of the gated one, over space: (pools, B, C)."""
        gate = None if spatial_gate is None else spatial_gate.flatten(2)
        pooled, _ = pool_space(self.x, gate, self.pools, *self.slots[7:])
        return pooled

    def pool_channels(self, channel_gate: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return mean and maximum of the map, or of ``x * channel_gate + shift``, over channels: (B, 2, *S)."""
        maps, _ = pool_channels(self.x, channel_gate, shift, *self.slots[3:7])
        return maps.unflatten(2, self.shape[2:])

    def gate(self, channel_gate: Tensor | None, shift: Tensor | None, spatial_gate: Tensor | None) -> Tensor:
        """Return ``(x * channel_gate + shift) * spatial_gate + residual``."""
        spatial = None if spatial_gate is None else spatial_gate.flatten(2)
        return gate(self.x, channel_gate, shift, spatial, self.residual, *self.slots[:3]).view(self.shape)


def _keep(ctx: Any, slot: Tensor | None, constant: Tensor | None, *tensors: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    ctx.has_slots = slot is not None
    if constant is not None:
        ctx.mark_non_differentiable(constant)
    ctx.save_for_backward(*tensors)


def _own_gradient(ctx: Any, x: Tensor, slots: Slots) -> Tensor | None:
    return map_gradient(x, *slots, ctx.pools) if ctx.needs_input_grad[0] else None


def _gather(
    parts: Tensor | None, pooled: Tensor, extremes: Tensor,
    rows: int, length: int, by_image: int, plane: int, share: int, size: int, pools: str,
) -> None:  # fmt: skip
    mean, peak = _planes(pools)
    launch(
        gather_kernel, blocks(rows, GATHERED), parts, pooled, extremes, rows, length, by_image, plane, share, size,
        MEAN=mean, PEAK=peak, BLOCK=GATHERED,
    )  # fmt: skip


def _planes(pools: str) -> tuple[int, int]:
    """Return which planes of the pools are their means and maxima, -1 for none."""
    names = pools.split(",")
    return tuple(names.index(pool) if pool in names else -1 for pool in ("avg", "max"))  # type: ignore[return-value]


def _dense(factor: Tensor | None) -> Tensor | None:
    return None if factor is None else factor.contiguous()


def _output_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def _empty_pools(x: Tensor, pools: str) -> tuple[Tensor, Tensor]:
    pooled = x.new_empty(len(pools.split(",")), x.shape[0], x.shape[1])
    kept = 2 if "max" in pools else 0
    return pooled, x.new_empty(kept, x.shape[0], x.shape[1], dtype=accumulator(x.dtype))


def _empty_maps(x: Tensor) -> tuple[Tensor, Tensor]:
    maps = x.new_empty(x.shape[0], 2, x.shape[2])
    return maps, torch.empty_like(maps, dtype=accumulator(x.dtype))


def _empty_output(x: Tensor, residual: Tensor | None) -> Tensor:
    return torch.empty_like(x, dtype=_output_dtype(x, residual))


def _empty_slots(x: Tensor, pools: str, dtype: torch.dtype) -> Slots:
    batch, channels, locations = x.shape
    precise = accumulator(x.dtype)
    by_channel, by_location = (batch, channels, 1), (batch, 1, locations)
    shapes = Slots(
        x.shape, by_channel, by_location,
        (batch, 2, locations), (batch, 2, locations), by_channel, by_channel,
        (len(pools.split(",")), batch, channels), (2, batch, channels), by_location,
    )  # fmt: skip
    dtypes = Slots(*(x.dtype for _ in shapes))._replace(d_output=dtype, map_extremes=precise, extremes=precise)
    return Slots(*(x.new_empty((), dtype=t).expand(shape) for t, shape in zip(dtypes, shapes, strict=True)))


def _empty_parts(x: Tensor, share: int, rows: int) -> Tensor | None:
    return None if share == 1 else x.new_empty(3, share, rows, dtype=accumulator(x.dtype))


def _empty_sums(x: Tensor, factor: Tensor | None, share: int, length: int) -> Tensor | None:
    return None if factor is None else x.new_empty(share, x.shape[0], length, dtype=accumulator(x.dtype))


def _summed(shares: Tensor | None, factor: Tensor | None, x: Tensor) -> Tensor:
    """Return the sum of the shares in the layout and dtype of what it is the gradient of."""
    if shares is None or factor is None:
        return _like(None, x)
    return shares.sum(0).to(factor.dtype).view(factor.shape)


def _like(factor: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if factor is None else factor.new_empty(factor.shape)
