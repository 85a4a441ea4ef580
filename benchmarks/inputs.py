"""Inputs at which rounding decides nothing.

The gradient of a maximum goes to the element that attains it, and that of a ReLU is there or not. Where two elements,
or an element and zero, are as close as rounding, two ways of computing may decide differently and both be right: such
locations are drawn anew, so that no tolerance has to allow for them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MOST_DRAWS = 100

MARGIN = 1e-5
"""Of the size of what is compared; the rounding of float32 sums of a thousand terms stays well below."""


@torch.no_grad()
def decided(inputs: Sequence[Tensor], undecided: Callable[..., Tensor]) -> list[Tensor]:
    """Return maps (B, C, *S) in which no location (B, *S) is left that ``undecided(*inputs)`` marks."""
    drawn = [x.contiguous() for x in inputs]
    for _ in range(MOST_DRAWS):
        marked = undecided(*drawn)
        if not marked.any():
            return [x.requires_grad_() for x in drawn]
        drawn = [torch.where(marked[:, None], torch.randn_like(x), x) for x in drawn]
    raise RuntimeError(f"benchmarks: inputs must be clear of ties and kinks, got some in each of {MOST_DRAWS} draws.")


def near_ties(over_space: Tensor, over_channels: Tensor) -> Tensor:
    """Mark the locations that hold the second of two close maxima of a channel, or two of the location itself.

    Args:
        over_space: The map whose maxima are taken over space.
        over_channels: The map whose maxima are taken over channels.
    """
    marked = _close(over_channels.topk(2, 1).values.movedim(1, -1))
    tops, places = over_space.flatten(2).topk(2, 2)
    image, channel = _close(tops).nonzero(as_tuple=True)
    marked.view(len(marked), -1)[image, places[image, channel, 1]] = True
    return marked


def near_kinks(before_relu: Tensor) -> Tensor:
    """Mark the locations that have a hidden unit (the last axis) close to zero."""
    return (before_relu.abs() <= MARGIN * before_relu.std()).any(-1)


def _close(tops: Tensor) -> Tensor:
    margin = max(MARGIN, 4 * torch.finfo(tops.dtype).eps)
    return (tops[..., 0] - tops[..., 1]) <= margin * tops[..., 0].abs()
