"""Residual attention: a mask amplifies the features of a trunk; an hourglass computes such masks."""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Fixed, said
from blan_layers._init import reset
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.attention._layers import (
    NormFactory,
    check_spatial_dims,
    draw,
    drawn_convolution,
    in_sequence,
    norm_of,
    resized,
)
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import observable, whole
from blan_layers.functional.attention import amplified, location_factor

MaskForm: TypeAlias = Literal["mixed", "channel", "spatial"]

MASK_FORMS: tuple[MaskForm, ...] = ("mixed", "channel", "spatial")

SMALL = 1e-5
"""Added under the square roots that normalise the logits of a mask."""


class ResidualAttentionMaps(NamedTuple):
    """The features of a trunk, amplified by a mask, and the mask."""

    output: Tensor
    """(B, C, *S)"""
    attention_map: Tensor
    """What the mask returned: (B, C, *S), where some sizes may be 1."""


class ResidualAttention(Module):
    r"""Residual attention: the features of a trunk, amplified by a mask.

    ``(1 + mask(x)) * trunk(x)``

    Both are your own modules, called with the same map. The paper's mask is :class:`SoftMask`; its trunk is two
    residual units. Where the mask is zero, the trunk's features pass unchanged, so that many such modules can be
    stacked. This is Eq. 3 of the paper, which replaces the plain product of Eq. 1.

    Args:
        trunk: Computes the features.
        mask: Computes their mask, of the shape of the features; channels or locations may be 1.

    Shape:
        (B, C, \*S) -> the output shape of the trunk.

    Raises:
        TypeError: ``trunk`` or ``mask`` is not a module or does not return a dense floating-point tensor, or the input
            is not such a tensor.
        ValueError: The input is not (B, C, \*S), or the mask does not fit the trunk's features.

    Reference:
        Wang et al., "Residual attention network for image classification", CVPR 2017, section 3.1, Eq. 3 (reference
        [25] of the BLAN paper).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> attention = ResidualAttention(nn.Conv2d(64, 64, 3, padding=1), SoftMask(64, depth=2))
        >>> attention(torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 64, 32, 32])
        >>> attention.forward_with_maps(torch.randn(2, 64, 32, 32)).attention_map.shape
        torch.Size([2, 64, 32, 32])
    """

    gates = MappingProxyType({"attention_map": "mask"})
    needs = "trunk", "mask"
    holds = ("trunk",)

    def __init__(self, trunk: nn.Module, mask: nn.Module) -> None:
        super().__init__()
        for name, part in (("trunk", trunk), ("mask", mask)):
            if not isinstance(part, nn.Module):
                raise TypeError(said(f"{name} must be a torch.nn.Module, got {_kind(part)}. Pass an instance."))
        self.trunk = trunk
        self.mask = mask

    def reset_parameters(self) -> None:
        """Reset trunk and mask if they have ``reset_parameters``."""
        reset(self.trunk)
        reset(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """Amplify the trunk's features by the mask."""
        return self._raised(x).output

    @runs_forward
    def forward_with_maps(self, x: Tensor) -> ResidualAttentionMaps:
        """Amplify the trunk's features and return the mask as well."""
        return self._raised(x)

    def _raised(self, x: Tensor) -> ResidualAttentionMaps:
        _checks.feature_map("x", x)
        mask, features = self.mask(x), self.trunk(x)  # first the mask, whose errors are clearer
        _checks.floating("trunk(x)", features)
        _checks.floating("mask(x)", mask)
        _check_mask(mask, features)
        return ResidualAttentionMaps(amplified(features, mask), mask)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


def _kind(part: object) -> str:
    return f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__


def _check_mask(mask: Tensor, features: Tensor) -> None:
    """Refuse a mask whose sizes are neither those of the features nor 1."""
    if _checks.traced(mask, features):
        return
    fits = mask.ndim == features.ndim and all(
        one in (1, size) for one, size in zip(mask.shape, features.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            said(
                "mask(x) must have the sizes of trunk(x), or 1 in their place, got shapes "
                f"{_checks.shape(mask)} and {_checks.shape(features)}. Give both the same stride and channels."
            )
        )


class SoftMask(Module):
    r"""Soft mask branch of residual attention: an hourglass, two pointwise convolutions and a normalisation.

    ``normalise(conv(relu(conv(relu(hourglass(x))))))``. Every level of the hourglass max-pools its map (kernel 3,
    stride 2) before a residual unit, ``y = down(pool(x))``; all but the deepest add the result of the next level, ``y =
    skip(y) + next(y)``; and each returns ``up(y)``, linearly interpolated to the size of its input. ``down``, ``skip``
    and ``up`` are residual units ``x + conv1(relu(conv3(relu(conv1(relu(x))))))``.

    ``form`` selects the normalisation of the logits z, Eqs. 4 to 6 of the paper. ``"mixed"``, the best one in the
    paper, takes ``sigmoid(z)`` of every element. ``"channel"`` divides the channels at each location by their Euclidean
    norm, so that values lie in [-1, 1]. ``"spatial"`` takes ``sigmoid((z - mean) / deviation)``, with mean and standard
    deviation over the locations of each channel. Unlike in the paper, 1e-5 is added under the square roots, since a
    single location has a deviation of zero.

    Levels and units are those of the authors' published networks, whose depths are 3, 2 and 1 on maps of 56, 28 and 14
    locations per axis. These have no biases and a batch norm before every ReLU, that is ``norm=nn.BatchNorm2d,
    bias=False``; here norms are left out by default. Their pools pad only the end of each axis. Ours pad both ends, so
    that n locations along an axis always become n / 2, rounded up. No map is too small: one location stays one. (A
    program exported with dynamic sizes accepts maps of more than ``2**depth`` locations along every axis; smaller maps
    need their own export.)

    Weights start by He's rule, biases at zero. ``gate`` is called with the logits (B, C, \*S): the sigmoid, or for
    "channel" the division.

    Args:
        channels: Channels C of the map and of its mask.
        depth: Number of times the map is pooled.
        form: "mixed", "channel" or "spatial".
        hidden_channels: Width of the residual units' bottlenecks; None means C / 4, at least 1.
        spatial_dims: Number of spatial axes: 1, 2 or 3.
        norm: Called as ``norm(width)`` to build the norm before each ReLU; None means no norms.
        bias: Whether the convolutions have biases.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        (B, C, \*S) -> the same.

    Raises:
        TypeError: A number is not an int, ``norm`` does not return a module, ``dtype`` is not a floating dtype, or the
            input is not a dense floating-point tensor of the weights' dtype.
        ValueError: A number is out of range, ``form`` is unknown, or the input is not (B, C, \*S).

    Reference:
        Wang et al., "Residual attention network for image classification", CVPR 2017, sections 3.1 and 3.2, Fig. 2,
        Eqs. 4 to 6.

    Example:
        >>> import torch
        >>> SoftMask(64, depth=3)(torch.randn(2, 64, 56, 56)).shape
        torch.Size([2, 64, 56, 56])
    """

    needs = "hourglass", "head", "gate"
    spatial_dims = Fixed(_checks.positive_int)

    def __init__(
        self,
        channels: int,
        *,
        depth: int,
        form: MaskForm = "mixed",
        hidden_channels: int | None = None,
        spatial_dims: int = 2,
        norm: NormFactory | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = channels = _checks.positive_int("channels", channels)
        self._depth = _checks.positive_int("depth", depth)
        _checks.choice("form", form, MASK_FORMS)
        self._form = form
        hidden = _checks.hidden_width(channels, None, hidden_channels, default_ratio=4)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        _checks.flag("bias", bias)
        _checks.placement(device, dtype)
        conv = partial(drawn_convolution, spatial_dims=self.spatial_dims, bias=bias, device=device, dtype=dtype)
        norm_before = partial(norm_of, norm, device=device, dtype=dtype)

        def unit() -> _ResidualUnit:
            return _ResidualUnit(
                in_sequence(
                    norm1=norm_before(channels),
                    relu1=nn.ReLU(),
                    conv1=conv(channels, hidden, 1),
                    norm2=norm_before(hidden),
                    relu2=nn.ReLU(),
                    conv2=conv(hidden, hidden, 3),
                    norm3=norm_before(hidden),
                    relu3=nn.ReLU(),
                    conv3=conv(hidden, channels, 1),
                )
            )

        level = _Level(unit(), unit())
        for _ in range(self._depth - 1):
            level = _Level(unit(), unit(), unit(), level)
        self.hourglass = level
        self.head = in_sequence(
            norm1=norm_before(channels),
            relu1=nn.ReLU(),
            conv1=conv(channels, channels, 1),
            norm2=norm_before(channels),
            relu2=nn.ReLU(),
            conv2=conv(channels, channels, 1),
        )
        self.gate = _UnitLength() if form == "channel" else nn.Sigmoid()

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and reset the norms if they have ``reset_parameters``."""
        draw(self.children())

    @property
    def channels(self) -> int:
        """Channels of the map, read from the weights where possible."""
        width = width_of(self._first())
        return self._channels if width is None else width

    @property
    def depth(self) -> int:
        """Number of times the map is pooled."""
        return self._depth

    @property
    def form(self) -> MaskForm:
        """How the logits are normalised."""
        return self._form

    def forward(self, x: Tensor) -> Tensor:
        """Return the mask of ``x``."""
        first = self._first()
        _checks.feature_map("x", x, width_of(first), self.spatial_dims)
        check_layer(self, first, "x", x)
        score = self._standard_score if self._form == "spatial" else self.score
        mask = location_factor(x, score, self.gate, x)
        return mask.clone()  # so that it may be changed in place

    def score(self, x: Tensor) -> Tensor:
        """Return the mask's logits (B, C, *S)."""
        logits: Tensor = self.head(self.hourglass(x))
        return logits

    def _standard_score(self, x: Tensor) -> Tensor:
        return observable(_standardised(at_least_float32(self.score(x))))

    def _first(self) -> nn.Module | None:
        """Return the first layer of the head, or None if the head was replaced by another module."""
        return self.head._modules.get("conv1")

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, depth={self.depth}, form={self.form!r}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


class _ResidualUnit(Module):
    """A branch added to its input."""

    needs = ("branch",)

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


class _Level(Module):
    """One level of the hourglass: pool, the next smaller level, and interpolation."""

    needs = "down", "skip", "deeper", "up"

    def __init__(
        self,
        down: _ResidualUnit,
        up: _ResidualUnit,
        skip: _ResidualUnit | None = None,
        deeper: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.down, self.skip, self.deeper, self.up = down, skip, deeper, up

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(_halved(x))
        if self.skip is not None and self.deeper is not None:
            y = self.skip(y) + self.deeper(y)
        return resized(self.up(y), x)


@whole
def _halved(x: Tensor) -> Tensor:
    """Max-pool a map along every axis with windows of 3 locations and stride 2."""
    if x.ndim == 3:  # torch compiles its one-dimensional pool for a single size only
        return torch.max_pool2d(x[:, :, None], (1, 3), (1, 2), (0, 1)).squeeze(2)
    return (torch.max_pool2d if x.ndim == 4 else torch.max_pool3d)(x, 3, 2, 1)


@whole
def _standardised(logits: Tensor) -> Tensor:
    """Return logits standardised over the locations of every channel."""
    space = tuple(range(2, logits.ndim))
    centred = logits - logits.mean(space, keepdim=True)
    return centred * (centred.square().mean(space, keepdim=True) + SMALL).rsqrt()


class _UnitLength(nn.Module):
    """Divides the channels at every location by their Euclidean norm."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits * (logits.square().sum(1, keepdim=True) + SMALL).rsqrt()
