"""RDAM: an encoder's and a decoder's features interwoven by dual attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._init import he_normal_, reset
from blan_layers.attention._layers import (
    ActivationFactory,
    NormFactory,
    build,
    same_convolution,
)
from blan_layers.attention.cbam import DualAttentionMaps, apply_dual_attention, check_dual_attention
from blan_layers.attention.channel import ChannelAttention
from blan_layers.attention.spatial import SpatialAttention
from blan_layers.functional.attention import POOLS, Arrangement, Form, Pool


class RDAM(nn.Module):
    r"""Residual dual attention module: two maps convolved into one, gated by channel and location, plus the first.

    ``CBAM(conv_activation(conv_norm(conv([encoder_features; decoder_features])))) + encoder_features``

    The paper names neither the convolution's kernel nor a norm or activation after it; ours is 3x3 with bias and has
    neither, and all of them are arguments. On Eq. 2 and its two forms see :class:`ChannelAttention`.

    Args:
        channels: Channels C of the encoder's features and of the result.
        decoder_channels: Channels of the decoder's features; None means C.
        conv_kernel_size: Kernel size of the convolution that joins both, along every axis, odd.
        conv_norm: Called as ``conv_norm(channels)`` to make the norm after that convolution; None means no norm.
        conv_activation: Called as ``conv_activation()`` to make the activation after it; None means no activation.
        reduction_ratio: Channels divided by the channel MLP's hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of its ratio.
        pools: Which of "avg" and "max" feed the channel gate.
        kernel_size: Size of the spatial convolution along every axis, odd.
        arrangement: "channel-spatial", "spatial-channel" or "parallel" (see :class:`CBAM`).
        form: "cbam" or "printed" (see :class:`ChannelAttention`).
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to make the norm of the spatial map before its sigmoid; None means no norm.
        bias: Whether the channel MLP has biases; the joining convolution has one, the spatial one has none.
        backend: "auto", "reference" (plain operations, differentiable any number of times), "blocked" (blocks that stay
            in the CPU's cache, differentiable once) or "triton" (fused kernels on a GPU, differentiable once).
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        encoder_features (B, C, \*S), decoder_features (B, decoder_channels, \*S) -> (B, C, \*S).

    Raises:
        TypeError: A number is not an int, a norm or activation makes no module, or an input is not a floating-point
            tensor.
        ValueError: A number is out of its range, both ``reduction_ratio`` and ``hidden_channels`` are given, ``pools``,
            ``form`` or ``arrangement`` is unknown or contradicts another, ``backend`` is unknown or cannot be
            taken, an input has another number of channels or axes, or the inputs differ in batch or spatial sizes.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, section 3.2, Eqs. 2 and 3, Fig. 2.

    Example:
        >>> import torch
        >>> rdam = RDAM(64, decoder_channels=32)
        >>> rdam(torch.randn(2, 64, 16, 16), torch.randn(2, 32, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        *,
        decoder_channels: int | None = None,
        conv_kernel_size: int = 3,
        conv_norm: NormFactory | None = None,
        conv_activation: ActivationFactory | None = None,
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
        owner = "RDAM"
        self.channels = _checks.positive_int(owner, "channels", channels)
        self.decoder_channels = (
            self.channels
            if decoder_channels is None
            else _checks.positive_int(owner, "decoder_channels", decoder_channels)
        )
        _checks.odd_int(owner, "conv_kernel_size", conv_kernel_size)
        check_dual_attention(
            owner, channels, reduction_ratio, hidden_channels, pools, kernel_size, arrangement, form, spatial_dims
        )
        _checks.choice(owner, "backend", backend, _checks.BACKENDS)
        self.arrangement = arrangement
        self.backend = backend
        self.conv = same_convolution(
            self.channels + self.decoder_channels,
            self.channels,
            conv_kernel_size,
            spatial_dims,
            bias=True,
            device=device,
            dtype=dtype,
        )
        self.conv_norm = (
            None if conv_norm is None else build(owner, "conv_norm", conv_norm, channels, device=device, dtype=dtype)
        )
        self.conv_activation = (
            None
            if conv_activation is None
            else build(owner, "conv_activation", conv_activation, device=device, dtype=dtype)
        )
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
        he_normal_(self.conv)

    def reset_parameters(self) -> None:
        """Draw the weights anew, and reset norms and activation if they know how."""
        he_normal_(self.conv)
        for module in (self.conv_norm, self.conv_activation):
            if module is not None:
                reset(module)
        self.channel.reset_parameters()
        self.spatial.reset_parameters()

    def forward(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        """Interweave the decoder's features with the encoder's."""
        return self.forward_with_maps(encoder_features, decoder_features).output

    def forward_with_maps(self, encoder_features: Tensor, decoder_features: Tensor) -> DualAttentionMaps:
        """Interweave the features and return both gates as well."""
        owner, spatial_dims = "RDAM", self.spatial.spatial_dims
        _checks.feature_map(owner, "encoder_features", encoder_features, self.channels, spatial_dims)
        _checks.feature_map(owner, "decoder_features", decoder_features, self.decoder_channels, spatial_dims)
        _checks.same_layout(owner, "encoder_features", encoder_features, "decoder_features", decoder_features)
        x = self.conv(torch.cat([encoder_features, decoder_features], 1))
        for module in (self.conv_norm, self.conv_activation):
            if module is not None:
                x = module(x)
        return apply_dual_attention(
            owner, x, self.channel, self.spatial, self.arrangement, self.backend, encoder_features
        )

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, decoder_channels={self.decoder_channels}, arrangement={self.arrangement!r}"
