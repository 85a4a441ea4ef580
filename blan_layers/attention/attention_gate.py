"""Attention gate: a coarser map gates the locations of a skip connection."""

from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Fixed
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.attention._layers import (
    Convolution,
    NormFactory,
    check_spatial_dims,
    convolved,
    draw,
    drawn_convolution,
    norm_of,
    resized,
)
from blan_layers.attention.spatial import SpatialAttentionMaps
from blan_layers.functional._tracing import observable
from blan_layers.functional.attention import location_factor


class AttentionGate(Module):
    r"""Additive attention gate of Attention U-Net, for 1, 2 or 3 spatial axes and a gating signal of any size.

    ``skip * sigmoid(up(psi(relu(norm(down(W_x skip) + W_g gating + b)))))``, where ``down`` and ``up`` are linear
    interpolations to the grid of the gating signal and back to that of the skip, and ``W_x``, ``W_g`` and ``psi`` are
    1x1 convolutions. Where the two grids agree, nothing is interpolated: these are the paper's Eqs. 1 and 2.

    Like the paper, this module computes on the grid of the gating signal, so that only small maps are kept for the
    backward pass. It differs in how the skip is brought to that grid. The paper strides ``W_x``, and the authors' code
    gives it a kernel as large as its stride; both require an integer ratio of the sizes. Interpolation has no such
    requirement, and also handles gating signals as large as the skip or larger. At a ratio of 2 it equals the authors'
    kernel with equal weights. At larger ratios it reads only the two nearest locations of the skip along each axis; the
    locations between them do not reach the gate. Many implementations resize the gating signal to the skip's grid
    instead: for that, resize it before the call.

    The paper applies the sigmoid on the coarse grid and interpolates the gate. Here the logits are interpolated and the
    sigmoid comes last, so that ``gate`` sees logits at every location of the skip; the two differ slightly between the
    coarse locations. The authors' code ends with another convolution and a batch norm, which the paper's equations
    lack: add them after the module if you want them.

    Weights start by He's rule, biases at zero. ``gate`` is the sigmoid, called with the logits (B, 1, \*S): a forward
    hook on it sees the gate.

    Args:
        channels: Channels C of the skip connection and of the result.
        gating_channels: Channels of the gating signal.
        hidden_channels: Channels of the sum of the two projections; None means C / 2, at least 1.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(hidden_channels)`` to build the norm of the sum before its ReLU; None means no norm.
        bias: Whether ``W_g`` and ``psi`` have biases; ``W_x`` has none, since its output is added to that of ``W_g``.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        skip (B, C, \*S), gating (B, gating_channels, \*S') -> (B, C, \*S).

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, ``dtype`` is not a floating dtype, or an
            input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of range, an input has the wrong number of channels or axes, or the inputs differ in
            batch.

    Reference:
        Oktay et al., "Attention U-Net: Learning where to look for the pancreas", MIDL 2018, section 3, Eqs. 1 and 2.

    Example:
        >>> import torch
        >>> attention = AttentionGate(64, 128)
        >>> skip, gating = torch.randn(2, 64, 32, 32), torch.randn(2, 128, 16, 16)
        >>> attention(skip, gating).shape
        torch.Size([2, 64, 32, 32])
        >>> attention.forward_with_maps(skip, gating).spatial_map.shape
        torch.Size([2, 1, 32, 32])
    """

    gates = MappingProxyType({"spatial_map": "gate"})
    needs = "skip_conv", "gating_conv", "psi", "gate"
    spatial_dims = Fixed(_checks.positive_int)

    def __init__(
        self,
        channels: int,
        gating_channels: int,
        *,
        hidden_channels: int | None = None,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        self._gating_channels = _checks.positive_int("gating_channels", gating_channels)
        hidden = _checks.hidden_width(self._channels, None, hidden_channels, default_ratio=2)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.flag("bias", bias)
        _checks.placement(device, dtype)

        def conv(in_channels: int, out_channels: int, *, bias: bool) -> Convolution:
            return drawn_convolution(
                in_channels, out_channels, 1, self.spatial_dims, bias=bias, device=device, dtype=dtype
            )

        self.skip_conv = conv(self._channels, hidden, bias=False)
        self.gating_conv = conv(self._gating_channels, hidden, bias=bias)
        self.norm = norm_of(norm, hidden, device=device, dtype=dtype)
        self.psi = conv(hidden, 1, bias=bias)
        self.gate = nn.Sigmoid()

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset the norm if it has ``reset_parameters``."""
        draw(self.children())

    @property
    def channels(self) -> int:
        """Channels of the skip connection, read from the weights where possible."""
        width = width_of(self.skip_conv)
        return self._channels if width is None else width

    @property
    def gating_channels(self) -> int:
        """Channels of the gating signal, read from the weights where possible."""
        width = width_of(self.gating_conv)
        return self._gating_channels if width is None else width

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Gate the locations of ``skip``, from ``skip`` and ``gating`` together."""
        return self._gated(skip, gating).output

    @runs_forward
    def forward_with_maps(self, skip: Tensor, gating: Tensor) -> SpatialAttentionMaps:
        """Gate the locations of ``skip`` and return the gate as well."""
        return self._gated(skip, gating)

    def _gated(self, skip: Tensor, gating: Tensor) -> SpatialAttentionMaps:
        self.check(skip, gating)
        gate = location_factor(skip, lambda skip: self.score(skip, gating), self.gate, skip)
        return SpatialAttentionMaps(skip * gate, gate)

    def check(self, skip: Tensor, gating: Tensor) -> None:
        """Refuse maps that the convolutions were not built for."""
        widths = width_of(self.skip_conv), width_of(self.gating_conv)
        _checks.in_order("skip", skip, "gating", gating, widths)
        for name, x, conv in (("skip", skip, self.skip_conv), ("gating", gating, self.gating_conv)):
            _checks.feature_map(name, x, width_of(conv), self.spatial_dims)
            check_layer(self, conv, name, x)
        _checks.same_images("skip", skip, "gating", gating, "Pass one gating map per skip")

    def score(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return the gate's logits (B, 1, *S)."""
        joined = resized(convolved(self, "skip_conv", skip), gating) + convolved(self, "gating_conv", gating)
        if self.norm is not None:
            joined = self.norm(joined)
        return observable(resized(convolved(self, "psi", torch.relu(joined)), skip))

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, gating_channels={self.gating_channels}, spatial_dims={self.spatial_dims}"

    if TYPE_CHECKING:

        def __call__(self, skip: Tensor, gating: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
