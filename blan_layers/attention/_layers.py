"""Convolution, norm and activation as the attention modules build them."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from blan_layers import _checks
from blan_layers._checks import said

NormFactory: TypeAlias = Callable[[int], nn.Module]
ActivationFactory: TypeAlias = Callable[[], nn.Module]

GateFunction: TypeAlias = Literal["sigmoid", "hard-sigmoid"]

GATES: dict[GateFunction, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "hard-sigmoid": nn.Hardsigmoid}

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

CONVOLUTIONS: tuple[type[Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def same_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    spatial_dims: int,
    *,
    bias: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    dilation: int = 1,
) -> Convolution:
    """Return a convolution of odd kernel size that keeps the size of the map."""
    return CONVOLUTIONS[spatial_dims - 1](
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        bias=bias,
        device=device,
        dtype=dtype,
    )


def build(
    name: str,
    factory: Callable[..., nn.Module],
    *args: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Return the module that a user's factory makes, moved to ``device`` and ``dtype``."""
    if not callable(factory) or isinstance(factory, nn.Module):
        called = ", ".join(map(str, args))
        raise TypeError(
            said(
                f"{name} must be a callable that makes a module, called as {name}({called}), "
                f"got {type(factory).__name__}. Pass a class such as torch.nn.{'BatchNorm2d' if args else 'ReLU'}."
            )
        )
    module = factory(*args)
    if not isinstance(module, nn.Module):
        raise TypeError(
            said(f"{name} must make a torch.nn.Module, got {type(module).__name__}. Wrap the function in a module.")
        )
    return module.to(device=device, dtype=dtype)


def check_spatial_dims(spatial_dims: int) -> int:
    """Return ``spatial_dims`` if there is a convolution for it."""
    spatial_dims = _checks.positive_int("spatial_dims", spatial_dims)
    _checks.choice("spatial_dims", spatial_dims, (1, 2, 3))
    return spatial_dims
