"""What a module tells of the map that it gives: channels, spatial axes, device and dtype."""

import torch
from torch import nn

from blan_layers._checks import said

WIDTHS = "num_features", "num_channels", "out_channels"

KEEPING = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.Upsample,
)
"""What stands last in a sequence and keeps its channels."""

CONVOLUTIONS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""Spatial axes of what they take."""

AXES: dict[type[nn.Module], int] = CONVOLUTIONS | {
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
}
"""Spatial axes of what a module takes, where its class tells."""


def kind_of(target: nn.Module, model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return device and dtype of what a module computes, of the network where it tells of none."""
    for module in (target, model):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return None, None


def channels_of(name: str, target: nn.Module) -> int:
    """Return the channels of what a module gives: its own, or those of the part of a sequence that sets them."""
    last = target
    while isinstance(last, nn.Sequential) and len(last):
        last = next((part for part in reversed(last) if not isinstance(part, KEEPING)), last[-1])
    for width in WIDTHS:
        if isinstance(found := getattr(last, width, None), int):
            return found
    if (statistics := last._buffers.get("running_mean")) is not None:
        return len(statistics)
    raise ValueError(
        said(
            f"channels of {name!r} must be read off it, got {type(last).__name__} without any of {', '.join(WIDTHS)}. "
            "Name its last norm or convolution in place of it."
        )
    )


def axes_of(name: str, target: nn.Module, model: nn.Module) -> int | None:
    """Return the number of spatial axes, from the module or from what stands in the same parent, None if none tells."""
    parents = [model.get_submodule(name.rpartition(".")[0]), model]
    for module in (target, *target.modules(), *(part for parent in parents for part in parent.modules())):
        for kind, axes in AXES.items():
            if isinstance(module, kind):
                return axes
    return None
