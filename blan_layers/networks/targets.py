"""Which modules of a network attention is inserted after, and which it cannot follow."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import HANDLE, check_open, outside_attention
from blan_layers.networks.branches import ends_of_branches, is_norm
from blan_layers.networks.readings import CONVOLUTIONS

Where: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]

KEY = "attention"
"""Name of the attention inside the module that it follows."""

WALKS = {"children", "named_children", "modules", "named_modules", "_modules"}
"""Names by which the forward of a module reads all of its children."""


def targets_in(model: nn.Module, where: Where) -> dict[str, nn.Module]:
    """Return the modules of a network that ``where`` selects, by name."""
    _checks.network(model)
    check_open(model)
    inserted = [f"{name}.{KEY}" for name, part in model.named_modules() if _attended(part)]
    modules = {
        name: module
        for name, module in outside_attention(model)
        if not any(name == own or name.startswith(f"{own}.") for own in inserted)
    }
    if where == "residual":
        found = dict(ends_of_branches(model, modules))
        remedy = (
            "A residual block is recognised by an attribute such as 'downsample' or 'shortcut', which may be None. "
            f"Pass names or a regular expression as where{_followable(modules)}"
        )
    elif isinstance(where, str):
        try:
            pattern = re.compile(where)
        except re.error as error:
            raise ValueError(
                said(f"where must be a regular expression, got {where!r}: {error}. Write, for example, '.*bn2'.")
            ) from None
        found = {name: module for name, module in modules.items() if pattern.fullmatch(name)}
        part = next((name for name in modules if pattern.search(name)), None)
        remedy = f"The modules are {_some(modules)}"
        if part is not None:
            remedy = f"The expression must match a whole name such as {part!r}. Write, for example, '.*{where}.*'"
    elif callable(where) and _checks.takes(where, "", model):
        found = {name: module for name, module in modules.items() if where(name, module)}
        remedy = f"The modules are {_some(modules)}"
    elif isinstance(where, Sequence):
        missing = [name for name in where if name not in modules]
        if missing:
            raise ValueError(
                said(f"where must name modules of the network, got {missing[0]!r}. The modules are {_some(modules)}.")
            )
        found = {name: modules[name] for name in where}
        remedy = "Name at least one module"
    else:
        raise TypeError(
            said(
                "where must be 'residual', a regular expression, names or a predicate of name and module, got "
                f"{_checks.shown(where)}. Pass one of those."
            )
        )
    if not found:
        raise ValueError(said(f"where must match at least one module of the network, got {where!r}. {remedy}."))
    return found


def _some(modules: Mapping[str, nn.Module]) -> str:
    names = list(modules)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _followable(modules: Mapping[str, nn.Module]) -> str:
    found = {
        name: part
        for name, part in modules.items()
        if (is_norm(part) or isinstance(part, tuple(CONVOLUTIONS))) and not _attended(part)
    }
    return f": attention can follow {_some(found)}" if found else ""


def attention_at(module: nn.Module) -> nn.Module | None:
    """Return a module's child "attention", inserted or its own, or None without one."""
    if KEY in module._modules:  # those of scripted modules have no get
        return module._modules[KEY]
    return None


def _attended(module: nn.Module) -> bool:
    return HANDLE in getattr(attention_at(module), "__dict__", ())


def last_part(target: nn.Module) -> nn.Module:
    """Return the part of a sequence that computes its output, or the module itself if it is not a plain sequence."""
    while isinstance(target, nn.Sequential) and len(target) and _forward_of(target) is nn.Sequential.forward:
        target = target[-1]
    return target


def _forward_of(module: nn.Module) -> Callable[..., object]:
    forward: Callable[..., object] = module.__dict__.get("forward", type(module).forward)
    return forward


def wraps(module: nn.Module) -> bool:
    """Return whether a module is an adapter, such as PEFT's, which adds to the output of the layer that it wraps."""
    return "base_layer" in module._modules


def check_no_adapter(model: nn.Module, name: str) -> None:
    """Refuse a part of an adapter, whose output attention would not see until the adapter is merged."""
    around = name.split(".")
    for length in range(1, len(around)):
        if wraps(model.get_submodule(outer := ".".join(around[:length]))):
            raise ValueError(
                said(
                    f"{name!r} must not be inside an adapter, got a part of {outer!r}. Merge it first, or leave that "
                    "layer out of its targets."
                )
            )


def check_end(model: nn.Module, name: str, target: nn.Module) -> None:
    """Refuse a sequence whose last module is also used elsewhere, where attention would apply too."""
    last = last_part(target)
    if last is not target and sum(part is last for m in model.modules() for part in m._modules.values()) > 1:
        raise ValueError(
            said(
                f"{name!r} must end with a module of its own, got a {type(last).__name__} that is used in several "
                "places. Name a module inside it."
            )
        )


def check_target(name: str, target: nn.Module) -> None:
    """Refuse a module that cannot hold attention."""
    if _attended(target):
        raise ValueError(
            said(
                f"{name!r} must not already be followed by attention, got {type(target._modules[KEY]).__name__}. "
                "Call remove() of what was returned for it, or build the network again."
            )
        )
    if hasattr(target, KEY):
        raise ValueError(
            said(
                f"{name!r} must not have its own attribute {KEY!r}, got a {type(target).__name__} that has. "
                "Insert after a module inside it, or wrap it."
            )
        )
    if "_orig_mod" in target._modules:
        raise ValueError(
            said(
                f"{name!r} must not be wrapped by torch.compile, which skips hooks of its wrappers when the network is "
                f"compiled, got a {type(target).__name__}. Name the '_orig_mod' inside it."
            )
        )
    if type(target).forward is nn.Module.forward:
        raise ValueError(
            said(
                f"{name!r} must be called by the network, got a {type(target).__name__}, which only contains others. "
                "Name one of its modules."
            )
        )
    forward = inspect.unwrap(_forward_of(target))
    reads = getattr(getattr(forward, "__func__", forward), "__code__", None)
    if isinstance(target, nn.Sequential | nn.ModuleList | nn.ModuleDict) or (reads and WALKS & {*reads.co_names}):
        raise ValueError(
            said(
                f"{name!r} must not call all of its children in turn, of which attention would be one, got a "
                f"{type(target).__name__}. Insert after a module inside it, or call attention in its forward yourself."
            )
        )
