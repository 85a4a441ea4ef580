"""Joins, which compute the attended features A_i from the encoder's E_i and the decoder's D_i at levels 1 to 3.

A join is a module ``(E, D) -> A`` of maps (B, C, H, W). RDAM is the paper's; the others are ablations and alternatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blan_facial.config import Config
from blan_layers import RAR, RDAM, AttentionGate


class EncoderOnly(nn.Module):
    """The encoder's feature, ``A = E``."""

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Return E."""
        return encoded


class DecoderOnly(nn.Module):
    """The decoder's feature, ``A = D``."""

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Return D."""
        return decoded


class Concatenate(nn.Module):
    """Concatenation of both features, ``A = [E; D]``, with 2C channels."""

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Return [E; D]."""
        return torch.cat([encoded, decoded], 1)


class Join(NamedTuple):
    """A function that builds a join from the settings and C, and the number of channels of A in units of C."""

    make: Callable[[Config, int], nn.Module]
    expansion: int = 1


def _rdam(config: Config, channels: int) -> RDAM:
    norm = nn.BatchNorm2d if config.rdam_norm else None
    return RDAM(channels, arrangement=config.arrangement, conv_norm=norm, norm=norm)


JOINS = {
    "rdam": Join(_rdam),
    "rar": Join(lambda _, channels: RAR(channels, norm=nn.BatchNorm2d, bias=False)),
    "attention-gate": Join(lambda _, channels: AttentionGate(channels, channels, norm=nn.BatchNorm2d)),
    "concat": Join(lambda *_: Concatenate(), expansion=2),
    "none": Join(lambda *_: EncoderOnly()),
}
"""The joins by their names in the settings; RAR and the attention gate have their authors' batch norms."""


def join_of(config: Config) -> Join:
    """Return the join that the settings select."""
    if not config.decoder:
        return Join(lambda *_: EncoderOnly())
    if not config.encoder_features:
        return Join(lambda *_: DecoderOnly())
    return JOINS[config.join]
