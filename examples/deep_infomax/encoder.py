"""The encoder that all methods train, and the decoder of the autoencoder."""

import math
from typing import NamedTuple

from torch import Tensor, nn

MAP_SIZE = 8
"""Side of the map in locations."""

_GRID = MAP_SIZE // 2


class Features(NamedTuple):
    """The outputs of an encoder for images."""

    map: Tensor
    """(B, width, 8, 8): a vector per location."""
    summary: Tensor
    """(B, dimensions): a vector for the whole image, the representation that is probed."""


class Encoder(nn.Module):
    """Strided convolutions that compute a map, followed by layers that summarise it.

    Args:
        size: Side of the images in pixels: 16, 32 or 64.
        width: Channels of the map.
        dimensions: Width of the summary.

    Shape:
        images (B, 3, size, size) -> Features.
    """

    def __init__(self, size: int, width: int, dimensions: int) -> None:
        super().__init__()
        self.size, self.width, self.dimensions = size, width, dimensions
        halvings = int(math.log2(size // MAP_SIZE))
        channels = [3, *(width >> step for step in reversed(range(halvings)))]
        self.local = nn.Sequential(*map(_halve, channels, channels[1:]))
        self.summarise = nn.Sequential(
            _halve(width, 2 * width), nn.Flatten(), nn.Linear(2 * width * _GRID**2, dimensions)
        )

    def forward(self, images: Tensor) -> Features:
        """Return map and summary."""
        local = self.local(images)
        return Features(local, self.summarise(local))


class Decoder(nn.Sequential):
    """The encoder's mirror image: from a summary to an image.

    Args:
        encoder: The encoder whose summaries are decoded.

    Shape:
        summary (B, dimensions) -> images (B, 3, size, size).
    """

    def __init__(self, encoder: Encoder) -> None:
        width, doublings = encoder.width, int(math.log2(encoder.size // _GRID))
        channels = [2 * width >> step for step in range(doublings)]
        super().__init__(
            nn.Linear(encoder.dimensions, 2 * width * _GRID**2),
            nn.Unflatten(1, (2 * width, _GRID, _GRID)),
            *map(_double, channels, channels[1:]),
            nn.ReLU(),
            nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1),
        )


def _halve(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
