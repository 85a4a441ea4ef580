r"""Conversion of attention modules from other libraries into ours, with the same outputs.

=============  ===============================================  ======================================================
source         its modules                                      what differs from ours
=============  ===============================================  ======================================================
"timm"         CbamModule, SEModule, EcaModule                  hidden widths are rounded; 1x1 convolutions
"official"     CBAM of its authors (Jongchan/attention-module)  the spatial convolution takes [max, mean]; batch norm
"torchvision"  SqueezeExcitation                                1x1 convolutions
"smp"          SCSEModule of segmentation_models_pytorch        1x1 convolutions
=============  ===============================================  ======================================================

Widths are read from the weights. None of these packages needs to be installed.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import choice, said
from blan_layers._module import HANDLE, check_open, outside_attention
from blan_layers._torch import keeps_hooks
from blan_layers.attention import CBAM, ECA, SCSE, ChannelAttention, SqueezeExcitation

__all__ = ["module_from", "replace_attention"]

Source: TypeAlias = Literal["timm", "official", "torchvision", "smp"]
Weights: TypeAlias = Mapping[str, Tensor]


def module_from(state_dict: Weights, source: Source, *, prefix: str = "") -> nn.Module:
    """Return our module that computes the same as a foreign one, from the foreign state dict.

    A state dict does not contain the activations. ReLU and sigmoid are assumed, the defaults of the foreign modules.
    :func:`replace_attention` reads the activations from the modules.

    Args:
        state_dict: The ``state_dict()`` of the module, or of a network together with ``prefix``.
        source: "timm", "official", "torchvision" or "smp".
        prefix: Prefix of the module's keys in the network, such as "layer1.0.cbam.".

    Returns:
        A :class:`~blan_layers.CBAM`, :class:`~blan_layers.SqueezeExcitation` or other module in evaluation mode, with
        the dtype and on the device of the weights.

    Raises:
        TypeError: ``state_dict`` is not a mapping of names to tensors, or ``prefix`` is not a string.
        ValueError: ``source`` is unknown, or the keys are missing, superfluous, those of a network, or those of no
            module of the source.

    Example:
        >>> foreign = {"fc1.weight": torch.randn(4, 16, 1, 1), "fc1.bias": torch.zeros(4),
        ...            "fc2.weight": torch.randn(16, 4, 1, 1), "fc2.bias": torch.zeros(16)}
        >>> module_from(foreign, "torchvision").fc1.out_features
        4
    """
    choice("source", source, tuple(SOURCES))
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            said(f"state_dict must map names to tensors, got {type(state_dict).__name__}. Pass module.state_dict().")
        )
    if not isinstance(prefix, str):
        raise TypeError(said(f"prefix must be a str, got {prefix!r}. Pass '' for the state dict of a module itself."))
    for key in state_dict:
        if not isinstance(key, str):
            raise TypeError(
                said(f"state_dict must map names to tensors, got a key {key!r}. Pass what state_dict() returns.")
            )
    prefix = f"{prefix}." if prefix and not prefix.endswith(".") else prefix
    weights = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                said(
                    f"state_dict must map names to tensors, got {type(value).__name__} for {prefix + key!r}. "
                    "Convert it by torch.as_tensor, or leave it out if it is no weight."
                )
            )
    for pattern in SOURCES[source]:
        if pattern.fits(weights):
            return pattern.convert(weights)
    raise ValueError(said(_mismatch(weights, source, prefix, state_dict)))


def replace_attention(model: nn.Module, source: Source) -> list[str]:
    """Replace the foreign attention modules of a network with ours, keeping the outputs.

    Weights, their ``requires_grad``, activations and gates are kept, and norms and activations are adopted with their
    training mode. The outputs of each pair of modules are compared on a random map, in evaluation and in training mode,
    before anything is replaced. Parameters other than those of norms are new objects: create the optimiser afterwards.

    Args:
        model: The network, changed in place.
        source: "timm", "official", "torchvision" or "smp".

    Returns:
        The names of the replaced modules.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``source`` is unknown, there is nothing to replace, a module or a parameter of it has hooks, a
            module was put there by :func:`~blan_layers.insert_attention`, shares weights with another or has a gate,
            dropout or another option that ours lacks, or the network is scripted, sharded or wrapped for distributed
            training. In these cases nothing is replaced.

    Example:
        >>> class Foreign(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = torch.nn.Conv2d(16, 4, 1), torch.nn.Conv2d(4, 16, 1)
        ...         self.activation, self.scale_activation = torch.nn.ReLU(), torch.nn.Sigmoid()
        ...     def forward(self, x):
        ...         pooled = self.activation(self.fc1(x.mean((2, 3), keepdim=True)))
        ...         return x * self.scale_activation(self.fc2(pooled))
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), Foreign())
        >>> replace_attention(net, "torchvision")
        ['1']
    """
    choice("source", source, tuple(SOURCES))
    _checks.network(model)
    check_open(model)
    named = (*model.named_modules(remove_duplicate=False), *model.named_parameters(remove_duplicate=False),
             *model.named_buffers(remove_duplicate=False))  # fmt: skip
    uses = Counter(part for _, part in named)
    replacements: dict[str, nn.Module] = {}
    by_module: dict[nn.Module, nn.Module] = {}
    for name, module in outside_attention(model):
        if any(name.startswith(f"{outer}.") for outer in replacements):
            continue
        if module not in by_module and (ours := _counterpart(model, name, module, source, uses)) is not None:
            by_module[module] = ours
        if module in by_module:
            replacements[name] = by_module[module]
    if not replacements and any(pattern.fits(model.state_dict()) for pattern in SOURCES[source]):
        raise ValueError(
            said(
                f"model must contain the attention module, got a {type(model).__name__}, which looks like that module "
                "itself. Wrap it in torch.nn.Sequential first."
            )
        )
    if not replacements:
        raise ValueError(
            said(f"model must contain attention modules of {source!r}, got none. Name the library that they come from.")
        )
    for name, ours in replacements.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, ours)
    return list(replacements)


def _counterpart(
    model: nn.Module, name: str, module: nn.Module, source: Source, uses: Mapping[nn.Module | Tensor, int]
) -> nn.Module | None:
    """Return our counterpart of a module in a network, or None if it is not attention of the source."""
    for pattern in SOURCES[source]:
        if not pattern.parts <= {*module._modules}:
            continue
        parameters = dict(module.named_parameters(remove_duplicate=False))
        weights = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
        if not pattern.fits(weights):
            continue
        check_open(model, name)
        with torch.no_grad():
            try:
                ours = pattern.convert(weights)
            except ValueError as error:
                what = str(error).removeprefix("replace_attention: ")
                raise ValueError(
                    said(f"{name!r} must have a counterpart here, got a {type(module).__name__}: {what}")
                ) from error
            trained = pattern.convert(
                {key: torch.full_like(w, key in parameters and w.requires_grad) for key, w in weights.items()}
            )
        if pattern.generic and not _gates_channels(module, ours):
            return None
        if any(uses[weight] != uses[module] for weight in weights.values()):
            raise ValueError(
                said(
                    f"{name!r} must have its own weights, which ours copies, got a {type(module).__name__} that shares "
                    "some with another module. Replace that module yourself."
                )
            )
        for mine, flag in zip(ours.parameters(), trained.parameters(), strict=True):
            mine.requires_grad_(bool(flag.all()))
        ours.train(module.training)
        _adopt_parts(name, module, ours, pattern.norm)
        for training in (False, True):
            if not _agree(module, ours, training):
                raise ValueError(
                    said(
                        f"{name!r} must compute what {source!r} computes by default, got a {type(module).__name__} "
                        f"with other outputs{' in training mode' * training} than those of our module with its "
                        "weights. Replace that module yourself."
                    )
                )
        if any(keeps_hooks(part) for part in module.modules()):
            raise ValueError(
                said(
                    f"{name!r} must have no hooks, which would be lost, got a {type(module).__name__} with hooks. "
                    "Remove them first, and register them on the new module."
                )
            )
        if HANDLE in module.__dict__:
            raise ValueError(
                said(
                    f"{name!r} must not be what insert_attention put there, got a {type(module).__name__} that is. "
                    "Call remove() of its Insertion first, and insert ours instead."
                )
            )
        return ours
    return None


def _outputs(module: nn.Module, x: Tensor, *, training: bool = False) -> Tensor | None:
    """Return the outputs of a module without its hooks, or None if it does not turn a map into a tensor.

    Norms are in evaluation mode: ours are the foreign ones, which may need a GPU or other processes in training.
    """
    twin = copy.deepcopy(module).train(training)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        if "running_mean" in part._buffers:
            part.eval()
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        try:
            y = twin(x.clone())
        except Exception:  # whatever a module raises that is no attention
            return None
    return y if isinstance(y, Tensor) else None


def _drawn_map(ours: nn.Module) -> Tensor:
    weight = next(ours.parameters())
    x = torch.linspace(-3, 3, 1 + 2 * 5 * 7 * _width(ours), device="cpu")[1:].sin().mul(2)
    return x.view(2, -1, 5, 7).to(weight.device, weight.dtype)


def _width(ours: nn.Module) -> int:
    width = getattr(ours, "channels", None)
    return width if isinstance(width, int) else 16


def _agree(foreign: nn.Module, ours: nn.Module, training: bool) -> bool:
    """Return whether both give the same output for a random map."""
    x = _drawn_map(ours)
    if x.is_meta:
        return True
    theirs, mine = (_outputs(module, x, training=training) for module in (foreign, ours))
    if theirs is None or mine is None or theirs.shape != mine.shape:
        return False
    return bool((theirs - mine).abs().max() <= _rounding(x) * mine.abs().max().clamp_min(1e-6))


def _rounding(x: Tensor) -> float:
    """Return the relative difference of outputs that may come from rounding."""
    return 1e-5 if x.dtype in (torch.float32, torch.float64) else 2e-2


def _gates_channels(foreign: nn.Module, ours: nn.Module) -> bool:
    """Return whether a module multiplies each channel of a map by one number."""
    x = _drawn_map(ours) + 3
    if x.is_meta:
        return True
    y = _outputs(foreign, x)
    if y is None or y.shape != x.shape:
        return False
    ratio = (y / x).flatten(2)
    return bool(((ratio - ratio[:, :, :1]).abs() <= _rounding(x) * ratio.abs().max()).all())


class _Pattern:
    """A kind of foreign module: its keys, what it becomes, and the shape of each key.

    In a shape, a number is that size, None is any size, and a letter is the same size in all places. Optional keys with
    a shape are those of both layers or of none. A generic kind has keys that modules other than attention have too.
    ``norm`` is the path of its norm.
    """

    def __init__(
        self,
        required: str,
        optional: str,
        convert: Callable[[Weights], nn.Module],
        shapes: Mapping[str, Sequence[int | str | None]],
        *,
        generic: bool = False,
        norm: str = "",
    ) -> None:
        self.required, self.optional = set(required.split()), set(optional.split())
        self.parts = {key.partition(".")[0] for key in self.required}
        self._convert, self.shapes, self.generic, self.norm = convert, shapes, generic, norm

    def fits(self, weights: Weights) -> bool:
        """Return whether the weights have the keys of this kind."""
        return not (self.missing(weights) or self.surplus(weights) or self.misshapen(weights))

    def missing(self, weights: Weights) -> list[str]:
        """Return the keys that the weights lack."""
        together = self.optional & self.shapes.keys()
        return sorted((self.required | (together if together & weights.keys() else set())) - weights.keys())

    def surplus(self, weights: Weights) -> list[str]:
        """Return the keys that this kind does not have."""
        return sorted(weights.keys() - self.required - self.optional)

    def convert(self, weights: Weights) -> nn.Module:
        """Return our module with these weights, on their device whatever the default device is."""
        with torch.device(next(iter(weights.values())).device):
            return self._convert(weights)

    def misshapen(self, weights: Weights) -> str:
        """Return the name of a weight of the wrong shape, or ""."""
        sizes: dict[str, int] = {}
        for key, shape in self.shapes.items():
            if key not in weights:
                continue
            found = tuple(weights[key].shape)
            known = [sizes.setdefault(s, f) if isinstance(s, str) else s for s, f in zip(shape, found, strict=False)]
            if len(found) != len(shape) or any(k not in (None, f) for k, f in zip(known, found, strict=True)):
                return key
        return ""


def _factory(weights: Weights, key: str) -> dict[str, Any]:
    return {"dtype": weights[key].dtype, "device": weights[key].device}


def _squeezed(weight: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as the weight of a linear layer."""
    return weight.flatten(1)


def _load(module: nn.Module, weights: Mapping[str, Tensor | None]) -> nn.Module:
    """Load copies of the weights, each with its own dtype and device; a weight that is None is removed."""
    for key, value in weights.items():
        if value is None:
            layer, _, name = key.rpartition(".")
            module.get_submodule(layer).register_parameter(name, None)
    copies = {key: value.detach().clone() for key, value in weights.items() if value is not None}
    module.load_state_dict(copies, strict=True, assign=True)
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
        module = SqueezeExcitation(channels, hidden_channels=hidden, **_factory(weights, f"{first}.weight"))
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
                    f"{tuple(kernel.shape)}, as in timm's light form. Leave it as it is."
                )
            )
        found["spatial.conv.weight"] = kernel.flip(1) if swapped else kernel
        missing = [key for key in _keys(norm, _NORM).split() if key not in weights]
        normed = len(missing) < len(_NORM.split())
        if normed and missing:
            raise ValueError(
                said(
                    f"{norm} must be a batch norm with scale and statistics, got no {missing[0]}. Convert it yourself."
                )
            )
        if normed:
            for key in _NORM.split():
                found[f"spatial.norm.{key}"] = weights[f"{norm}.{key}"]
            count = weights.get(f"{norm}.{_COUNT}")
            found[f"spatial.norm.{_COUNT}"] = torch.zeros((), dtype=torch.long) if count is None else count
        hidden, channels = weights[f"{first}.weight"].shape[:2]
        module = CBAM(
            channels,
            hidden_channels=hidden,
            kernel_size=kernel.shape[-1],
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


_NORM = "weight bias running_mean running_var"
_COUNT = "num_batches_tracked"  # missing in networks saved before PyTorch 0.4.1


def _keys(prefix: str, names: str) -> str:
    return " ".join(f"{prefix}.{name}" for name in names.split())


def _bottleneck(first: str, second: str, *kernel: int) -> dict[str, Sequence[int | str | None]]:
    """Return the shapes of two layers from C channels to fewer and back."""
    return {
        f"{first}.weight": ("hidden", "C", *kernel),
        f"{first}.bias": ("hidden",),
        f"{second}.weight": ("C", "hidden", *kernel),
        f"{second}.bias": ("C",),
    }


def _se(first: str, second: str, *, biased: bool = False) -> _Pattern:
    weights, biases = f"{first}.weight {second}.weight", f"{first}.bias {second}.bias"
    required, optional = (f"{weights} {biases}", "") if biased else (weights, biases)
    return _Pattern(
        required, optional, _squeeze_excitation(first, second), _bottleneck(first, second, 1, 1), generic=True
    )


SOURCES: dict[Source, tuple[_Pattern, ...]] = {
    "timm": (
        _Pattern(
            f"channel.fc1.weight channel.fc2.weight spatial.conv.conv.weight {_keys('spatial.conv.bn', _NORM)}",
            f"channel.fc1.bias channel.fc2.bias spatial.conv.bn.{_COUNT}",
            _cbam("channel.fc1", "channel.fc2", "spatial.conv.conv", "spatial.conv.bn", swapped=False),
            _bottleneck("channel.fc1", "channel.fc2", 1, 1),
            norm="spatial.conv.bn",
        ),
        _se("fc1", "fc2"),
        _se("conv_reduce", "conv_expand"),
        _Pattern("conv.weight", "", _efficient, {"conv.weight": (1, 1, None)}),
    ),
    "official": (
        _Pattern(
            "ChannelGate.mlp.1.weight ChannelGate.mlp.1.bias ChannelGate.mlp.3.weight ChannelGate.mlp.3.bias "
            "SpatialGate.spatial.conv.weight",
            _keys("SpatialGate.spatial.bn", f"{_NORM} {_COUNT}"),
            _cbam(
                "ChannelGate.mlp.1",
                "ChannelGate.mlp.3",
                "SpatialGate.spatial.conv",
                "SpatialGate.spatial.bn",
                swapped=True,
            ),
            _bottleneck("ChannelGate.mlp.1", "ChannelGate.mlp.3"),
            norm="SpatialGate.spatial.bn",
        ),
    ),
    "torchvision": (_se("fc1", "fc2", biased=True),),
    "smp": (
        _Pattern(
            "cSE.1.weight cSE.1.bias cSE.3.weight cSE.3.bias sSE.0.weight sSE.0.bias",
            "",
            _concurrent,
            _bottleneck("cSE.1", "cSE.3", 1, 1),
        ),
    ),
}


ACTIVATIONS = "activation", "act", "act1"
"""Names of the hidden layer's activation in foreign modules."""

FUNCTIONS = "scale_activation", "gate"
"""Names of the gate's function in foreign modules."""


def _adopt_parts(name: str, foreign: nn.Module, ours: nn.Module, norm: str) -> None:
    """Adopt the norm of a foreign module, and activation and gate of its channel half, where they are modules."""
    parts = dict(foreign.named_modules())
    if isinstance(ours, CBAM) and norm in parts:
        ours.spatial.norm = parts[norm]
    gate = ours.channel if isinstance(ours, CBAM) else ours
    if not isinstance(gate, ChannelAttention | ECA):
        return
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
    theirs = _outputs(function, PROBE)
    for kind in (nn.Sigmoid, nn.Hardsigmoid):
        if theirs is not None and torch.allclose(theirs, kind()(PROBE), atol=1e-6):
            gate.gate = kind().train(function.training)
            return
    raise ValueError(
        said(
            f"{name!r} must have a sigmoid or a hard sigmoid as its gate, got {type(function).__name__}. "
            "Replace that module yourself."
        )
    )


PROBE = torch.linspace(-5, 5, 21)[None, :, None, None]
"""Points at which the functions of gates are compared."""


def _mismatch(weights: Weights, source: Source, prefix: str, state_dict: Weights) -> str:
    """Return why a state dict does not belong to a module of the source."""
    if not state_dict:
        return "state_dict must contain the weights of a module, got none. Pass module.state_dict()."
    if not weights:
        found = ", ".join(sorted({key.rpartition(".")[0] for key in state_dict})[:6])
        return f"prefix must be that of keys in the state dict, got {prefix!r} with modules {found}. Name one of them."
    for pattern in SOURCES[source]:
        if pattern.required & set(weights):
            missing, surplus = pattern.missing(weights), pattern.surplus(weights)
            if not missing and not surplus:
                key = pattern.misshapen(weights)
                return (
                    f"state_dict must have the shapes of a module of {source!r}, got {tuple(weights[key].shape)} for "
                    f"{key}. Name the library that it comes from, or convert it yourself."
                )
            if missing:
                return (
                    f"state_dict must have the keys of a module of {source!r}, got none of {', '.join(missing)}. "
                    + ("Pass all of its weights.")
                )
            return (
                f"state_dict must have only the keys of a module of {source!r}, got {', '.join(surplus[:4])} too. "
                + ("Pass those of the module, or its prefix in the network.")
            )
    prefixes = sorted({key[: place + 1] for key in weights for place, letter in enumerate(key) if letter == "."})
    for inner in prefixes:
        part = {key.removeprefix(inner): value for key, value in weights.items() if key.startswith(inner)}
        if any(pattern.fits(part) for pattern in SOURCES[source]):
            return f"state_dict must be that of one module, got that of a network. Pass a prefix such as {inner!r}."
    others = [other for other, patterns in SOURCES.items() if any(pattern.fits(weights) for pattern in patterns)]
    remedy = f"It looks like one of {others[0]!r}" if others else "Name the library that it comes from"
    return f"state_dict must be that of a module of {source!r}, got keys {', '.join(sorted(weights)[:4])}. {remedy}."
