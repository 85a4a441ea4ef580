"""Spatial attention: a gate that weights the locations of a map."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Fixed, Option
from blan_layers._module import Module, check_layer, runs_forward, watch
from blan_layers.attention._layers import CONVOLUTIONS, NormFactory, build, check_spatial_dims, draw, same_convolution
from blan_layers.functional._tracing import whole
from blan_layers.functional.attention import Passes, location_factor, passes_through


class SpatialAttentionMaps(NamedTuple):
    """A gated map and its gate."""

    output: Tensor
    """(B, C, *S)"""
    spatial_map: Tensor
    """(B, 1, *S), in [0, 1]"""


class SpatialAttention(Module):
    r"""Spatial gate of CBAM, for 1, 2 or 3 spatial axes and any number of channels.

    ``x * sigmoid(norm(conv([mean_c(x); max_c(x)])))``

    The pooled maps are in the order of Eq. 3 of the BLAN paper, average first. CBAM's published code has the maximum
    first and a one-channel batch norm: to use its weights, swap the two input channels and pass
    ``norm=nn.BatchNorm2d``.

    The gradient of the maximum is shared equally among tied maxima. Weights start by He's rule, biases at zero.
    ``gate`` is the sigmoid, called with the logits (B, 1, *S): a forward hook on it sees the gate.

    Args:
        kernel_size: Size of the convolution along every axis, odd.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to build the norm between convolution and sigmoid; None means no norm.
        bias: Whether the convolution has a bias.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        x (B, C, \*S) -> (B, C, \*S). With ``target`` (B, C', \*S), the gate is still computed from ``x`` but applied to
        ``target`` -> (B, C', \*S).

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, ``dtype`` is not a floating dtype, or an
            input is not a dense floating-point tensor of the weights' dtype.
        ValueError: ``kernel_size`` is even or below 1, ``spatial_dims`` is not 1, 2 or 3, the input does not have that
            many spatial axes, or ``backend`` is unknown or not available here.

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018, section 3.2; Zheng et al., "BLAN:
        Bi-directional ladder attentive network for facial attribute prediction", Pattern Recognition 100, 2020, Eq. 3.

    Example:
        >>> import torch
        >>> attention = SpatialAttention(7)
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> attention.forward_with_maps(torch.randn(2, 64, 32, 32)).spatial_map.shape
        torch.Size([2, 1, 32, 32])
    """

    gates = MappingProxyType({"spatial_map": "gate"})
    needs = "conv", "gate"
    backend = Option(BACKENDS)
    kernel_size = Fixed(_checks.odd_int)
    spatial_dims = Fixed(_checks.positive_int)

    def __init__(
        self,
        kernel_size: int = 7,
        *,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        bias: bool = False,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.flag("bias", bias)
        _checks.placement(device, dtype)
        self.backend = backend
        self.conv = same_convolution(2, 1, self.kernel_size, self.spatial_dims, bias=bias, device=device, dtype=dtype)
        self.norm = None if norm is None else build("norm", norm, 1, device=device, dtype=dtype)
        self.gate = nn.Sigmoid()
        draw((self.conv,))

    def reset_parameters(self) -> None:
        """Reinitialise the convolution's weight, and reset the norm if it has ``reset_parameters``."""
        draw(layer for layer in (self.conv, self.norm) if layer is not None)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Gate the locations of ``x``, or those of ``target``, by the gate computed from ``x``."""
        return self._gated(x, target).output

    @runs_forward
    def forward_with_maps(self, x: Tensor, target: Tensor | None = None) -> SpatialAttentionMaps:
        """Gate the locations of ``x``, or of ``target``, and return the gate as well."""
        return self._gated(x, target)

    def _gated(self, x: Tensor, target: Tensor | None) -> SpatialAttentionMaps:
        self.check("x", x)
        if target is not None:
            _checks.feature_map("target", target, None, self.spatial_dims)
            _checks.same_layout("x", x, "target", target)
            self.check_state("target", target)
        passes = passes_through(x, self.backend)
        gate = self.factor(passes, passes.pool_channels(), x)
        if target is not None:
            return SpatialAttentionMaps(_times(x, target, gate), gate)
        return SpatialAttentionMaps(passes.gate(spatial_gate=gate), gate)

    def check(self, name: str, x: Tensor) -> None:
        """Refuse a map that the convolution was not built for."""
        _checks.feature_map(name, x, None, self.spatial_dims)
        self.check_state(name, x)

    def check_state(self, name: str, x: Tensor) -> None:
        """Run the checks of ``check`` that remain when the map's shape is known to fit."""
        check_layer(self, self.conv, name, x)

    def factor(self, passes: Passes, maps: Tensor, x: Tensor) -> Tensor:
        """Return the gate (B, 1, *S) from the channel pools (B, 2, *S) of a map."""
        if type(self.conv) in CONVOLUTIONS and not watch(self.conv):  # a watched layer sees the plain layout
            maps = passes.for_convolution(maps)
        elif not passes.plain:
            maps = maps.clone()  # the passes need theirs for the gradient, and other layers may change what they get
        return location_factor(maps, self.score, self.gate, x)

    def score(self, maps: Tensor) -> Tensor:
        """Apply convolution and norm to the two pooled maps (B, 2, *S), and return the gate's logits (B, 1, *S)."""
        logits: Tensor = self.conv(maps)
        return logits if self.norm is None else self.norm(logits)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"kernel_size={self.kernel_size}, spatial_dims={self.spatial_dims}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, target: Tensor | None = None) -> Tensor:
            """Call ``forward`` and its hooks."""


def for_channels(factory: Callable[..., nn.Module], channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``factory(channels, **options)``, without channels for spatial attention, which fits any number."""
    built = factory
    while isinstance(built, partial):
        built = built.func
    fits_any = isinstance(built, type) and issubclass(built, SpatialAttention)
    return factory(**options) if fits_any else factory(channels, **options)


@whole
def _times(x: Tensor, target: Tensor | None, gate: Tensor) -> Tensor:
    """Return the gated target, or the gated map; a tracer cannot tell which of them is given."""
    return (x if target is None else target) * gate
