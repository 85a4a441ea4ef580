"""CBAM: channel attention and spatial attention together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers.attention._layers import NormFactory, check_spatial_dims
from blan_layers.attention.channel import ChannelAttention
from blan_layers.attention.spatial import SpatialAttention
from blan_layers.functional.attention import ARRANGEMENTS, POOLS, Arrangement, Form, Pool, check_pools, gate_both


class DualAttentionMaps(NamedTuple):
    """A map gated by channel and by location, and both gates."""

    output: Tensor
    """(B, C, *S)"""
    channel_map: Tensor
    """(B, C, 1, ...), in [0, 1]"""
    spatial_map: Tensor
    """(B, 1, *S), in [0, 1]"""


class CBAM(nn.Module):
    r"""Convolutional block attention module.

    ``"channel-spatial"``: ``spatial(channel(x))``; ``"spatial-channel"``: ``channel(spatial(x))``; ``"parallel"``:
    ``channel(x) * spatial_map(x)``, both gates computed from ``x``. ``channel`` is a :class:`ChannelAttention` and
    ``spatial`` a :class:`SpatialAttention`, whose docstrings give the equations.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the channel MLP's hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of its ratio.
        pools: Which of "avg" and "max" feed the channel gate.
        kernel_size: Size of the spatial convolution along every axis, odd.
        arrangement: "channel-spatial", "spatial-channel" or "parallel".
        form: "cbam", or "printed" for Eq. 2 of the BLAN paper to the letter (see :class:`ChannelAttention`).
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to make the norm of the spatial map before its sigmoid; None means no norm.
        bias: Whether the channel MLP has biases; the spatial convolution has none.
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``norm`` makes no module, or the input is not a floating-point tensor.
        ValueError: A number is out of its range, both ``reduction_ratio`` and ``hidden_channels`` are given, ``pools``,
            ``form`` or ``arrangement`` is unknown or contradicts another, ``backend`` is unknown or cannot be taken, or
            the input is not (B, C, \*S).

    Reference:
        Woo et al., "CBAM: Convolutional block attention module", ECCV 2018.

    Example:
        >>> import torch
        >>> attention = CBAM(64)
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> output, channel_map, spatial_map = attention.forward_with_maps(torch.randn(2, 64, 32, 32))
        >>> channel_map.shape, spatial_map.shape
        (torch.Size([2, 64, 1, 1]), torch.Size([2, 1, 32, 32]))
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction_ratio: int | None = None,
        hidden_channels: int | None = None,
        pools: Sequence[Pool] = POOLS,
        kernel_size: int = 7,
        arrangement: Arrangement = "channel-spatial",
        form: Form = "cbam",
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = _checks.positive_int("CBAM", "channels", channels)
        check_dual_attention(
            "CBAM", channels, reduction_ratio, hidden_channels, pools, kernel_size, arrangement, form, spatial_dims
        )
        _checks.choice("CBAM", "backend", backend, _checks.BACKENDS)
        self.arrangement = arrangement
        self.backend = backend
        self.channel = ChannelAttention(
            channels,
            reduction_ratio=reduction_ratio,
            hidden_channels=hidden_channels,
            pools=pools,
            form=form,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.spatial = SpatialAttention(
            kernel_size, spatial_dims=spatial_dims, norm=norm, bias=False, device=device, dtype=dtype
        )

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.channel.reset_parameters()
        self.spatial.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x`` by channel and by location."""
        return self.forward_with_maps(x).output

    def forward_with_maps(self, x: Tensor) -> DualAttentionMaps:
        """Gate ``x`` and return both gates as well."""
        _checks.feature_map("CBAM", "x", x, self.channels, self.spatial.spatial_dims)
        return apply_dual_attention("CBAM", x, self.channel, self.spatial, self.arrangement, self.backend)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, arrangement={self.arrangement!r}"


def check_dual_attention(
    owner: str,
    channels: int,
    reduction_ratio: int | None,
    hidden_channels: int | None,
    pools: Sequence[Pool],
    kernel_size: int,
    arrangement: Arrangement,
    form: Form,
    spatial_dims: int,
) -> None:
    """Refuse a configuration in the name of the module that was given it, not of its parts."""
    _checks.hidden_width(owner, channels, reduction_ratio, hidden_channels, default_ratio=16)
    _checks.odd_int(owner, "kernel_size", kernel_size)
    _checks.choice(owner, "arrangement", arrangement, ARRANGEMENTS)
    check_spatial_dims(owner, spatial_dims)
    check_pools(owner, pools, form)


def apply_dual_attention(
    owner: str,
    x: Tensor,
    channel: ChannelAttention,
    spatial: SpatialAttention,
    arrangement: Arrangement,
    backend: _checks.Backend,
    residual: Tensor | None = None,
) -> DualAttentionMaps:
    """Gate a map by both modules, add the residual if there is one, and return the gates as well."""
    gates = channel.mlp, spatial.score, channel.pools
    return DualAttentionMaps(*gate_both(owner, x, *gates, arrangement, channel.form, residual, backend))
