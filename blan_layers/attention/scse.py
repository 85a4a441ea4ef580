"""scSE: channel excitation and spatial excitation side by side."""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Fixed, Option
from blan_layers._init import reset
from blan_layers._module import Module, check_layer, oddity, runs_forward, width_of
from blan_layers.attention._dual import HALVES, DualAttentionMaps, check_recordable, heard_gate
from blan_layers.attention._layers import check_spatial_dims, convolved, draw, drawn_convolution
from blan_layers.attention.channel import SqueezeExcitation
from blan_layers.functional.attention import location_factor, passes_through

Combination: TypeAlias = Literal["sum", "max"]

COMBINATIONS: tuple[Combination, ...] = ("sum", "max")


class SCSE(Module):
    r"""Concurrent spatial and channel squeeze-and-excitation, for 1, 2 or 3 spatial axes.

    ``"sum"``: ``channel(x) + spatial(x)``; ``"max"``: the larger of the two, element by element. ``channel`` is a
    :class:`SqueezeExcitation`, ``x * sigmoid(fc2(relu(fc1(avg(x)))))``, and ``spatial(x) = x * sigmoid(conv(x))`` with
    a 1x1 convolution from C channels to one.

    The first paper adds. The second compares several combinations; the authors' code uses the maximum. This is the
    maximum of the gated maps, not of the gates, so that where ``x`` is negative it is the map of the smaller gate.
    Where both are equal, each gets half of the gradient. The sum lies between 0 and 2 ``x``.

    ``channel`` is called as a module, so that it can be hooked, replaced, wrapped, compiled or sharded. Weights start
    by He's rule, biases at zero. ``channel.gate`` and ``gate`` are the sigmoids, called with the logits (B, C, 1, ...)
    and (B, 1, \*S): forward hooks on them see the gates.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the channel excitation's hidden width, which is never below 1; None means
            16, as everywhere in this library. The papers use 2.
        hidden_channels: The hidden width itself, instead of the ratio.
        combine: "sum" or "max".
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        bias: Whether the layers of both excitations have biases.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``bias`` is not a bool, ``dtype`` is not a floating dtype, or the input is
            not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of range, both ``reduction_ratio`` and ``hidden_channels`` are given, ``combine`` is
            unknown, ``backend`` is unknown or not available here, or the input is not (B, C, \*S).

    Reference:
        Roy et al., "Concurrent spatial and channel 'squeeze & excitation' in fully convolutional networks", MICCAI
        2018; "Recalibrating fully convolutional networks with spatial and channel 'squeeze and excitation' blocks",
        IEEE Transactions on Medical Imaging 38(2), 2019.

    Example:
        >>> import torch
        >>> attention = SCSE(64, reduction_ratio=2)
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> output, channel_map, spatial_map = attention.forward_with_maps(torch.randn(2, 64, 32, 32))
        >>> channel_map.shape, spatial_map.shape
        (torch.Size([2, 64, 1, 1]), torch.Size([2, 1, 32, 32]))
    """

    backend = Option(BACKENDS, shared_with=("channel",))
    combine = Option(COMBINATIONS)
    spatial_dims = Fixed(_checks.positive_int)
    gates = MappingProxyType({"channel_map": "channel.gate", "spatial_map": "gate"})
    needs = "channel", "conv", "gate"

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = None,
        hidden_channels: int | None = None,
        combine: Combination = "sum",
        spatial_dims: int = 2,
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        self.combine = combine
        self.backend = backend
        self.channel = SqueezeExcitation(
            self._channels,
            reduction_ratio=reduction_ratio,
            hidden_channels=hidden_channels,
            bias=bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.conv = drawn_convolution(self._channels, 1, 1, self.spatial_dims, bias=bias, device=device, dtype=dtype)
        self.gate = nn.Sigmoid()

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        width = width_of(self.conv)
        return self._channels if width is None else width

    def reset_parameters(self) -> None:
        """Reinitialise the weights; the channel excitation is reset if it has ``reset_parameters``."""
        reset(self.channel)
        draw((self.conv,))

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x`` by channel and by location, and combine both."""
        self._check(x)
        return self._combined(x, self.channel(x))[0]

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> DualAttentionMaps:
        """Gate ``x`` and return both gates too; the gate of a watched or replaced channel half is recorded."""
        self._check(x)
        if odd := oddity(self, {"channel": HALVES["channel"]}):
            check_recordable(self, odd, x)
            with heard_gate(self, "channel") as channel_map:
                by_channel = self.channel(x)
            gate = channel_map().to(x.dtype)
        else:
            by_channel, gate = self.channel.forward_with_maps(x)
        output, spatial_map = self._combined(x, by_channel)
        return DualAttentionMaps(output, gate, spatial_map)

    def _check(self, x: Tensor) -> None:
        _checks.feature_map("x", x, width_of(self.conv), self.spatial_dims)
        check_layer(self, self.conv, "x", x)

    def _combined(self, x: Tensor, by_channel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the combination of both excitations, and the spatial gate."""
        gate = location_factor(x, partial(convolved, self, "conv", backend=self.backend), self.gate, x)
        if self.combine == "sum" and (_checks.traced(by_channel) or by_channel.shape == x.shape):
            return passes_through(x, self.backend, (), by_channel).gate(spatial_gate=gate), gate  # in one pass
        combine = torch.add if self.combine == "sum" else torch.maximum
        return combine(by_channel, passes_through(x, self.backend).gate(spatial_gate=gate)), gate

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, combine={self.combine!r}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
