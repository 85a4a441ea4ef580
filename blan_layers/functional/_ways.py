"""What stands in for the plain operations: passes over the map of the gates, and the loss of pairs in one pass."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers.kernels import attention as blocked
from blan_layers.kernels.mutual_information import ContrastLoss


class Passes(Protocol):
    """The passes over one map (B, C, *S), in the order in which they are called; the gating ends them.

    Channel gates and shifts are (B, C, 1), spatial gates (B, 1, *S).
    """

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None: ...

    def pool_space(self, spatial_gate: Tensor | None) -> Tensor:
        """Return the pools of the map, or of the gated one, over space: (pools, B, C)."""

    def pool_channels(self, channel_gate: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return mean and maximum of the map, or of ``x * channel_gate + shift``, over channels: (B, 2, *S)."""

    def gate(self, channel_gate: Tensor | None, shift: Tensor | None, spatial_gate: Tensor | None) -> Tensor:
        """Return ``(x * channel_gate + shift) * spatial_gate + residual``."""


class Blocks:
    """The passes in blocks that stay in the CPU's cache."""

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        self.shape, self.x, self.pools = x.shape, x.flatten(2), pools
        self.residual = _flat(residual)
        self.gated: Tensor | None = None

    def pool_space(self, spatial_gate: Tensor | None) -> Tensor:
        """Pool the map; without a gate, blocks serve the gradient alone."""
        if spatial_gate is None and not torch.is_grad_enabled():
            return pool_space(self.x, self.pools)
        pooled: Tensor
        pooled, self.x = blocked.PoolSpace.apply(self.x, _flat(spatial_gate), self.pools)
        return pooled

    def pool_channels(self, channel_gate: Tensor | None, shift: Tensor | None) -> Tensor:
        """Pool the map; where no gradient is asked for, the gated one is kept for the gating."""
        if channel_gate is not None and not torch.is_grad_enabled():
            self.gated = torch.empty_like(self.x)
            maps = blocked.pool_channels(self.x, channel_gate, shift, self.gated)
        else:
            maps, self.x = blocked.PoolChannels.apply(self.x, channel_gate, shift)
        return _channels_last(maps.unflatten(2, self.shape[2:]))

    def gate(self, channel_gate: Tensor | None, shift: Tensor | None, spatial_gate: Tensor | None) -> Tensor:
        """Gate the map by what it was pooled with, and add the residual."""
        spatial = _flat(spatial_gate)
        if self.gated is not None and spatial is not None:
            return blocked.gate_and_add(self.gated, spatial, self.residual, self.gated).view(self.shape)
        output: Tensor = blocked.Gate.apply(self.x, channel_gate, shift, spatial, self.residual)
        return output.view(self.shape)


def passes_of(way: _checks.Way) -> type[Passes]:
    """Return the passes of a way; Triton is imported when its are asked for."""
    if way == "blocked":
        return Blocks
    from blan_layers.kernels.gpu.attention import TritonPasses

    return TritonPasses


def contrast_loss(way: _checks.Way) -> Callable[..., Tensor]:
    """Return :class:`ContrastLoss` of a way, as a function."""
    if way == "blocked":
        blocks: Callable[..., Tensor] = ContrastLoss.apply
        return blocks
    from blan_layers.kernels.gpu.mutual_information import contrast_loss

    return contrast_loss


def pool_space(x: Tensor, pools: Sequence[str]) -> Tensor:
    """Pool a map over space by plain operations: (pools, B, C)."""
    axes = tuple(range(2, x.ndim))
    return torch.stack([x.mean(axes) if pool == "avg" else x.amax(axes) for pool in pools])


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten(2)


def _channels_last(maps: Tensor) -> Tensor:
    """Return pooled maps in the layout in which a convolution of two channels has a much faster backward."""
    if maps.ndim == 3:
        return maps
    return maps.contiguous(memory_format=torch.channels_last if maps.ndim == 4 else torch.channels_last_3d)
