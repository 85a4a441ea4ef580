"""BAM: one gate for every element, from channel and spatial logits together."""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Fixed
from blan_layers._init import he_normal_
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.attention._layers import NormFactory, check_spatial_dims, convolved, draw, drawn_convolution, norm_of
from blan_layers.functional.attention import amplified, factor


class BAMMaps(NamedTuple):
    """A gated map and its gate."""

    output: Tensor
    """(B, C, *S)"""
    attention_map: Tensor
    """(B, C, *S), in [0, 1]"""


class BAM(Module):
    r"""Bottleneck attention module, for 1, 2 or 3 spatial axes.

    ``x + x * sigmoid(channel(x) + spatial(x))`` with ``h(y) = relu(norm(y))``, each with its own norm, and

    - ``channel(x) = fc2(h(fc1(avg(x))))``, a logit for each channel,
    - ``spatial(x) = conv4(h(conv3(h(conv2(h(conv1(x)))))))``, a logit for each location: ``conv1`` and ``conv4`` are
      1x1, ``conv2`` and ``conv3`` are 3x3 and dilated, and all but the last have the hidden width.

    Eqs. 3 and 4 have a batch norm at the end of each branch and mention no activations. The authors' code has norm and
    ReLU after every layer except the last one of a branch, and so does this module. The code also multiplies the two
    logits, whereas Eq. 2 adds them, which did best in the paper's comparison; this module adds them.

    The paper's norms are batch norms, ``norm=nn.BatchNorm2d`` here; the default has none, like all gates of this
    library, so that training and evaluation give the same, for a batch of one as well.

    Weights start by He's rule, biases at zero. ``gate`` is the sigmoid, called with the sum of both logits (B, C, \*S):
    a forward hook on it sees the gate.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the hidden width of both branches, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of the ratio.
        dilation: Dilation of the 3x3 convolutions.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(hidden)`` to build each of the four norms: one for features (B, hidden, 1, ...) and three
            for maps (B, hidden, \*S). None means no norms.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, ``dtype`` is not a floating dtype, or the
            input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of range, both ``reduction_ratio`` and ``hidden_channels`` are given, or the input
            is not (B, C, \*S).

    Reference:
        Park et al., "BAM: Bottleneck attention module", BMVC 2018, Eqs. 1 to 4.

    Example:
        >>> import torch
        >>> attention = BAM(64, norm=torch.nn.BatchNorm2d)
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> attention.forward_with_maps(torch.randn(2, 64, 32, 32)).attention_map.shape
        torch.Size([2, 64, 32, 32])
    """

    gates = MappingProxyType({"attention_map": "gate"})
    needs = "fc1", "fc2", "conv1", "conv2", "conv3", "conv4", "gate"
    dilation = Fixed(_checks.positive_int)
    spatial_dims = Fixed(_checks.positive_int)

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = None,
        hidden_channels: int | None = None,
        dilation: int = 4,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        hidden = _checks.hidden_width(self._channels, reduction_ratio, hidden_channels)
        self.dilation = dilation
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.placement(device, dtype)

        def linear(inputs: int, outputs: int) -> nn.Module:
            layer = nn.Linear(inputs, outputs, device=device, dtype=dtype)
            he_normal_(layer)
            return layer

        def convolution(inputs: int, outputs: int, size: int, dilation: int = 1) -> nn.Module:
            return drawn_convolution(
                inputs, outputs, size, self.spatial_dims, dilation=dilation, bias=True, device=device, dtype=dtype
            )

        built_norm = partial(norm_of, norm, hidden, device=device, dtype=dtype)
        self.fc1 = linear(self._channels, hidden)
        self.fc1_norm = built_norm()
        self.fc2 = linear(hidden, self._channels)
        self.conv1 = convolution(self._channels, hidden, 1)
        self.conv1_norm = built_norm()
        self.conv2 = convolution(hidden, hidden, 3, self.dilation)
        self.conv2_norm = built_norm()
        self.conv3 = convolution(hidden, hidden, 3, self.dilation)
        self.conv3_norm = built_norm()
        self.conv4 = convolution(hidden, 1, 1)
        self.gate = nn.Sigmoid()

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        width = width_of(self.fc1)
        return self._channels if width is None else width

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset the norms if they have ``reset_parameters``."""
        draw(self.children())

    def forward(self, x: Tensor) -> Tensor:
        """Gate every element of ``x``, and add ``x``."""
        return self._gated(x).output

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> BAMMaps:
        """Gate every element of ``x``, add ``x``, and return the gate as well."""
        return self._gated(x)

    def _gated(self, x: Tensor) -> BAMMaps:
        _checks.feature_map("x", x, width_of(self.fc1), self.spatial_dims)
        check_layer(self, self.fc1, "x", x)
        gate = factor(self._channel_logits(x) + self._spatial_logits(x), self.gate, x)
        return BAMMaps(amplified(x, gate), gate)

    def _channel_logits(self, x: Tensor) -> Tensor:
        """Return a logit for each channel, (B, C, 1, ...)."""
        axes = (..., *[None] * self.spatial_dims)
        features = self.fc1(x.flatten(2).mean(2))
        if self.fc1_norm is not None:
            features = self.fc1_norm(features[axes]).flatten(1)
        logits: Tensor = self.fc2(torch.relu(features))
        return logits[axes]

    def _spatial_logits(self, x: Tensor) -> Tensor:
        """Return a logit for each location, (B, 1, *S)."""
        for name in ("conv1", "conv2", "conv3"):
            x = convolved(self, name, x)
            norm = getattr(self, f"{name}_norm")
            x = torch.relu(x if norm is None else norm(x))
        return convolved(self, "conv4", x)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, dilation={self.dilation}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
