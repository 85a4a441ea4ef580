"""The base class of all modules, and checks whether anything watches or replaces their children."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from difflib import get_close_matches
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeAlias, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._torch import called_otherwise, compiled_by_itself, global_hooks_registered, has_hooks, is_tracing

P = ParamSpec("P")
R = TypeVar("R")

Known: TypeAlias = Mapping[type[nn.Module], Mapping[str, Callable[..., Any]]]
"""Classes of children whose computation a fused path may take over, each with the methods it replaces."""

HANDLE = "_handle_of_its_hook"
"""Attribute in which inserted attention keeps the handle of the hook that calls it."""

NOT_KEPT = "_not_kept"
"""Attribute that holds the arguments of a module's constructor that are no attributes of the module."""

WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PLAIN = (Tensor, nn.Parameter)

WATCHED_EVERYWHERE = "is watched by a hook on every module"

FOREIGN = {
    "ratio": "reduction_ratio",
    "reduction": "reduction_ratio",
    "rd_ratio": "reduction_ratio",
    "reduction_rate": "reduction_ratio",
    "squeeze_factor": "reduction_ratio",
    "rd_channels": "hidden_channels",
    "squeeze_channels": "hidden_channels",
    "mid_channels": "hidden_channels",
    "inter_channels": "hidden_channels",
    "hidden_dim": "hidden_channels",
    "hidden_size": "hidden_channels",
    "pool_types": "pools",
    "spatial_kernel_size": "kernel_size",
    "k_size": "kernel_size",
    "dilation_val": "dilation",
    "norm_layer": "norm",
    "use_bias": "bias",
    "skip_channels": "decoder_channels",
    "local_dim": "local_channels",
    "global_dim": "global_channels",
    "embedding_dim": "embedding_channels",
    "measure": "objective",
    "loss_type": "objective",
    "negative_mode": "negatives",
    "n_negatives": "num_negatives",
    "num_neg": "num_negatives",
    "in_channels": "channels",
    "in_planes": "channels",
    "inplanes": "channels",
    "num_channels": "channels",
    "gate_channels": "channels",
    "gate_channel": "channels",
    "inp": "channels",
    "in_chs": "channels",
    "dim": "channels",
}
"""Names of arguments in other libraries, and ours for the same."""


class Module(nn.Module):
    """A module that suggests our argument for a name from another library, and refuses to be scripted."""

    gates: Mapping[str, str] = MappingProxyType({})
    """The path of the submodule that returns each map of ``forward_with_maps``.

    A submodule that several maps share is called for them in order; a map with a plural name holds those of all calls.
    """

    holds: tuple[str, ...] = ()
    """Names of the children that are the user's own networks."""

    needs: tuple[str, ...] = ()
    """Names of the children that are always called, and that None therefore cannot replace."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _naming_arguments(cls.__init__)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but no argument that only the constructor reads, and no needed child to None."""
        if value is None:
            self._refuse_none(name)
        if name in self.__dict__.get(NOT_KEPT, ()):
            raise AttributeError(
                said(
                    f"{name} is read only while the module is built, got {name}={_checks.shown(value)}. "
                    "Build a new module."
                )
            )
        attribute = getattr(type(self), name, None)
        # nn.Module makes children of modules without asking what the class says of the name
        if isinstance(attribute, property) and attribute.fset is None:
            if getattr(self, name) != value:
                raise _checks.fixed(name, value)
        elif isinstance(attribute, _checks.Checked | property):
            attribute.__set__(self, value)
        else:
            super().__setattr__(name, value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child, under the same condition."""
        if module is None:
            self._refuse_none(name)
        super().add_module(name, module)

    def _refuse_none(self, name: str) -> None:
        if name in self.needs and self.__dict__.get("_modules", {}).get(name) is not None:
            raise TypeError(said(f"{name} must be a module, got None. Use torch.nn.Identity() to do without it."))

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse ``torch.jit.script``, which calls this method."""
        raise TypeError(
            f"{type(self).__name__}: cannot be compiled by torch.jit.script, which PyTorch has deprecated. "
            "Use torch.export.export, torch.compile or torch.jit.trace."
        )


def _has(module: nn.Module, name: str) -> bool:
    """Return whether a module or its class has an attribute; a property may refuse to be read."""
    return hasattr(type(module), name) or hasattr(module, name)


def _is_attention(module: nn.Module) -> TypeGuard[Module]:
    """Return whether a module is an attention module of this library."""
    return isinstance(module, Module) and bool(module.gates)


def attention_in(model: nn.Module, name: str = "") -> Iterator[tuple[str, Module]]:
    """Yield the names and the outermost attention modules of this library in a model, and halves with other maps."""
    if _is_attention(model):
        yield name, model
    for child, module in (*_open_children(model), *_halves_of_other_maps(model)):
        yield from attention_in(module, f"{name}.{child}" if name else child)


def gate_at(module: Module, name: str) -> nn.Module | None:
    """Return the submodule that returns a map, or None for a half of which that map is not the only one."""
    half, _, gate = module.gates[name].rpartition(".")
    owner = module._modules.get(half) if half else module
    if half and isinstance(owner, Module) and [*owner.gates] != [name]:
        return None
    found = getattr(owner, gate, None)
    return found if isinstance(found, nn.Module) else None


def _halves_of_other_maps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the halves that replace those of an attention module and do not have the map that its name promises."""
    if not isinstance(model, Module):
        return
    for name, path in model.gates.items():
        half = path.rpartition(".")[0]
        child = model._modules.get(half)
        if child is not None and gate_at(model, name) is None:
            yield half, child


def outside_attention(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a network outside this library's attention, once per occurrence."""
    if name and not _is_attention(model):
        yield name, model
    for child, module in _open_children(model):
        yield from outside_attention(module, f"{name}.{child}" if name else child)


def _open_children(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module's children; of attention modules, only those that are the user's own networks."""
    for name, child in model._modules.items():
        if child is not None and (not _is_attention(model) or name in model.holds):
            yield name, child


def check_open(model: nn.Module, name: str = "") -> None:
    """Refuse a network, or a part around the named module, that would not notice a change of its modules."""
    path, part = "", model
    _check_part("model", model)
    for step in name.split(".") if name else ():
        path = f"{path}.{step}" if path else step
        part = part.get_submodule(step)
        _check_part(f"{path!r}", part)


def _check_part(called: str, part: nn.Module) -> None:
    if isinstance(part, torch.jit.ScriptModule):
        raise ValueError(
            said(f"{called} must not be scripted, got {type(part).__name__}. Do this before torch.jit.script.")
        )
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if isinstance(part, nn.parallel.DistributedDataParallel) or (
        fsdp is not None and isinstance(part, fsdp.FSDPModule | fsdp.FullyShardedDataParallel)
    ):
        raise ValueError(
            said(
                f"{called} must not be wrapped for distributed training yet, which would leave the new parameters "
                f"out, got {type(part).__name__}. Wrap it afterwards."
            )
        )


LISTENERS: list[Callable[..., AbstractContextManager[None]]] = []
"""What is entered around methods other than ``forward``, which call no hooks, with the module and its inputs."""


def runs_forward(method: Callable[P, R]) -> Callable[P, R]:
    """Make FSDP2 gather sharded weights for a method other than ``forward``, and listeners hear its calls."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        module: Any = args[0]
        fsdp = None if torch.compiler.is_compiling() else sys.modules.get("torch.distributed.fsdp")
        if fsdp is None or not isinstance(module, fsdp.FSDPModule) or method.__name__ in module.__dict__:
            if not LISTENERS or torch.compiler.is_compiling():
                return method(*args, **kwargs)
            with ExitStack() as stack:
                for listener in LISTENERS:
                    stack.enter_context(listener(module, *args[1:], **kwargs))
                return method(*args, **kwargs)
        fsdp.register_fsdp_forward_method(module, method.__name__)
        found: R = getattr(module, method.__name__)(*args[1:], **kwargs)
        return found

    return call


def known(*classes: type[nn.Module], methods: Sequence[str] = ("forward",)) -> Known:
    """Return classes whose computation may be taken over, each with the methods that perform it."""
    return {kind: {name: getattr(kind, name) for name in methods} for kind in classes}


def oddity(parent: nn.Module, children: Mapping[str, Known]) -> str:
    """Return which child must be called because it is replaced or watched, and why; "" if there is none."""
    for name, classes in children.items():
        child = parent._modules.get(name)
        if child is None:
            return f"{name} is None"
        kind = type(child)
        if kind not in classes:
            return f"{name} is a {kind.__name__}"
        for method, function in classes[kind].items():
            if getattr(kind, method) is not function or method in child.__dict__:
                return f"{name} has its own {method}"
        if reason := watch(child, everywhere=False) or foreign_weight(child):
            return f"{name} {reason}"
    return f"{name} {WATCHED_EVERYWHERE}" if children and global_hooks_registered() else ""


def watch(module: nn.Module, *, everywhere: bool = True) -> str:
    """Return what watches or changes a call of a module, or ``everywhere`` of all modules; "" if nothing does."""
    if has_hooks(module):
        return "has hooks"
    if "forward" in module.__dict__:
        return "has its own forward"
    if compiled_by_itself(module):
        return "is compiled separately"
    if called_otherwise(module):
        return "has a call that is not torch's"
    return WATCHED_EVERYWHERE if everywhere and global_hooks_registered() else ""


def foreign_weight(layer: nn.Module) -> str:
    """Return what a layer's weights are unless they are parameters that are plain tensors; else ""."""
    for name in ("weight", "bias"):
        if name in layer.__dict__:
            return f"has a {name} that is no parameter"
    for parameter in layer._parameters.values():
        if parameter is not None and type(parameter) not in PLAIN:
            return f"holds a {type(parameter).__name__}"
    return ""


def weight_of(layer: nn.Module | None) -> Tensor | None:
    """Return the weight of a linear layer or a convolution, or None where it is computed from other tensors.

    A parametrised weight is not evaluated.
    """
    weight = layer._parameters.get("weight") if isinstance(layer, WITH_WEIGHTS) else None
    return weight if weight is not None and weight.dtype.is_floating_point and len(weight.shape) > 1 else None


def width_of(layer: nn.Module | None) -> int | None:
    """Return the input channels of a layer, read from its weight, or None where that is impossible."""
    weight = weight_of(layer)
    return None if weight is None or is_tracing() else weight.shape[1] * getattr(layer, "groups", 1)


def check_layer(module: nn.Module, layer: nn.Module | None, name: str, x: Tensor) -> None:
    """Refuse an input of another dtype than the layer's weight, or a full tensor where the weight is sharded.

    None means that there is no layer to check.
    """
    weight = None if layer is None else layer._parameters.get("weight")
    if type(weight) in PLAIN and type(x) in PLAIN and weight.dtype == x.dtype:  # type: ignore[union-attr]  # it is one
        return
    _checks.same_dtype(name, x, dtype_of(layer))
    _refuse_shards(module, layer, x)


def _refuse_shards(module: nn.Module, layer: nn.Module | None, x: object) -> None:
    """Refuse a full tensor as input of a layer whose sharded weight no part of the module gathers."""
    tensors = sys.modules.get("torch.distributed.tensor")
    weight = weight_of(layer)
    if tensors is None or not isinstance(weight, tensors.DTensor) or isinstance(x, tensors.DTensor):
        return
    if not any(has_hooks(part) for part in module.modules()):
        raise RuntimeError(
            said(
                "its weights are sharded by an enclosing module that was not called, got a full tensor. "
                "Call it through that module, or shard it separately with fully_shard."
            )
        )


def dtype_of(layer: nn.Module | None) -> torch.dtype | None:
    """Return the dtype in which a layer computes, or None where a hook may change it."""
    weight = weight_of(layer)
    return None if weight is None or type(weight) not in PLAIN or layer is None or watch(layer) else weight.dtype


def _naming_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that explains wrong arguments, and notes those of this library's classes that are not kept.

    ``device`` and ``dtype`` are not noted: torch's ``to`` changes them later.
    """
    ours = init.__module__.partition(".")[0] == _checks.PACKAGE
    arguments = inspect.signature(init).parameters.keys() - {"self", "device", "dtype"} if ours else ()

    @wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except TypeError:
            if mistake := _mistake(init, args, kwargs):
                raise TypeError(f"{init.__qualname__.split('.')[-2]}: {mistake}") from None
            raise
        if type(self).__init__ is construct:
            self.__dict__[NOT_KEPT] = frozenset(name for name in arguments if not _has(self, name))

    return construct


def _mistake(init: Callable[..., None], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return what is wrong with the names and the number of arguments, or ""."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return ""
    names = [p.name for p in parameters]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    beside = [name for name in names if name not in positional]
    for name in kwargs:
        if name not in names:
            ours = FOREIGN.get(name, "")
            close = [ours] if ours in names else get_close_matches(name, names, 1)
            remedy = f"Use {close[0]}" if close else f"It takes {', '.join(names)}"
            if name == "rd_ratio" and close == ["reduction_ratio"]:
                remedy = "Use reduction_ratio, its inverse"
            return f"there is no argument {name!r}, got {name}={_checks.shown(kwargs[name])}. {remedy}."
    if len(args) > len(positional):
        extra = args[len(positional)]
        taken = " and ".join(positional) if positional else "nothing"
        if not beside:
            return f"takes {taken} by position, got {len(args)} by position. Drop the others."
        example = "" if isinstance(extra, str) else f", for example {beside[0]}={_checks.shown(extra)}"
        return f"takes {taken} by position and all else by name, got {len(args)} by position. Name the others{example}."
    given = {*positional[: len(args)], *kwargs}
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        place = "by name" if missing[-1] in beside else "first"
        return f"needs {' and '.join(missing)}, got none. Pass {'it' if len(missing) == 1 else 'them'} {place}."
    twice = [name for name in positional[: len(args)] if name in kwargs]
    return f"{twice[0]} is given twice, by position and by name. Drop one of them." if twice else ""
