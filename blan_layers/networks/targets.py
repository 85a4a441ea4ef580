"""Which modules of a network attention is inserted after, and which it cannot follow."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import check_open, outside_attention
from blan_layers.networks.readings import CONVOLUTIONS

Where: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]

KEY = "attention"
"""Name of the attention inside the module that it follows."""

HANDLE = "_handle_of_its_hook"
"""Attribute in which attention keeps the handle of the hook that calls it."""

WALKS = {"children", "named_children", "modules", "named_modules", "_modules"}
"""Names by which the forward of a module reads all of its children."""

SHORTCUTS = "downsample", "shortcut", "skip", "conv_skip", "identity"
"""Attributes of residual blocks for the shortcut around their branch, which may be None."""

FLAGS = "has_skip", "use_res_connect", "has_residual"
"""Attributes that say by a bool whether there is a shortcut."""

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)

ATTENTION = "se", "attn", "attn_last", "cbam", "eca", "attention"
"""Attributes of residual blocks for their own attention."""


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
        found = dict(_ends_of_branches(model, modules))
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
        remedy = f"The modules are {_some(modules)}"
    elif callable(where):
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
                f"{type(where).__name__}. Pass one of those."
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
        if (_is_norm(part) or isinstance(part, tuple(CONVOLUTIONS))) and not _attended(part)
    }
    return f": attention can follow {_some(found)}" if found else ""


def attention_at(module: nn.Module) -> nn.Module | None:
    """Return a module's child "attention", inserted or its own, or None without one."""
    if KEY in module._modules:  # those of scripted modules have no get
        return module._modules[KEY]
    return None


def _attended(module: nn.Module) -> bool:
    return HANDLE in getattr(attention_at(module), "__dict__", ())


def _ends_of_branches(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the last norm or convolution of the branch of each innermost residual block."""
    blocks = [name for name, module in (("", model), *modules.items()) if _is_residual(module)]
    for block in blocks:
        inside = f"{block}." if block else ""
        if any(other != block and other.startswith(inside) for other in blocks):
            continue
        branch = [
            (name, part)
            for name, part in modules.items()
            if name.startswith(inside)
            and not {*SHORTCUTS, *ATTENTION, "parametrizations"} & {*name.removeprefix(inside).split(".")}
            and (_is_norm(part) or isinstance(part, tuple(CONVOLUTIONS)) or (not part._modules and part._parameters))
        ]
        if branch and (_is_norm(branch[-1][1]) or isinstance(branch[-1][1], tuple(CONVOLUTIONS))):
            yield branch[-1]


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS) or "running_mean" in module._buffers


def _is_residual(block: nn.Module) -> bool:
    if isinstance(block, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    if any(getattr(block, flag, False) is True for flag in FLAGS):
        return True
    own = {**block.__dict__, **block._modules}
    return any(own.get(name, False) is not False for name in SHORTCUTS)


def last_part(target: nn.Module) -> nn.Module:
    """Return the part of a sequence that computes its output, or the module itself if it is not a plain sequence."""
    while isinstance(target, nn.Sequential) and len(target) and _forward_of(target) is nn.Sequential.forward:
        target = target[-1]
    return target


def _forward_of(module: nn.Module) -> Callable[..., object]:
    forward: Callable[..., object] = module.__dict__.get("forward", type(module).forward)
    return forward


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
