"""Coordinate attention: a gate along every spatial axis."""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Fixed
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.attention._layers import NormFactory, check_spatial_dims, convolved, draw, drawn_convolution, norm_of
from blan_layers.functional.attention import factor

REDUCTION_RATIO = 32
FEWEST_HIDDEN = 8


class CoordinateMaps1d(NamedTuple):
    """A gated sequence and its gate."""

    output: Tensor
    """(B, C, W)"""
    width_map: Tensor
    """(B, C, W), in [0, 1]"""


class CoordinateMaps2d(NamedTuple):
    """A gated map and its gates."""

    output: Tensor
    """(B, C, H, W)"""
    height_map: Tensor
    """(B, C, H, 1), in [0, 1]"""
    width_map: Tensor
    """(B, C, 1, W), in [0, 1]"""


class CoordinateMaps3d(NamedTuple):
    """A gated volume and its gates."""

    output: Tensor
    """(B, C, D, H, W)"""
    depth_map: Tensor
    """(B, C, D, 1, 1), in [0, 1]"""
    height_map: Tensor
    """(B, C, 1, H, 1), in [0, 1]"""
    width_map: Tensor
    """(B, C, 1, 1, W), in [0, 1]"""


CoordinateMaps: TypeAlias = CoordinateMaps1d | CoordinateMaps2d | CoordinateMaps3d

MAPS: tuple[type[CoordinateMaps], ...] = (CoordinateMaps1d, CoordinateMaps2d, CoordinateMaps3d)


class CoordinateAttention(Module):
    r"""Coordinate attention, for 1, 2 or 3 spatial axes: ``x`` times one gate per axis.

    For the two axes of the paper, ``x * g_h * g_w`` with

    - ``z_h`` the average of ``x`` over the width and ``z_w`` the average over the height (Eqs. 4 and 5),
    - ``f_h, f_w = split(hardswish(norm(conv([z_h; z_w]))))``, concatenated along their length and split again (Eq. 6),
    - ``g_h = sigmoid(conv_h(f_h))``, ``g_w = sigmoid(conv_w(f_w))`` (Eqs. 7 and 8).

    With three axes, each ``z`` is the average over the other two axes, and there is also a ``conv_d``. With one axis
    there is nothing to average over, and the gate comes from a perceptron at each location.

    The paper does not specify the activation. Hard-swish and the minimum hidden width of 8 are those of the authors'
    code. The paper's norm is a batch norm, ``norm=nn.BatchNorm2d`` here; the default has none, like all gates of this
    library, so that training and evaluation give the same, for a batch of one as well. The authors' weights load
    unchanged.

    Weights start by He's rule, biases at zero. ``gate`` is the sigmoid, called once per axis, in order, with the logits
    (B, C, H, 1), then (B, C, 1, W): a forward hook on it sees the gates.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the hidden width, which is then never below 8.
        hidden_channels: The hidden width itself, instead of the ratio, which must then keep its default.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(hidden)`` to build the norm after the first convolution, whose output is (B, hidden, L,
            1, ...) with L the total length of all axes; None means no norm.
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
        Hou et al., "Coordinate attention for efficient mobile network design", CVPR 2021, Eqs. 4 to 9.

    Example:
        >>> import torch
        >>> attention = CoordinateAttention(64, norm=torch.nn.BatchNorm2d)
        >>> attention(torch.randn(2, 64, 32, 24)).shape
        torch.Size([2, 64, 32, 24])
        >>> output, height_map, width_map = attention.forward_with_maps(torch.randn(2, 64, 32, 24))
        >>> height_map.shape, width_map.shape
        (torch.Size([2, 64, 32, 1]), torch.Size([2, 64, 1, 24]))
    """

    needs = "conv", "conv_d", "conv_h", "conv_w", "gate"
    spatial_dims = Fixed(_checks.positive_int)

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = REDUCTION_RATIO,
        hidden_channels: int | None = None,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        hidden = _hidden_width(self._channels, reduction_ratio, hidden_channels)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.placement(device, dtype)

        def conv(inputs: int, outputs: int) -> nn.Module:
            return drawn_convolution(inputs, outputs, 1, self.spatial_dims, bias=True, device=device, dtype=dtype)

        self.conv = conv(self._channels, hidden)
        self.norm = norm_of(norm, hidden, device=device, dtype=dtype)
        for name in self._axis_convs():
            self.add_module(name, conv(hidden, self._channels))
        self.gate = nn.Sigmoid()
        self.gates = dict.fromkeys(MAPS[self.spatial_dims - 1]._fields[1:], "gate")

    def _axis_convs(self) -> tuple[str, ...]:
        """Return the names of the convolutions of the spatial axes, in order."""
        return ("conv_d", "conv_h", "conv_w")[-self.spatial_dims :]

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        width = width_of(self.conv)
        return self._channels if width is None else width

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset the norm if it has ``reset_parameters``."""
        draw(self.children())

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x`` along every spatial axis."""
        return self._gated(x).output

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> CoordinateMaps:
        """Gate ``x`` along every spatial axis and return the gates as well."""
        return self._gated(x)

    def _gated(self, x: Tensor) -> CoordinateMaps:
        _checks.feature_map("x", x, width_of(self.conv), self.spatial_dims)
        check_layer(self, self.conv, "x", x)
        axes = range(2, 2 + self.spatial_dims)
        features = convolved(self, "conv", torch.cat([_along(axis, axes, x) for axis in axes], 2))
        features = F.hardswish(features if self.norm is None else self.norm(features))
        parts = features.split([x.shape[axis] for axis in axes], 2)
        output, gates = x, []
        for place, (axis, name) in enumerate(zip(axes, self._axis_convs(), strict=True)):
            logits = convolved(self, name, parts[place]).transpose(2, axis)
            gates.append(factor(logits, self.gate, x))
            output = output * gates[-1]
        return MAPS[self.spatial_dims - 1](output, *gates)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, spatial_dims={self.spatial_dims}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


def _along(axis: int, axes: range, x: Tensor) -> Tensor:
    """Return the average of a map over all spatial axes but one, which comes first: (B, C, size, 1, ...)."""
    others = [other for other in axes if other != axis]
    return (x.mean(others, keepdim=True) if others else x).transpose(2, axis)


def _hidden_width(channels: int, reduction_ratio: int | None, hidden_channels: int | None) -> int:
    """Return the hidden width: the given one, or the one from the ratio, at least the authors' minimum."""
    if hidden_channels is None:
        return max(FEWEST_HIDDEN, _checks.hidden_width(channels, reduction_ratio, None, REDUCTION_RATIO))
    given = None if reduction_ratio == REDUCTION_RATIO else reduction_ratio
    return _checks.hidden_width(channels, given, hidden_channels)
