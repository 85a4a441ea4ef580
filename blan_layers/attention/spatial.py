"""Spatial attention: which location of the map matters."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._init import he_normal_, reset
from blan_layers.attention._layers import NormFactory, build, check_spatial_dims, same_convolution
from blan_layers.functional.attention import gate_locations


class SpatialAttentionMaps(NamedTuple):
    """A gated map and its gate."""

    output: Tensor
    """(B, C, *S)"""
    spatial_map: Tensor
    """(B, 1, *S), in [0, 1]"""


class SpatialAttention(nn.Module):
    r"""Spatial gate of CBAM, for 1, 2 or 3 spatial axes and any number of channels.

    ``x * sigmoid(norm(conv([mean_c(x); max_c(x)])))``

    The maps stand in the order of the BLAN paper's Eq. 3, average first. CBAM's published code has the maximum first
    and a batch norm of one channel: swap the two input channels of its weights, and pass ``norm=nn.BatchNorm2d``.

    The gradient of the maximum is shared equally among tied maxima. Weights start by He's rule, biases at zero.

    Args:
        kernel_size: Size of the convolution along every axis, odd.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to make the norm between convolution and sigmoid; None means no norm.
        bias: Whether the convolution has a bias.
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``norm`` makes no module, or the input is not a floating-point tensor.
        ValueError: ``kernel_size`` is even or below 1, ``spatial_dims`` is not 1, 2 or 3, the input does not have
            that many spatial axes, or ``backend`` is unknown or cannot be taken.

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
        owner = "SpatialAttention"
        self.kernel_size = _checks.odd_int(owner, "kernel_size", kernel_size)
        self.spatial_dims = check_spatial_dims(owner, spatial_dims)
        _checks.choice(owner, "backend", backend, _checks.BACKENDS)
        self.backend = backend
        self.conv = same_convolution(2, 1, self.kernel_size, self.spatial_dims, bias=bias, device=device, dtype=dtype)
        self.norm = None if norm is None else build(owner, "norm", norm, 1, device=device, dtype=dtype)
        he_normal_(self.conv)

    def reset_parameters(self) -> None:
        """Draw the convolution's weight anew, and reset the norm if it knows how."""
        he_normal_(self.conv)
        if self.norm is not None:
            reset(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Gate the locations of ``x``."""
        return self.forward_with_maps(x).output

    def forward_with_maps(self, x: Tensor) -> SpatialAttentionMaps:
        """Gate the locations of ``x`` and return the gate as well."""
        owner = "SpatialAttention"
        _checks.feature_map(owner, "x", x, None, self.spatial_dims)
        return SpatialAttentionMaps(*gate_locations(owner, x, self.score, self.backend))

    def score(self, pooled: Tensor) -> Tensor:
        """Apply convolution and norm to the two pooled maps (B, 2, *S), and return the gate's logits (B, 1, *S)."""
        logits: Tensor = self.conv(pooled)
        return logits if self.norm is None else self.norm(logits)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"kernel_size={self.kernel_size}, spatial_dims={self.spatial_dims}"
