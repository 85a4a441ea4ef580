"""The concat-and-convolve loss in one pass over blocks of locations, which keeps no activation.

The loss is a scalar, so that its gradients are formed beside it, block by block, and only scaled in the backward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from blan_layers.kernels.blocks import block_bytes
from blan_layers.kernels.once import Gradients, once_differentiable

_relu_backward_ = torch.ops.aten.threshold_backward.grad_input


class ContrastLoss(Function):
    """Sum over images b and locations u of ``weights[b, u] (softplus(-real) + softplus(fake))``.

    The logits are ``w3 relu(w2 relu(w1 local[b, u] + own[b]) + b2) + b3``, of fake pairs with ``other`` for ``own``.

    Shape:
        local (B, C, N), own and other (B, hidden), weights (B, N) or None, w1 (hidden, C), w2 (hidden, hidden), w3
        (1, hidden), link (0,) or None -> scalar.

    Gradients are formed if there is a ``link``: an empty tensor that depends on whatever they depend on.
    """

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
        link: Tensor | None,
    ) -> Tensor:
        batch, _, locations = local.shape
        hidden = w2.shape[0]
        images, places = block_shape(batch, locations, hidden, local.element_size())
        size = 2 * images * places * hidden
        first, second, third = local.new_empty(3, size)
        projection = local.new_empty(size // 2)
        per_image = torch.stack([own, other])
        signs = local.new_tensor([-1.0, 1.0])[:, None]
        gradients = [torch.zeros_like(t) for t in (per_image, w1, w2, b2, w3, b3)] if link is not None else []
        d_local = torch.empty_like(local) if link is not None else None
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
                loss = F.softplus(losing)
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
            ctx.save_for_backward(link, d_local, *gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        (d_total,) = gradients
        d_local, d_per_image, *d_weights = (gradient * d_total for gradient in ctx.saved_tensors[1:])
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
