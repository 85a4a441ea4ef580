"""The base of CBAM and RDAM: a channel half and a spatial half in one of three arrangements."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Option, said
from blan_layers._init import reset
from blan_layers._module import Module, gate_at, known, oddity, width_of
from blan_layers.attention._layers import ActivationFactory, NormFactory
from blan_layers.attention.channel import ChannelAttention, SqueezeExcitation
from blan_layers.attention.spatial import SpatialAttention
from blan_layers.functional.attention import (
    ARRANGEMENTS,
    Arrangement,
    Form,
    Passes,
    Pool,
    gate_both,
    passes_through,
)

HALVES = {"channel": known(ChannelAttention, SqueezeExcitation), "spatial": known(SpatialAttention)}
"""The children that the fused passes can replace."""


class DualAttentionMaps(NamedTuple):
    """A map gated by channel and by location, and both gates."""

    output: Tensor
    """(B, C, *S)"""
    channel_map: Tensor
    """(B, C, 1, ...), in [0, 1]"""
    spatial_map: Tensor
    """(B, 1, *S), in [0, 1]"""


class DualAttention(Module):
    """Two halves, ``channel`` and ``spatial``, called in sequence, or fused where the result is the same."""

    gates = MappingProxyType({"channel_map": "channel.gate", "spatial_map": "spatial.gate"})
    needs: tuple[str, ...] = "channel", "spatial"
    backend = Option(BACKENDS, shared_with=tuple(HALVES))
    arrangement = Option(ARRANGEMENTS)

    channel: ChannelAttention
    spatial: SpatialAttention

    def __init__(self, arrangement: Arrangement, backend: _checks.Backend) -> None:
        super().__init__()
        self.arrangement = arrangement
        self.backend = backend

    def _build_halves(
        self,
        channels: int,
        reduction_ratio: int | None,
        hidden_channels: int | None,
        pools: Sequence[Pool],
        form: Form,
        activation: ActivationFactory | None,
        bias: bool,
        kernel_size: int,
        spatial_dims: int,
        norm: NormFactory | None,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self._channels = channels
        self.channel = ChannelAttention(
            channels,
            reduction_ratio=reduction_ratio,
            hidden_channels=hidden_channels,
            pools=pools,
            form=form,
            activation=activation,
            bias=bias,
            backend=self.backend,
            device=device,
            dtype=dtype,
        )
        self.spatial = SpatialAttention(
            kernel_size,
            spatial_dims=spatial_dims,
            norm=norm,
            bias=False,
            backend=self.backend,
            device=device,
            dtype=dtype,
        )

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        return getattr(self.channel, "channels", self._channels)

    @property
    def form(self) -> Form:
        """The form of the channel half."""
        return self.channel.form

    @form.setter
    def form(self, form: Form) -> None:
        self._channel_with("form").form = form

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that feed the channel half."""
        return self.channel.pools

    @pools.setter
    def pools(self, pools: Sequence[Pool]) -> None:
        self._channel_with("pools").pools = pools

    def _channel_with(self, option: str) -> ChannelAttention:
        if not isinstance(self.channel, ChannelAttention):
            raise TypeError(
                said(
                    f"{option} is an option of ChannelAttention, got a channel half of type "
                    f"{type(self.channel).__name__}. Use ChannelAttention as the channel half, or that module itself."
                )
            )
        return self.channel

    def reset_parameters(self) -> None:
        """Reinitialise the weights of the halves that have ``reset_parameters``."""
        reset(self.channel)
        reset(self.spatial)

    def _gate(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Gate ``x`` by both halves and add the residual."""
        passes = self._passes(x, residual)
        if not passes.plain:
            return self._in_passes(passes, x).output
        if self.arrangement == "spatial-channel":
            output = self.channel(self.spatial(x))
        elif self.arrangement == "parallel":
            self._check_parallel()
            output = self.spatial(x, self.channel(x))
        else:
            output = self.spatial(self.channel(x))
        return output if residual is None else output + residual

    def _gate_with_maps(self, x: Tensor, residual: Tensor | None = None) -> DualAttentionMaps:
        """Gate ``x`` and return both gates; those of watched or replaced halves are recorded as they are called."""
        passes = self._passes(x, residual)
        if not (odd := self._oddity()):
            return self._in_passes(passes, x)
        check_recordable(self, odd, x)
        with heard_gate(self, "channel") as channel_map, heard_gate(self, "spatial") as spatial_map:
            output = self._gate(x, residual)
        return DualAttentionMaps(output, channel_map().to(x.dtype), spatial_map().to(x.dtype))

    def _oddity(self) -> str:
        if odd := oddity(self, HALVES):
            return odd
        for name in HALVES:
            if (own := getattr(self, name).backend) != self.backend:
                return f"{name} has its own backend={own!r}"
        return ""

    def _passes(self, x: Tensor, residual: Tensor | None) -> Passes:
        """Return the passes over the map: plain ones where a half must be called, which then checks its input."""
        odd = self._oddity()
        channel = self.channel
        if not odd:
            _checks.feature_map("x", x, width_of(channel.fc1), self.spatial.spatial_dims)
        return passes_through(x, self.backend, getattr(channel, "pools", ()), residual, lambda: odd)

    def _in_passes(self, passes: Passes, x: Tensor) -> DualAttentionMaps:
        """Compute what calling the halves would, as passes over the map."""
        channel, spatial = self.channel, self.spatial
        channel.check_state("x", x)
        spatial.check_state("x", x)
        return DualAttentionMaps(
            *gate_both(
                passes,
                lambda pooled: channel.factors(pooled, x),
                lambda maps: spatial.factor(passes, maps, x),
                self.arrangement,
            )
        )

    def _check_parallel(self) -> None:
        """Refuse a spatial half that takes no second input to gate."""
        spatial = self.spatial
        if type(spatial).forward is not SpatialAttention.forward and not _checks.takes(spatial.forward, None, None):
            raise TypeError(
                said(
                    "arrangement='parallel' calls spatial(x, channel(x)), got a spatial of type "
                    f"{type(spatial).__name__} that takes only x. Give its forward a second input, the map to "
                    "gate, or use another arrangement."
                )
            )


def check_recordable(parent: nn.Module, odd: str, x: Tensor) -> None:
    """Refuse to record gates where hooks that are registered during a call do not run."""
    if torch.compiler.is_dynamo_compiling() or isinstance(x, Proxy):
        raise RuntimeError(  # without fullgraph, torch.compile then repeats the call in eager mode
            f"{type(parent).__name__}: maps in torch.fx or in one compiled graph need the halves of the constructor, "
            f"unwatched, got {odd}. Use torch.export.export with strict=False, or call the module without maps."
        )


@contextmanager
def heard_gate(parent: Module, name: str) -> Iterator[Callable[[], Tensor]]:
    """Record the gate of a child called in this thread; yield a function that returns it, called once."""
    child = parent.get_submodule(name)
    field = f"{name}_map"
    gate = gate_at(parent, field)
    if gate is None:
        raise TypeError(said(_without_gate(name, child)))
    heard: list[Tensor] = []
    calls: list[bool] = []
    thread = threading.get_ident()

    def enter(*_: object) -> None:
        if threading.get_ident() == thread:
            calls.append(True)

    def leave(*_: object) -> None:
        if threading.get_ident() == thread:
            calls.pop()

    def listen(_: nn.Module, __: object, output: Tensor) -> None:
        if calls and threading.get_ident() == thread:
            heard.append(output)

    def recorded() -> Tensor:
        if len(heard) != 1:
            raise RuntimeError(said(_not_called_once(name, child, len(heard))))
        shape = _checks.shape(heard[0])
        pooled = shape[2:] if name == "channel" else shape[1:2]
        if len(shape) < 3 or any(size != 1 for size in pooled):
            layout = "(B, C, 1, ...)" if name == "channel" else "(B, 1, *S)"
            raise RuntimeError(
                said(
                    f"{field} must be {layout}, got shape {shape} from {name}.gate of a {type(child).__name__}. "
                    "Call this gate with logits of that shape, or call the module itself."
                )
            )
        return heard[0]

    handles = (
        child.register_forward_pre_hook(enter),
        child.register_forward_hook(leave, always_call=True),
        gate.register_forward_hook(listen),
    )
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _without_gate(name: str, child: nn.Module) -> str:
    kind = type(child).__name__
    if isinstance(child, Module):
        return (
            f"{name}_map must be the only map of {name}, got {kind}, which has {' and '.join(child.gates) or 'none'}. "
            "Use capture_maps, which captures the maps of such a half by themselves, or call the module itself."
        )
    return (
        f"maps need a gate in {name}, got {kind}, which has none. "
        "Give it a submodule 'gate' that is called with the gate's logits, or call the module itself."
    )


def _not_called_once(name: str, child: nn.Module, times: int) -> str:
    kind = type(child).__name__
    if times:
        return (
            f"maps need one call of {name}.gate, got {times} by a {kind}. "
            "Call the module itself, and hear the gate by a forward hook of your own."
        )
    return (
        f"maps are what {name}.gate returns, got no call of it: {name} is a {kind} that "
        "does not use it. Call the module itself, or undo what compiled or replaced this half."
    )
