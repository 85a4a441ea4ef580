"""The maps of attention inside a network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blan_layers._checks import said
from blan_layers._module import Module
from blan_layers.networks.compiled import eagerly


class Maps(dict[str, dict[str, Tensor]]):
    """Maps by the name of the attention module, then by their own: ``maps["layer1.0.cbam"]["spatial_map"]``."""

    def __missing__(self, name: str) -> dict[str, Tensor]:
        raise KeyError(
            f"capture_maps: a captured module must be named, got {name!r}. "
            + (f"There are {', '.join(self)}." if self else "None was called yet: run the model inside the block.")
        )


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[Maps]:
    r"""Capture the gates of every attention module in a network.

    Inside the block every forward pass of the model puts them into what is yielded, detached, in place of those of the
    pass before: by the name of the outermost attention module in the model ("" for the model itself), then by the
    names that its ``forward_with_maps`` has. Compiled code runs uncompiled inside the block.

    Args:
        model: A network with modules of this library in it.

    Shape:
        channel_map (B, C, 1, ...), spatial_map (B, 1, \*S), in [0, 1]; others as their modules tell.

    Raises:
        ValueError: There is no attention in the model.
        RuntimeError: A module is called twice in one pass, so that it has no one map.
        KeyError: A name is asked for that was not captured.

    Example:
        >>> import torch
        >>> from blan_layers import CBAM
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), CBAM(16))
        >>> with capture_maps(net) as maps:
        ...     _ = net(torch.randn(2, 3, 10, 10))
        >>> {name: tuple(gate.shape) for name, gate in maps["1"].items()}
        {'channel_map': (2, 16, 1, 1), 'spatial_map': (2, 1, 8, 8)}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(said(f"model must be a torch.nn.Module, got {type(model).__name__}. Pass the network."))
    modules = dict(_outermost(model))
    if not modules:
        raise ValueError(said("model must hold attention modules of blan_layers, got none. Insert some first."))
    maps = Maps()
    handles = [model.register_forward_pre_hook(lambda *_: maps.clear())]
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(partial(_begin, maps, name)))
        for path in {*module.gates.values()}:
            keys = [key for key, place in module.gates.items() if place == path]
            handles.append(module.get_submodule(path).register_forward_hook(partial(_keep, maps, name, keys)))
    try:
        with eagerly():
            yield maps
    finally:
        for handle in handles:
            handle.remove()


def _begin(maps: Maps, name: str, _: nn.Module, __: Any) -> None:
    if name in maps:
        raise _called_again(name)
    maps[name] = {}


def _keep(maps: Maps, name: str, keys: Sequence[str], _: nn.Module, __: Any, gate: Tensor) -> None:
    """Keep a map under the first of its gate's names that is free; a name in the plural takes the maps of all calls."""
    found = maps.setdefault(name, {})
    gate = gate.detach()
    for key in keys:
        if key.endswith("_maps"):
            found[key] = torch.cat([*([found[key]] if key in found else []), gate.unsqueeze(1)], 1)
            return
        if key not in found:
            found[key] = gate
            return
    raise _called_again(name)


def _called_again(name: str) -> RuntimeError:
    return RuntimeError(
        f"capture_maps: a module must be called once in a pass to have one map, got a second call of {name!r}. "
        "Capture it apart, or call forward_with_maps where it is called."
    )


def _outermost(model: nn.Module, name: str = "") -> Iterator[tuple[str, Module]]:
    """Yield attention modules that are not inside another."""
    if isinstance(model, Module) and model.gates:
        yield name, model
        return
    for child, module in model.named_children():
        yield from _outermost(module, f"{name}.{child}" if name else child)
