"""RDAM: encoder and decoder features combined by dual attention."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import Option
from blan_layers._module import check_layer, runs_forward, weight_of, width_of
from blan_layers.attention._dual import DualAttention, DualAttentionMaps
from blan_layers.attention._layers import (
    ActivationFactory,
    NormFactory,
    build,
    check_spatial_dims,
    convolved,
    draw,
    same_convolution,
)
from blan_layers.functional._tracing import whole
from blan_layers.functional.attention import POOLS, Arrangement, Form, Pool

Resize: TypeAlias = Literal["nearest", "bilinear"]


class RDAM(DualAttention):
    r"""Residual dual attention module: two maps convolved into one, gated by channel and location, plus the first map.

    ``CBAM(conv_activation(conv_norm(conv([encoder_features; decoder_features])))) + encoder_features``

    The paper specifies neither the kernel size of the convolution nor a norm or activation after it. Here the
    convolution is 3x3 with bias, without norm or activation, and all of these are arguments. For the two forms of Eq. 2
    see :class:`ChannelAttention`.

    Args:
        channels: Channels C of the encoder's features and of the result.
        decoder_channels: Channels of the decoder's features; None means C.
        resize: How the decoder's features are resized to the encoder's: "nearest", or "bilinear", which is linear along
            every axis. None requires equal sizes.
        conv_kernel_size: Kernel size, along every axis, of the convolution that combines both maps; odd.
        conv_norm: Called as ``conv_norm(channels)`` to build the norm after that convolution; None means no norm.
        conv_activation: Called as ``conv_activation()`` to build the activation after it; None means no activation.
        reduction_ratio: Channels divided by the channel MLP's hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of the ratio.
        pools: Which of "avg" and "max" feed the channel gate.
        kernel_size: Size of the spatial convolution along every axis, odd.
        arrangement: "channel-spatial", "spatial-channel" or "parallel" (see :class:`CBAM`).
        form: "cbam" or "printed" (see :class:`ChannelAttention`).
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to build the norm of the spatial logits before their sigmoid; None means no norm.
        activation: Called as ``activation()`` to build the activation of the channel MLP; None means ReLU.
        bias: Whether the channel MLP has biases; the combining convolution has one, the spatial one has none.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        encoder_features (B, C, \*S), decoder_features (B, decoder_channels, \*S), of any spatial sizes with ``resize``
        -> (B, C, \*S).

    Raises:
        TypeError: A number is not an int, a norm or activation does not return a module, or an input is not a
            floating-point tensor.
        ValueError: A number is out of range, both ``reduction_ratio`` and ``hidden_channels`` are given, ``pools``,
            ``form`` or ``arrangement`` is unknown or contradicts another, ``backend`` is unknown or not available here,
            an input has the wrong number of channels or axes, or the inputs differ in batch or spatial sizes.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, section 3.2, Eqs. 2 and 3, Fig. 2.

    Example:
        >>> import torch
        >>> rdam = RDAM(64, decoder_channels=32)
        >>> rdam(torch.randn(2, 64, 16, 16), torch.randn(2, 32, 16, 16)).shape
        torch.Size([2, 64, 16, 16])
    """

    needs = (*DualAttention.needs, "conv")
    resize = Option[Resize | None]((None, "nearest", "bilinear"))

    def __init__(
        self,
        channels: int,
        *,
        decoder_channels: int | None = None,
        resize: Resize | None = None,
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
        activation: ActivationFactory | None = None,
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(arrangement, backend)
        channels = _checks.positive_int("channels", channels)
        self._decoder_channels = (
            channels if decoder_channels is None else _checks.positive_int("decoder_channels", decoder_channels)
        )
        self.resize = resize
        conv_kernel_size = _checks.odd_int("conv_kernel_size", conv_kernel_size)
        _checks.placement(device, dtype)
        self.conv = same_convolution(
            channels + self._decoder_channels,
            channels,
            conv_kernel_size,
            check_spatial_dims(spatial_dims),
            bias=True,
            device=device,
            dtype=dtype,
        )
        self.conv_norm = (
            None if conv_norm is None else build("conv_norm", conv_norm, channels, device=device, dtype=dtype)
        )
        self.conv_activation = (
            None if conv_activation is None else build("conv_activation", conv_activation, device=device, dtype=dtype)
        )
        self._build_halves(
            channels,
            reduction_ratio,
            hidden_channels,
            pools,
            form,
            activation,
            bias,
            kernel_size,
            spatial_dims,
            norm,
            device=device,
            dtype=dtype,
        )
        draw((self.conv,))

    @property
    def channels(self) -> int:
        """Channels of the encoder's features, read from the convolution's weight where possible."""
        weight = weight_of(self.conv)
        return self._channels if weight is None else weight.shape[0]

    @property
    def decoder_channels(self) -> int:
        """Channels of the decoder's features, read from the convolution's weight where possible."""
        width = width_of(self.conv)
        return self._decoder_channels if width is None else width - self.channels

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset norms and activation if they have ``reset_parameters``."""
        draw(layer for layer in (self.conv, self.conv_norm, self.conv_activation) if layer is not None)
        super().reset_parameters()

    def forward(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        """Combine the decoder's features with the encoder's."""
        return self._gate(self._joined(encoder_features, decoder_features), encoder_features)

    @runs_forward
    def forward_with_maps(self, encoder_features: Tensor, decoder_features: Tensor) -> DualAttentionMaps:
        """Combine the features and return both gates as well."""
        return self._gate_with_maps(self._joined(encoder_features, decoder_features), encoder_features)

    def _joined(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        """Check both maps and combine them into one."""
        weight = weight_of(self.conv)
        known = weight is not None
        spatial_dims = None if weight is None else len(weight.shape) - 2
        channels = (self.channels, self.decoder_channels) if known else (None, None)
        _checks.in_order("encoder_features", encoder_features, "decoder_features", decoder_features, channels)
        _checks.feature_map("encoder_features", encoder_features, channels[0], spatial_dims)
        _checks.feature_map("decoder_features", decoder_features, channels[1], spatial_dims)
        if self.resize is not None:
            decoder_features = _resized(decoder_features, encoder_features, self.resize)
        remedy = "Resize one of them first, or build RDAM with resize='nearest'"
        _checks.same_layout("encoder_features", encoder_features, "decoder_features", decoder_features, remedy)
        check_layer(self, self.conv, "encoder_features", encoder_features)
        check_layer(self, self.conv, "decoder_features", decoder_features)
        x = convolved(self, "conv", torch.cat([encoder_features, decoder_features], 1), self.backend)
        for module in (self.conv_norm, self.conv_activation):
            if module is not None:
                x = module(x)
        return x

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, decoder_channels={self.decoder_channels}, arrangement={self.arrangement!r}"

    if TYPE_CHECKING:

        def __call__(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


@whole
def _resized(x: Tensor, like: Tensor, mode: Resize) -> Tensor:
    """Return a map resized to the spatial sizes of another."""
    if not torch.compiler.is_compiling() and not _checks.traced(x) and x.shape[2:] == like.shape[2:]:
        return x
    linear = ("linear", "bilinear", "trilinear")[x.ndim - 3]
    if mode == "nearest":
        return F.interpolate(x, like.shape[2:], mode="nearest")
    return F.interpolate(x, like.shape[2:], mode=linear, align_corners=False)
