"""Inserting attention after modules of an existing network."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils.hooks import RemovableHandle

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import HANDLE, check_open
from blan_layers.attention.spatial import for_channels
from blan_layers.networks.blending import starting_as_identity
from blan_layers.networks.compiled import forget
from blan_layers.networks.readings import axes_of, channels_of, kind_of
from blan_layers.networks.targets import (
    KEY,
    Where,
    attention_at,
    check_end,
    check_no_adapter,
    check_target,
    last_part,
    targets_in,
    wraps,
)

Start: TypeAlias = Literal["identity", "paper"]


NAME = "_name_of_its_target"
"""Attribute in which inserted attention keeps the name of the module that it follows."""


class Insertion(Mapping[str, nn.Module]):
    """Inserted attention by the name of the module that it follows."""

    def __init__(self, model: nn.Module, placed: Mapping[str, nn.Module], guard: RemovableHandle | None = None) -> None:
        self._model, self._placed, self._guard = model, dict(placed), guard

    def __getitem__(self, name: str) -> nn.Module:
        return self._placed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._placed)

    def __len__(self) -> int:
        return len(self._placed)

    def __repr__(self) -> str:
        return f"Insertion({', '.join(self._placed)})"

    def remove(self) -> None:
        """Remove the inserted attention; calling this again has no effect."""
        if self._guard is not None:
            self._guard.remove()
        placed = {*self._placed.values()}
        for attention in placed:
            attention.__dict__[HANDLE].remove()
        for part in list(self._model.modules()):
            if attention_at(part) in placed:
                del part._modules[KEY]
        self._placed = {}
        forget()


def place(target: nn.Module, attention: nn.Module, handle: RemovableHandle) -> None:
    """Put attention into a module whose hook calls it.

    The attention keeps the handle of the hook. Hooks are numbered per process: after unpickling in another process, the
    next hook would otherwise reuse the number and replace this one.
    """
    target.add_module(KEY, attention)
    attention.__dict__[HANDLE] = handle


def insert_attention(
    model: nn.Module, factory: Callable[..., nn.Module], where: Where = "residual", *, start: Start = "identity",
    **options: Any,
) -> Insertion:  # fmt: skip
    r"""Insert attention after modules of a network, leaving every key of its ``state_dict`` unchanged.

    ``y = module(x)`` becomes ``y + a (attention(y) - y)`` with a learnt scalar ``a`` that starts at zero. At first, the
    outputs of the network are therefore bit for bit the same, as long as the attention is finite, and pretrained
    weights keep their value. With ``start="paper"`` it becomes ``attention(y)``. Where a class of this library, not a
    subclass, multiplies a map by one gate, the gate is blended.

    The attention is ``factory(channels, **options)``, or ``factory(**options)`` for
    :class:`~blan_layers.SpatialAttention`. It is a submodule "attention" of the module, called by a forward hook.
    An old checkpoint loads with ``strict=False``; only the inserted keys are missing. Pass the new parameters to the
    optimiser; they require gradients even if those of the network are frozen. Channels, number of spatial axes, device
    and dtype are read from the module. Code compiled by ``torch.compile`` is recompiled. Fuse convolutions and norms
    before the insertion: ``torch.fx.experimental.optimization.fuse`` does not see hooks, and would lose the attention,
    as does FX graph mode quantisation. A conversion of modules, such as that to ``SyncBatchNorm``, may drop hooks; the
    next call of the network restores them, but not ``net.forward(x)`` or ``torch.fx``.

    Args:
        model: The network, changed in place.
        factory: A class such as :class:`~blan_layers.CBAM`, called as ``factory(channels, **options)``.
        where: "residual" for the position after the last norm of every residual branch, as in the CBAM paper, or after
            its last convolution if that comes later; a regular expression that must match the full name of a module; a
            sequence of module names; or a predicate of name and module. A ``Sequential`` means its last module. The
            branch is read from a trace of the block. In a block whose forward depends on values or sizes, and inside
            the block's children, the last module in the order of registration counts.
        start: "identity" or "paper".
        **options: Passed to the factory.

    Returns:
        A mapping of module names to the inserted attention; ``remove()`` takes it out again.

    Raises:
        TypeError: ``factory`` does not return a module, or returns one that takes several inputs, or ``where`` is none
            of the above.
        ValueError: Nothing matches ``where``, a residual block has several branches, a name does not exist, the
            channels of a module cannot be read, a module is not called by the network, is already followed by
            attention, has an attribute of that name, is wrapped by ``torch.compile`` or calls all of its children in
            turn, a ``Sequential`` ends with a module that is also used elsewhere, ``factory`` returns the same module
            twice, or the network or a part of it around the module is scripted, sharded or wrapped for distributed
            training. In these cases nothing is changed.

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
    targets = targets_in(model, where)
    built: dict[str, tuple[nn.Module, nn.Module]] = {}
    seen, known = set(), {*model.modules()}
    for name, target in targets.items():
        last = last_part(target)
        if last in seen:
            continue  # it has several names
        seen.add(last)
        check_open(model, name)
        check_no_adapter(model, name)
        check_end(model, name, target)
        check_target(name, last)
        attention = _built(name, target, model, factory, options)
        if attention in known:
            raise ValueError(
                said(
                    f"factory must return a new module for each place, got the same {type(attention).__name__} twice. "
                    "Pass a class, or a function that builds one."
                )
            )
        known.add(attention)
        built[name] = target, attention
    guard = model.register_forward_pre_hook(_Guard(list(built)))
    placed: dict[str, nn.Module] = {}
    for name, (target, attention) in built.items():
        last, (device, dtype) = last_part(target), kind_of(target, model)
        device, dtype = options.get("device", device), options.get("dtype", dtype)
        attention.to(device=device, dtype=dtype)
        placed[name] = attention if start == "paper" else starting_as_identity(attention, device, dtype)
        placed[name].train(last.training)
        placed[name].__dict__[NAME] = name
        place(last, placed[name], last.register_forward_hook(_Attend(name)))
    forget()
    return Insertion(model, placed, guard)


class _Attend:
    """The forward hook; it looks up the attention in the module, so that a copy of a network uses its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
        attention = module._modules.get(KEY)
        if attention is None:
            raise _lost(self.name, module)
        if not isinstance(output, Tensor | Proxy):
            raise TypeError(
                f"insert_attention: {self.name!r} must return one map, got {type(output).__name__}. "
                "Insert after a module inside it."
            )
        attended: Tensor = attention(output)
        return attended


class _Guard:
    """The network's own pre-hook: torch's conversion to SyncBatchNorm, among others, copies modules without hooks."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, model: nn.Module, _: tuple[Any, ...]) -> None:
        if all(_attends(_at(model, name)) for name in self.names):
            return
        found, adapted = set(), {part._modules["base_layer"] for part in model.modules() if wraps(part)}
        for target in model.modules():  # the named modules may have been wrapped or moved
            attention = attention_at(target)
            if attention is None or NAME not in attention.__dict__:
                continue
            found.add(name := attention.__dict__[NAME])
            if target in adapted:
                raise RuntimeError(
                    f"insert_attention: {name!r} must not be inside an adapter, whose output attention would not see "
                    f"until it is merged, got {type(target).__name__} as a base layer. Leave this layer out of the "
                    "adapter's targets, or merge first and insert afterwards."
                )
            if not _attends(target):
                if torch.compiler.is_dynamo_compiling():  # without fullgraph=True, the call is repeated in eager mode
                    raise RuntimeError(
                        f"insert_attention: {name!r} must call the attention that was inserted after it, got a "
                        f"{type(target).__name__} without its hook. Call the network once in eager mode first."
                    )
                place(target, attention, target.register_forward_hook(_Attend(name)))
        for name in self.names:
            if name not in found and (lacking := _at(model, name) or _fused(model, name)) is not None:
                raise _lost(name, lacking)  # else that part was removed


def _attends(target: nn.Module | None) -> bool:
    """Return whether a module has attention and calls it."""
    if target is None or attention_at(target) is None:
        return False
    return any(isinstance(hook, _Attend) for hook in target._forward_hooks.values())


def _lost(name: str, target: nn.Module) -> RuntimeError:
    return RuntimeError(
        f"insert_attention: {name!r} must contain the attention that was inserted after it, got a "
        f"{type(target).__name__} without it. Fuse or convert modules before the insertion, or call its remove()."
    )


def _at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return last_part(model.get_submodule(name))
    except AttributeError:
        return None


def _fused(model: nn.Module, name: str) -> nn.Module | None:
    """Return what took the place of the parent of a missing module, such as a convolution that a norm was fused into.

    A shortened container or an identity has lost the module on purpose.
    """
    parent = _at(model, name.rpartition(".")[0]) if "." in name else None
    removed = isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict | nn.Identity)
    return None if removed else parent


def _built(
    name: str, target: nn.Module, model: nn.Module, factory: Callable[..., nn.Module], options: Mapping[str, Any]
) -> nn.Module:
    device, dtype = kind_of(target, model)
    accepted = _parameters(factory)
    given = dict(options)
    for key, value in (("device", device), ("dtype", dtype), ("spatial_dims", axes_of(name, target, model))):
        if key in accepted and key not in given and value is not None:
            given[key] = value
    attention = for_channels(factory, channels_of(name, target), given)
    if not isinstance(attention, nn.Module):
        raise TypeError(
            said(f"factory must return a torch.nn.Module, got {type(attention).__name__}. Pass a class such as CBAM.")
        )
    if not _checks.takes(attention.forward, None):
        taken = ", ".join(inspect.signature(attention.forward).parameters)
        raise TypeError(
            said(
                f"factory must return attention of one map, got {type(attention).__name__}, whose forward takes "
                f"({taken}). Call it in the network yourself."
            )
        )
    return attention


def _parameters(factory: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()
