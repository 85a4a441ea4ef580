"""What the kernels over a map share: where a program stands, gating, and the slope of a pool.

Every offset is 64 bits wide. A maximum is stored with its ties, in the precision it was taken in, and recomputed bit by
bit in the backward: a shifted gate is one fused multiply-add everywhere, whatever a compiler would make of it.
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
    """Return ``x * gate + shift`` of a tile, gate and shift being each channel's, or ``x`` where there is no gate."""
    if gate is not None:
        factor = tl.load(gate + at, inside, other=0).to(ACC)[:, None]
        if shift is not None:
            x = tl.fma(x, factor, tl.load(shift + at, inside, other=0).to(ACC)[:, None])
        else:
            x = x * factor
    return x


@triton.jit
def spatially_gated(x, gate, at, inside, ACC: tl.constexpr):
    """Return ``x * gate`` of a tile, for a gate of each location, or ``x`` where there is none."""
    if gate is not None:
        x = x * tl.load(gate + at, inside, other=0).to(ACC)[None, :]
    return x


@triton.jit
def slope(
    y, gradient, extremes, at, plane, inside, size, AXIS: tl.constexpr, MEAN: tl.constexpr, PEAK: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Return the derivative to ``y`` of its mean and maximum over AXIS, weighted by their gradients.

    MEAN and PEAK are the planes of the gradient that belong to them, or -1. The maximum's is shared by its ties.
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
