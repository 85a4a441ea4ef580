"""Layers of critics, which encode local and global vectors before they are scored."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blan_layers._init import change_parameter, he_normal_
from blan_layers._module import Module


class PairLinear(Module, nn.Linear):
    r"""Linear layer of concatenated pairs [local; global], which also accepts the two halves separately.

    ``layer(pairs)`` is the same as for any ``nn.Linear``. ``layer(local, summaries)`` returns ``weight[:, :C] local``
    and ``weight[:, C:] summaries + bias``. Their sum is the result for the pair, so that the concatenation need not be
    built.

    Shape:
        (..., C + D) -> (..., out), or (..., C) and (..., D) -> two of (..., out).
    """

    def forward(  # type: ignore[override]  # wider than nn.Linear's
        self, local: Tensor, summaries: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer to pairs, or to their halves."""
        if summaries is None:
            return super().forward(local)
        weight, channels = self.weight, local.shape[-1]
        halves = weight.narrow(1, 0, channels), weight.narrow(1, channels, summaries.shape[-1])
        return F.linear(local, halves[0]), F.linear(summaries, halves[1], self.bias)


class ResidualEncoder(Module):
    r"""Deep InfoMax's encoder of vectors (..., C): ``fc2(relu(fc1(x))) + shortcut(x)``, then a LayerNorm if ``norm``.

    Applied to every location of a map (B, U, C) it is the paper's network of 1x1 convolutions; applied to summaries it
    is the corresponding perceptron. The shortcut starts as the identity with slight noise; for a narrower code it keeps
    the first channels.
    """

    needs = "fc1", "fc2", "shortcut", "norm"

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        *,
        norm: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden_channels, hidden_channels, device=device, dtype=dtype)
        self.shortcut = nn.Linear(channels, hidden_channels, bias=False, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(hidden_channels, device=device, dtype=dtype) if norm else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        he_normal_(self.fc1)
        he_normal_(self.fc2)
        change_parameter(self.shortcut, "weight", lambda weight: weight.uniform_(-0.01, 0.01).fill_diagonal_(1.0))
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Encode vectors (..., C) as (..., hidden)."""
        encoded: Tensor = self.norm(self.fc2(torch.relu(self.fc1(x))) + self.shortcut(x))
        return encoded

    def last_layers(self) -> tuple[nn.Linear, ...]:
        """Return the layers whose outputs are summed to the code."""
        return self.fc2, self.shortcut

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


class Perceptron(Module):
    """Perceptron of vectors (..., C) with two hidden layers and ReLU between: ``fc3(relu(fc2(relu(fc1(x)))))``."""

    needs = "fc1", "fc2", "fc3"

    def __init__(
        self,
        channels: int,
        hidden_channels: tuple[int, int],
        out_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        first, second = hidden_channels
        self.fc1 = nn.Linear(channels, first, device=device, dtype=dtype)
        self.fc2 = nn.Linear(first, second, device=device, dtype=dtype)
        self.fc3 = nn.Linear(second, out_channels, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        for layer in (self.fc1, self.fc2, self.fc3):
            he_normal_(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Encode vectors (..., C) as (..., out)."""
        encoded: Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return encoded

    def last_layers(self) -> tuple[nn.Linear, ...]:
        """Return the layer whose output is the code."""
        return (self.fc3,)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
