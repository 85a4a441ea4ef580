"""ECA: channel attention by a convolution over neighbouring channels."""

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Fixed, Option
from blan_layers._module import Module, check_layer, runs_forward
from blan_layers.attention._layers import draw, same_convolution
from blan_layers.attention.channel import ChannelAttentionMaps
from blan_layers.functional.attention import channel_factors, passes_through


class ECA(Module):
    r"""Efficient channel attention, for any number of spatial axes.

    ``x * sigmoid(conv(avg(x)))``, where ``conv`` is a one-dimensional convolution across the channels with one kernel,
    no bias, and zero padding.

    Unless it is given, the kernel size follows from the number of channels: it is the odd number nearest to ``(log2(C)
    + 1) / 2`` (Eq. 12 with gamma = 2 and b = 1), and the larger of two that are equally near, as in the authors' code.
    It is 3 for 64 channels and 5 for 128 to 1024.

    Weights start by He's rule. ``gate`` is the sigmoid, called with the logits (B, C, 1, ...): a forward hook on it
    sees the gate. The authors' weights load unchanged.

    Args:
        channels: Channels C of the map, from which the kernel size follows; None if ``kernel_size`` is given. The
            weights do not depend on C, so that maps with any other number of channels are accepted too.
        kernel_size: Size of the kernel across channels, odd; None means the size that follows from ``channels``.
        backend: "auto", "reference" (plain operations), "blocked" (blocks that stay in the CPU's cache) or "triton"
            (fused kernels on a GPU); all give the same results.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same, with one or more spatial axes S.

    Raises:
        TypeError: A number is not an int, ``dtype`` is not a floating dtype, or the input is not a dense floating-point
            tensor of the weights' dtype.
        ValueError: A number is below 1, ``kernel_size`` is even, ``backend`` is unknown or not available here, or the
            input is not (B, C, \*S).

    Reference:
        Wang et al., "ECA-Net: Efficient channel attention for deep convolutional neural networks", CVPR 2020, Eqs. 9
        and 12.

    Example:
        >>> import torch
        >>> attention = ECA(256)
        >>> attention.kernel_size
        5
        >>> attention(torch.randn(2, 256, 16, 16)).shape
        torch.Size([2, 256, 16, 16])
        >>> attention.forward_with_maps(torch.randn(2, 256, 100)).channel_map.shape
        torch.Size([2, 256, 1])
    """

    backend = Option(BACKENDS)
    kernel_size = Fixed(_checks.odd_int)
    gates = MappingProxyType({"channel_map": "gate"})
    needs = "conv", "gate"

    def __init__(
        self,
        channels: int | None,
        *,
        kernel_size: int | None = None,
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if channels is not None or kernel_size is None:
            found = _kernel_size(_checks.positive_int("channels", channels))
        self.kernel_size = found if kernel_size is None else kernel_size
        _checks.placement(device, dtype)
        self.backend = backend
        self.conv = same_convolution(1, 1, self.kernel_size, 1, bias=False, device=device, dtype=dtype)
        self.gate = nn.Sigmoid()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        draw((self.conv,))

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of ``x``."""
        return self._gated(x).output

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> ChannelAttentionMaps:
        """Gate the channels of ``x`` and return the gate as well."""
        return self._gated(x)

    def _gated(self, x: Tensor) -> ChannelAttentionMaps:
        _checks.feature_map("x", x)
        check_layer(self, self.conv, "x", x)
        passes = passes_through(x, self.backend, ("avg",))
        gate, _ = channel_factors(passes.pool_space(), self.conv, self.gate, ("avg",), "cbam", x)
        return ChannelAttentionMaps(passes.gate(gate), gate)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"kernel_size={self.kernel_size}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


def _kernel_size(channels: int, gamma: int = 2, b: int = 1) -> int:
    """Return the odd kernel size of Eq. 12."""
    size = int((math.log2(channels) + b) / gamma)
    return size if size % 2 else size + 1
