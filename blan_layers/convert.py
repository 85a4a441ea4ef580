r"""Attention of other libraries in the form of ours, with the same function.

=============  ==============================================  =======================================================
source         its modules                                     what differs from ours
=============  ==============================================  =======================================================
"timm"         CbamModule, SEModule, EcaModule                 hidden widths are rounded; 1x1 convolutions
"official"     CBAM of its authors (Jongchan/attention-module)  the spatial convolution takes [max, mean]; batch norm
"torchvision"  SqueezeExcitation                               1x1 convolutions
"smp"          SCSEModule of segmentation_models_pytorch       1x1 convolutions
=============  ==============================================  =======================================================

Widths are read from the weights. None of these packages is needed.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers._checks import choice, said
from blan_layers._module import Module
from blan_layers.attention import CBAM, ECA, SCSE, ChannelAttention, SqueezeExcitation

__all__ = ["module_from", "replace_attention"]

Source: TypeAlias = Literal["timm", "official", "torchvision", "smp"]
Weights: TypeAlias = Mapping[str, Tensor]


def module_from(state_dict: Weights, source: Source, *, prefix: str = "") -> nn.Module:
    """Return the module of ours that computes what a foreign one did, from its state dict alone.

    A state dict does not tell activations: ReLU and sigmoid are taken for granted, which foreign modules have unless
    they were built with others. :func:`replace_attention` reads them off the modules.

    Args:
        state_dict: What ``module.state_dict()`` gave, or that of a network with ``prefix``.
        source: "timm", "official", "torchvision" or "smp".
        prefix: Where the module stands in the network, such as "layer1.0.cbam.".

    Returns:
        A :class:`~blan_layers.CBAM`, :class:`~blan_layers.SqueezeExcitation` and so on, in evaluation mode, in the
        weights' dtype and on their device.

    Raises:
        ValueError: ``source`` is unknown, or keys are missing, too many, of a network, or of no module of the source.

    Example:
        >>> foreign = {"fc1.weight": torch.randn(4, 16, 1, 1), "fc1.bias": torch.zeros(4),
        ...            "fc2.weight": torch.randn(16, 4, 1, 1), "fc2.bias": torch.zeros(16)}
        >>> module_from(foreign, "torchvision").fc1.out_features
        4
    """
    choice("source", source, tuple(SOURCES))
    weights = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    for pattern in SOURCES[source]:
        if pattern.fits(weights):
            return pattern.convert(weights)
    raise ValueError(said(_mismatch(weights, source, prefix, state_dict)))


def replace_attention(model: nn.Module, source: Source) -> list[str]:
    """Replace foreign attention modules of a network by ours, with the same outputs.

    Args:
        model: The network, changed in place.
        source: "timm", "official", "torchvision" or "smp".

    Returns:
        The names of what was replaced.

    Raises:
        ValueError: ``source`` is unknown, there is nothing to replace, or a module has a gate that ours has not. Then
            nothing is replaced.

    Example:
        >>> class Foreign(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1)
        ...         self.activation, self.scale_activation = torch.nn.ReLU(), torch.nn.Sigmoid()
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Foreign())
        >>> replace_attention(net, "torchvision")
        ['1']
    """
    choice("source", source, tuple(SOURCES))
    replacements: dict[str, nn.Module] = {}
    own: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in (*replacements, *own))
        if not name or inside:
            continue
        if isinstance(module, Module):
            own.append(name)
            continue
        weights = module.state_dict()
        for pattern in SOURCES[source]:
            if pattern.fits(weights):
                ours = pattern.convert(weights)
                _adopt_functions(name, module, ours)
                replacements[name] = ours.train(module.training)
                break
    if not replacements:
        raise ValueError(
            said(f"model must hold attention modules of {source!r}, got none. Name the library that they are from.")
        )
    for name, ours in replacements.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, ours)
    return list(replacements)


class _Pattern:
    """A kind of foreign module: the keys that it has, shapes where keys alone do not tell, and what it becomes."""

    def __init__(
        self,
        required: str,
        optional: str,
        convert: Callable[[Weights], nn.Module],
        shapes: Mapping[str, tuple[int | None, ...]] = MappingProxyType({}),
    ) -> None:
        self.required, self.optional = set(required.split()), set(optional.split())
        self.convert, self.shapes = convert, shapes

    def fits(self, weights: Weights) -> bool:
        keys = set(weights)
        return self.required <= keys <= self.required | self.optional and all(
            weights[key].ndim == len(shape)
            and all(given in (None, size) for given, size in zip(shape, weights[key].shape, strict=True))
            for key, shape in self.shapes.items()
        )


def _factory(weights: Weights, key: str) -> dict[str, Any]:
    return {"dtype": weights[key].dtype, "device": weights[key].device}


def _squeezed(weight: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as a linear layer's."""
    return weight.flatten(1)


def _load(module: nn.Module, weights: Mapping[str, Tensor | None]) -> nn.Module:
    module.load_state_dict({key: value for key, value in weights.items() if value is not None}, strict=True)
    return module.eval()


def _channel(names: tuple[str, str], weights: Weights) -> dict[str, Tensor | None]:
    """Return the MLP's weights under our names."""
    found: dict[str, Tensor | None] = {}
    for ours, theirs in zip(("fc1", "fc2"), names, strict=True):
        found[f"{ours}.weight"] = _squeezed(weights[f"{theirs}.weight"])
        found[f"{ours}.bias"] = weights.get(f"{theirs}.bias")
    return found


def _squeeze_excitation(first: str, second: str) -> Callable[[Weights], nn.Module]:
    def convert(weights: Weights) -> nn.Module:
        found = _channel((first, second), weights)
        hidden, channels = weights[f"{first}.weight"].shape[:2]
        module = SqueezeExcitation(
            channels, hidden_channels=hidden, bias=found["fc1.bias"] is not None, **_factory(weights, f"{first}.weight")
        )
        return _load(module, found)

    return convert


def _cbam(first: str, second: str, conv: str, norm: str, *, swapped: bool) -> Callable[[Weights], nn.Module]:
    """Convert CBAM; ``swapped`` where its spatial convolution takes the maximum first."""

    def convert(weights: Weights) -> nn.Module:
        found = {f"channel.{key}": value for key, value in _channel((first, second), weights).items()}
        kernel = weights[f"{conv}.weight"]
        if kernel.shape[:2] != (1, 2):
            raise ValueError(
                said(
                    f"{conv}.weight must be (1, 2, *kernel), of an average and a maximum, got shape "
                    f"{tuple(kernel.shape)}. There is no module of ours for timm's light form."
                )
            )
        found["spatial.conv.weight"] = kernel.flip(1) if swapped else kernel
        normed = f"{norm}.weight" in weights
        if normed:
            for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                found[f"spatial.norm.{key}"] = weights[f"{norm}.{key}"]
        hidden, channels = weights[f"{first}.weight"].shape[:2]
        module = CBAM(
            channels,
            hidden_channels=hidden,
            kernel_size=kernel.shape[-1],
            bias=found["channel.fc1.bias"] is not None,
            norm=_official_norm if normed and swapped else nn.BatchNorm2d if normed else None,
            **_factory(weights, f"{first}.weight"),
        )
        return _load(module, found)

    return convert


def _efficient(weights: Weights) -> nn.Module:
    kernel = weights["conv.weight"]
    module = ECA(None, kernel_size=kernel.shape[-1], **_factory(weights, "conv.weight"))
    return _load(module, {"conv.weight": kernel})


def _concurrent(weights: Weights) -> nn.Module:
    found = {f"channel.{key}": value for key, value in _channel(("cSE.1", "cSE.3"), weights).items()}
    hidden, channels = weights["cSE.1.weight"].shape[:2]
    module = SCSE(channels, hidden_channels=hidden, **_factory(weights, "cSE.1.weight"))
    return _load(module, found | {"conv.weight": weights["sSE.0.weight"], "conv.bias": weights["sSE.0.bias"]})


def _official_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.01)


_NORM = "weight bias running_mean running_var num_batches_tracked"


def _keys(prefix: str, names: str) -> str:
    return " ".join(f"{prefix}.{name}" for name in names.split())


SOURCES: dict[Source, tuple[_Pattern, ...]] = {
    "timm": (
        _Pattern(
            f"channel.fc1.weight channel.fc2.weight spatial.conv.conv.weight {_keys('spatial.conv.bn', _NORM)}",
            "channel.fc1.bias channel.fc2.bias",
            _cbam("channel.fc1", "channel.fc2", "spatial.conv.conv", "spatial.conv.bn", swapped=False),
        ),
        _Pattern("fc1.weight fc2.weight", "fc1.bias fc2.bias", _squeeze_excitation("fc1", "fc2")),
        _Pattern(
            "conv_reduce.weight conv_expand.weight",
            "conv_reduce.bias conv_expand.bias",
            _squeeze_excitation("conv_reduce", "conv_expand"),
        ),
        _Pattern("conv.weight", "", _efficient, shapes={"conv.weight": (1, 1, None)}),
    ),
    "official": (
        _Pattern(
            "ChannelGate.mlp.1.weight ChannelGate.mlp.3.weight SpatialGate.spatial.conv.weight",
            f"ChannelGate.mlp.1.bias ChannelGate.mlp.3.bias {_keys('SpatialGate.spatial.bn', _NORM)}",
            _cbam(
                "ChannelGate.mlp.1",
                "ChannelGate.mlp.3",
                "SpatialGate.spatial.conv",
                "SpatialGate.spatial.bn",
                swapped=True,
            ),
        ),
    ),
    "torchvision": (_Pattern("fc1.weight fc2.weight", "fc1.bias fc2.bias", _squeeze_excitation("fc1", "fc2")),),
    "smp": (
        _Pattern(
            "cSE.1.weight cSE.1.bias cSE.3.weight cSE.3.bias sSE.0.weight sSE.0.bias",
            "",
            _concurrent,
        ),
    ),
}


ACTIVATIONS = "activation", "act", "act1"
"""What foreign modules call the activation of their hidden layer."""

FUNCTIONS = "scale_activation", "gate"
"""What they call the function of their gate."""


def _adopt_functions(name: str, foreign: nn.Module, ours: nn.Module) -> None:
    """Take over activation and gate of a foreign channel gate, where it has them as modules."""
    gate = ours.channel if isinstance(ours, CBAM) else ours
    if not isinstance(gate, ChannelAttention | ECA):
        return
    parts = dict(foreign.named_modules())
    prefix = "channel." if isinstance(ours, CBAM) and "channel" in parts else ""
    activation = next((parts[prefix + key] for key in ACTIVATIONS if prefix + key in parts), None)
    if isinstance(gate, ECA):
        conv = parts["conv"]
        if getattr(conv, "padding", None) != gate.conv.padding:
            raise ValueError(
                said(
                    f"{name!r} must pad the channels with zeros, as ECA does, got {type(foreign).__name__} with "
                    f"{conv}. Replace that module yourself."
                )
            )
    elif activation is not None:
        gate.activation = activation
    function = next((parts[prefix + key] for key in FUNCTIONS if prefix + key in parts), None)
    if function is None:
        return
    for kind in (nn.Sigmoid, nn.Hardsigmoid):
        if torch.allclose(function(PROBE.clone()), kind()(PROBE), atol=1e-6):
            gate.gate = kind()
            return
    raise ValueError(
        said(
            f"{name!r} must have a sigmoid or a hard sigmoid for its gate, got {type(function).__name__}. "
            "Replace that module yourself."
        )
    )


PROBE = torch.linspace(-5, 5, 21)
"""Where the functions of gates are told apart."""


def _mismatch(weights: Weights, source: Source, prefix: str, state_dict: Weights) -> str:
    """Say what is wrong with a state dict that is that of no module of the source."""
    if not weights:
        found = ", ".join(sorted({key.rpartition(".")[0] for key in state_dict})[:6])
        return (
            f"prefix must be that of keys in the state dict, got {prefix!r} beside modules {found}. Name one of them."
        )
    for pattern in SOURCES[source]:
        if pattern.required & set(weights):
            missing = sorted(pattern.required - set(weights))
            surplus = sorted(set(weights) - pattern.required - pattern.optional)
            if missing:
                return (
                    f"state_dict must have the keys of a module of {source!r}, got none of {', '.join(missing)}. "
                    + ("Pass all of its weights.")
                )
            return (
                f"state_dict must have the keys of a module of {source!r} alone, got {', '.join(surplus[:4])} too. "
                + ("Pass those of the module, or its prefix in the network.")
            )
    prefixes = sorted({key[: place + 1] for key in weights for place, letter in enumerate(key) if letter == "."})
    for inner in prefixes:
        part = {key.removeprefix(inner): value for key, value in weights.items() if key.startswith(inner)}
        if any(pattern.fits(part) for pattern in SOURCES[source]):
            return f"state_dict must be that of one module, got that of a network. Pass a prefix such as {inner!r}."
    others = [other for other, patterns in SOURCES.items() if any(pattern.fits(weights) for pattern in patterns)]
    remedy = f"It looks like one of {others[0]!r}" if others else "Name the library that it is from"
    return f"state_dict must be that of a module of {source!r}, got keys {', '.join(sorted(weights)[:4])}. {remedy}."
