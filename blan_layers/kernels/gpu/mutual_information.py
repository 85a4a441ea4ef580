"""The concat-and-convolve loss in chunks of locations, which stores no activations.

The loss is a scalar. Its gradients are therefore computed along with it, and only scaled in the backward pass. The
matrix products use the BLAS library, with one kernel between two of them. The hidden layers of a chunk are each written
and read a few times; those of the whole map are never stored. Gradients of weights are summed in at least float32.
"""

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from blan_layers.kernels.contrast import plain_contrast_sum
from blan_layers.kernels.derivatives import Gradients, needs_plain, plain_gradients
from blan_layers.kernels.gpu.critic_kernels import (
    add_projections_kernel,
    first_layer_kernel,
    scale_kernel,
    score_kernel,
)
from blan_layers.kernels.gpu.tiles import TILE, accumulator, blocks, launch

Formed: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

WORKSPACE = 64 * 2**20
"""Bytes of the hidden layers of a chunk: thousands of rows per matrix product, but small beside a feature map."""

LAYERS = 7
"""Hidden layers of a chunk that are stored at once: the projection, and three of real and fake pairs."""

ROWS, UNITS = 32, 64
"""The tile of the kernels, in rows and in hidden units."""

SHARES = 16
"""Maximum number of programs that share the rows of one image."""


@custom_op("blan_layers::contrast", mutates_args=())
def contrast(
    local: Tensor,
    own: Tensor,
    other: Tensor,
    weights: Tensor | None,
    w1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
    differentiates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum ``weights[b, u] (softplus(-real) + softplus(fake))`` over images b and locations u, with gradients.

    The logits are ``w3 relu(w2 relu(w1 local[b, u] + own[b]) + b2) + b3``; fake pairs have ``other`` instead of
    ``own``. The gradients of local, (own, other) and the layers are computed if ``differentiates``, and empty
    otherwise.

    Shape:
        local (B, C, N), own and other (B, hidden), weights (B, N) or None, w1 (hidden, C), w2 (hidden, hidden), w3
        (1, hidden) -> scalar and gradients.
    """
    with torch.autocast(local.device.type, enabled=False):
        return _contrast(
            local, torch.stack([own, other]), weights, w1, w2, b2.contiguous(), w3.contiguous(), b3, differentiates
        )


@contrast.register_fake
def _(
    local: Tensor, own: Tensor, other: Tensor, weights: Tensor | None, w1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor,
    b3: Tensor, differentiates: bool,
) -> Formed:  # fmt: skip
    per_image = own.new_empty(2, *own.shape)
    return _total(local), *_gradients(local, per_image, w1, w2, b2, w3, b3, form=differentiates)


@custom_op("blan_layers::scale_contrast", mutates_args=())
def scale_contrast(
    factor: Tensor,
    d_local: Tensor,
    d_per_image: Tensor,
    d_w1: Tensor,
    d_w2: Tensor,
    d_b2: Tensor,
    d_w3: Tensor,
    d_b3: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients times that of the loss, in the dtype of the map."""
    scaled = torch.empty_like(d_local)
    flat, target = _storage(d_local), _storage(scaled)
    launch(scale_kernel, blocks(flat.numel(), TILE), flat, factor, target, flat.numel(), BLOCK=TILE)
    small = (d_per_image, d_w1, d_w2, d_b2, d_w3, d_b3)
    return scaled, *((d * factor).to(d_local.dtype) for d in small)  # type: ignore[return-value]  # seven of them


@scale_contrast.register_fake
def _(factor: Tensor, d_local: Tensor, *small: Tensor) -> tuple[Tensor, ...]:
    return torch.empty_like(d_local), *(torch.empty_like(d, dtype=d_local.dtype) for d in small)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Formed) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:9], *output[1:])


def _differentiate(ctx: Any, d_total: Tensor | None, *_: None) -> Gradients:
    if d_total is None:
        return (None,) * 10
    inputs, formed = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    if needs_plain(d_total):
        return *plain_gradients(plain_contrast_sum, inputs, ctx.needs_input_grad[:9], (d_total,)), None
    d_local, d_per_image, *d_weights = scale_contrast(d_total, *formed)
    return d_local, *d_per_image, None, *d_weights, None


contrast.register_autograd(_differentiate, setup_context=_keep)


def contrast_loss(
    local: Tensor, summaries: Tensor, indices: Tensor, weights: Tensor | None, w1: Tensor, b1: Tensor, w2: Tensor,
    b2: Tensor, w3: Tensor, b3: Tensor, count: float, differentiates: bool,
) -> Tensor:  # fmt: skip
    """Return :func:`~blan_layers.kernels.contrast.plain_contrast_mean`."""
    channels = local.shape[1]
    own = F.linear(summaries, w1[:, channels:], b1)
    layers = w1[:, :channels], w2, b2, w3, b3
    total: Tensor = contrast(local.flatten(2), own, own[indices], weights, *layers, differentiates)[0]
    return total / count


def _contrast(
    local: Tensor, per_image: Tensor, weights: Tensor | None, w1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor,
    b3: Tensor, differentiates: bool,
) -> Formed:  # fmt: skip
    batch, channels, locations = local.shape
    hidden = w2.shape[0]
    images, places = chunk(batch, locations, hidden * local.element_size())
    most = images * places
    projection = local.new_empty(most, hidden)
    first, second, third = local.new_empty(3, 2 * most, hidden)
    form = differentiates
    gradients = _gradients(local, per_image, w1, w2, b2, w3, b3, form=form)
    d_local, _, d_w1, d_w2, *_ = gradients
    for gradient in (d_w1, d_w2):
        gradient.zero_()
    precise, programs = accumulator(local.dtype), blocks(2 * most, ROWS)
    losses, d_b3 = local.new_zeros(2, programs, dtype=precise)
    d_b2, d_w3 = local.new_zeros(2, programs, hidden if form else 0, dtype=precise)
    shares = min(SHARES, blocks(places, ROWS))
    d_per_image = local.new_zeros(2, shares, batch if form else 0, hidden, dtype=precise)
    columns = blocks(hidden, UNITS)
    for image in range(0, batch, images):
        for place in range(0, locations, places):
            x = local[image : image + images, :, place : place + places]
            n, _, m = x.shape
            rows = n * m
            features = x.mT.reshape(rows, channels)
            projected = torch.mm(features, w1.t(), out=projection[:rows])
            h1, h2, d_h1 = (layer[: 2 * rows] for layer in (first, second, third))
            launch(
                add_projections_kernel, blocks(rows, ROWS) * columns, projected, per_image, h1, rows, m, image, batch,
                hidden, BR=ROWS, BH=UNITS,
            )  # fmt: skip
            torch.mm(h1, w2.t(), out=h2)
            strides = (0, 0) if weights is None else weights.stride()
            launch(
                score_kernel, blocks(2 * rows, ROWS), h2, b2, w3, b3, weights, losses, d_b3, d_b2, d_w3, rows, m,
                image, place, *strides, hidden, FORM=form, BR=ROWS, BH=UNITS,
            )  # fmt: skip
            if not form:
                continue
            _add_product(d_w2, h2.t(), h1)
            torch.mm(h2, w2, out=d_h1)
            launch(
                first_layer_kernel, n * shares * columns, d_h1, h1, projected, d_per_image, rows, m, image, batch,
                hidden, shares, BR=ROWS, BH=UNITS,
            )  # fmt: skip
            _add_product(d_w1, projected.t(), features)
            d_local[image : image + images, :, place : place + places] = (projected @ w1).view(n, m, channels).mT
    total = losses.sum()
    if not form:
        return total, *gradients
    summed = d_per_image.sum(1), d_w1, d_w2, d_b2.sum(0), d_w3.sum(0, keepdim=True), d_b3.sum(0, keepdim=True)
    return total, d_local, *summed


def chunk(batch: int, locations: int, row_bytes: int) -> tuple[int, int]:
    """Return the numbers of images and locations of a chunk: whole images, or an equal part of one."""
    room = max(1, WORKSPACE // (LAYERS * row_bytes))
    places = blocks(locations, blocks(locations, room)) if locations else 1
    return max(1, min(batch, room // places)), places


def _add_product(target: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to a target that may be more precise."""
    if target.dtype == a.dtype:
        target.addmm_(a, b)
    else:
        target += a @ b


def _total(local: Tensor) -> Tensor:
    return local.new_empty((), dtype=accumulator(local.dtype))


def _gradients(
    local: Tensor, per_image: Tensor, *layers: Tensor, form: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return memory for the gradients, if they are computed: that of the map in its dtype, the others precise."""
    if not form:
        return tuple(local.new_empty(0) for _ in range(7))  # type: ignore[return-value]
    precise = accumulator(local.dtype)
    others = (t.new_empty(t.shape, dtype=precise) for t in (per_image, *layers))
    return torch.empty_like(local), *others  # type: ignore[return-value]


def _storage(x: Tensor) -> Tensor:
    """Return the elements of a dense map in memory order."""
    return x.as_strided((x.numel(),), (1,))
