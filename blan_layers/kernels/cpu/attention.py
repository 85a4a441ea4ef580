"""The passes over the large map of the attention gates, in blocks that stay in the cache.

Maps are (B, C, *S), whose locations are one axis in memory. Channel gates and shifts are (B, C, 1, ...), spatial gates
(B, 1, *S). The pools also return the map, which the next pass reads. The gradients of all passes are thereby
accumulated in place in one tensor. That tensor is created by :class:`Gate`, which must be the last to read the map.

The gradient of a maximum is shared equally among the tied elements, as by ``torch.amax``.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from blan_layers.kernels.cpu.blocks import blocks, scratch, whole_images
from blan_layers.kernels.derivatives import Gradients, any_order
from blan_layers.kernels.passes import PlainPasses, empty_map

STEP = 64
"""Elements per step of PyTorch's reductions; shorter rows are reduced element by element, which is slow."""

LONG = 2048
"""Locations above which finding the rows that contain a maximum is faster than reading the map again."""


class BlockedPasses(PlainPasses):
    """The passes in blocks that stay in the CPU's cache, over a map (B, C, *S)."""

    plain = False

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        super().__init__(x, pools, residual)
        self.latest = x
        if not x.is_contiguous():
            flat = x.flatten(2)
            self.latest = x if flat.data_ptr() == x.data_ptr() else flat.view(x.shape)  # its locations lie as one axis
        self.room: Tensor | None = None  # where no gradient is needed: the map gated by a pass, gated further in place
        self.room_needs_channels = False

    def pool_space(self, spatial_gate: Tensor | None = None) -> Tensor:
        """Pool the map; without a gate, blocks are useful only for the gradient."""
        graded = torch.is_grad_enabled()
        if (spatial_gate is None and not graded) or not self.fit(spatial_gate=spatial_gate):
            return super().pool_space(spatial_gate)
        pooled: Tensor
        if graded:
            pooled, self.latest = PoolSpace.apply(self.latest, spatial_gate, tuple(self.pools))
        else:
            self.room, self.room_needs_channels = self._empty(), True
            pooled, _ = pool_space(self.latest, spatial_gate, self.pools, self.room)
        return pooled

    def pool_channels(self, channel_gate: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Pool the map; without a gate, blocks are useful only for the gradient."""
        graded = torch.is_grad_enabled()
        if (channel_gate is None and not graded) or not self.fit(channel_gate, shift):
            return super().pool_channels(channel_gate, shift)
        maps: Tensor
        if graded:
            maps, self.latest = PoolChannels.apply(self.latest, channel_gate, shift)
        else:
            self.room, self.room_needs_channels = self._empty(), False
            maps = pool_channels(self.latest, channel_gate, shift, self.room)
        return maps

    def _empty(self) -> Tensor:
        return empty_map(self.latest.flatten(2), self.latest.shape, self.latest.dtype)

    def for_convolution(self, maps: Tensor) -> Tensor:
        """Return pooled maps in the layout in which a two-channel convolution has a much faster backward pass."""
        if maps.ndim == 3 or not torch.is_grad_enabled():
            return maps
        return maps.contiguous(memory_format=torch.channels_last if maps.ndim == 4 else torch.channels_last_3d)

    def gate(
        self, channel_gate: Tensor | None = None, shift: Tensor | None = None, spatial_gate: Tensor | None = None
    ) -> Tensor:
        """Gate the map and add the residual; a single product is not faster in blocks."""
        if not self.fit(channel_gate, shift, spatial_gate):
            return super().gate(channel_gate, shift, spatial_gate)
        rest = channel_gate if self.room_needs_channels else spatial_gate
        if self.room is not None and rest is not None:
            flat = _flat(self.room)
            gate_and_add(flat, _flat(rest), _flat_or_none(self.residual), flat)
            return self.room
        factors = channel_gate, shift, spatial_gate, self.residual
        if not torch.is_grad_enabled() and sum(factor is not None for factor in factors) == 1:
            return super().gate(channel_gate, shift, spatial_gate)
        output: Tensor = Gate.apply(self.latest, channel_gate, shift, spatial_gate, self.residual)
        return output


def _pool_space_plainly(x: Tensor, spatial_gate: Tensor | None, pools: Sequence[str]) -> tuple[Tensor, Tensor]:
    return PlainPasses(x, pools).pool_space(spatial_gate), x


class PoolSpace(Function):
    """Pools of ``x``, or of ``x * spatial_gate``, over locations: (B, pools, C), and ``x``.

    The maximum of a long map is first taken over rows of locations. In the backward pass only the rows that contain it
    are read.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spatial_gate: Tensor | None, pools: Sequence[str]) -> tuple[Tensor, Tensor]:
        pooled, peaks = pool_space(x, spatial_gate, pools)
        ctx.tensors, ctx.options = 2, (pools,)
        ctx.save_for_backward(x, spatial_gate, peaks if "max" in pools else None)
        return pooled, x.view_as(x)

    @staticmethod
    @any_order(_pool_space_plainly)
    def backward(ctx: Any, saved: Sequence[Tensor | None], d_pooled: Tensor, d_map: Tensor) -> Gradients:
        x, gate = _flat(saved[0]), _flat_or_none(saved[1])
        peaks, d_x, (pools,) = saved[2], _flat(d_map), ctx.options
        d_gate = None if gate is None else torch.zeros_like(gate)
        d_of = dict(zip(pools, d_pooled.unsqueeze(-1).unbind(1), strict=True))
        d_mean = d_of["avg"] / x.shape[2] if "avg" in d_of else None
        if peaks is not None and peaks.shape[2] == 1:
            _spread(x, gate, peaks, d_mean, d_of["max"], d_x, d_gate)
        else:
            if d_mean is not None:
                _add_gated(d_x, d_mean, gate)
                if d_gate is not None:
                    d_gate.baddbmm_(d_mean.mT, x)
            if peaks is not None:
                _spread_over_rows(x, gate, peaks, d_of["max"], d_x, d_gate)
        return d_x.view(d_map.shape), _shaped(d_gate, saved[1]), None


def _pool_channels_plainly(x: Tensor, channel_gate: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    return PlainPasses(x).pool_channels(channel_gate, shift), x


class PoolChannels(Function):
    """Mean and maximum of ``x``, or of ``x * channel_gate + shift``, over channels: (B, 2, *S), and ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channel_gate: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        maps = pool_channels(x, channel_gate, shift)
        ctx.tensors, ctx.options = 3, ()
        ctx.save_for_backward(x, channel_gate, shift, maps)
        return maps, x.view_as(x)

    @staticmethod
    @any_order(_pool_channels_plainly)
    def backward(ctx: Any, saved: Sequence[Tensor | None], d_pooled: Tensor, d_map: Tensor) -> Gradients:
        x, maps = _flat(saved[0]), _flat(saved[3])
        gate, shift = _flat_or_none(saved[1]), _flat_or_none(saved[2])
        d_maps, d_x = _flat(d_pooled), _flat(d_map)
        d_gate, d_shift = (None if factor is None else torch.zeros_like(factor) for factor in (gate, shift))
        for images, places in blocks(x):
            part = x[images, :, places]
            y = _gated(part, gate, shift, images)
            ties = torch.eq(y, maps[images, 1:, places], out=scratch(part))
            count = ties.sum(1, keepdim=True)
            if not count.all():  # what was saved came back rounded
                y = _gated(part, gate, shift, images)
                ties = torch.eq(y, y.amax(1, keepdim=True), out=scratch(part))
                count = ties.sum(1, keepdim=True)
            d_peak = d_maps[images, 1:, places] / count
            d_y = torch.addcmul(d_maps[images, :1, places] / x.shape[1], ties, d_peak, out=ties)
            _add_gated(d_x[images, :, places], d_y, None if gate is None else gate[images])
            if d_shift is not None:
                d_shift[images] += d_y.sum(2, keepdim=True)
            if d_gate is not None:
                d_gate[images] += d_y.mul_(part).sum(2, keepdim=True)
        return d_x.view(d_map.shape), _shaped(d_gate, saved[1]), _shaped(d_shift, saved[2])


def _gate_plainly(x: Tensor, channel_gate: Tensor | None, shift: Tensor | None, spatial_gate: Tensor | None) -> Tensor:
    return PlainPasses(x).gate(channel_gate, shift, spatial_gate)


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
        ctx.tensors, ctx.options = 4, ()
        ctx.save_for_backward(x, channel_gate, shift, spatial_gate)
        flat = _flat(x)
        output = empty_map(flat, x.shape, x.dtype)
        target, added = _flat(output), _flat_or_none(residual)
        channel, offset, spatial = (_flat_or_none(t) for t in (channel_gate, shift, spatial_gate))
        for images, places in blocks(flat):
            part = target[images, :, places]
            y = _gated(flat[images, :, places], channel, offset, images, part)
            if spatial is not None:
                gate_and_add(y, spatial[images, :, places], None if added is None else added[images, :, places], part)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        (d_output,) = gradients
        return *_gate_gradients(ctx, d_output)[:4], d_output if ctx.needs_input_grad[4] else None


@any_order(_gate_plainly)
def _gate_gradients(_: Any, saved: Sequence[Tensor | None], d_map: Tensor) -> Gradients:
    """Return the gradients of :class:`Gate` except that of the residual, which is the output's gradient."""
    x, d_output = _flat(saved[0]), _flat(d_map)
    channel_gate, shift, spatial_gate = (_flat_or_none(t) for t in saved[1:])
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
            factor for factor in (spatial, None if channel_gate is None else channel_gate[images]) if factor is not None
        ]
        torch.mul(d_out, factors[0], out=d_part)
        for factor in factors[1:]:
            d_part *= factor
    found = (d_x, d_channel, d_shift, d_spatial)
    return tuple(_shaped(d, like) for d, like in zip(found, saved, strict=True))


def _amplified_plainly(x: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x, x, gate)


class Amplify(Function):
    """``x (1 + gate)`` of tensors of the same shape, in one pass, keeping nothing else for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.tensors, ctx.options = 2, ()
        ctx.save_for_backward(x, gate)
        return _amplified_plainly(x, gate)

    @staticmethod
    @any_order(_amplified_plainly)
    def backward(ctx: Any, saved: Sequence[Tensor], d_output: Tensor) -> Gradients:
        x, gate = saved
        wanted = ctx.needs_input_grad
        return torch.addcmul(d_output, d_output, gate) if wanted[0] else None, d_output * x if wanted[1] else None


def pool_space(
    x: Tensor, spatial_gate: Tensor | None, pools: Sequence[str], gated: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute :class:`PoolSpace` and the maxima of rows of locations, and store the gated map in ``gated`` if given."""
    flat, gate, target = _flat(x), _flat_or_none(spatial_gate), _flat_or_none(gated)
    batch, channels, locations = flat.shape
    rows = row_split(locations)
    pooled = flat.new_empty(batch, len(pools), channels)
    peaks = flat.new_empty(batch, channels, rows[0])
    for images in whole_images(flat):
        y = _gated(flat[images], gate, None, images, None if target is None else target[images])
        for place, pool in enumerate(pools):
            if pool == "avg":
                torch.mean(y, 2, out=pooled[images, place])
            else:
                torch.amax(y.unflatten(2, rows), 3, out=peaks[images])
                torch.amax(peaks[images], 2, out=pooled[images, place])
    return pooled, peaks


def pool_channels(x: Tensor, channel_gate: Tensor | None, shift: Tensor | None, gated: Tensor | None = None) -> Tensor:
    """Compute :class:`PoolChannels`, and store the gated map in ``gated`` if given."""
    flat, gate, offset = _flat(x), _flat_or_none(channel_gate), _flat_or_none(shift)
    target = _flat_or_none(gated)
    batch, channels, locations = flat.shape
    weights = flat.new_ones(batch, 1, channels) if gate is None else gate.mT
    means = flat.new_empty(batch, 1, locations)
    torch.baddbmm(means, weights, flat, beta=0, alpha=1 / channels, out=means)  # faster than a mean of what is gated
    if offset is not None:
        means += offset.mean(1, keepdim=True)
    peaks = flat.new_empty(batch, 1, locations)
    for images, places in blocks(flat):
        room = None if target is None else target[images, :, places]
        y = _gated(flat[images, :, places], gate, offset, images, room)
        torch.amax(y, 1, keepdim=True, out=peaks[images, :, places])
    return torch.cat([means, peaks], 1).view(batch, 2, *x.shape[2:])


def gate_and_add(x: Tensor, gate: Tensor, residual: Tensor | None, output: Tensor) -> Tensor:
    """Write ``x * gate + residual`` to ``output``, which may be ``x`` itself."""
    if residual is None:
        return torch.mul(x, gate, out=output)
    return torch.addcmul(residual, x, gate, out=output)


@lru_cache(maxsize=64)
def row_split(locations: int) -> tuple[int, int]:
    """Return (rows, row length): for long maps, the shortest rows of at least one step and the root of their number."""
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
    """Add the gradients of means and maxima over space to those of every element and of the gate."""
    for images in whole_images(x):
        part = x[images]
        ties = torch.eq(_gated(part, gate, None, images), peaks[images], out=scratch(part))
        count = ties.sum(2, keepdim=True)
        if not count.all():  # what was saved came back rounded
            y = _gated(part, gate, None, images)
            ties = torch.eq(y, y.amax(2, keepdim=True), out=scratch(part))
            count = ties.sum(2, keepdim=True)
        share = d_peak[images] / count
        d_y = ties.mul_(share)
        if d_mean is not None:  # apart from the product: torch vectorises one operand that is constant along a row
            d_y.add_(d_mean[images])
        _add_gated(d_x[images], d_y, None if gate is None else gate[images])
        if d_gate is not None:
            d_gate[images] += d_y.mul_(part).sum(1, keepdim=True)


def _spread_over_rows(
    x: Tensor,
    gate: Tensor | None,
    peaks: Tensor,
    d_peak: Tensor,
    d_x: Tensor,
    d_gate: Tensor | None,
    *,
    exact: bool = False,
) -> None:
    """Add the gradient of the maxima over space to those of the elements that attain them and of the gate."""
    shape = row_split(x.shape[2])
    top = peaks.amax(2, keepdim=True)
    image, channel, row = (peaks == top).nonzero(as_tuple=True)
    values = x.unflatten(2, shape)[image, channel, row]
    gates = None if gate is None else gate.unflatten(2, shape)[image, 0, row]
    ties = (values if gates is None else values * gates) == top[image, channel]
    count = torch.zeros_like(top).index_put_((image, channel), ties.sum(1, keepdim=True).to(x.dtype), accumulate=True)
    if not exact and not count.all():  # what was saved came back rounded
        peaks = (x if gate is None else x * gate).unflatten(2, shape).amax(3)
        _spread_over_rows(x, gate, peaks, d_peak, d_x, d_gate, exact=True)
        return
    spread = ties * (d_peak / count)[image, channel]
    d_x.unflatten(2, shape)[image, channel, row] += spread if gates is None else spread * gates
    if d_gate is not None:
        d_gate.view(-1, shape[1]).index_add_(0, image * shape[0] + row, spread * values)


def _flat(x: Tensor | None) -> Tensor:
    """Return a map or a gate with a single location axis."""
    return x.flatten(2)  # type: ignore[union-attr]  # given


def _flat_or_none(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten(2)


def _shaped(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
    """Return the gradient of a map or a gate with its axes."""
    return None if gradient is None or like is None else gradient.view(like.shape)
