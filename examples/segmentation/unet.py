"""A U-Net with exchangeable skip connections."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SkipFactory: TypeAlias = Callable[[int, int], nn.Module]
"""Takes the channels of the skip and of the coarser decoder features; returns a module that is called with both."""


class Plain(nn.Module):
    """The unchanged skip; the decoder's features are ignored."""

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """Return the skip."""
        return skip


class UNet(nn.Module):
    r"""Encoder and decoder with a skip connection at every level, for images of any size of at least 2\ :sup:`depth`.

    Args:
        width: Channels of the finest level; each coarser level has twice as many.
        depth: Number of times that the size is halved, and number of skip connections.
        skip: Builds the module in each skip connection.
        in_channels: Channels of the images.

    Shape:
        images (B, in_channels, H, W) -> logits (B, 1, H, W).

    Raises:
        ValueError: An image is too small to be halved ``depth`` times.
    """

    def __init__(self, width: int, depth: int, *, skip: SkipFactory, in_channels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _block(*channels) for channels in zip([in_channels, *widths], widths, strict=False)
        )
        self.skips = nn.ModuleList(skip(widths[level], widths[level + 1]) for level in range(depth))
        self.decoder = nn.ModuleList(_block(widths[level] + widths[level + 1], widths[level]) for level in range(depth))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the mask."""
        least = 2 ** len(self.skips)
        if min(images.shape[2:]) < least:
            height, width = images.shape[2:]
            raise ValueError(
                f"UNet: images must be at least {least} x {least} at depth {len(self.skips)}, got {height} x {width}. "
                "Enlarge them, or build the network with a smaller depth."
            )
        levels: list[Tensor] = []
        x = images
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        for level in reversed(range(len(self.skips))):
            skip = self.skips[level](levels[level], x)
            x = self.decoder[level](torch.cat([skip, F.interpolate(x, skip.shape[2:])], 1))
        return self.head(x)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
