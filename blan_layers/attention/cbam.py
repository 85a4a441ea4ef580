"""CBAM: channel attention and spatial attention together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._module import runs_forward
from blan_layers.attention._dual import DualAttention, DualAttentionMaps
from blan_layers.attention._layers import ActivationFactory, NormFactory
from blan_layers.functional.attention import POOLS, Arrangement, Form, Pool


class CBAM(DualAttention):
    r"""Convolutional block attention module.

    ``"channel-spatial"``: ``spatial(channel(x))``; ``"spatial-channel"``: ``channel(spatial(x))``; ``"parallel"``:
    ``spatial(x, channel(x))``, both gates computed from ``x``. ``channel`` is a :class:`ChannelAttention` and
    ``spatial`` a :class:`SpatialAttention`, whose docstrings give the equations.

    Both are called as modules, so that each can be hooked, replaced, wrapped, compiled or sharded. Where nothing
    watches them, large maps go through fused passes with the same results.

    Args:
        channels: Channels C of the map.
        reduction_ratio: Channels divided by the channel MLP's hidden width, which is never below 1; None means 16.
        hidden_channels: The hidden width itself, instead of the ratio.
        pools: Which of "avg" and "max" feed the channel gate.
        kernel_size: Size of the spatial convolution along every axis, odd.
        arrangement: "channel-spatial", "spatial-channel" or "parallel".
        form: "cbam", or "printed" for Eq. 2 of the BLAN paper to the letter (see :class:`ChannelAttention`).
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(1)`` to build the norm of the spatial logits before their sigmoid; None means no norm.
        activation: Called as ``activation()`` to build the activation of the channel MLP; None means ReLU.
        bias: Whether the channel MLP has biases; the spatial convolution has none.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, or the input is not a floating-point
            tensor.
        ValueError: A number is out of range, both ``reduction_ratio`` and ``hidden_channels`` are given, ``pools``,
            ``form`` or ``arrangement`` is unknown or contradicts another, ``backend`` is unknown or not available here,
            or the input is not (B, C, \*S).

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
        activation: ActivationFactory | None = None,
        bias: bool = True,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(arrangement, backend)
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

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x`` by channel and by location."""
        return self._gate(x)

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> DualAttentionMaps:
        """Gate ``x`` and return both gates as well."""
        return self._gate_with_maps(x)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, arrangement={self.arrangement!r}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
