"""Attention gate: what a coarser map says of the locations of a skip connection."""

from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._module import Module, check_layer, runs_forward, weight_of, width_of
from blan_layers.attention._layers import (
    Convolution,
    NormFactory,
    check_spatial_dims,
    draw,
    drawn_convolution,
    norm_of,
    resized,
)
from blan_layers.attention.spatial import SpatialAttentionMaps
from blan_layers.functional.attention import location_factor


class AttentionGate(Module):
    r"""Additive attention gate of Attention U-Net, for 1, 2 or 3 spatial axes and a gating signal of any size.

    ``skip * sigmoid(up(psi(relu(norm(down(W_x skip) + W_g gating + b)))))``, with ``down`` and ``up`` linear
    interpolations to the grid of the gating signal and back to that of the skip; ``W_x``, ``W_g`` and ``psi`` are
    convolutions of kernel 1. Where the two grids are one, nothing is interpolated: these are the paper's Eqs. 1 and 2.

    The paper computes on the gating signal's grid, and so does this module, which keeps only small maps for the
    backward. How the skip gets there differs: the paper strides ``W_x``, the authors' code gives it a kernel as large
    as its stride; both fix a whole ratio of the sizes. Interpolation needs none, and serves gating signals as large as
    the skip and larger ones too; at the ratio 2 it is the authors' kernel with equal weights. At larger ratios it reads
    the two nearest locations of the skip along each axis, and those between reach no gate. Many implementations
    bring the gating signal to the skip's grid instead: for that, resize it before the call.

    The paper applies the sigmoid on the coarse grid and interpolates the gate. Here the logits are interpolated and the
    sigmoid stands last, so that ``gate`` sees logits at every location of the skip; between the coarse locations the
    two differ a little. The authors' code ends with another convolution and a batch norm, which the paper's equations
    lack: put them behind the module if you want them.

    Weights start by He's rule, biases at zero. ``gate`` is the sigmoid, called with the logits (B, 1, \*S): a forward
    hook on it sees the gate.

    Args:
        channels: Channels C of the skip connection and of the result.
        gating_channels: Channels of the gating signal.
        hidden_channels: Channels in which both are added; None means C / 2, at least 1.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(hidden_channels)`` to make the norm of the sum before its ReLU; None means no norm.
        bias: Whether ``W_g`` and ``psi`` have biases; ``W_x`` has none, being added to ``W_g``.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        skip (B, C, \*S), gating (B, gating_channels, \*S') -> as skip.

    Raises:
        TypeError: A number is not an int, ``norm`` makes no module, ``dtype`` is no floating dtype, or an input is not
            a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of its range, an input has another number of channels or axes, or the inputs differ
            in batch.

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
        _checks.floating_dtype(dtype)

        def pointwise(in_channels: int, out_channels: int, *, bias: bool) -> Convolution:
            return drawn_convolution(
                in_channels, out_channels, 1, self.spatial_dims, bias=bias, device=device, dtype=dtype
            )

        self.skip_conv = pointwise(self._channels, hidden, bias=False)
        self.gating_conv = pointwise(self._gating_channels, hidden, bias=bias)
        self.norm = norm_of(norm, hidden, device=device, dtype=dtype)
        self.psi = pointwise(hidden, 1, bias=bias)
        self.gate = nn.Sigmoid()

    def reset_parameters(self) -> None:
        """Draw the weights anew, and reset the norm if it knows how."""
        draw(self.children())

    @property
    def channels(self) -> int:
        """Channels of the skip connection, read off the weights where they show it."""
        weight = weight_of(self.skip_conv)
        return self._channels if weight is None else weight.shape[1]

    @property
    def gating_channels(self) -> int:
        """Channels of the gating signal, read off the weights where they show it."""
        weight = weight_of(self.gating_conv)
        return self._gating_channels if weight is None else weight.shape[1]

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Gate the locations of ``skip`` by what it and ``gating`` say of them."""
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
        """Refuse maps that the convolutions were not made for."""
        for name, x, conv in (("skip", skip, self.skip_conv), ("gating", gating, self.gating_conv)):
            _checks.feature_map(name, x, width_of(conv), self.spatial_dims)
            check_layer(self, conv, name, x)
        if not _checks.traced(skip, gating) and skip.shape[0] != gating.shape[0]:
            raise ValueError(
                said(
                    f"skip and gating must hold the same images, got batches of {skip.shape[0]} and "
                    f"{gating.shape[0]}. Pass one gating map per skip."
                )
            )

    def score(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Return the gate's logits (B, 1, *S)."""
        joined = resized(self.skip_conv(skip), gating) + self.gating_conv(gating)
        if self.norm is not None:
            joined = self.norm(joined)
        return resized(self.psi(torch.relu(joined)), skip)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, gating_channels={self.gating_channels}, spatial_dims={self.spatial_dims}"

    if TYPE_CHECKING:

        def __call__(self, skip: Tensor, gating: Tensor) -> Tensor:
            """Call ``forward``, and the hooks around it."""
