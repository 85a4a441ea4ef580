"""Triton operations are differentiated once, for one gradient at a time, and say so."""

from typing import Any

from torch import Tensor

from blan_layers.kernels.once import is_batched


def refuse_second_derivative(ctx: Any, *_: Tensor) -> None:
    """Stand for the backward of an operation that is itself part of a backward."""
    raise RuntimeError(
        "blan_layers: the Triton operations can be differentiated once, got a second derivative. "
        'Pass backend="reference".'
    )


def refuse_batches(*gradients: Tensor | None) -> None:
    """Refuse the gradients of vmap and of ``is_grads_batched=True``."""
    if any(gradient is not None and is_batched(gradient) for gradient in gradients):
        raise RuntimeError(
            "blan_layers: the Triton operations take one gradient at a time, got a batch of them. "
            'Pass backend="reference".'
        )
