"""Kernels that gate a map, and those of its gradients."""

import triton
import triton.language as tl

from blan_layers.kernels.gpu.shared_kernels import gated, slope, spatially_gated, spot, stand


@triton.jit
def gate_kernel(
    x, gate, shift, spatial, residual, output, channels, locations,
    x_image, x_channel, x_location, r_image, r_channel, r_location, o_image, o_channel, o_location,
    BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Write ``(x * gate + shift) * spatial + residual``, one tile per program."""
    image, row, column = stand(tl.cdiv(locations, BN), tl.cdiv(channels, BC))
    channel = row * BC + tl.arange(0, BC)
    location = column * BN + tl.arange(0, BN)
    inside = (channel < channels)[:, None] & (location < locations)[None, :]
    y = tl.load(x + spot(image, channel, location, x_image, x_channel, x_location), inside, other=0).to(ACC)
    y = gated(y, gate, shift, image * channels + channel, channel < channels, ACC)
    y = spatially_gated(y, spatial, image * locations + location, location < locations, ACC)
    if residual is not None:
        y += tl.load(residual + spot(image, channel, location, r_image, r_channel, r_location), inside, other=0)
    tl.store(output + spot(image, channel, location, o_image, o_channel, o_location), y, inside)


@triton.jit
def gate_sums_kernel(
    x, d_output, gate, shift, spatial, d_gate, d_shift, d_spatial, images, channels, locations,
    x_image, x_channel, x_location, d_image, d_channel, d_location, splits,
    BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of the gates over one tile of locations and every ``splits``-th of channels.

    The shares are (tiles of locations, B, C) for the channel gate and its shift, (splits, B, N) for the spatial gate.
    """
    image, split, block = stand(tl.cdiv(locations, BN), splits)
    location = block * BN + tl.arange(0, BN)
    here = location < locations
    total = tl.zeros([BN], ACC)
    for start in range(split * BC, channels, splits * BC):
        channel = start + tl.arange(0, BC)
        inside = (channel < channels)[:, None] & here[None, :]
        y = tl.load(x + spot(image, channel, location, x_image, x_channel, x_location), inside, other=0).to(ACC)
        d = tl.load(d_output + spot(image, channel, location, d_image, d_channel, d_location), inside, other=0).to(ACC)
        row = image * channels + channel
        share = (block * images + image) * channels + channel
        d_y = spatially_gated(d, spatial, image * locations + location, here, ACC)
        if d_gate is not None:
            tl.store(d_gate + share, tl.sum(d_y * y, 1), channel < channels)
        if d_shift is not None:
            tl.store(d_shift + share, tl.sum(d_y, 1), channel < channels)
        if d_spatial is not None:
            total += tl.sum(d * gated(y, gate, shift, row, channel < channels, ACC), 0)
    if d_spatial is not None:
        tl.store(d_spatial + (split * images + image) * locations + location, total, here)


@triton.jit
def map_gradient_kernel(
    x, d_output, gate, spatial, d_maps, map_extremes, map_gate, map_shift, d_pooled, extremes, pool_gate, d_x,
    images, channels, locations, x_image, x_channel, x_location, d_image, d_channel, d_location,
    o_image, o_channel, o_location,
    MEAN: tl.constexpr, PEAK: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a map from gating and pools, one tile per program."""
    image, row, column = stand(tl.cdiv(locations, BN), tl.cdiv(channels, BC))
    channel = row * BC + tl.arange(0, BC)
    location = column * BN + tl.arange(0, BN)
    known, here = channel < channels, location < locations
    inside = known[:, None] & here[None, :]
    of_channel, of_location = image * channels + channel, image * locations + location
    total = tl.zeros([BC, BN], ACC)
    if d_output is not None:
        d = tl.load(d_output + spot(image, channel, location, d_image, d_channel, d_location), inside, other=0).to(ACC)
        total += spatially_gated(gated(d, gate, None, of_channel, known, ACC), spatial, of_location, here, ACC)
    part = tl.load(x + spot(image, channel, location, x_image, x_channel, x_location), inside, other=0).to(ACC)
    if d_maps is not None:
        y = gated(part, map_gate, map_shift, of_channel, known, ACC)
        at = image * locations * 2 + location
        d = slope(y, d_maps, map_extremes, at, locations, here, channels, 0, 0, 1, ACC)
        total += gated(d, map_gate, None, of_channel, known, ACC)
    if d_pooled is not None:
        y = spatially_gated(part, pool_gate, of_location, here, ACC)
        rows = images * channels
        d = slope(y, d_pooled, extremes, of_channel, rows, known, locations, 1, MEAN, PEAK, ACC)
        total += spatially_gated(d, pool_gate, of_location, here, ACC)
    tl.store(d_x + spot(image, channel, location, o_image, o_channel, o_location), total, inside)
