"""Pools of a map over space and over channels, and their gradients for the gates inside them."""

import torch
from torch import Tensor
from torch.library import custom_op

from blan_layers.kernels.gpu.factors import dense, empty_sums, like, planes, summed
from blan_layers.kernels.gpu.pooling_kernels import (
    gather_kernel,
    pool_channels_kernel,
    pool_channels_sums_kernel,
    pool_space_kernel,
    pool_space_sums_kernel,
)
from blan_layers.kernels.gpu.tiles import accumulator, blocks, launch, splits, tile

GATHERED = 256
"""Number of pools that one program combines."""


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

    ``pools`` is "avg", "max" or "avg,max"; the last three arguments are slots.
    """
    pooled, maxima = _empty_pools(x, pools)
    batch, channels, locations = x.shape
    width, length = tile(x, along=2)
    rows = blocks(channels, width)
    share = splits(batch * rows, blocks(locations, length))
    parts = _empty_parts(x, share, batch * channels)
    mean, peak = planes(pools)
    launch(
        pool_space_kernel, batch * rows * share, x, dense(gate), pooled, maxima, parts, batch * channels,
        channels, locations, *x.stride(), share, MEAN=mean, PEAK=peak, WHOLE=share == 1, BC=width, BN=length,
    )  # fmt: skip
    if parts is not None:
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
        pool_channels_kernel, batch * columns * share, x, dense(gate), dense(shift), maps, maxima, parts,
        batch * locations, channels, locations, *x.stride(), share, WHOLE=share == 1, BC=width, BN=length,
    )  # fmt: skip
    if parts is not None:
        _gather(parts, maps, maxima, batch * locations, locations, 2 * locations, locations, share, channels, "avg,max")
    return maps, maxima


@custom_op("blan_layers::pool_channels_sums", mutates_args=())
def pool_channels_sums(
    x: Tensor, gate: Tensor, shift: Tensor | None, d_maps: Tensor, extremes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the pools over channels for the gate and the shift inside them, empty without a shift."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=2)
    rows = blocks(channels, width)
    share = splits(batch * rows, blocks(locations, length))
    d_gate, d_shift = (empty_sums(x, factor, share, channels) for factor in (gate, shift))
    launch(
        pool_channels_sums_kernel, batch * rows * share, x, dense(gate), dense(shift), dense(d_maps), extremes,
        d_gate, d_shift, batch, channels, locations, *x.stride(), share, BC=width, BN=length,
    )  # fmt: skip
    return summed(d_gate, gate, x), summed(d_shift, shift, x)


@custom_op("blan_layers::pool_space_sums", mutates_args=())
def pool_space_sums(x: Tensor, gate: Tensor, d_pooled: Tensor, extremes: Tensor, pools: str) -> Tensor:
    """Return the gradient of the pools over space for the spatial gate inside them."""
    batch, channels, locations = x.shape
    width, length = tile(x, along=1)
    columns = blocks(locations, length)
    share = splits(batch * columns, blocks(channels, width))
    d_gate = empty_sums(x, gate, share, locations)
    mean, peak = planes(pools)
    launch(
        pool_space_sums_kernel, batch * columns * share, x, dense(gate), dense(d_pooled), extremes, d_gate, batch,
        channels, locations, *x.stride(), share, MEAN=mean, PEAK=peak, BC=width, BN=length,
    )  # fmt: skip
    return summed(d_gate, gate, x)


pool_space.register_fake(lambda x, gate, pools, *_: _empty_pools(x, pools))
pool_channels.register_fake(lambda x, *_: _empty_maps(x))
pool_channels_sums.register_fake(lambda x, gate, shift, *_: (like(gate, x), like(shift, x)))
pool_space_sums.register_fake(lambda x, gate, *_: like(gate, x))


def _gather(
    parts: Tensor, pooled: Tensor, extremes: Tensor,
    rows: int, length: int, by_image: int, plane: int, share: int, size: int, pools: str,
) -> None:  # fmt: skip
    mean, peak = planes(pools)
    launch(
        gather_kernel, blocks(rows, GATHERED), parts, pooled, extremes, rows, length, by_image, plane, share, size,
        MEAN=mean, PEAK=peak, BLOCK=GATHERED,
    )  # fmt: skip


def _empty_pools(x: Tensor, pools: str) -> tuple[Tensor, Tensor]:
    pooled = x.new_empty(len(pools.split(",")), x.shape[0], x.shape[1])
    kept = 2 if "max" in pools else 0
    return pooled, x.new_empty(kept, x.shape[0], x.shape[1], dtype=accumulator(x.dtype))


def _empty_maps(x: Tensor) -> tuple[Tensor, Tensor]:
    maps = x.new_empty(x.shape[0], 2, x.shape[2])
    return maps, torch.empty_like(maps, dtype=accumulator(x.dtype))


def _empty_parts(x: Tensor, share: int, rows: int) -> Tensor | None:
    return None if share == 1 else x.new_empty(3, share, rows, dtype=accumulator(x.dtype))
