"""Backward passes that are not themselves differentiable, and say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import Function

Gradients: TypeAlias = tuple[Tensor | None, ...]
Backward: TypeAlias = Callable[..., Gradients]


class _Refusal(Function):
    """The first tensor, which depends on all others; its own gradient is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Gradients:
        raise RuntimeError(
            "blan_layers: the blocked operations can be differentiated once, got a second derivative. "
            'Pass backend="reference".'
        )


def is_batched(gradient: Tensor) -> bool:
    """Tell whether vmap, or ``is_grads_batched=True``, runs a backward pass for many gradients at once."""
    return _functorch.is_batchedtensor(gradient) or _functorch.is_legacy_batchedtensor(gradient)


def once_differentiable(backward: Backward) -> Backward:
    """Compute gradients without a graph; under ``create_graph=True`` differentiating them is refused.

    They depend on what came in and on what was saved, so that a derivative to any of it meets the refusal.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *gradients: Tensor) -> Gradients:
        if any(is_batched(gradient) for gradient in gradients):
            raise RuntimeError(
                "blan_layers: the blocked operations take one gradient at a time, got a batch of them. "
                'Pass backend="reference".'
            )
        with torch.no_grad():
            results = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        sources = *gradients, *ctx.saved_tensors
        return tuple(None if r is None else _Refusal.apply(r.detach().requires_grad_(), *sources) for r in results)

    return wrapper
