"""Attention behind modules of a network that is there already."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.networks.blending import starting_as_identity
from blan_layers.networks.compiled import forget

Where: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]
Start: TypeAlias = Literal["identity", "paper"]

KEY = "attention"
"""What attention is called inside the module that it stands behind."""

SHORTCUTS = "downsample", "shortcut", "skip", "conv_skip", "identity"
"""What residual blocks call the way around their branch; None where that is the map itself."""

FLAGS = "has_skip", "use_res_connect", "has_residual"
"""What they call it where it is a yes or no."""

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

WIDTHS = "num_features", "num_channels", "out_channels", "out_features"

AXES: dict[type[nn.Module], int] = {
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
"""Spatial axes of what a module takes, where its class tells."""


class Insertion(Mapping[str, nn.Module]):
    """What was inserted: the name of each module in the network, with the attention that now stands behind it."""

    def __init__(
        self, placed: Mapping[str, nn.Module], targets: Sequence[nn.Module], handles: Sequence[RemovableHandle]
    ) -> None:
        self._placed, self._targets, self._handles = dict(placed), list(targets), list(handles)

    def __getitem__(self, name: str) -> nn.Module:
        return self._placed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)

    def __repr__(self) -> str:
        return f"Insertion({', '.join(self._placed)})"

    def remove(self) -> None:
        """Take all of it out again; a second time there is nothing to take out."""
        for handle in self._handles:
            handle.remove()
        for target in self._targets:
            del target._modules[KEY]
        self._placed, self._targets, self._handles = {}, [], []
        forget()


def insert_attention(
    model: nn.Module, factory: Callable[..., nn.Module], where: Where = "residual", *, start: Start = "identity",
    **options: Any,
) -> Insertion:  # fmt: skip
    r"""Put attention behind modules of a network and leave every key of its ``state_dict`` as it was.

    ``y = module(x)`` becomes ``y + a (attention(y) - y)`` with a learnt number ``a`` that starts at zero, so that the
    network's outputs are the same bit by bit at first and pretrained weights stay worth what they were;
    ``start="paper"`` makes it ``attention(y)``. Where a map is multiplied by one gate the blend happens in the gate.

    The attention is ``factory(channels, **options)``, a submodule "attention" of the module, called by a forward hook.
    An old checkpoint loads with ``strict=False``, the inserted keys alone being missing. Give the new parameters to the
    optimiser: they are trained where those of the network are frozen, too. Channels, the number of spatial axes, device
    and dtype are read off the module. What ``torch.compile`` has compiled is compiled anew.

    Args:
        model: The network, changed in place.
        factory: Makes attention, such as :class:`~blan_layers.CBAM`; called as ``factory(channels, **options)``.
        where: "residual": behind the last norm of every residual branch, as in the CBAM paper; a regular expression
            that a module's whole name matches; names of modules; or a predicate of name and module.
        start: "identity" or "paper".
        **options: Passed to the factory.

    Returns:
        The names of the modules with what stands behind them now; ``remove()`` takes it out again.

    Raises:
        TypeError: ``factory`` makes no module, or ``where`` is none of these.
        ValueError: Nothing matches ``where``, a name is not there, a module's channels cannot be read, it has attention
            behind it already, or the network or a part of it that holds the module is scripted, sharded or wrapped for
            distributed training. Nothing is changed then.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, figure 3.

    Example:
        >>> from blan_layers import SqueezeExcitation, insert_attention
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = net(x)
        >>> inserted = insert_attention(net, SqueezeExcitation, where=["0", "2"])
        >>> list(inserted), torch.equal(net(x), before)
        (['0', '2'], True)
    """
    _checks.factory(factory)
    _checks.choice("start", start, ("identity", "paper"))
    _check_surroundings(model, "")
    targets = _targets(model, where)
    for name in targets:
        _check_surroundings(model, name)
    built: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, target in targets.items():
        _check_target(name, target)
        built[name] = target, _built(name, target, model, factory, options, start)
    handles = []
    for target, attention in built.values():
        target.add_module(KEY, attention)
        handles.append(target.register_forward_hook(_attend))
    forget()
    placed = {name: attention for name, (_, attention) in built.items()}
    return Insertion(placed, list(targets.values()), handles)


def _attend(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    """Be the forward hook; it asks the module, so that copies of a network use their own attention."""
    attended: Tensor = module._modules[KEY](output)  # type: ignore[misc]  # given
    return attended


def _targets(model: nn.Module, where: Where) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(said(f"model must be a torch.nn.Module, got {type(model).__name__}. Pass the network."))
    modules = {name: module for name, module in model.named_modules() if name}
    if where == "residual":
        found = {f"{name}.{last}" if name else last: norm for name, last, norm in _last_norms(model)}
        remedy = "Pass names or a regular expression as where"
    elif isinstance(where, str):
        found = {name: module for name, module in modules.items() if re.fullmatch(where, name)}
        remedy = f"Modules are called {_some(modules)}"
    elif callable(where):
        found = {name: module for name, module in modules.items() if where(name, module)}
        remedy = f"Modules are called {_some(modules)}"
    elif isinstance(where, Sequence):
        missing = [name for name in where if name not in modules]
        if missing:
            raise ValueError(
                said(f"where must name modules of the network, got {missing[0]!r}. They are {_some(modules)}.")
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


def _last_norms(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield the name of each residual block, and of the last norm in its branch, with that norm."""
    for name, block in model.named_modules():
        if not _is_residual(block):
            continue
        norms = [
            (path, part)
            for path, part in block.named_modules()
            if isinstance(part, NORMS) and path.partition(".")[0] not in SHORTCUTS
        ]
        if norms:
            yield name, *norms[-1]


def _is_residual(block: nn.Module) -> bool:
    if any(getattr(block, flag, False) is True for flag in FLAGS):
        return True
    own = {*block.__dict__, *block._modules}
    return any(name in own for name in SHORTCUTS) and not isinstance(block, nn.Sequential)


def _check_target(name: str, target: nn.Module) -> None:
    if KEY in target._modules:
        raise ValueError(
            said(
                f"{name!r} must not have attention behind it already, got {type(target._modules[KEY]).__name__}. "
                "Remove it first."
            )
        )


def _check_surroundings(model: nn.Module, name: str) -> None:
    """Refuse a network, or a part of one around the named module, that would not see what is inserted."""
    path, part = "", model
    _check_part("model", model)
    for step in name.split(".") if name else ():
        path = f"{path}.{step}" if path else step
        part = part.get_submodule(step)
        _check_part(f"{path!r}", part)


def _check_part(called: str, part: nn.Module) -> None:
    if isinstance(part, torch.jit.ScriptModule):
        raise ValueError(
            said(f"{called} must not be scripted, got {type(part).__name__}. Insert before torch.jit.script.")
        )
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if isinstance(part, nn.parallel.DistributedDataParallel) or (
        fsdp is not None and isinstance(part, fsdp.FSDPModule | fsdp.FullyShardedDataParallel)
    ):
        raise ValueError(
            said(
                f"{called} must not be wrapped for distributed training yet, which would leave the new parameters "
                f"out, got {type(part).__name__}. Insert first."
            )
        )


def _built(
    name: str,
    target: nn.Module,
    model: nn.Module,
    factory: Callable[..., nn.Module],
    options: Mapping[str, Any],
    start: Start,
) -> nn.Module:
    accepted = _parameters(factory)
    weight = next((p for p in (*target.parameters(), *target.buffers()) if p.is_floating_point()), None)
    device, dtype = (None, None) if weight is None else (weight.device, weight.dtype)
    given = dict(options)
    for key, value in (("device", device), ("dtype", dtype), ("spatial_dims", _axes(name, target, model))):
        if key in accepted and key not in given and value is not None:
            given[key] = value
    attention = factory(_channels(name, target), **given)
    if not isinstance(attention, nn.Module):
        raise TypeError(
            said(f"factory must make a torch.nn.Module, got {type(attention).__name__}. Pass a class such as CBAM.")
        )
    attention.train(target.training)
    return attention if start == "paper" else starting_as_identity(attention, device, dtype)


def _parameters(factory: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()


def _channels(name: str, target: nn.Module) -> int:
    """Return the channels of what a module gives: its own, or those of the last part of a sequence."""
    last = target
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    for width in WIDTHS:
        if isinstance(found := getattr(last, width, None), int):
            return found
    raise ValueError(
        said(
            f"channels of {name!r} must be read off it, got {type(last).__name__} without any of {', '.join(WIDTHS)}. "
            "Name its last norm or convolution in place of it."
        )
    )


def _axes(name: str, target: nn.Module, model: nn.Module) -> int | None:
    """Return the number of spatial axes, from the module or from what stands in the same parent, None if none tells."""
    parents = [model.get_submodule(name.rpartition(".")[0]), model]
    for module in (target, *target.modules(), *(part for parent in parents for part in parent.modules())):
        for kind, axes in AXES.items():
            if isinstance(module, kind):
                return axes
    return None
