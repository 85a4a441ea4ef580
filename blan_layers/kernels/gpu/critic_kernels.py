"""Kernels around the matrix products of the concat-and-convolve critic.

Rows are pairs of a location and a summary: first those with the image's own summary, then those with another's. Each
image of a chunk has ``m`` of its rows.
"""

import triton
import triton.language as tl


@triton.jit
def add_projections_kernel(
    projected, per_image, output, rows, m, first, images, hidden,
    BR: tl.constexpr, BH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Write ``relu(projected + per_image)`` for both summaries: (2, rows, hidden) of (rows, hidden), (2, B, hidden)."""
    program = tl.program_id(0)
    row = (program // tl.cdiv(hidden, BH)).to(tl.int64) * BR + tl.arange(0, BR)
    unit = program % tl.cdiv(hidden, BH) * BH + tl.arange(0, BH)
    inside = (row < rows)[:, None] & (unit < hidden)[None, :]
    y = tl.load(projected + row[:, None] * hidden + unit[None, :], inside, other=0).to(ACC)
    for pair in range(2):
        image = pair * images + first + row // m
        bias = tl.load(per_image + image[:, None] * hidden + unit[None, :], inside, other=0).to(ACC)
        h = tl.maximum(y + bias, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(output + (pair * rows + row)[:, None] * hidden + unit[None, :], h, inside)


@triton.jit
def score_kernel(
    second, b2, w3, b3, weights, losses, d_b3, d_b2, d_w3, rows, m, first, place, w_image, w_place, hidden,
    FORM: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum the losses of rows whose second layer, before bias and relu, is ``second``.

    If FORM, their gradient overwrites ``second``, and the contributions of the rows are added to the program's shares
    (programs, ...) of the other gradients.
    """
    program = tl.program_id(0)
    row = program.to(tl.int64) * BR + tl.arange(0, BR)
    here = row < 2 * rows
    fake = row >= rows
    own = tl.where(fake, row - rows, row)
    logit = tl.zeros([BR], ACC) + tl.load(b3).to(ACC)
    for start in range(0, hidden, BH):
        unit = start + tl.arange(0, BH)
        known = unit < hidden
        inside = here[:, None] & known[None, :]
        h = tl.load(second + row[:, None] * hidden + unit[None, :], inside, other=0).to(ACC)
        h += tl.load(b2 + unit, known, other=0).to(ACC)[None, :]
        h = tl.maximum(h, 0.0, propagate_nan=tl.PropagateNan.ALL)
        logit += tl.sum(h * tl.load(w3 + unit, known, other=0).to(ACC)[None, :], 1)
    weight = here.to(ACC)
    if weights is not None:
        location = (first + own // m) * w_image + (place + own % m) * w_place
        weight = tl.load(weights + location, here, other=0).to(ACC)
    losing = tl.where(fake, logit, -logit)
    small = tl.exp(-tl.abs(losing))
    larger = 1 + small
    # log1p: restores what the sum rounded off
    excess = tl.where(larger == 1, small, tl.log(larger) * (small / tl.where(larger == 1, 1.0, larger - 1)))
    cost = tl.maximum(losing, 0.0, propagate_nan=tl.PropagateNan.ALL) + excess
    loss = tl.sum(tl.where(here, cost * weight, 0.0), 0)
    tl.store(losses + program, tl.load(losses + program) + loss)
    if FORM:
        slope = tl.where(losing >= 0, 1.0, small) / larger * weight
        slope = tl.where(here, tl.where(fake, slope, -slope), 0.0)
        tl.store(d_b3 + program, tl.load(d_b3 + program) + tl.sum(slope, 0))
        for start in range(0, hidden, BH):
            unit = start + tl.arange(0, BH)
            known = unit < hidden
            inside = here[:, None] & known[None, :]
            at = second + row[:, None] * hidden + unit[None, :]
            h = tl.load(at, inside, other=0).to(ACC) + tl.load(b2 + unit, known, other=0).to(ACC)[None, :]
            d = tl.where(h <= 0, 0.0, slope[:, None] * tl.load(w3 + unit, known, other=0).to(ACC)[None, :])
            tl.store(at, d, inside)
            share = program.to(tl.int64) * hidden + unit
            tl.store(d_b2 + share, tl.load(d_b2 + share, known, other=0) + tl.sum(d, 0), known)
            h = tl.where(h <= 0, 0.0, slope[:, None] * h)
            tl.store(d_w3 + share, tl.load(d_w3 + share, known, other=0) + tl.sum(h, 0), known)


@triton.jit
def first_layer_kernel(
    d_first, activated, d_projected, d_per_image, rows, m, first, images, hidden, splits,
    BR: tl.constexpr, BH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Backpropagate the gradient of the first layer through its relu to both its summands.

    Writes the gradient of the projected map (rows, hidden), and adds to each program's share (2, splits, B, hidden) of
    the gradient of the summaries.
    """
    program = tl.program_id(0)
    units = tl.cdiv(hidden, BH)
    unit = program % units * BH + tl.arange(0, BH)
    split = program // units % splits
    image = (program // (units * splits)).to(tl.int64)
    known = unit < hidden
    own = tl.zeros([BR, BH], ACC)
    other = tl.zeros([BR, BH], ACC)
    for start in range(split * BR, m, splits * BR):
        place = start + tl.arange(0, BR)
        inside = (place < m)[:, None] & known[None, :]
        at = (image * m + place)[:, None] * hidden + unit[None, :]
        plane = rows * hidden
        real = tl.load(d_first + at, inside, other=0).to(ACC)
        real = tl.where(tl.load(activated + at, inside, other=0) <= 0, 0.0, real)
        fake = tl.load(d_first + plane + at, inside, other=0).to(ACC)
        fake = tl.where(tl.load(activated + plane + at, inside, other=0) <= 0, 0.0, fake)
        tl.store(d_projected + at, real + fake, inside)
        own += real
        other += fake
    at = (split * images + first + image) * hidden + unit
    tl.store(d_per_image + at, tl.load(d_per_image + at, known, other=0) + tl.sum(own, 0), known)
    at = ((splits + split) * images + first + image) * hidden + unit
    tl.store(d_per_image + at, tl.load(d_per_image + at, known, other=0) + tl.sum(other, 0), known)


@triton.jit
def scale_kernel(values, factor, output, size, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Write ``values * factor``, computed in the precision of the accumulator."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    y = tl.load(values + at, inside, other=0).to(ACC) * tl.load(factor).to(ACC)
    tl.store(output + at, y, inside)
