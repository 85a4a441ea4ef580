"""Channel attention: gates that weight the channels of a map."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Option
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.attention._layers import GATES, ActivationFactory, GateFunction, build, draw
from blan_layers.functional.attention import FORMS, POOLS, Form, Pool, channel_factors, check_pools, passes_through


class ChannelAttentionMaps(NamedTuple):
    """A gated map and its gate."""

    output: Tensor
    """(B, C, *S)"""
    channel_map: Tensor
    """(B, C, 1, ...), in [0, 1]"""


class ChannelAttention(Module):
    r"""Channel gate of CBAM, for any number of spatial axes.

    ``x * gate(MLP(avg(x)) + MLP(max(x)))`` with ``MLP(v) = fc2(activation(fc1(v)))`` and one MLP for both pools. By
    default the gate is a sigmoid and the activation is ReLU.

    Eq. 2 of the BLAN paper, as printed, closes the sigmoid after the average branch. Its text follows CBAM, where both
    branches are inside the sigmoid, and so does the default. ``form="printed"`` is the equation as printed, ``x *
    sigmoid(MLP(avg(x))) + MLP(max(x))``, whose ``channel_map`` is ``sigmoid(MLP(avg(x)))``.

    The gradient of the maximum is shared equally among tied maxima. Weights start by He's rule, biases at zero.
    ``gate`` is a module, called with the logits (B, C, 1, ...): a forward hook on it sees the gate.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the MLP's hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of the ratio.
        pools: Which of "avg" and "max" feed the gate; their branches are added.
        form: "cbam" or "printed"; "printed" needs both pools.
        activation: Called as ``activation()`` to build the activation of the hidden layer; None means ReLU.
        gate: "sigmoid", or "hard-sigmoid" for ``relu6(v + 3) / 6``, as in mobile networks.
        bias: Whether the MLP's layers have biases.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same, with one or more spatial axes S.

    Raises:
        TypeError: A number is not an int, ``activation`` does not return a module, ``dtype`` is not a floating dtype,
            or the input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is below 1, both ``reduction_ratio`` and ``hidden_channels`` are given, ``pools``, ``form``
            or ``gate`` is unknown or contradicts another, ``backend`` is unknown or not available here, or the input is
            not (B, C, \*S).

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.1; Zheng et al., "BLAN:
        Bi-directional ladder attentive network for facial attribute prediction", Pattern Recognition 100, 2020, Eq. 2.

    Example:
        >>> import torch
        >>> attention = ChannelAttention(64)
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> attention.forward_with_maps(torch.randn(2, 64, 100)).channel_map.shape
        torch.Size([2, 64, 1])
    """

    gates = MappingProxyType({"channel_map": "gate"})
    needs = "fc1", "fc2", "activation", "gate"
    backend = Option(BACKENDS)
    form = Option(FORMS)

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = None,
        hidden_channels: int | None = None,
        pools: Sequence[Pool] = POOLS,
        form: Form = "cbam",
        activation: ActivationFactory | None = None,
        gate: GateFunction = "sigmoid",
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        hidden = _checks.hidden_width(self._channels, reduction_ratio, hidden_channels)
        _checks.flag("bias", bias)
        _checks.placement(device, dtype)
        self.form = form
        self.pools = pools
        self.backend = backend
        self.fc1 = nn.Linear(self._channels, hidden, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, self._channels, bias=bias, device=device, dtype=dtype)
        draw((self.fc1, self.fc2))
        self.activation = (
            nn.ReLU() if activation is None else build("activation", activation, device=device, dtype=dtype)
        )
        _checks.choice("gate", gate, tuple(GATES))
        self.gate = GATES[gate]()

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        draw((self.fc1, self.fc2, self.activation))

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        width = width_of(self.fc1)
        return self._channels if width is None else width

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools that feed the gate."""
        return self._pools

    @pools.setter
    def pools(self, pools: Sequence[Pool]) -> None:
        check_pools(pools, self.form)
        self._pools = tuple(pools)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of ``x``."""
        return self._gated(x).output

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> ChannelAttentionMaps:
        """Gate the channels of ``x`` and return the gate as well."""
        return self._gated(x)

    def _gated(self, x: Tensor) -> ChannelAttentionMaps:
        self.check("x", x)
        passes = passes_through(x, self.backend, self.pools)
        gate, shift = self.factors(passes.pool_space(), x)
        return ChannelAttentionMaps(passes.gate(gate, shift), gate)

    def check(self, name: str, x: Tensor) -> None:
        """Refuse a map that the weights were not built for, and a form that does not fit the pools."""
        _checks.feature_map(name, x, width_of(self.fc1))
        self.check_state(name, x)

    def check_state(self, name: str, x: Tensor) -> None:
        """Run the checks of ``check`` that remain when the map's shape is known to fit."""
        check_pools(self._pools, self.form)
        check_layer(self, self.fc1, name, x)

    def factors(self, pooled: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gate (B, C, 1, ...) from the spatial pools (B, pools, C), and the shift of the printed form."""
        return channel_factors(pooled, self.mlp, self.gate, self.pools, self.form, x)

    def mlp(self, pooled: Tensor) -> Tensor:
        """Apply the shared perceptron to pooled features (..., C)."""
        logits: Tensor = self.fc2(self.activation(self.fc1(pooled)))
        return logits

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, pools={self.pools}, form={self.form!r}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


class SqueezeExcitation(ChannelAttention):
    r"""Squeeze-and-excitation: a channel gate from the average pool only.

    ``x * gate(fc2(activation(fc1(avg(x)))))``. By default the gate is a sigmoid and the activation is ReLU.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of the ratio.
        activation: Called as ``activation()`` to build the activation of the hidden layer; None means ReLU.
        gate: "sigmoid", or "hard-sigmoid" for ``relu6(v + 3) / 6``, as in mobile networks.
        bias: Whether the two layers have biases.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same, with one or more spatial axes S.

    Raises:
        TypeError: A number is not an int, ``activation`` does not return a module, ``dtype`` is not a floating dtype,
            or the input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is below 1, both ``reduction_ratio`` and ``hidden_channels`` are given, ``backend`` is
            unknown or not available here, or the input is not (B, C, \*S).

    Reference:
        Hu et al., "Squeeze-and-excitation networks", CVPR 2018, Eqs. 2 to 4.

    Example:
        >>> import torch
        >>> SqueezeExcitation(64)(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = None,
        hidden_channels: int | None = None,
        activation: ActivationFactory | None = None,
        gate: GateFunction = "sigmoid",
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            reduction_ratio=reduction_ratio,
            hidden_channels=hidden_channels,
            pools=("avg",),
            activation=activation,
            gate=gate,
            bias=bias,
            backend=backend,
            device=device,
            dtype=dtype,
        )

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}"
