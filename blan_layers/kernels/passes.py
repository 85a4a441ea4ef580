"""The passes of an attention gate over a large map, by plain operations."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class PlainPasses:
    """Pools of one map (B, C, *S) and the final gating; the base class of faster passes.

    Channel gates and shifts are (B, C, 1, ...), spatial gates (B, 1, *S). A pass that is given gates pools the gated
    map, and the gating is then given the same ones.
    """

    plain = True
    """Whether a pass consists of the plain operations."""

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        self.x, self.pools, self.residual = x, pools, residual
        self.by_channel = self.by_location = False  # whether a pass has gated ``x`` already

    def pool_space(self, spatial_gate: Tensor | None = None) -> Tensor:
        """Return the pools of the map over space: (B, pools, C)."""
        if spatial_gate is not None:
            self.x, self.by_location = self.x * spatial_gate, True
        flat = self.x.flatten(2)
        pools = [flat.mean(2) if pool == "avg" else flat.amax(2) for pool in self.pools]
        if torch.compiler.is_compiling():  # stacked on the outside, all pools are made in one pass
            return torch.stack(pools).transpose(0, 1)
        return torch.stack(pools, 1)

    def pool_channels(self, channel_gate: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Return mean and maximum of the map over channels: (B, 2, *S)."""
        if channel_gate is not None:
            self.x, self.by_channel = _times(self.x, channel_gate, shift), True
        return torch.cat([self.x.mean(1, keepdim=True), self.x.amax(1, keepdim=True)], 1)

    def for_convolution(self, maps: Tensor) -> Tensor:
        """Return pooled maps in the best layout for a convolution that nothing watches."""
        return maps

    def gate(
        self, channel_gate: Tensor | None = None, shift: Tensor | None = None, spatial_gate: Tensor | None = None
    ) -> Tensor:
        """Return ``(x * channel_gate + shift) * spatial_gate + residual``, without the terms that are not given."""
        y = self.x
        if channel_gate is not None and not self.by_channel:
            y = _times(y, channel_gate, shift)
        if spatial_gate is not None and not self.by_location:
            y = y * spatial_gate
        return y if self.residual is None else y + self.residual

    @property
    def gated(self) -> bool:
        """Whether a pass has gated ``x`` already."""
        return self.by_channel or self.by_location

    def fit(self, channel_gate: Tensor | None = None, shift: Tensor | None = None,
            spatial_gate: Tensor | None = None) -> bool:  # fmt: skip
        """Return whether gates suit the faster passes: plain tensors in the map's dtype, one number per place."""
        if self.gated:
            return False
        batch, channels, *space = self.x.shape
        by_channel, by_location = (batch, channels, *(1,) * len(space)), (batch, 1, *space)
        for factor, shape in ((channel_gate, by_channel), (shift, by_channel), (spatial_gate, by_location)):
            if factor is not None and not (
                type(factor) is Tensor and factor.dtype == self.x.dtype and factor.shape == shape
            ):
                return False
        return True


def _times(x: Tensor, gate: Tensor, shift: Tensor | None) -> Tensor:
    return x * gate if shift is None else x * gate + shift


def empty_map(flat: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return room for a map (B, C, *S) in the layout of a flat one (B, C, N): no view, and its locations one axis."""
    if flat.is_contiguous():
        return torch.empty([*shape], dtype=dtype, device=flat.device)
    batch, channels, *space = shape
    locations = math.prod(space)
    step = channels if flat.stride(1) < flat.stride(2) else 1
    by_location = [step * math.prod(space[axis + 1 :]) for axis in range(len(space))]
    strides = [channels * locations, locations if step == 1 else 1, *by_location]
    return torch.empty_strided([batch, channels, *space], strides, dtype=dtype, device=flat.device)
