"""The maps of attention inside a network."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blan_layers._checks import said
from blan_layers._module import Module, attention_in
from blan_layers._torch import backward_runs
from blan_layers.networks.blending import BlendedGate
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
    names that its ``forward_with_maps`` has. Of attention that was inserted it is the gate itself, before the blend.
    Calls in the thread of the block are heard, and compiled code runs uncompiled there.

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
    capture = _Capture()
    hooks = [hook for name, module in attention_in(model) for hook in capture.hooks(name, module)]
    if not hooks:
        raise ValueError(said("model must hold attention modules of blan_layers, got none. Insert some first."))
    handles = [
        model.register_forward_pre_hook(capture.enter),
        model.register_forward_hook(capture.leave, always_call=True),
    ]
    try:
        for module, before, hook in hooks:
            handles.append((module.register_forward_pre_hook if before else module.register_forward_hook)(hook))
        with eagerly():
            yield capture.maps
    finally:
        for handle in handles:
            handle.remove()


class _Capture:
    """What hears the gates of a network, in the thread that it is made in; a copy of it, with a network's, is deaf."""

    def __init__(self, thread: int | None = None) -> None:
        self.thread = threading.get_ident() if thread is None else thread
        self.maps = Maps()
        self.dtypes: dict[str, torch.dtype] = {}
        self.running = False

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return _Capture, (-1,)

    def hooks(self, name: str, module: Module) -> Iterator[tuple[nn.Module, bool, Callable[..., None]]]:
        """Yield modules with hooks that go before or behind them: on a module of attention and the gates it has."""
        yield module, True, partial(self.begin, name)
        for path in dict.fromkeys(module.gates.values()):
            try:
                gate = module.get_submodule(path)
            except AttributeError:
                continue  # its half was replaced by one without
            keys = [key for key, place in module.gates.items() if place == path]
            yield gate.gate if isinstance(gate, BlendedGate) else gate, False, partial(self.keep, name, keys)

    def hears(self) -> bool:
        """Tell whether a call counts: not of another thread, nor by a checkpoint that computes again."""
        return threading.get_ident() == self.thread and not backward_runs()

    def enter(self, *_: object) -> None:
        """Begin a pass of the whole model."""
        if self.hears():
            self.maps.clear()
            self.running = True

    def leave(self, *_: object) -> None:
        """End a pass of the whole model."""
        if self.hears():
            self.running = False

    def begin(self, name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Begin a call of an attention module; outside the whole model a second call begins a pass."""
        if not self.hears():
            return
        if name in self.maps:
            if self.running:
                raise _called_again(name)
            self.maps.clear()
        self.maps[name] = {}
        self.dtypes[name] = args[0].dtype if args and isinstance(args[0], Tensor) else torch.get_default_dtype()

    def keep(self, name: str, keys: Sequence[str], _: nn.Module, __: Any, gate: Tensor) -> None:
        """Keep a map under the first free one of its gate's names; a name in the plural takes those of all calls."""
        if not self.hears():
            return
        found = self.maps.setdefault(name, {})
        gate = gate.detach().to(self.dtypes.get(name, gate.dtype))
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
