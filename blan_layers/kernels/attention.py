"""The passes over the large map of the attention gates, in blocks that stay in the cache.

Maps are (B, C, N), channel gates and shifts (B, C, 1), spatial gates (B, 1, N). The pools return the map as well, for
the next pass to read: so the gradients of all passes meet in one tensor, to which each adds its own in place. That
tensor is made by :class:`Gate`, which must be the last to read the map.

The gradient of a maximum is shared equally among the tied elements, as by ``torch.amax``.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from blan_layers.kernels.blocks import blocks, scratch, whole_images
from blan_layers.kernels.once import Gradients, once_differentiable

STEP = 64
"""Elements that one step of PyTorch's reductions takes; shorter rows are reduced one by one, which is slow."""

LONG = 2048
"""Locations from which on looking for the rows that hold a maximum takes less time than reading the map again."""


class PoolSpace(Function):
    """Pools of ``x``, or of ``x * spatial_gate``, over locations: (pools, B, C), and ``x``.

    The maximum of a long map is taken over rows of locations first: in the backward only the rows that hold it are
    looked at.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spatial_gate: Tensor | None, pools: Sequence[str]) -> tuple[Tensor, Tensor]:
        batch, channels, locations = x.shape
        rows = row_split(locations)
        pooled = x.new_empty(len(pools), batch, channels)
        peaks = x.new_empty(batch, channels, rows[0])
        for images in whole_images(x):
            y = _gated(x[images], spatial_gate, None, images)
            for pool, target in zip(pools, pooled, strict=True):
                if pool == "avg":
                    torch.mean(y, 2, out=target[images])
                else:
                    torch.amax(y.unflatten(2, rows), 3, out=peaks[images])
                    torch.amax(peaks[images], 2, out=target[images])
        ctx.pools = pools
        ctx.save_for_backward(x, spatial_gate, peaks if "max" in pools else None)
        return pooled, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        d_pooled, d_x = gradients
        x, gate, peaks = ctx.saved_tensors
        d_gate = None if gate is None else torch.zeros(gate.shape, dtype=x.dtype)
        d_of = dict(zip(ctx.pools, d_pooled[..., None], strict=True))
        d_mean = d_of["avg"] / x.shape[2] if "avg" in d_of else None
        if peaks is not None and peaks.shape[2] == 1:
            _spread(x, gate, peaks, d_mean, d_of["max"], d_x, d_gate)
            return d_x, d_gate, None
        if d_mean is not None:
            _add_gated(d_x, d_mean, gate)
            if d_gate is not None:
                d_gate.baddbmm_(d_mean.mT, x)
        if peaks is not None:
            _spread_over_rows(x, gate, peaks, d_of["max"], d_x, d_gate)
        return d_x, d_gate, None


class PoolChannels(Function):
    """Mean and maximum of ``x``, or of ``x * channel_gate + shift``, over channels: (B, 2, N), and ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channel_gate: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = pool_channels(x, channel_gate, shift)
        ctx.save_for_backward(x, channel_gate, shift, maps)
        return maps, x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        d_maps, d_x = gradients
        x, gate, shift, maps = ctx.saved_tensors
        d_gate, d_shift = (None if factor is None else torch.zeros_like(factor) for factor in (gate, shift))
        for images, places in blocks(x):
            part = x[images, :, places]
            y = _gated(part, gate, shift, images)
            ties = torch.eq(y, maps[images, 1:, places], out=scratch(part))
            d_peak = d_maps[images, 1:, places] / ties.sum(1, keepdim=True)
            d_y = torch.addcmul(d_maps[images, :1, places] / x.shape[1], ties, d_peak, out=ties)
            _add_gated(d_x[images, :, places], d_y, None if gate is None else gate[images])
            if d_shift is not None:
                d_shift[images] += d_y.sum(2, keepdim=True)
            if d_gate is not None:
                d_gate[images] += d_y.mul_(part).sum(2, keepdim=True)
        return d_x, d_gate, d_shift


class Gate(Function):
    """``(x * channel_gate + shift) * spatial_gate + residual``.

    All but ``x`` and one gate may be None; a residual needs the spatial gate.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        channel_gate: Tensor | None,
        shift: Tensor | None,
        spatial_gate: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, channel_gate, shift, spatial_gate)
        output = torch.empty_like(x)
        for images, places in blocks(x):
            part = output[images, :, places]
            y = _gated(x[images, :, places], channel_gate, shift, images, part)
            if spatial_gate is not None:
                added = None if residual is None else residual[images, :, places]
                gate_and_add(y, spatial_gate[images, :, places], added, part)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        (d_output,) = gradients
        x, channel_gate, shift, spatial_gate = ctx.saved_tensors
        d_x = torch.empty_like(x)
        d_channel, d_shift, d_spatial = (
            None if factor is None else torch.zeros_like(factor) for factor in (channel_gate, shift, spatial_gate)
        )
        for images, places in blocks(x):
            d_out, d_part = d_output[images, :, places], d_x[images, :, places]
            product = torch.mul(d_out, x[images, :, places], out=d_part)
            spatial = None if spatial_gate is None else spatial_gate[images, :, places]
            if d_channel is not None:
                d_channel[images] += _sum_over_space(product, spatial)
            if d_shift is not None:
                d_shift[images] += _sum_over_space(d_out, spatial)
            if d_spatial is not None:
                d_gate = d_spatial[images, :, places]
                d_gate += product.sum(1, keepdim=True) if channel_gate is None else channel_gate[images].mT @ product
                if shift is not None:
                    d_gate += shift[images].mT @ d_out
            factors = [
                factor
                for factor in (spatial, None if channel_gate is None else channel_gate[images])
                if factor is not None
            ]
            torch.mul(d_out, factors[0], out=d_part)
            for factor in factors[1:]:
                d_part *= factor
        return d_x, d_channel, d_shift, d_spatial, d_output if ctx.needs_input_grad[4] else None


def pool_channels(x: Tensor, channel_gate: Tensor | None, shift: Tensor | None, gated: Tensor | None = None) -> Tensor:
    """Return what :class:`PoolChannels` does, and leave the gated map in ``gated`` if that is given."""
    batch, channels, locations = x.shape
    weights = x.new_ones(batch, 1, channels) if channel_gate is None else channel_gate.mT
    means = torch.bmm(weights / channels, x)  # faster than a mean of what is gated
    if shift is not None:
        means += shift.mean(1, keepdim=True)
    peaks = x.new_empty(batch, 1, locations)
    for images, places in blocks(x):
        room = None if gated is None else gated[images, :, places]
        y = _gated(x[images, :, places], channel_gate, shift, images, room)
        torch.amax(y, 1, keepdim=True, out=peaks[images, :, places])
    return torch.cat([means, peaks], 1)


def gate_and_add(x: Tensor, gate: Tensor, residual: Tensor | None, output: Tensor) -> Tensor:
    """Write ``x * gate + residual`` to ``output``, which may be ``x`` itself."""
    if residual is None:
        return torch.mul(x, gate, out=output)
    return torch.addcmul(residual, x, gate, out=output)


@lru_cache(maxsize=64)
def row_split(locations: int) -> tuple[int, int]:
    """Return (rows, row length): of a long map the shortest rows of at least a step and the root of their number."""
    shortest = locations if locations < LONG else max(STEP, math.isqrt(locations))
    length = next(length for length in range(shortest, locations + 1) if locations % length == 0)
    return locations // length, length


def _gated(x: Tensor, gate: Tensor | None, shift: Tensor | None, images: slice, out: Tensor | None = None) -> Tensor:
    """Return ``x * gate + shift``, written to ``out`` or to scratch memory if there is a gate."""
    if gate is None:
        return x
    out = scratch(x) if out is None else out
    if shift is None:
        return torch.mul(x, gate[images], out=out)
    return torch.addcmul(shift[images], x, gate[images], out=out)


def _add_gated(target: Tensor, value: Tensor, gate: Tensor | None) -> None:
    if gate is None:
        target.add_(value)
    else:
        target.addcmul_(value, gate)


def _sum_over_space(x: Tensor, gate: Tensor | None) -> Tensor:
    return x.sum(2, keepdim=True) if gate is None else x @ gate.mT


def _spread(
    x: Tensor,
    gate: Tensor | None,
    peaks: Tensor,
    d_mean: Tensor | None,
    d_peak: Tensor,
    d_x: Tensor,
    d_gate: Tensor | None,
) -> None:
    """Add the gradients of means and maxima over space to every element, and to the gate's."""
    for images in whole_images(x):
        part = x[images]
        ties = torch.eq(_gated(part, gate, None, images), peaks[images], out=scratch(part))
        share = d_peak[images] / ties.sum(2, keepdim=True)
        d_y = ties.mul_(share) if d_mean is None else torch.addcmul(d_mean[images], ties, share, out=ties)
        _add_gated(d_x[images], d_y, None if gate is None else gate[images])
        if d_gate is not None:
            d_gate[images] += d_y.mul_(part).sum(1, keepdim=True)


def _spread_over_rows(
    x: Tensor, gate: Tensor | None, peaks: Tensor, d_peak: Tensor, d_x: Tensor, d_gate: Tensor | None
) -> None:
    """Add the gradient of the maxima over space to the elements that attain them, and to the gate's."""
    shape = row_split(x.shape[2])
    top = peaks.amax(2, keepdim=True)
    image, channel, row = (peaks == top).nonzero(as_tuple=True)
    values = x.unflatten(2, shape)[image, channel, row]
    gates = None if gate is None else gate.unflatten(2, shape)[image, 0, row]
    ties = (values if gates is None else values * gates) == top[image, channel]
    count = torch.zeros_like(top).index_put_((image, channel), ties.sum(1, keepdim=True).to(x.dtype), accumulate=True)
    spread = ties * (d_peak / count)[image, channel]
    d_x.unflatten(2, shape)[image, channel, row] += spread if gates is None else spread * gates
    if d_gate is not None:
        d_gate.view(-1, shape[1]).index_add_(0, image * shape[0] + row, spread * values)
