"""The concat-and-convolve loss in one pass over blocks of locations, which stores no activations.

The loss is a scalar. Its gradients are therefore computed along with it, block by block, and only scaled in the
backward pass.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.library import custom_op

from blan_layers._torch import graph_is_kept
from blan_layers.kernels.contrast import plain_contrast_mean, softplus
from blan_layers.kernels.cpu.blocks import block_bytes, workspace
from blan_layers.kernels.cpu.products import add_weight_gradient, arranged, linear
from blan_layers.kernels.derivatives import Gradients, any_order, needs_graph

Formed: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The loss and its gradients for the maps, the summaries, and each layer's weight and bias."""

_relu_backward_ = torch.ops.aten.threshold_backward.grad_input


class ContrastLoss(Function):
    """:func:`~blan_layers.kernels.contrast.plain_contrast_mean`, with its gradients if ``differentiates``."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, count, differentiates = arguments
        total, *gradients = form(*arguments)
        if differentiates:
            ctx.tensors, ctx.options = len(inputs), (count,)
            ctx.save_for_backward(*inputs, *gradients)
        return total

    @staticmethod
    @any_order(plain_contrast_mean)
    def backward(ctx: Any, saved: Sequence[Tensor | None], d_total: Tensor) -> Gradients:
        formed = [gradient for gradient in saved[ctx.tensors :] if gradient is not None]
        if d_total.item() != 1 or graph_is_kept():  # else they are given away as they are
            formed = [gradient * d_total for gradient in formed]
        d_local, d_summaries, *d_layers = formed
        return d_local, d_summaries, None, None, *d_layers, None, None


def form(
    local: Tensor,
    summaries: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
    count: float,
    differentiates: bool,
) -> Formed:
    """Return the loss and its gradients, which are empty unless ``differentiates``."""
    shape, local = local.shape, local.flatten(2)
    batch, channels, locations = local.shape
    hidden = w2.shape[0]
    images, places = block_shape(batch, locations, hidden, local.element_size())
    most = images * places
    room = workspace(most * (7 * hidden + 2 * channels), local.dtype)
    layers, vectors = room[: 7 * most * hidden], room[7 * most * hidden :]
    largest = layers[: 2 * most * hidden].view(2 * most, hidden)
    of_local, of_summaries = arranged(w1[:, :channels], largest), w1[:, channels:]
    own = F.linear(summaries, of_summaries, b1)
    per_image = torch.stack([own, own[indices]])
    signs = torch.tensor([[-1.0], [1.0]], device=local.device, dtype=local.dtype)
    differentiable = local, summaries, w1, b1, w2, b2, w3, b3
    gradients = [torch.empty_like(t) if differentiates else t.new_empty(0) for t in differentiable]
    d_local, d_summaries, d_w1, d_b1, d_w2, d_b2, d_w3, d_b3 = gradients
    d_per_image = torch.zeros_like(per_image)
    if differentiates:
        to_local = arranged(of_local.t(), largest)
        to_first = arranged((w3.t() * w2).t(), largest)  # from the units of the second layer that are on
        for gradient in (d_b2, d_w3, d_b3):
            gradient.zero_()
    total = local.new_zeros(())
    for image in range(0, batch, images):
        for place in range(0, locations, places):
            x = local[image : image + images, :, place : place + places]
            n, _, m = x.shape
            of_image, pairs, anew = slice(image, image + images), n * m, image == place == 0
            first, second, third = layers[: 6 * pairs * hidden].view(3, 2 * pairs, hidden)
            projection = layers[6 * most * hidden :][: pairs * hidden].view(pairs, hidden)
            features, d_features = vectors[: 2 * pairs * channels].view(2, pairs, channels)

            features.view(n, m, channels).copy_(x.mT)
            projected = linear(features, of_local, out=projection)
            sums = first.view(2, n, m, hidden)
            h1 = torch.add(projected.view(n, m, hidden), per_image[:, of_image, None], out=sums).relu_()
            h1 = h1.view(2 * pairs, hidden)
            h2 = linear(h1, w2, b2, out=second).relu_()
            losing = torch.addmv(b3, h2, w3[0]).view(2, pairs).mul_(signs)
            loss = softplus(losing)
            weight = None if weights is None else weights[of_image, place : place + places].reshape(-1)
            total += (loss if weight is None else loss * weight).sum()
            if not differentiates:
                continue

            d_logits = losing.sigmoid_().mul_(signs / count)
            if weight is not None:
                d_logits *= weight
            d_logits = d_logits.view(2 * pairs)
            d_b3 += d_logits.sum()
            d_w3[0].addmv_(h2.t(), d_logits)
            on = _relu_backward_(d_logits[:, None].expand_as(h2), h2, 0, grad_input=third)
            d_b2 += on.sum(0)
            add_weight_gradient(d_w2, on, h1, anew)
            d_h1 = linear(on, to_first, out=h2)
            _relu_backward_(d_h1, h1, 0, grad_input=d_h1)
            d_h1 = d_h1.view(2, n, m, hidden)
            d_per_image[:, of_image] += d_h1.sum(2)
            d_projected = torch.add(d_h1[0], d_h1[1], out=projected.view(n, m, hidden)).view(pairs, hidden)
            add_weight_gradient(d_w1[:, :channels], d_projected, features, anew)
            d_x = linear(d_projected, to_local, out=d_features)
            d_local[of_image, :, place : place + places] = d_x.view(n, m, channels).mT
    if differentiates:
        d_b2 *= w3[0]
        d_w2 *= w3.t()
        d_own = d_per_image[0].index_add(0, indices, d_per_image[1])
        torch.sum(d_own, 0, out=d_b1)
        torch.mm(d_own.t(), summaries, out=d_w1[:, channels:])
        torch.mm(d_own, of_summaries, out=d_summaries)
    if differentiates:
        gradients[0] = d_local.view(shape)
    return total / count, *gradients  # type: ignore[return-value]  # eight of them


contrast_in_blocks = custom_op("blan_layers::contrast_in_blocks", mutates_args=())(form)
"""The same as an operation that is opaque to compilers."""


@contrast_in_blocks.register_fake
def _(local: Tensor, summaries: Tensor, indices: Tensor, weights: Tensor | None, *layers: Any) -> Formed:
    *tensors, _, differentiates = layers
    others = (torch.empty_like(t) if differentiates else t.new_empty(0) for t in (summaries, *tensors))
    d_local = torch.empty_like(local.flatten(2)).view(local.shape) if differentiates else local.new_empty(0)
    return local.new_empty(()), d_local, *others  # type: ignore[return-value]  # eight of them


@custom_op("blan_layers::depend", mutates_args=())
def _depend(
    factor: Tensor,
    local: Tensor,
    summaries: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Return the factor; a backward pass that calls this takes all inputs of the loss.

    A compiled backward pass cannot be differentiated. torch raises an error for what the pass takes, and leaves out the
    derivative for anything else, such as tensors in a list.
    """
    return factor.clone()


_depend.register_fake(lambda factor, *_: torch.empty_like(factor))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Formed) -> None:
    *tensors, count, _ = inputs
    ctx.tensors, ctx.options = len(tensors), (count,)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _differentiate(ctx: Any, d_total: Tensor | None, *_: None) -> Gradients:
    return (None,) * 12 if d_total is None else _scale(ctx, d_total)


@any_order(plain_contrast_mean, when=needs_graph)
def _scale(ctx: Any, saved: Sequence[Tensor], d_total: Tensor) -> Gradients:
    local, summaries, _, _, *layers = saved[: ctx.tensors]
    factor = _depend(d_total, local, summaries, *layers)
    d_local, d_summaries, *d_layers = (gradient * factor for gradient in saved[ctx.tensors :])
    return d_local, d_summaries, None, None, *d_layers, None, None


contrast_in_blocks.register_autograd(_differentiate, setup_context=_keep)


def contrast_loss(*arguments: Any) -> Tensor:
    """Return the loss: as an operation under a compiler, else with derivatives of any order."""
    loss: Tensor = (
        contrast_in_blocks(*arguments)[0] if torch.compiler.is_compiling() else ContrastLoss.apply(*arguments)
    )
    return loss


def block_shape(batch: int, locations: int, hidden: int, element_size: int) -> tuple[int, int]:
    """Return the images and the locations of a block.

    A hidden layer of its pairs fills a block. Matrix products divide their operands themselves, and preparing the
    weights pays off only for many rows.
    """
    room = max(1, block_bytes() // (2 * hidden * element_size))
    places = min(locations, room)
    return min(batch, max(1, room // places)), places
