"""RAR: one map refined by another in several steps, weighted by an attention map."""

import math
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Checked, Fixed
from blan_layers._module import Module, check_layer, runs_forward, weight_of, width_of
from blan_layers.attention._layers import (
    NormFactory,
    check_spatial_dims,
    draw,
    drawn_convolution,
    in_sequence,
    norm_of,
)
from blan_layers.functional.attention import location_factor

DILATIONS = (2, 3, 4)
"""Dilations of the three blocks of the attention branch, as in the authors' code."""


class RARMaps(NamedTuple):
    """A refined map and the attention of every step."""

    output: Tensor
    """(B, C, *S)"""
    attention_maps: Tensor
    """(B, steps, C, *S), in [0, 1]"""


class RAR(Module):
    r"""Recurrent attention residual module: a map refined by another in a few steps with shared weights.

    Starting from ``x = encoder_features``, every step concatenates ``joined = [x; decoder_features]`` and computes
    ``x = (1 + sigmoid(attend(joined))) * relu(refine(joined) + x)``.

    ``refine`` is a bottleneck, ``conv1 -> relu -> conv -> relu -> conv1`` with a depthwise convolution between two
    pointwise ones. ``attend`` is two residual blocks ``h = relu(block(h) + h)`` and a last one, ``block(h) +
    shortcut(h)``. Its blocks are such bottlenecks as wide as both maps together, whose middle convolutions have C
    groups and dilations 2, 3 and 4. The attention has one value per element, so that it selects both channels and
    locations.

    The paper describes an attention map that selects a residual and refines the features. The sum, the layers, the two
    steps and their shared weights follow the authors' code, which is more complete: its ``(1 + A) * y`` is ``y`` plus
    the selected residual ``A * y``. The text could also be read as ``x + A * refine``. Then features would stay
    unchanged where the attention is 0; here they are refined everywhere, and amplified where it is above 0.

    There are two differences. The authors' convolutions have no bias and are each followed by a batch norm, that is
    ``norm=nn.BatchNorm2d, bias=False``; here norms are left out by default, as in :class:`RDAM`. Also, the maps may
    differ in channels: the number of groups is then the greatest common divisor of both.

    The first map is the one that is refined and returned, as in :class:`RDAM`, which this module can replace. In the
    authors' pass from deep to shallow layers, the upsampled deeper map comes first. Weights start by He's rule, biases
    at zero. ``gate`` is the sigmoid, called once per step with the logits (B, C, \*S).

    Args:
        channels: Channels C of the encoder's features and of the result.
        decoder_channels: Channels of the decoder's features; None means C.
        steps: Number of refinement steps.
        conv_kernel_size: Kernel size, along every axis, of the convolutions between the pointwise ones; odd.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(width)`` to build the norm after each convolution; None means no norms.
        bias: Whether the convolutions have biases.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        encoder_features (B, C, \*S), decoder_features (B, decoder_channels, \*S) -> (B, C, \*S).

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, ``dtype`` is not a floating dtype, or an
            input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of range, an input has the wrong number of channels or axes, or the inputs differ in
            batch or spatial sizes.

    Reference:
        Zhu et al., "Bidirectional feature pyramid network with recurrent attention residual modules for shadow
        detection", ECCV 2018, section 3 (reference [27] of the BLAN paper).

    Example:
        >>> import torch
        >>> rar = RAR(64, decoder_channels=32)
        >>> maps = rar.forward_with_maps(torch.randn(2, 64, 16, 16), torch.randn(2, 32, 16, 16))
        >>> maps.output.shape, maps.attention_maps.shape
        (torch.Size([2, 64, 16, 16]), torch.Size([2, 2, 64, 16, 16]))
    """

    gates = MappingProxyType({"attention_maps": "gate"})
    needs = "refine", "block1", "block2", "block3", "shortcut", "gate"
    spatial_dims = Fixed(_checks.positive_int)
    steps = Checked(_checks.positive_int)

    def __init__(
        self,
        channels: int,
        *,
        decoder_channels: int | None = None,
        steps: int = 2,
        conv_kernel_size: int = 3,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = channels = _checks.positive_int("channels", channels)
        self._decoder_channels = (
            channels if decoder_channels is None else _checks.positive_int("decoder_channels", decoder_channels)
        )
        self.steps = steps
        conv_kernel_size = _checks.odd_int("conv_kernel_size", conv_kernel_size)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.flag("bias", bias)
        _checks.placement(device, dtype)
        conv = partial(drawn_convolution, spatial_dims=self.spatial_dims, bias=bias, device=device, dtype=dtype)
        norm_after = partial(norm_of, norm, device=device, dtype=dtype)

        def bottleneck(taken: int, width: int, given: int, *, groups: int, dilation: int = 1) -> nn.Sequential:
            return in_sequence(
                conv1=conv(taken, width, 1),
                norm1=norm_after(width),
                relu1=nn.ReLU(),
                conv2=conv(width, width, conv_kernel_size, groups=groups, dilation=dilation),
                norm2=norm_after(width),
                relu2=nn.ReLU(),
                conv3=conv(width, given, 1),
                norm3=norm_after(given),
            )

        both = channels + self._decoder_channels
        groups = math.gcd(channels, both)
        first, second, last = (partial(bottleneck, both, both, groups=groups, dilation=d) for d in DILATIONS)
        self.refine = bottleneck(both, channels, channels, groups=channels)
        self.block1 = first(both)
        self.block2 = second(both)
        self.block3 = last(channels)
        self.shortcut = in_sequence(conv=conv(both, channels, 1), norm=norm_after(channels))
        self.gate = nn.Sigmoid()

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset the norms if they have ``reset_parameters``."""
        draw(self.children())

    @property
    def channels(self) -> int:
        """Channels of the encoder's features, read from the weights where possible."""
        weight = weight_of(self._first())
        return self._channels if weight is None else weight.shape[0]

    @property
    def decoder_channels(self) -> int:
        """Channels of the decoder's features, read from the weights where possible."""
        width = width_of(self._first())
        return self._decoder_channels if width is None else width - self.channels

    def forward(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        """Refine the encoder's features with the decoder's."""
        output, _ = self._refined(encoder_features, decoder_features)
        return output

    @runs_forward
    def forward_with_maps(self, encoder_features: Tensor, decoder_features: Tensor) -> RARMaps:
        """Refine the encoder's features and return the attention of every step as well."""
        output, maps = self._refined(encoder_features, decoder_features)
        return RARMaps(output, torch.stack(maps, 1))

    def _refined(self, encoder_features: Tensor, decoder_features: Tensor) -> tuple[Tensor, list[Tensor]]:
        self._check(encoder_features, decoder_features)
        x, maps = encoder_features, []
        for _ in range(self.steps):
            joined = torch.cat([x, decoder_features], 1)
            maps.append(location_factor(joined, self.attend, self.gate, x))
            x = (1 + maps[-1]) * torch.relu(self.refine(joined) + x)
        return x, maps

    def attend(self, joined: Tensor) -> Tensor:
        """Return the attention logits (B, C, *S) of the concatenated maps."""
        hidden = torch.relu(self.block1(joined) + joined)
        hidden = torch.relu(self.block2(hidden) + hidden)
        logits: Tensor = self.block3(hidden) + self.shortcut(hidden)
        return logits

    def _check(self, encoder_features: Tensor, decoder_features: Tensor) -> None:
        known = weight_of(self._first()) is not None
        channels = (self.channels, self.decoder_channels) if known else (None, None)
        maps = {"encoder_features": encoder_features, "decoder_features": decoder_features}
        _checks.in_order("encoder_features", encoder_features, "decoder_features", decoder_features, channels)
        for (name, x), width in zip(maps.items(), channels, strict=True):
            _checks.feature_map(name, x, width, self.spatial_dims)
        _checks.same_layout("encoder_features", encoder_features, "decoder_features", decoder_features)
        for name, x in maps.items():
            check_layer(self, self._first(), name, x)

    def _first(self) -> nn.Module | None:
        """Return the first layer of ``refine``, or None if ``refine`` was replaced by another module."""
        return self.refine._modules.get("conv1")

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, decoder_channels={self.decoder_channels}, steps={self.steps}"

    if TYPE_CHECKING:

        def __call__(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""
