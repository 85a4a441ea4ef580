"""Pictures of attention maps, which need the extra ``plot``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["overlay"]

Levels: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Any]

INCHES = 1.2
"""Side of a picture, in inches."""

OPACITY = 0.65

MOST_PIXELS = 2**24
"""The largest number of values that torch.quantile accepts."""

ALONG = "depth_map", "height_map", "width_map"

MAPS: tuple[set[str], ...] = ({"channel_map", "spatial_map"}, {"attention_map"}, {"attention_maps"})
"""Names of the maps of a module, some of which may be missing."""


def overlay(images: Tensor, maps: Levels, *, names: Sequence[str] | None = None) -> "Figure":
    r"""Draw attention maps over images: one column per image, one row per level.

    The first row shows the images. Below it, each map is resized to its image and drawn over it in colour, on one
    colour scale for all maps. Only spatial maps are drawn: a map that also has channels is averaged over them, one-axis
    maps are multiplied, and of the maps of several steps the last is used. A channel map has no locations and is not
    drawn.

    Args:
        images: Images in [0, 1], or in any other range, which is then rescaled per image.
        maps: What :func:`~blan_layers.capture_maps` yields, or its entry of one module; what ``forward_with_maps``
            returns; or spatial maps: one tensor, several, or a mapping of names to tensors.
        names: Names of the levels; None means the names of the mapping, or numbers.

    Shape:
        images (B, 3, H, W) or (B, 1, H, W); maps (B, 1, H', W') or (B, H', W').

    Returns:
        A Matplotlib figure, which is not shown.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError: ``images`` or a map is not a floating-point tensor, or ``names`` is not a sequence of names.
        ValueError: A shape is wrong, a map has another batch size, there is no map, or the number of names is wrong.

    Example:
        >>> images, gates = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 8, 8)
        >>> overlay(images, {"layer1": gates}).savefig("maps.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise ImportError(
            said("needs Matplotlib, which is not installed. Install the extra: pip install 'blan-layers[plot]'.")
        ) from None
    _checks.floating("images", images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(
            said(
                f"images must be (B, 3, H, W) or (B, 1, H, W), got shape {_checks.shape(images)}. "
                "Stack them, channels first; a single image (C, H, W) needs a batch axis: images[None]."
            )
        )
    levels = _levels(maps, images)
    if isinstance(names, str):
        raise TypeError(said(f"names must be a sequence of names, got {names!r}. Pass [{names!r}] for one level."))
    if names is not None and not isinstance(names, Iterable):
        raise TypeError(said(f"names must be a sequence of names, got {names!r}. Pass one name per level."))
    titles = [str(name) for name in (levels if names is None else names)]
    if len(titles) != len(levels):
        raise ValueError(
            said(f"names must have one entry per level, got {len(titles)} for {len(levels)}. Name each level.")
        )
    every = torch.stack(list(levels.values())).nan_to_num(0, 0, 0)
    scale = ScalarMappable(Normalize(float(every.min()), max(float(every.max()), float(every.min()) + 0.01)), "viridis")
    count = len(images)
    high = INCHES * min(max(images.shape[2] / images.shape[3], 0.25), 4)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0, compress=True)
    words = 0.09 * max(len(line) for title in ("image", *titles) for line in title.split("\n"))
    figure = Figure(figsize=(INCHES * count + words + 0.8, high * (len(levels) + 1) + 0.2), layout=layout)
    axes = figure.subplots(len(levels) + 1, count, squeeze=False)
    for row, title in enumerate(("image", *titles)):
        axes[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8, parse_math=False)
    for frame in axes.flat:
        frame.set(xticks=[], yticks=[])
        frame.spines[:].set_visible(False)
    shown = _stretched(images)
    for column, (image, grey) in enumerate(zip(shown, _pale(shown), strict=True)):
        axes[0, column].imshow(image.numpy())
        for row, level in enumerate(levels.values(), start=1):
            axes[row, column].imshow(grey.numpy())
            axes[row, column].imshow(scale.to_rgba(level[column].numpy()), alpha=OPACITY)
    bar = figure.colorbar(scale, ax=axes, alpha=OPACITY, fraction=0.12 / count, aspect=10 * (len(levels) + 1), pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    return figure


def _levels(maps: Levels, images: Tensor) -> dict[str, Tensor]:
    """Return maps (B, H, W) resized to the images, by name."""
    given: Mapping[str, Any]
    if isinstance(maps, Tensor) or hasattr(maps, "_fields"):
        given = {"map": maps}
    elif isinstance(maps, Mapping):
        given = {"map": maps} if _of_one_module(maps) else maps
    elif isinstance(maps, Sequence):
        given = {str(level): gate for level, gate in enumerate(maps, start=1)}
    else:
        raise TypeError(said(f"maps must be tensors, got {type(maps).__name__}. Pass what capture_maps yields."))
    levels = {}
    for name, found in given.items():
        gate = _with_locations(name, found)
        if gate is None:
            continue  # of a channel gate
        _checks.floating(f"maps[{name!r}]", gate)
        gate = gate.detach().float().cpu()
        gate = gate.unsqueeze(1) if gate.ndim == 3 and gate.shape[1] > 1 else gate
        if gate.ndim != 4 or gate.shape[:2] != (len(images), 1) or not gate.numel():
            raise ValueError(
                said(
                    f"maps[{name!r}] must be ({images.shape[0]}, 1, H, W), a spatial map of each image, got shape "
                    f"{_checks.shape(gate)}. Capture the maps of these images."
                )
            )
        levels[name] = F.interpolate(gate, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    if not levels:
        raise ValueError(said("maps must contain at least one spatial map, got none. A channel map has no locations."))
    return levels


def _of_one_module(maps: Mapping[str, Any]) -> bool:
    return any({*maps} <= names for names in MAPS) or {*maps} in ({*ALONG}, {*ALONG[1:]})


def _with_locations(name: str, found: Any) -> Any:
    """Return the map (B, 1, H, W) to draw of a module's maps, or None; return anything else unchanged."""
    maps = found if isinstance(found, Mapping) else found._asdict() if hasattr(found, "_asdict") else None
    if maps is None:
        return found
    maps = {key: gate for key, gate in maps.items() if key != "output"}
    if not _of_one_module(maps):
        raise ValueError(
            said(
                f"maps[{name!r}] must be one map or the maps of one module, got {', '.join(map(repr, maps))}. "
                "Pass the map to draw."
            )
        )
    if "spatial_map" in maps:
        return maps["spatial_map"]
    if "attention_maps" in maps:
        return maps["attention_maps"][:, -1].mean(1, keepdim=True)
    if "attention_map" in maps:
        return maps["attention_map"].mean(1, keepdim=True)
    along = [gate for name, gate in maps.items() if name in ALONG]
    return math.prod(along[1:], start=along[0]).mean(1, keepdim=True) if along else None


def _stretched(images: Tensor) -> Tensor:
    """Return images (B, H, W, 3) in [0, 1], black where values are NaN."""
    images = images.detach().float().cpu()
    known = images.isfinite()
    low = images.where(known, torch.inf).amin((1, 2, 3), keepdim=True)
    high = images.where(known, -torch.inf).amax((1, 2, 3), keepdim=True)
    beyond = (low < 0) | (high > 1)
    images = torch.where(beyond, (images - low) / (high - low).clamp_min(1e-12), images).nan_to_num(0, 1, 0)
    return images.expand(-1, 3, -1, -1).movedim(1, -1)


def _pale(images: Tensor) -> Tensor:
    """Return light grey images of equal contrast, so that the colours drawn over them look alike."""
    grey = images.mean(-1, keepdim=True)
    flat = grey.flatten(1)
    flat = flat[:, :: 1 + flat.shape[1] // MOST_PIXELS]
    low, high = (flat.quantile(q, 1)[:, None, None, None] for q in (0.02, 0.98))
    return (0.4 + 0.6 * ((grey - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)).expand(-1, -1, -1, 3)
