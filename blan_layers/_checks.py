"""Checks that several modules share, with messages of one form: ``Owner: rule, got actual. Remedy``.

Checks of configuration run in constructors and whenever an option is set. Checks of tensors look only at shapes and
types. They therefore need no device synchronisation, and they are skipped under a compiler or a tracer.
"""

import inspect
import math
import operator
import sys
from collections.abc import Callable, Hashable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from blan_layers._torch import autocasts, is_tracing, transforms_active

PACKAGE = __name__.partition(".")[0]

Backend: TypeAlias = Literal["auto", "reference", "blocked", "triton"]

BACKENDS: tuple[Backend, ...] = ("auto", "reference", "blocked", "triton")

MANY_CHANNELS = 16
"""An even kernel size of at least this is probably a number of channels meant for another layer."""

LONG = 100
"""Number of characters above which messages say the type of a value in place of the value."""


def said(words: str) -> str:
    """Return a message prefixed with the name of the function or module that the user called.

    This is the outermost caller from this library with only torch frames in between. The stack is searched only when
    there is an error to report, so that no helper needs to be passed the name.
    """
    if torch.compiler.is_compiling():
        return words
    owner, frame = None, inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module == PACKAGE:
            named = frame.f_locals.get("instance", frame.f_locals.get("self"))
            if owner is None or not _is_internal(named):
                owner = _public_name(frame.f_code.co_name, named, frame.f_globals.get("__all__", ())) or owner
        elif module not in ("torch", "contextlib"):
            break
        frame = frame.f_back
    return words if owner is None else f"{owner}: {words}"


def _is_internal(instance: object) -> bool:
    """Return whether an object is a module of this library that users do not build."""
    kind = type(instance)
    ours = isinstance(instance, nn.Module) and kind.__module__.partition(".")[0] == PACKAGE
    return ours and kind.__name__ not in sys.modules[PACKAGE].__all__


def _public_name(function: str, instance: object, exported: Sequence[str]) -> str | None:
    if isinstance(instance, nn.Module):
        name = type(instance).__name__
        return f"{name}.{function}" if function == "estimate" else name
    public = {*sys.modules[PACKAGE].__all__, *sys.modules[f"{PACKAGE}.functional"].__all__, *exported}
    return function if function in public else None


def shown(value: object) -> str:
    """Return a value as messages print it, on one line: long ones by their type alone."""
    text = repr(value)
    return text if len(text) <= LONG and "\n" not in text else f"a {type(value).__name__}"


T = TypeVar("T")


class Checked(Generic[T]):
    """An attribute of a module of which each assignment is checked, in the constructor and afterwards.

    Args:
        check: Function (name, value) that returns the value to store, or raises.
    """

    def __init__(self, check: Callable[[str, Any], T]) -> None:
        self.check = check

    if TYPE_CHECKING:  # reads like a plain attribute

        def __get__(self, instance: object, owner: type) -> T: ...

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: nn.Module, value: T) -> None:
        instance.__dict__[self.name] = self.check(self.name, value)


class Fixed(Checked[T]):
    """An attribute that describes how a module was built and cannot be changed afterwards."""

    def __set__(self, instance: nn.Module, value: T) -> None:
        if instance.__dict__.setdefault(self.name, self.check(self.name, value)) != value:
            raise fixed(self.name, value)


def fixed(name: str, value: object) -> AttributeError:
    """Return the error for an attribute that follows from how a module was built."""
    return AttributeError(said(f"{name} must stay as it was built, got {shown(value)}. Build a new module."))


class Option(Checked[T]):
    """An attribute that accepts one of a few values.

    Args:
        values: The allowed values.
        shared_with: Names of children whose option of the same name is set along with it.
    """

    def __init__(self, values: Sequence[T], shared_with: Sequence[str] = ()) -> None:
        super().__init__(self._listed)
        self.values, self.shared_with = values, shared_with

    def _listed(self, name: str, value: T) -> T:
        choice(name, value, self.values)
        return value

    def __set__(self, instance: nn.Module, value: T) -> None:
        super().__set__(instance, value)
        for name in self.shared_with:
            child = instance._modules.get(name)
            if isinstance(getattr(type(child), self.name, None), Option):
                setattr(child, self.name, value)


def positive_int(name: str, value: object) -> int:
    """Return ``value`` as an int, or raise unless it is an integer (NumPy integers included) of at least 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # refused below if it is not an integer
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(said(f"{name} must be an int, got {shown(value)}. Pass a whole number, 1 or more."))
    if number < 1:
        raise ValueError(said(f"{name} must be at least 1, got {number}. Pass a whole number, 1 or more."))
    return int(number)


def number(name: str, value: object, example: float) -> float:
    """Return ``value`` as a float, or raise unless it is a real number; NumPy numbers are accepted."""
    if isinstance(value, bool) or not isinstance(value, int | float | Real):
        raise TypeError(said(f"{name} must be a number, got {shown(value)}. Pass, for example, {example}."))
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            said(f"{name} must fit into a float, got a larger number. Pass, for example, {example}.")
        ) from None


def flag(name: str, value: object) -> bool:
    """Return ``value``, or raise unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(said(f"{name} must be a bool, got {shown(value)}. Pass True or False."))
    return value


def odd_int(name: str, value: object) -> int:
    """Return ``value``, or raise unless it is an odd integer: odd kernel sizes keep the size of a map."""
    number = positive_int(name, value)
    if number % 2:
        return number
    remedy = f"Use {number - 1} or {number + 1}."
    if number >= MANY_CHANNELS:
        remedy = "Use 7, for example. This argument is not the number of channels, which this layer does not need."
    raise ValueError(said(f"{name} must be odd to keep the size of the map, got {number}. {remedy}"))


def factory(made: object) -> None:
    """Refuse anything that cannot be called with a number of channels to build attention."""
    if not callable(made) or isinstance(made, nn.Module):
        got = f"a built {type(made).__name__}" if callable(made) else type(made).__name__
        raise TypeError(said(f"factory must be callable with channels, got {got}. Pass a class such as CBAM."))


def takes(called: Callable[..., object], *arguments: object) -> bool:
    """Return whether a callable can be called with these arguments, as far as its signature tells."""
    try:
        inspect.signature(called).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        pass
    return True


def network(model: object) -> None:
    """Refuse a model that is not a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(said(f"model must be a torch.nn.Module, got {type(model).__name__}. Pass the network."))


def choice(name: str, value: object, options: Sequence[object]) -> None:
    """Refuse a ``value`` that is not among ``options``, and list them."""
    # an array or a tensor would be compared element by element
    if not isinstance(value, Hashable) or isinstance(value, Tensor) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(said(f"{name} must be one of {listed}, got {shown(value)}. Pass one of those."))


def placement(device: object, dtype: object) -> None:
    """Refuse what is no device, and a dtype of parameters that is not floating-point; None means torch's default."""
    if device is not None:
        try:
            torch.device(device)  # type: ignore[call-overload]  # refused below if it is none
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(
                said(f"device must be a torch.device or its name, got {shown(device)}. Pass, for example, 'cuda'.")
            ) from None
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(said(f"dtype must be a torch.dtype, got {shown(dtype)}. Pass, for example, torch.float32."))
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(said(f"dtype must be floating-point, got {dtype}. Pass, for example, torch.float32."))


def hidden_width(
    channels: int, reduction_ratio: int | None, hidden_channels: int | None, default_ratio: int = 16
) -> int:
    """Return the width of a bottleneck from its reduction ratio or its number of channels, at least 1."""
    if reduction_ratio is not None and hidden_channels is not None:
        raise ValueError(
            said(
                "takes reduction_ratio or hidden_channels, got both "
                f"({reduction_ratio!r} and {hidden_channels!r}). Drop one of them."
            )
        )
    if hidden_channels is not None:
        return positive_int("hidden_channels", hidden_channels)
    ratio = default_ratio if reduction_ratio is None else positive_int("reduction_ratio", reduction_ratio)
    return max(1, channels // ratio)


def traced(*tensors: object) -> bool:
    """Return whether a tracer runs the code, for which shapes and types are not plain numbers and classes."""
    for x in tensors:
        if isinstance(x, Proxy):
            return True
    return is_tracing()


def floating(name: str, x: object) -> None:
    """Refuse anything but a dense floating-point tensor."""
    if traced(x):
        return
    if not isinstance(x, Tensor):
        raise TypeError(said(f"{name} must be a tensor, got {type(x).__name__}. Pass a floating-point torch.Tensor."))
    if not x.is_floating_point():
        call = "dequantize" if x.is_quantized else "float"
        raise TypeError(said(f"{name} must be floating-point, got {x.dtype}. Convert it, for example {name}.{call}()."))
    if x.is_nested or x.layout != torch.strided:
        remedy = (
            "Pad it to one size, for example torch.nested.to_padded_tensor(...)"
            if x.is_nested
            else (f"Convert it by {name}.to_dense()")
        )
        got = "a nested tensor" if x.is_nested else str(x.layout)
        raise TypeError(said(f"{name} must be dense, got {got}. {remedy}."))


def feature_map(name: str, x: Tensor, channels: int | None = None, spatial_dims: int | None = None) -> None:
    """Refuse anything but a floating map of ``channels`` channels and ``spatial_dims`` spatial axes; None means any."""
    if traced(x):
        return
    floating(name, x)
    rank_fits = x.ndim >= 3 if spatial_dims is None else x.ndim == spatial_dims + 2
    if rank_fits and (channels is None or x.shape[1] == channels) and not any(size == 0 for size in x.shape[1:]):
        return
    axes = "*S" if spatial_dims is None else ", ".join(("D", "H", "W")[-spatial_dims:])
    layout = f"(B, {'C' if channels is None else channels}, {axes})"
    if not rank_fits:
        rank = "at least 3" if spatial_dims is None else f"{spatial_dims + 2}"
        raise ValueError(
            said(
                f"{name} must have {rank} dimensions {layout}, got {x.ndim} in shape {shape(x)}. "
                f"{_remedy_of_rank(name, x, channels, spatial_dims)}."
            )
        )
    if channels is not None and x.shape[1] != channels:
        raise ValueError(
            said(
                f"{name} must have {channels} channels {layout}, got {x.shape[1]} in shape {shape(x)}. "
                f"{_remedy_of_channels(name, x, channels)}."
            )
        )
    raise ValueError(
        said(
            f"{name} must have at least one channel and one location, got shape {shape(x)}. "
            "Use a larger input or fewer downsampling steps."
        )
    )


def _remedy_of_rank(name: str, x: Tensor, channels: int | None, spatial_dims: int | None) -> str:
    wanted = 1 if spatial_dims is None else spatial_dims
    tokens = f"{name}.transpose(1, 2).unflatten(2, ({', '.join(('D', 'H', 'W')[-wanted:])}))"
    if x.ndim == 2 and channels in (None, x.shape[1]):
        return f"Features (B, C) have no locations: give them some by {name}[:, :{', None' * wanted}]"
    if x.ndim == 3 and wanted > 1 and channels == x.shape[2] != x.shape[1]:
        return f"Tokens (B, N, C) become a map by {tokens}"
    if x.ndim == 3 and wanted == 2 and channels is None:
        return f"Add the batch axis, {name}.unsqueeze(0); tokens (B, N, C) become a map by {tokens}"
    if x.ndim == wanted + 1:
        return f"Add the batch axis, for example {name}.unsqueeze(0), or whichever axis is missing"
    return "Build the layer for that many spatial axes"


def _remedy_of_channels(name: str, x: Tensor, channels: int) -> str:
    if x.shape[-1] == channels:
        kind = "tokens (B, N, C)" if x.ndim == 3 else "a map with its channels last"
        return f"It looks like {kind}: pass {name}.movedim(-1, 1), and move the result's channels back"
    return f"Build the layer for the channels of {name}"


def in_order(
    name: str,
    x: Tensor,
    other_name: str,
    other: Tensor,
    widths: tuple[int | None, int | None],
    *,
    flat: bool = False,
) -> None:
    """Refuse two inputs whose channels fit only in each other's place.

    Widths are channels, or with ``flat`` values per image; None means any.
    """
    if traced(x, other) or not all(isinstance(given, Tensor) and not given.is_nested for given in (x, other)):
        return
    if min(x.ndim, other.ndim) < 2 or x.ndim not in (2, other.ndim):
        return
    found = [math.prod(given.shape[1:]) if flat else given.shape[1] for given in (x, other)]
    fit = all(wanted in (None, width) for wanted, width in zip(widths, found, strict=True))
    if fit and (x.ndim == other.ndim or _has_one_location(other)):
        return
    if all(wanted in (None, width) for wanted, width in zip(widths, reversed(found), strict=True)):
        raise ValueError(
            said(
                f"{name} must come first and {other_name} second, got shapes {shape(x)} and {shape(other)}, whose "
                "channels fit the other way round. Exchange them."
            )
        )


def remedy_of_vectors(name: str, x: Tensor, width: int | None, otherwise: str) -> str:
    """Return how to make vectors (B, width) from maps of one location, or ``otherwise`` for other inputs."""
    if x.ndim > 2 and _has_one_location(x) and width in (None, x.shape[1]):
        return f"Remove the axes of size 1 with {name}.flatten(1)."
    return otherwise


def _has_one_location(x: Tensor) -> bool:
    return all(size == 1 for size in x.shape[2:])


def same_images(name: str, x: Tensor, other_name: str, other: Tensor, remedy: str) -> None:
    """Refuse inputs of different numbers of images."""
    if not traced(x, other) and x.shape[0] != other.shape[0]:
        raise ValueError(
            said(
                f"{name} and {other_name} must contain the same images, got batches of {x.shape[0]} and "
                f"{other.shape[0]}. {remedy}."
            )
        )


def same_layout(name: str, x: Tensor, other_name: str, other: Tensor, remedy: str = "Resize one of them first") -> None:
    """Refuse two maps of different images or spatial sizes."""
    same_images(name, x, other_name, other, f"Pass one {other_name} per image of {name}")
    if not traced(x, other) and x.shape[2:] != other.shape[2:]:
        raise ValueError(
            said(
                f"{name} and {other_name} must have the same spatial sizes, "
                f"got shapes {shape(x)} and {shape(other)}. {remedy}."
            )
        )


def same_dtype(name: str, x: Tensor, dtype: torch.dtype | None) -> None:
    """Refuse an input whose dtype differs from that of the weights, if known; autocast converts inputs itself."""
    if dtype is None or traced(x) or x.dtype == dtype or autocasts(x.device):
        return
    raise TypeError(
        said(
            f"{name} must have the weights' dtype {dtype}, got {x.dtype}. "
            f"Convert it by {name}.to({dtype}), convert the module, or use torch.autocast."
        )
    )


def weights(**given: Tensor | None) -> None:
    """Refuse weights of a function that are no floating-point tensors, or not all of the dtype of the first.

    Biases, whose names begin with b, may be None.
    """
    first = next(iter(given.values()))
    for name, weight in given.items():
        if weight is None and name.startswith("b"):
            continue
        floating(name, weight)
        if traced(weight) or first is None or weight is None or autocasts(weight.device):
            continue
        if weight.dtype != first.dtype:
            raise TypeError(
                said(
                    f"{name} must have the dtype of the other weights, {first.dtype}, got {weight.dtype}. "
                    f"Convert it by {name}.to({first.dtype})."
                )
            )


def bias(name: str, given: Tensor | None, weight: Tensor) -> None:
    """Refuse a bias that does not have one value for each output of the weight."""
    if given is not None and given.shape != weight.shape[:1]:
        raise ValueError(
            said(
                f"{name} must be ({weight.shape[0]},), one value for each output of its layer, got shape "
                f"{shape(given)}. Pass the bias of that layer, or None."
            )
        )


def shape(x: Tensor) -> tuple[int, ...]:
    """Return a shape as messages print it."""
    return tuple(x.shape)


def reads_values(x: Tensor) -> bool:
    """Return whether a check may read the values of ``x``: only in eager mode, and only if there are any."""
    if torch.compiler.is_compiling() or traced(x) or transforms_active():
        return False
    plain = type(x).__torch_dispatch__ is Tensor.__torch_dispatch__  # no fake or distributed tensor
    return plain and not x.is_meta
