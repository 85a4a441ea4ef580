"""Kernels that pool a map over locations or over channels, and those of the gradients to the gates inside the pools.

A maximum is stored with the number of elements that attain it. The shares of several programs in a pool are combined by
a second kernel, in a fixed order.
"""

import triton
import triton.language as tl

from blan_layers.kernels.gpu.shared_kernels import gated, slope, spatially_gated, spot, stand


@triton.jit
def taken_in(value, inside, total, peak, ties):
    """Return each lane's running sum, maximum and number of ties after one more value."""
    total += tl.where(inside, value, 0.0)
    value = tl.where(inside, value, -float("inf"))
    ties = tl.where(value > peak, 1.0, ties + (inside & (value == peak)).to(ties.dtype))
    return total, tl.where((value > peak) | (value != value), value, peak), ties


@triton.jit
def over_lanes(total, peak, ties, AXIS: tl.constexpr):
    """Reduce lanes to one sum, maximum and number of ties; NaN counts as the maximum, without ties."""
    unknown = peak != peak
    top = tl.max(tl.where(unknown, -float("inf"), peak), AXIS)
    top = tl.where(tl.sum(unknown.to(tl.int32), AXIS) > 0, float("nan"), top)
    return tl.sum(total, AXIS), top, tl.sum(tl.where(peak == tl.expand_dims(top, AXIS), ties, 0.0), AXIS)


@triton.jit
def write(pooled, extremes, at, plane, inside, mean, peak, ties, MEAN: tl.constexpr, PEAK: tl.constexpr):
    """Store the planes MEAN and PEAK of the result; -1 means none."""
    if MEAN >= 0:
        tl.store(pooled + MEAN * plane + at, mean, inside)
    if PEAK >= 0:
        tl.store(pooled + PEAK * plane + at, peak, inside)
        tl.store(extremes + at, peak, inside)
        tl.store(extremes + plane + at, ties, inside)


@triton.jit
def write_part(parts, row, rows, split, splits, inside, total, peak, ties):
    """Store one program's share of a pool, in planes (sum, maximum, ties) of (splits, rows)."""
    at = split.to(tl.int64) * rows + row
    tl.store(parts + at, total, inside)
    tl.store(parts + splits * rows + at, peak, inside)
    tl.store(parts + 2 * splits * rows + at, ties, inside)


@triton.jit
def pool_space_kernel(
    x, gate, pooled, extremes, parts, rows, channels, locations, by_image, by_channel, by_location, splits,
    MEAN: tl.constexpr, PEAK: tl.constexpr, WHOLE: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pool ``x``, or ``x * gate``, over locations; each program takes some channels and every ``splits``-th tile."""
    image, block, split = stand(splits, tl.cdiv(channels, BC))
    channel = block * BC + tl.arange(0, BC)
    here = channel < channels
    total = tl.zeros([BC, BN], ACC)
    peak = tl.full([BC, BN], -float("inf"), ACC)
    ties = tl.zeros([BC, BN], ACC)
    for start in range(split * BN, locations, splits * BN):
        location = start + tl.arange(0, BN)
        inside = here[:, None] & (location < locations)[None, :]
        at = spot(image, channel, location, by_image, by_channel, by_location)
        y = tl.load(x + at, inside, other=0).to(ACC)
        y = spatially_gated(y, gate, image * locations + location, location < locations, ACC)
        total, peak, ties = taken_in(y, inside, total, peak, ties)
    sums, top, tied = over_lanes(total, peak, ties, 1)
    row = image * channels + channel
    if WHOLE:
        write(pooled, extremes, row, rows, here, sums / locations, top, tied, MEAN, PEAK)
    else:
        write_part(parts, row, rows, split, splits, here, sums, top, tied)


@triton.jit
def pool_channels_kernel(
    x, gate, shift, maps, extremes, parts, rows, channels, locations, by_image, by_channel, by_location, splits,
    WHOLE: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Pool ``x``, or ``x * gate + shift``, over channels; each program has locations, and every ``splits``-th tile."""
    image, split, block = stand(tl.cdiv(locations, BN), splits)
    location = block * BN + tl.arange(0, BN)
    here = location < locations
    total = tl.zeros([BC, BN], ACC)
    peak = tl.full([BC, BN], -float("inf"), ACC)
    ties = tl.zeros([BC, BN], ACC)
    for start in range(split * BC, channels, splits * BC):
        channel = start + tl.arange(0, BC)
        inside = (channel < channels)[:, None] & here[None, :]
        at = spot(image, channel, location, by_image, by_channel, by_location)
        y = tl.load(x + at, inside, other=0).to(ACC)
        y = gated(y, gate, shift, image * channels + channel, channel < channels, ACC)
        total, peak, ties = taken_in(y, inside, total, peak, ties)
    sums, top, tied = over_lanes(total, peak, ties, 0)
    if WHOLE:
        at = image * locations * 2 + location
        write(maps, extremes, at, locations, here, sums / channels, top, tied, 0, 1)
    else:
        write_part(parts, image * locations + location, rows, split, splits, here, sums, top, tied)


@triton.jit
def gather_kernel(
    parts, pooled, extremes, rows, length, by_image, plane, splits, size,
    MEAN: tl.constexpr, PEAK: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Combine the shares of every pool; row r is element r % length of image r // length."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = row < rows
    total = tl.zeros([BLOCK], ACC)
    peak = tl.full([BLOCK], -float("inf"), ACC)
    ties = tl.zeros([BLOCK], ACC)
    for split in range(splits):
        at = parts + split * rows + row
        share = tl.load(at + splits * rows, here, other=0)
        tied = tl.load(at + 2 * splits * rows, here, other=0)
        total += tl.load(at, here, other=0)
        ties = tl.where(share > peak, tied, ties + tl.where(share == peak, tied, 0.0))
        peak = tl.where((share > peak) | (share != share), share, peak)
    ties = tl.where(peak != peak, 0.0, ties)
    at = row // length * by_image + row % length
    write(pooled, extremes, at, plane, here, total / size, peak, ties, MEAN, PEAK)


@triton.jit
def pool_channels_sums_kernel(
    x, gate, shift, d_maps, extremes, d_gate, d_shift, images, channels, locations,
    by_image, by_channel, by_location, splits, BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of the pools over channels for the channel gate and its shift: shares (splits, B, C)."""
    image, block, split = stand(splits, tl.cdiv(channels, BC))
    channel = block * BC + tl.arange(0, BC)
    here = channel < channels
    to_gate = tl.zeros([BC, BN], ACC)
    to_shift = tl.zeros([BC, BN], ACC)
    for start in range(split * BN, locations, splits * BN):
        location = start + tl.arange(0, BN)
        known = location < locations
        inside = here[:, None] & known[None, :]
        part = tl.load(x + spot(image, channel, location, by_image, by_channel, by_location), inside, other=0).to(ACC)
        y = gated(part, gate, shift, image * channels + channel, here, ACC)
        at = image * locations * 2 + location
        d_y = slope(y, d_maps, extremes, at, locations, known, channels, 0, 0, 1, ACC)
        to_gate += d_y * part
        to_shift += d_y
    share = (split * images + image) * channels + channel
    tl.store(d_gate + share, tl.sum(to_gate, 1), here)
    if d_shift is not None:
        tl.store(d_shift + share, tl.sum(to_shift, 1), here)


@triton.jit
def pool_space_sums_kernel(
    x, gate, d_pooled, extremes, d_gate, images, channels, locations, by_image, by_channel, by_location, splits,
    MEAN: tl.constexpr, PEAK: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of the pools over locations for the spatial gate: shares (splits, B, N)."""
    image, split, block = stand(tl.cdiv(locations, BN), splits)
    location = block * BN + tl.arange(0, BN)
    here = location < locations
    total = tl.zeros([BC, BN], ACC)
    for start in range(split * BC, channels, splits * BC):
        channel = start + tl.arange(0, BC)
        known = channel < channels
        inside = known[:, None] & here[None, :]
        part = tl.load(x + spot(image, channel, location, by_image, by_channel, by_location), inside, other=0).to(ACC)
        y = spatially_gated(part, gate, image * locations + location, here, ACC)
        row = image * channels + channel
        rows = images * channels
        total += slope(y, d_pooled, extremes, row, rows, known, locations, 1, MEAN, PEAK, ACC) * part
    tl.store(d_gate + (split * images + image) * locations + location, tl.sum(total, 0), here)
