"""Convolutions, norms, activations and resizing for the attention modules."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._init import he_normal_, reset
from blan_layers._module import PLAIN, WITH_WEIGHTS, foreign_weight, known, oddity
from blan_layers._torch import is_compiled_or_traced
from blan_layers.functional._tracing import whole
from blan_layers.functional.attention import product

NormFactory: TypeAlias = Callable[[int], nn.Module]
ActivationFactory: TypeAlias = Callable[[], nn.Module]

GateFunction: TypeAlias = Literal["sigmoid", "hard-sigmoid"]

GATES: dict[GateFunction, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "hard-sigmoid": nn.Hardsigmoid}

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

CONVOLUTIONS: tuple[type[Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_KNOWN = known(*CONVOLUTIONS, methods=("forward", "_conv_forward"))


def same_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    spatial_dims: int,
    *,
    dilation: int = 1,
    groups: int = 1,
    bias: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Convolution:
    """Return a convolution of odd kernel size that keeps the spatial sizes of the map."""
    return CONVOLUTIONS[spatial_dims - 1](
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=bias,
        device=device,
        dtype=dtype,
    )


def drawn_convolution(*channels_and_size: int, **options: Any) -> Convolution:
    """Return such a convolution with He initialisation."""
    conv = same_convolution(*channels_and_size, **options)
    he_normal_(conv)
    return conv


def convolved(parent: nn.Module, name: str, x: Tensor, backend: _checks.Backend = "auto") -> Tensor:
    """Call a child with a map; a 1x1 convolution that nothing watches may become a product, which is faster."""
    conv = parent._modules.get(name)
    plain = backend != "reference" and type(x) in PLAIN and not is_compiled_or_traced()
    if plain and isinstance(conv, CONVOLUTIONS) and (weights := _pointwise_weights(conv, x)):
        multiplied = product(x, *weights, lambda: oddity(parent, {name: _KNOWN}))
        if multiplied is not None:
            return multiplied
    output: Tensor = getattr(parent, name)(x)
    return output


def _pointwise_weights(conv: Convolution, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a convolution that takes every location of a map by itself, with all its channels."""
    weight, bias = (conv._parameters.get(name) for name in ("weight", "bias"))
    if weight is None or "bias" not in conv._parameters or foreign_weight(conv):
        return None  # foreign is also the weight of a lazy convolution, which has no shape
    fits = weight.shape == (len(weight), x.shape[1], *[1] * (x.ndim - 2))  # or torch says so
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    everywhere = conv.groups == 1 and {*conv.stride} == {1} and (conv.padding == "valid" or {*conv.padding} == {0})
    return (weight, bias) if fits and everywhere else None


def in_sequence(**layers: nn.Module | None) -> nn.Sequential:
    """Return the layers in sequence, each under its name, without those that are None."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


def draw(layers: Iterable[nn.Module]) -> None:
    """Initialise linear layers and convolutions by He's rule, and others by ``reset_parameters`` or part by part."""
    for layer in layers:
        if isinstance(layer, WITH_WEIGHTS):
            he_normal_(layer)
        elif callable(getattr(layer, "reset_parameters", None)):
            reset(layer)
        else:
            draw(layer.children())


_INTERPOLATIONS = ("linear", "bilinear", "trilinear")


@whole
def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return a map resized to the spatial sizes of another, by linear interpolation along every axis."""
    size = like.shape[2:]
    if not (torch.compiler.is_compiling() or _checks.traced(x, like)) and x.shape[2:] == size:
        return x
    return nn.functional.interpolate(x, size, mode=_INTERPOLATIONS[x.ndim - 3], align_corners=False)


def norm_of(
    norm: NormFactory | None, width: int, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module | None:
    """Return the norm that a user's factory builds for ``width`` channels, or None without a factory."""
    return None if norm is None else build("norm", norm, width, device=device, dtype=dtype)


def build(
    name: str,
    factory: Callable[..., nn.Module],
    *args: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Return the module that a user's factory builds, moved to ``device`` and ``dtype``."""
    is_factory = callable(factory) and not isinstance(factory, nn.Module)
    if not is_factory or not _checks.takes(factory, *args):
        called = ", ".join(map(str, args))
        got = f"{_checks.shown(factory)}, which cannot" if is_factory else type(factory).__name__
        raise TypeError(
            said(
                f"{name} must be a callable that returns a module, called as {name}({called}), "
                f"got {got}. Pass a class such as torch.nn.{'BatchNorm2d' if args else 'ReLU'}."
            )
        )
    module = factory(*args)
    if not isinstance(module, nn.Module):
        raise TypeError(
            said(f"{name} must return a torch.nn.Module, got {type(module).__name__}. Wrap the function in a module.")
        )
    return module.to(device=device, dtype=dtype)


def check_spatial_dims(spatial_dims: int) -> int:
    """Return ``spatial_dims``, or raise unless it is 1, 2 or 3."""
    spatial_dims = _checks.positive_int("spatial_dims", spatial_dims)
    _checks.choice("spatial_dims", spatial_dims, (1, 2, 3))
    return spatial_dims
