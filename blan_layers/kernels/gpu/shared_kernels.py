"""Functions that the kernels over a map share: program indices, gating, and the derivative of a pool.

Every offset is 64 bits wide. A maximum is stored with its number of ties, in the precision of its computation, and
recomputed bit for bit in the backward: a shifted gate is an explicit fused multiply-add everywhere, independent of the
compiler.
"""

import triton
import triton.language as tl


@triton.jit
def stand(inner, outer):
    """Return the image, the outer and the inner index of this program."""
    program = tl.program_id(0)
    return (program // (inner * outer)).to(tl.int64), program // inner % outer, program % inner


@triton.jit
def spot(image, channel, location, by_image, by_channel, by_location):
    """Return the offsets of a tile (channels, locations) of one image."""
    across = channel.to(tl.int64)[:, None] * by_channel + location.to(tl.int64)[None, :] * by_location
    return image * by_image + across


@triton.jit
def gated(x, gate, shift, at, inside, ACC: tl.constexpr):
    """Return ``x * gate + shift`` of a tile, with gate and shift per channel, or ``x`` without a gate."""
    if gate is not None:
        factor = tl.load(gate + at, inside, other=0).to(ACC)[:, None]
        if shift is not None:
            x = tl.fma(x, factor, tl.load(shift + at, inside, other=0).to(ACC)[:, None])
        else:
            x = x * factor
    return x


@triton.jit
def spatially_gated(x, gate, at, inside, ACC: tl.constexpr):
    """Return ``x * gate`` of a tile, with a gate per location, or ``x`` without a gate."""
    if gate is not None:
        x = x * tl.load(gate + at, inside, other=0).to(ACC)[None, :]
    return x


@triton.jit
def slope(
    y, gradient, extremes, at, plane, inside, size, AXIS: tl.constexpr, MEAN: tl.constexpr, PEAK: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Return the derivative of the mean and maximum of ``y`` over AXIS, weighted by their gradients.

    MEAN and PEAK are their planes in the gradient, or -1. The gradient of the maximum is shared by its ties.
    """
    result = tl.zeros_like(y)
    if MEAN >= 0:
        mean = tl.load(gradient + MEAN * plane + at, inside, other=0).to(ACC) / size
        result += tl.expand_dims(mean, AXIS)
    if PEAK >= 0:
        peak = tl.load(extremes + at, inside, other=0)
        ties = tl.load(extremes + plane + at, inside, other=1)
        share = tl.load(gradient + PEAK * plane + at, inside, other=0).to(ACC) / ties
        result += (y == tl.expand_dims(peak, AXIS)).to(ACC) * tl.expand_dims(share, AXIS)
    return result
