"""The gating of a map, the gradients of its gates, and the operation that writes the gradient of the map."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from blan_layers.kernels.gpu.factors import dense, empty_sums, like, planes, summed
from blan_layers.kernels.gpu.gating_kernels import gate_kernel, gate_sums_kernel, map_gradient_kernel
from blan_layers.kernels.gpu.tiles import accumulator, blocks, launch, splits, tile
from blan_layers.kernels.passes import empty_map


class Slots(NamedTuple):
    """Where the operations store what the gradient of the map depends on."""

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


@custom_op("blan_layers::gate", mutates_args=())
def gate(
    x: Tensor,
    gate: Tensor | None,
    shift: Tensor | None,
    spatial: Tensor | None,
    residual: Tensor | None,
    shape: Sequence[int],
    d_output: Tensor | None = None,
    slot_gate: Tensor | None = None,
    slot_spatial: Tensor | None = None,
) -> Tensor:
    """Return ``(x * gate + shift) * spatial + residual``, without terms that are not given, as a map of ``shape``.

    The last three arguments are slots.
    """
    result = _empty_output(x, residual, shape)
    output = result.flatten(2)
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    strides = (0, 0, 0) if residual is None else residual.stride()
    launch(
        gate_kernel, batch * blocks(channels, width) * blocks(locations, length), x, dense(gate), dense(shift),
        dense(spatial), residual, output, channels, locations, *x.stride(), *strides, *output.stride(),
        BC=width, BN=length,
    )  # fmt: skip
    return result


@custom_op("blan_layers::gate_sums", mutates_args=())
def gate_sums(
    x: Tensor, d_output: Tensor, gate: Tensor | None, shift: Tensor | None, spatial: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate, shift and spatial gate; each is empty if it is not given."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    columns = blocks(locations, length)
    share = splits(batch * columns, blocks(channels, width))
    d_gate, d_shift = (empty_sums(x, factor, columns, channels) for factor in (gate, shift))
    d_spatial = empty_sums(x, spatial, share, locations)
    launch(
        gate_sums_kernel, batch * columns * share, x, d_output, dense(gate), dense(shift), dense(spatial), d_gate,
        d_shift, d_spatial, batch, channels, locations, *x.stride(), *d_output.stride(), share, BC=width, BN=length,
    )  # fmt: skip
    return summed(d_gate, gate, x), summed(d_shift, shift, x), summed(d_spatial, spatial, x)


@custom_op("blan_layers::branch", mutates_args=())
def branch(
    x: Tensor, pools: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the slots of ``x`` for the named pools over space and an output of the dtype.

    Its backward writes the gradient of ``x``.
    """
    slots = _empty_slots(x, pools, dtype)
    return tuple(slots)  # type: ignore[return-value]  # ten of them, as annotated for the schema


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
    """Return the gradient of a map from the contents of its slots."""
    d_x = torch.empty_like(x)
    batch, channels, locations = x.shape
    width, length = tile(x, along=0)
    strides = (0, 0, 0) if d_output is None else d_output.stride()
    mean, peak = planes(pools)
    small = map(dense, (gate, spatial, d_maps, map_extremes, map_gate, map_shift, d_pooled, extremes, pool_gate))
    launch(
        map_gradient_kernel, batch * blocks(channels, width) * blocks(locations, length), x, d_output, *small, d_x,
        batch, channels, locations, *x.stride(), *strides, *d_x.stride(), MEAN=mean, PEAK=peak, BC=width, BN=length,
    )  # fmt: skip
    return d_x


gate.register_fake(lambda x, gate, shift, spatial, residual, shape, *_: _empty_output(x, residual, shape))
gate_sums.register_fake(lambda x, d_output, *factors: tuple(like(factor, x) for factor in factors))
branch.register_fake(lambda x, pools, dtype: tuple(_empty_slots(x, pools, dtype)))
map_gradient.register_fake(lambda x, *_: torch.empty_like(x))


def output_dtype(x: Tensor, residual: Tensor | None) -> torch.dtype:
    """Return the dtype of a map that a residual was added to."""
    return x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)


def _empty_output(x: Tensor, residual: Tensor | None, shape: Sequence[int]) -> Tensor:
    return empty_map(x, shape, output_dtype(x, residual))


def _empty_slots(x: Tensor, pools: str, dtype: torch.dtype) -> Slots:
    batch, channels, locations = x.shape
    precise = accumulator(x.dtype)
    by_channel, by_location = (batch, channels, 1), (batch, 1, locations)
    shapes = (
        x.shape, by_channel, by_location,
        (batch, 2, locations), (batch, 2, locations), by_channel, by_channel,
        (len(pools.split(",")), batch, channels), (2, batch, channels), by_location,
    )  # fmt: skip
    own = x.dtype
    dtypes = dtype, own, own, own, precise, own, own, own, precise, own
    return Slots(*(x.new_empty((), dtype=t).expand(shape) for t, shape in zip(dtypes, shapes, strict=True)))
