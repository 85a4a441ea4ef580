"""The mistakes that several parts can meet, worded once: ``Owner: rule, got actual. Remedy``.

Checks of configuration run once, in constructors. Checks of tensors look at shapes and types alone, so that they
cost no synchronisation and trace away under ``torch.compile`` and ``torch.export``.
"""

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Backend: TypeAlias = Literal["auto", "reference", "blocked", "triton"]

Way: TypeAlias = Literal["reference", "blocked", "triton"]
"""What a backend comes down to, for the tensors at hand."""

BACKENDS: tuple[Backend, ...] = ("auto", "reference", "blocked", "triton")


def positive_int(owner: str, name: str, value: object) -> int:
    """Return ``value`` as an int if it is an integer, NumPy's included, of at least 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # refused below if it is no integer
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be an int, got {value!r}. Pass a whole number, 1 or more.")
    if number < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, got {number}. Pass a whole number, 1 or more.")
    return int(number)


def number(owner: str, name: str, value: object, example: float) -> None:
    """Refuse anything but a real number, NumPy's included."""
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}. Pass, for example, {example}.")


def odd_int(owner: str, name: str, value: object) -> int:
    """Return ``value`` if it is an odd integer, the kernel sizes that keep a map's size."""
    number = positive_int(owner, name, value)
    if number % 2 == 0:
        raise ValueError(
            f"{owner}: {name} must be odd to keep the size of the map, got {number}. Use {number - 1} or {number + 1}."
        )
    return number


def choice(owner: str, name: str, value: object, options: Sequence[object]) -> None:
    """Refuse a ``value`` that is not among ``options``, and list them."""
    if value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{owner}: {name} must be one of {listed}, got {value!r}. Pass one of those.")


def hidden_width(
    owner: str, channels: int, reduction_ratio: int | None, hidden_channels: int | None, default_ratio: int
) -> int:
    """Return the width of a bottleneck given by its ratio or by its channels, never below 1."""
    if reduction_ratio is not None and hidden_channels is not None:
        raise ValueError(
            f"{owner}: takes reduction_ratio or hidden_channels, got both "
            f"({reduction_ratio!r} and {hidden_channels!r}). Drop one of them."
        )
    if hidden_channels is not None:
        return positive_int(owner, "hidden_channels", hidden_channels)
    ratio = default_ratio if reduction_ratio is None else positive_int(owner, "reduction_ratio", reduction_ratio)
    return max(1, channels // ratio)


def floating(owner: str, name: str, x: object) -> None:
    """Refuse anything but a floating-point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{owner}: {name} must be a tensor, got {type(x).__name__}. Pass a floating-point torch.Tensor."
        )
    if not x.is_floating_point():
        raise TypeError(
            f"{owner}: {name} must be floating-point, got {x.dtype}. Convert it, for example {name}.float()."
        )


def feature_map(owner: str, name: str, x: Tensor, channels: int | None, spatial_dims: int | None = None) -> None:
    """Refuse anything but a floating map of ``channels`` channels and ``spatial_dims`` spatial axes; None means any."""
    floating(owner, name, x)
    axes = "*S" if spatial_dims is None else ", ".join(("D", "H", "W")[-spatial_dims:])
    layout = f"(B, {'C' if channels is None else channels}, {axes})"
    rank_fits = x.ndim >= 3 if spatial_dims is None else x.ndim == spatial_dims + 2
    if not rank_fits:
        rank = "at least 3" if spatial_dims is None else f"{spatial_dims + 2}"
        remedy = "Build the layer for that many spatial axes"
        if x.ndim == (spatial_dims or 1) + 1:
            remedy = f"Add the batch axis, for example {name}.unsqueeze(0), or whichever is missing"
        raise ValueError(
            f"{owner}: {name} must have {rank} dimensions {layout}, got {x.ndim} in shape {shape(x)}. {remedy}."
        )
    if channels is not None and x.shape[1] != channels:
        raise ValueError(
            f"{owner}: {name} must have {channels} channels {layout}, got {x.shape[1]} in shape {shape(x)}. "
            f"Build the layer for the channels of {name}."
        )
    if any(size == 0 for size in x.shape[1:]):
        raise ValueError(
            f"{owner}: {name} must have at least one channel and one location, got shape {shape(x)}. "
            "Use a larger input or fewer downsampling steps."
        )


def same_layout(owner: str, name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two maps whose batch or spatial sizes differ."""
    if x.ndim != other.ndim or x.shape[0] != other.shape[0] or x.shape[2:] != other.shape[2:]:
        raise ValueError(
            f"{owner}: {name} and {other_name} must agree in batch and spatial sizes, "
            f"got shapes {shape(x)} and {shape(other)}. Resize one of them first."
        )


def shape(x: Tensor) -> tuple[int, ...]:
    """Return a shape as it is printed in messages."""
    return tuple(x.shape)


def reads_values(x: Tensor) -> bool:
    """Tell whether a check may read the values of ``x``: in eager mode alone, and if there are any."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and not x.is_meta
