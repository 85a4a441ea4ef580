"""Attention for the options ``attn_layer`` and ``se_layer`` of timm's networks, without importing timm."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from blan_layers import _checks
from blan_layers.attention.spatial import for_channels

__all__ = ["attention"]

BOTTLENECK = {"reduction_ratio", "hidden_channels"}


def attention(factory: Callable[..., nn.Module], **options: Any) -> Callable[..., nn.Module]:
    """Return a factory for timm's ``attn_layer`` or ``se_layer``, which accepts timm's argument names.

    ``rd_ratio``, a fraction of the channels, becomes its inverse ``reduction_ratio``, or ``hidden_channels`` where the
    inverse is not an integer. ``rd_channels`` becomes ``hidden_channels``, and ``act_layer`` becomes ``activation``.
    ``device`` and ``dtype`` are passed on. ``options`` override what timm passes. Of these arguments, those that the
    factory does not have, such as the width of a bottleneck, are left out.

    Args:
        factory: A class such as :class:`~blan_layers.CBAM`, called as ``factory(channels, **options)``, or as
            ``factory(**options)`` for :class:`~blan_layers.SpatialAttention`.
        **options: Passed to the factory.

    Raises:
        TypeError: ``factory`` is not callable, or timm passes an argument that neither this adapter nor the factory
            knows.
        ValueError: timm passes a ratio that is not in (0, 1].

    Example:
        >>> from blan_layers import CBAM
        >>> layer = attention(CBAM, kernel_size=3)
        >>> layer(64, rd_ratio=1 / 8).channel.fc1.out_features
        8
    """
    _checks.factory(factory)
    parameters = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def layer(
        channels: int,
        *,
        rd_ratio: float | None = None,
        rd_channels: int | None = None,
        rd_divisor: int | None = None,  # how timm rounds a width that it computed from the ratio
        act_layer: Callable[..., nn.Module] | None = None,
        **further: Any,
    ) -> nn.Module:
        given = dict(options)
        unknown = [name for name in further if name not in parameters and name not in ("device", "dtype")]
        if unknown and not takes_all:
            raise TypeError(
                f"attention: {factory!r} must take what timm passes, got {unknown[0]}={further[unknown[0]]!r}. "
                "Wrap the factory in a function that accepts it."
            )
        if rd_ratio is not None and not 0 < rd_ratio <= 1:
            raise ValueError(
                f"attention: rd_ratio must be above 0 and at most 1, got {rd_ratio!r}. Pass 1 / 16, for example."
            )
        translated = {"hidden_channels": rd_channels or None, "activation": act_layer, **further}
        if rd_ratio is not None and not rd_channels:
            ratio = 1 / rd_ratio
            if abs(ratio - round(ratio)) < 1e-6:
                translated["reduction_ratio"] = round(ratio)
            else:
                translated["hidden_channels"] = max(1, round(channels / ratio))
        if BOTTLENECK & set(given):
            translated = {name: value for name, value in translated.items() if name not in BOTTLENECK}
        for name, value in translated.items():
            if value is not None and (takes_all or name in parameters):
                given.setdefault(name, value)
        return for_channels(factory, channels, given)

    return layer
