"""Hand-written forms, and timm's own module where timm is installed."""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blan_layers.functional import reference


class TimmForm(nn.Module):
    """CBAM written like timm's, without its batch norm: 1x1 convolutions, ``mean`` and ``amax``."""

    def __init__(self, channels: int, hidden: int, kernel_size: int = 7, *, bias: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate by channel, then by location."""
        average = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)), inplace=True))
        peak = self.fc2(F.relu(self.fc1(x.amax((2, 3), keepdim=True)), inplace=True))
        x = x * (average + peak).sigmoid()
        return x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class OfficialForm(nn.Module):
    """CBAM as in its authors' code, without its batch norm: pooling with a full kernel, the maximum first."""

    def __init__(self, channels: int, hidden: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate by channel, then by location."""
        size = x.shape[2:]
        average = self._mlp(F.avg_pool2d(x, size, stride=size))
        peak = self._mlp(F.max_pool2d(x, size, stride=size))
        x = x * torch.sigmoid(average + peak)[:, :, None, None].expand_as(x)
        pooled = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
        return x * torch.sigmoid(self.conv(pooled))

    def _mlp(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.fc2(F.relu(self.fc1(pooled.flatten(1))))
        return logits

    @staticmethod
    def swap_pools(results: Sequence[Tensor]) -> Sequence[Tensor]:
        """Reorder the gradient of the convolution, which comes last, to average, maximum."""
        return [*results[:-1], results[-1].flip(1)] if len(results) > 1 else results


class PlainRDAM(nn.Module):
    """RDAM written by hand: concatenate, convolve, gate in timm's form, add."""

    def __init__(self, channels: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.gates = TimmForm(channels, hidden, bias=bias)

    def forward(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        """Combine the decoder's features with the encoder's."""
        gated: Tensor = self.gates(self.conv(torch.cat([encoder_features, decoder_features], 1)))
        return gated + encoder_features


@torch.no_grad()
def adopt(peer: nn.Module, ours: nn.Module) -> None:
    """Copy our weights into a peer with the same weights in the same order, possibly in other shapes."""
    for theirs, weight in zip(peer.parameters(), ours.parameters(), strict=True):
        theirs.copy_(weight.view_as(theirs))
    if isinstance(peer, OfficialForm):
        peer.conv.weight.copy_(peer.conv.weight.flip(1))


def literal_lmim_loss(local_features: Tensor, global_features: Tensor, *layers: Tensor) -> Tensor:
    """Return the loss computed from the concatenations of real and fake pairs at all locations."""
    w1, b1, w2, b2, w3, b3 = layers
    return reference.lmim_loss(local_features, global_features, w1, b1, w2, b2, w3, b3)


def checkpointed_lmim_loss(local_features: Tensor, global_features: Tensor, *layers: Tensor) -> Tensor:
    """Return the literal loss with activations recomputed in the backward."""
    logits = [
        checkpoint(reference.concat_conv_logits, local_features, summary, *layers, use_reentrant=False)
        for summary in (global_features, global_features.roll(-1, 0))
    ]
    return reference.bce_loss(*logits)


@lru_cache(maxsize=1)
def timm() -> Any:
    """Return timm, or None if it is not installed.

    timm imports torchvision. With a torch that lacks torchvision's compiled operators, its import fails because of an
    undeclared operator.
    """
    try:
        return importlib.import_module("timm")
    except ImportError:
        return None
    except RuntimeError:  # from torchvision, for an undeclared operator
        return _timm_beside_declared_operators()


def _timm_beside_declared_operators() -> Any:
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}{boxes}")
    _DECLARED.append(library)
    return importlib.import_module("timm")


_DECLARED: list[torch.library.Library] = []
"""Keeps the declarations alive: they last as long as their library."""
