"""Attention that starts as the identity: its share is learnt and starts at zero."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blan_layers._module import Module
from blan_layers._torch import has_hooks
from blan_layers.attention import ECA, ChannelAttention, SpatialAttention, SqueezeExcitation

ONE_GATE = ChannelAttention, SqueezeExcitation, SpatialAttention, ECA
"""Classes that multiply a map by one gate, and do nothing else; a subclass may."""


class BlendedGate(Module):
    """A gate ``1 + a (gate(logits) - 1)`` with a learnt ``a`` that starts at zero; it blends the gated map likewise."""

    needs = ("gate",)

    def __init__(self, gate: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gate = gate
        self.a = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))  # not a scalar, which FSDP cannot shard

    def reset_parameters(self) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.a)

    def forward(self, logits: Tensor) -> Tensor:
        """Blend the gate with one."""
        gate: Tensor = self.gate(logits)
        return 1 + self.a.to(gate.dtype) * (gate - 1)

    if TYPE_CHECKING:

        def __call__(self, logits: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


class Blend(Module):
    """``x + a (attention(x, ...) - x)`` with a learnt ``a`` that starts at zero."""

    needs = ("attention",)

    def __init__(
        self, attention: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.attention = attention
        self.a = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))  # not a scalar, which FSDP cannot shard

    def reset_parameters(self) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.a)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Blend the map with the output of attention for it and the other inputs."""
        return torch.lerp(x, self.attention(x, *others).to(x.dtype), self.a.to(x.dtype))

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


def starting_as_identity(attention: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    """Return attention that changes nothing at first; where a map is multiplied by one gate, the gate is blended."""
    plain = (
        type(attention) in ONE_GATE and not has_hooks(attention) and not any(map(callable, vars(attention).values()))
    )
    if plain and getattr(attention, "form", "cbam") == "cbam":
        attention.gate = BlendedGate(attention.get_submodule("gate"), device, dtype)
        return attention
    return Blend(attention, device, dtype)
