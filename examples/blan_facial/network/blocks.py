"""Residual blocks and He initialisation, shared by the encoder, the decoder and the classifiers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3 convolutions with a shortcut; parameters are named as in torchvision.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution.

    Shape:
        (B, in_channels, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)).

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Fig. 5 (left).
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(residual + shortcut, inplace=True)


def stage(in_channels: int, channels: int, blocks: int, *, stride: int = 1) -> nn.Sequential:
    """Chain ``blocks`` BasicBlocks; the first one changes the number of channels and has the stride."""
    first = BasicBlock(in_channels, channels, stride=stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


@torch.no_grad()
def he_initialize(module: nn.Module) -> None:
    """Initialise every layer in ``module`` as in ResNet: He's normal weights, zero biases, default batch norms.

    Convolutions preserve the variance of the backward pass (fan out), linear layers that of the forward pass (fan in).
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            forward = isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if forward else "fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
