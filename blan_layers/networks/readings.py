"""Reading channels, spatial axes, device and dtype of a module's output from the module."""

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

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
"""Modules that may end a sequence and do not change its channels."""

CONVOLUTIONS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""Number of spatial axes of their inputs."""

AXES: dict[type[nn.Module], int] = CONVOLUTIONS | {
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
}
"""Number of spatial axes of a module's input, by its class."""


def kind_of(target: nn.Module, model: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Return device and dtype of a module's output, or those of the network if the module has none."""
    for module in (target, model):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return None, None


def channels_of(name: str, target: nn.Module) -> int:
    """Return the output channels of a module; in a sequence, the last part that sets them decides."""
    last = target
    while isinstance(last, nn.Sequential) and len(last):
        last = next((part for part in reversed(last) if not isinstance(part, KEEPING)), last[-1])
    for width in WIDTHS:
        if isinstance(found := getattr(last, width, None), int) and found > 0:
            return found
    if isinstance(last, LazyModuleMixin):
        raise ValueError(
            said(
                f"channels of {name!r} must be known, got a {type(last).__name__} that has not seen a map. "
                "Call the network once first."
            )
        )
    if (statistics := last._buffers.get("running_mean")) is not None:
        return len(statistics)
    raise ValueError(
        said(
            f"channels of {name!r} must be readable, got {type(last).__name__} without any of {', '.join(WIDTHS)}. "
            "Name its last convolution or norm of maps (B, C, ...) instead."
        )
    )


def axes_of(name: str, target: nn.Module, model: nn.Module) -> int | None:
    """Return the number of spatial axes, from the module or its siblings, or None if it cannot be read."""
    parents = [model.get_submodule(name.rpartition(".")[0]), model]
    for module in (target, *target.modules(), *(part for parent in parents for part in parent.modules())):
        for kind, axes in AXES.items():
            if isinstance(module, kind):
                return axes
    return None
