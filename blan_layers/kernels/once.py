"""Backward passes that are not themselves differentiable, and say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

Gradients: TypeAlias = tuple[Tensor | None, ...]
Backward: TypeAlias = Callable[..., Gradients]


class _Refusal(Function):
    """The identity, whose own gradient is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Gradients:
        raise RuntimeError(
            "blan_layers: the blocked operations can be differentiated once, got a second derivative. "
            'Pass backend="reference".'
        )


def once_differentiable(backward: Backward) -> Backward:
    """Compute gradients without a graph; under ``create_graph=True`` differentiating them is refused."""

    @wraps(backward)
    def wrapper(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            results = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        return tuple(None if r is None else _Refusal.apply(r.detach().requires_grad_()) for r in results)

    return wrapper
