"""Derivatives of any order of operations whose backward is written by hand.

The hand-written backward computes one gradient, without a graph. Where a graph of the gradients or many gradients at
once are needed, the operation is recomputed by plain operations, which torch differentiates.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import torch
from torch import Tensor

from blan_layers._torch import autocasts, dispatch_mode_active, forward_mode_active, is_batched

Gradients: TypeAlias = tuple[Tensor | None, ...]
Plain: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...]]


def needs_plain(*gradients: Tensor | None) -> bool:
    """Return whether a backward pass will itself be differentiated, is batched, or is seen by a mode."""
    return dispatch_mode_active() or needs_graph(*gradients)


def needs_graph(*gradients: Tensor | None) -> bool:
    """Return whether a backward pass will itself be differentiated, or is batched."""
    if torch.is_grad_enabled() or forward_mode_active():
        return True
    return any(gradient is not None and is_batched(gradient) for gradient in gradients)


def plain_gradients(
    plain: Plain, inputs: Sequence[Tensor | None], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> Gradients:
    """Return the gradients of ``plain(*inputs)``, one for each input, None for those that are not ``needed``.

    Inputs may depend on each other, so that the gradient of each is taken with respect to its own alias.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [
            None if x is None else x.view_as(x) if x.requires_grad or not need else x.detach().requires_grad_()
            for x, need in zip(inputs, needed, strict=True)
        ]
        outputs = plain(*aliases)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        pairs = [(y, d) for y, d in zip(outputs, gradients, strict=True) if y.requires_grad and d is not None]
    wanted = [alias for alias, need in zip(aliases, needed, strict=True) if alias is not None and need]
    if not pairs or not wanted:
        return tuple(None for _ in inputs)
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs], wanted, [d for _, d in pairs], create_graph=create_graph, allow_unused=True
        )
    )
    return tuple(next(found) if x is not None and need else None for x, need in zip(aliases, needed, strict=True))


def any_order(
    plain: Plain, when: Callable[..., bool] = needs_plain
) -> Callable[[Callable[..., Gradients]], Callable[..., Gradients]]:
    """Let a backward ``(ctx, saved, *gradients)`` of an autograd function be differentiated any number of times.

    The tensor arguments of the function must be saved first, in order; ``plain`` takes them. Saved tensors are read
    once, as checkpointing requires. ``when`` takes the gradients and returns whether the backward cannot be used.
    """

    def decorate(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
        @wraps(backward)
        def differentiate(ctx: Any, *gradients: Tensor) -> Gradients:
            device = gradients[0].device
            if autocasts(device):  # the forward was without, wherever this is
                with torch.autocast(device.type, enabled=False):
                    return differentiate(ctx, *gradients)
            saved, needed = ctx.saved_tensors, ctx.needs_input_grad
            if not when(*gradients):
                return backward(ctx, saved, *gradients)
            inputs = saved[: ctx.tensors]
            found = plain_gradients(
                lambda *aliases: plain(*aliases, *ctx.options), inputs, needed[: len(inputs)], gradients
            )
            return *found, *(None for _ in needed[len(inputs) :])

        return differentiate

    return decorate
