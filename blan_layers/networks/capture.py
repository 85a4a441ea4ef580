"""Capturing the attention maps inside a network."""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import LISTENERS, Module, attention_in, gate_at
from blan_layers._torch import backward_runs, transforms_active
from blan_layers.networks.blending import BlendedGate
from blan_layers.networks.compiled import eagerly


class Maps(dict[str, dict[str, Tensor]]):
    """Maps by module name and map name: ``maps["layer1.0.cbam"]["spatial_map"]``."""

    def __missing__(self, name: str) -> dict[str, Tensor]:
        raise KeyError(
            f"capture_maps: a captured module must be named, got {name!r}. "
            + (f"There are {', '.join(self)}." if self else "None has been called yet: run the model inside the block.")
        )


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[Maps]:
    r"""Capture the gates of every attention module in a network.

    Inside the block, every forward pass of the model stores its gates, detached, in the yielded mapping, replacing
    those of the previous pass, as does a call of ``forward_with_maps`` outside of one. Keys are the first name of the
    outermost attention module in the model ("" for the model itself), then the field names of its
    ``forward_with_maps``. A half that was replaced by attention with other maps has its own entry. For inserted
    attention, the gate before blending is stored. Only calls in the thread of the block are captured, and compiled code
    runs uncompiled there. A copy of the network made there is not captured.

    Args:
        model: A network that contains attention modules of this library.

    Shape:
        channel_map (B, C, 1, ...), spatial_map (B, 1, \*S), in [0, 1]; for other maps see their modules.

    Raises:
        ValueError: There is no attention in the model.
        RuntimeError: A module is called twice in one pass, so that its map is ambiguous, or the block is outside the
            function that ``torch.func`` transforms.
        KeyError: A requested name was not captured.

    Example:
        >>> import torch
        >>> from blan_layers import CBAM
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), CBAM(16))
        >>> with capture_maps(net) as maps:
        ...     _ = net(torch.randn(2, 3, 10, 10))
        >>> {name: tuple(gate.shape) for name, gate in maps["1"].items()}
        {'channel_map': (2, 16, 1, 1), 'spatial_map': (2, 1, 8, 8)}
    """
    _checks.network(model)
    capture = _Capture()
    for name, module in attention_in(model):
        capture.names.setdefault(module, name)
    registrations = [register for module, name in capture.names.items() for register in capture.hooks(name, module)]
    if not registrations:
        raise ValueError(said("model must contain attention modules of blan_layers, got none. Insert some first."))
    handles = [
        model.register_forward_pre_hook(_Hook(capture.enter)),
        model.register_forward_hook(_Hook(capture.leave), always_call=True),
    ]
    try:
        handles.extend(register() for register in registrations)
        LISTENERS.append(capture.listen)
        with eagerly():
            yield capture.maps
    finally:
        LISTENERS[:] = [listener for listener in LISTENERS if listener != capture.listen]
        for handle in handles:
            handle.remove()


class _Capture:
    """Records the gates of a network in the thread that created it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.transformed = transforms_active()
        self.maps = Maps()
        self.names: dict[Module, str] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.running = False
        self.called: list[str] = []  # the attention modules that run now, the innermost last

    def hooks(self, name: str, module: Module) -> Iterator[Callable[[], RemovableHandle]]:
        """Yield functions that register the hooks of an attention module and of its gates."""
        yield partial(module.register_forward_pre_hook, _Hook(partial(self.begin, name)), with_kwargs=True)
        yield partial(module.register_forward_hook, _Hook(self.end), always_call=True)
        for path in dict.fromkeys(module.gates.values()):
            keys = [key for key, place in module.gates.items() if place == path]
            gate = gate_at(module, keys[0])
            if gate is None:
                continue  # the half was replaced by one without that map
            gate = gate.gate if isinstance(gate, BlendedGate) else gate
            yield partial(gate.register_forward_hook, _Hook(partial(self.keep, name, keys)))

    def hears(self) -> bool:
        """Return whether a call counts: not from another thread, nor a recomputation by checkpointing."""
        return threading.get_ident() == self.thread and not backward_runs()

    def enter(self, *_: object) -> None:
        """Begin a pass of the whole model."""
        if self.hears():
            self.maps.clear()
            self.called.clear()
            self.running = True

    def leave(self, *_: object) -> None:
        """End a pass of the whole model."""
        if self.hears():
            self.running = False

    @contextmanager
    def listen(self, module: Module, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hear a call of ``forward_with_maps``, unless the module's own forward makes it."""
        name = self.names.get(module)
        if name is None or self.called[-1:] == [name]:
            yield
            return
        self.begin(name, module, args, kwargs)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Begin a call of an attention module; outside a call of the whole model, a second call begins a new pass."""
        if not self.hears():
            return
        self.called.append(name)
        if name in self.maps:
            if self.running:
                raise _called_again(name)
            self.maps.clear()
        self.maps[name] = {}
        x = args[0] if args else kwargs.get(next(iter(inspect.signature(module.forward).parameters), ""))
        self.dtypes[name] = x.dtype if isinstance(x, Tensor) else torch.get_default_dtype()

    def end(self, *_: object) -> None:
        """End a call of an attention module."""
        if self.hears():
            del self.called[-1:]

    def keep(self, name: str, keys: Sequence[str], _: nn.Module, __: Any, gate: Tensor) -> None:
        """Store a map under the first free name of its gate; a plural name takes the maps of all calls.

        A gate that several attention modules share counts for the one that runs.
        """
        if not self.hears() or (self.called and self.called[-1] != name):
            return
        if transforms_active() and not self.transformed:
            raise RuntimeError(
                "capture_maps: the block must be inside the function that torch.func transforms, got a transformed "
                f"call of {name!r} in a block outside it. Open the block in that function and return the maps."
            )
        found = self.maps.setdefault(name, {})
        gate = gate.detach().to(self.dtypes.get(name, gate.dtype))
        for key in keys:
            if key.endswith("_maps"):
                found[key] = torch.cat([*([found[key]] if key in found else []), gate.unsqueeze(1)], 1)
                return
            if key not in found:
                found[key] = gate
                return
        raise RuntimeError(
            f"capture_maps: gates must be called once per map, got one more call of a gate of {name!r}. "
            "Hear it by a forward hook of your own."
        )


class _Hook:
    """A hook of a capture; its copies, made along with a network, record nothing and go when first called."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self.call = call

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Hook, ()

    def __call__(self, module: nn.Module, *given: Any) -> None:
        if self.call is not None:
            self.call(module, *given)
        elif not torch.compiler.is_compiling() and given[-1] is not None:  # else torch may be walking the hooks
            for part in module.modules():
                for hooks in (part._forward_pre_hooks, part._forward_hooks):
                    for key, hook in list(hooks.items()):
                        if isinstance(hook, _Hook) and hook.call is None:
                            hooks.pop(key, None)
                            part._forward_hooks_always_called.pop(key, None)
                            part._forward_pre_hooks_with_kwargs.pop(key, None)


def _called_again(name: str) -> RuntimeError:
    return RuntimeError(
        f"capture_maps: a module must be called only once per pass, got a second call of {name!r}. "
        "Call it once, or call its forward_with_maps for each map, outside the block."
    )
