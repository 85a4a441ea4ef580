"""The concat-and-convolve loss in one pass over blocks of locations, which keeps no activation.

The loss is a scalar, so that its gradients are formed beside it, block by block, and only scaled in the backward.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from blan_layers.kernels.contrast import plain_contrast_sum, softplus
from blan_layers.kernels.cpu.blocks import block_bytes
from blan_layers.kernels.derivatives import Gradients, any_order

_relu_backward_ = torch.ops.aten.threshold_backward.grad_input


class ContrastLoss(Function):
    """:func:`~blan_layers.kernels.contrast.plain_contrast_sum`, with its gradients beside it if ``differentiates``."""

    @staticmethod
    def forward(
        ctx: Any,
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
    ) -> Tensor:
        batch, _, locations = local.shape
        hidden = w2.shape[0]
        images, places = block_shape(batch, locations, hidden, local.element_size())
        size = 2 * images * places * hidden
        first, second, third = local.new_empty(3, size)
        projection = local.new_empty(size // 2)
        per_image = torch.stack([own, other])
        signs = local.new_tensor([-1.0, 1.0])[:, None]
        gradients = [torch.zeros_like(t) for t in (per_image, w1, w2, b2, w3, b3)] if differentiates else []
        d_local = torch.empty_like(local) if differentiates else None
        total = local.new_zeros(())
        for image in range(0, batch, images):
            for place in range(0, locations, places):
                x = local[image : image + images, :, place : place + places]
                n, _, m = x.shape
                rows = 2 * n * m
                of_image = slice(image, image + images)

                projected = _matmul(x.mT, w1.t(), projection[: rows // 2 * hidden].view(n, m, hidden))
                h1 = first[: rows * hidden].view(2, n, m, hidden)
                torch.add(projected, per_image[:, of_image, None], out=h1).relu_()
                h1 = h1.view(rows, hidden)
                h2 = torch.addmm(b2, h1, w2.t(), out=second[: rows * hidden].view(rows, hidden)).relu_()
                losing = torch.addmv(b3, h2, w3[0]).view(2, n * m).mul_(signs)
                loss = softplus(losing)
                weight = None if weights is None else weights[of_image, place : place + places].reshape(-1)
                total += (loss if weight is None else loss * weight).sum()
                if d_local is None:
                    continue

                d_per_image, d_w1, d_w2, d_b2, d_w3, d_b3 = gradients
                d_logits = losing.sigmoid_().mul_(signs)
                if weight is not None:
                    d_logits *= weight
                d_logits = d_logits.view(rows)
                d_b3 += d_logits.sum()
                d_w3[0].addmv_(h2.t(), d_logits)
                d_h2 = torch.mul(d_logits[:, None], w3, out=third[: rows * hidden].view(rows, hidden))
                _relu_backward_(d_h2, h2, 0, grad_input=d_h2)
                d_b2 += d_h2.sum(0)
                d_w2.addmm_(d_h2.t(), h1)
                d_h1 = torch.mm(d_h2, w2, out=h2)
                _relu_backward_(d_h1, h1, 0, grad_input=d_h1)
                d_h1 = d_h1.view(2, n, m, hidden)
                d_per_image[:, of_image] += d_h1.sum(2)
                d_projected = torch.add(d_h1[0], d_h1[1], out=projected)
                for i in range(n):
                    d_w1.addmm_(d_projected[i].t(), x[i].t())
                _matmul(w1.t(), d_projected.mT, d_local[of_image, :, place : place + places])
        if d_local is not None:
            ctx.tensors, ctx.options = 9, ()
            ctx.save_for_backward(local, own, other, weights, w1, w2, b2, w3, b3, d_local, *gradients)
        return total

    @staticmethod
    @any_order(plain_contrast_sum)
    def backward(ctx: Any, saved: Sequence[Tensor | None], d_total: Tensor) -> Gradients:
        formed = [gradient for gradient in saved[ctx.tensors :] if gradient is not None]
        d_local, d_per_image, *d_weights = (gradient * d_total for gradient in formed)
        return d_local, *d_per_image, None, *d_weights, None


def block_shape(batch: int, locations: int, hidden: int, element_size: int) -> tuple[int, int]:
    """Return the images and the locations of a block.

    A hidden layer of its pairs fills a block: a matrix product cuts its operands itself, and what it prepares of the
    weights is worth it only for many rows.
    """
    room = max(1, block_bytes() // (2 * hidden * element_size))
    places = min(locations, room)
    return min(batch, max(1, room // places)), places


def _matmul(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Multiply matrices of every image, (n, ...) or shared, into ``out``."""
    for i in range(out.shape[0]):
        torch.mm(a[i] if a.ndim == 3 else a, b[i] if b.ndim == 3 else b, out=out[i])
    return out
