"""Pictures of what attention looks at; they need the extra ``plot``."""

from collections.abc import Mapping, Sequence
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

INCHES = 1.6
"""Side of a picture."""


def overlay(images: Tensor, maps: Levels, *, names: Sequence[str] | None = None) -> "Figure":
    r"""Draw maps over images, an image in each row and a level in each column.

    A map is resized to its image and drawn from transparent (0) to red (1). A channel map has no locations, so that
    there is nothing of it to draw.

    Args:
        images: Images, in [0, 1] or of any range, which is then stretched for each.
        maps: Spatial maps: one tensor, several, or a mapping of names to tensors or to what
            :func:`~blan_layers.capture_maps` has for a module, of which the spatial map is taken.
        names: What the columns are called; None means the mapping's names, or numbers.

    Shape:
        images (B, 3, H, W) or (B, 1, H, W); maps (B, 1, H', W') or (B, H', W').

    Returns:
        A Matplotlib figure, which is not shown.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError: ``images`` or a map is not a floating-point tensor.
        ValueError: Shapes are others, a map is of another batch, there is none, or there are not as many names.

    Example:
        >>> images, gates = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 8, 8)
        >>> overlay(images, {"layer1": gates}).get_size_inches().tolist()  # doctest: +SKIP
        [3.2, 3.5]
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            said("needs Matplotlib, which is not installed. Install the extra: pip install 'blan-layers[plot]'.")
        ) from None
    _checks.floating("images", images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[0] == 0:
        raise ValueError(
            said(
                f"images must be (B, 3, H, W) or (B, 1, H, W), got shape {_checks.shape(images)}. "
                "Stack them, channels first."
            )
        )
    levels = _levels(maps, images)
    titles = list(levels) if names is None else list(names)
    if len(titles) != len(levels):
        raise ValueError(said(f"names must be one per level, got {len(titles)} for {len(levels)}. Name each of them."))
    rows, columns = images.shape[0], len(levels) + 1
    figure = Figure(figsize=(INCHES * columns, INCHES * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for column, title in enumerate(["image", *titles]):
        axes[0, column].set_title(title, fontsize=8)
    for row, image in enumerate(_stretched(images)):
        for column in range(columns):
            axes[row, column].set_axis_off()
            axes[row, column].imshow(image.numpy(), vmin=0, vmax=1, cmap="gray")
        for column, level in enumerate(levels.values(), start=1):
            gate = level[row].numpy()
            axes[row, column].imshow(gate, vmin=0, vmax=1, cmap="Reds", alpha=0.75 * gate)
    return figure


def _levels(maps: Levels, images: Tensor) -> dict[str, Tensor]:
    """Return maps (B, H, W) of the images' size by their names."""
    given: Mapping[str, Any]
    if isinstance(maps, Tensor):
        given = {"map": maps}
    elif isinstance(maps, Mapping):
        given = maps
    else:
        given = {str(level): gate for level, gate in enumerate(maps, start=1)}
    levels = {}
    for name, found in given.items():
        gate = found.get("spatial_map") if isinstance(found, Mapping) else getattr(found, "spatial_map", found)
        if gate is None:
            continue  # of a channel gate
        _checks.floating(f"maps[{name!r}]", gate)
        gate = gate.detach().float().cpu()
        gate = gate.unsqueeze(1) if gate.ndim == 3 else gate
        if gate.ndim != 4 or gate.shape[1] != 1 or gate.shape[0] != images.shape[0]:
            raise ValueError(
                said(
                    f"maps[{name!r}] must be ({images.shape[0]}, 1, H, W), a spatial map of each image, got shape "
                    f"{_checks.shape(gate)}. Capture them of these images."
                )
            )
        resized = F.interpolate(gate, images.shape[2:], mode="bilinear", align_corners=False)
        levels[name] = resized[:, 0].clamp(0, 1)
    if not levels:
        raise ValueError(said("maps must hold at least one spatial map, got none. A channel map has no locations."))
    return levels


def _stretched(images: Tensor) -> Tensor:
    """Return images (B, H, W, 3) in [0, 1]."""
    images = images.detach().float().cpu()
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    beyond = (low < 0) | (high > 1)
    images = torch.where(beyond, (images - low) / (high - low).clamp_min(1e-12), images)
    return images.expand(-1, 3, -1, -1).movedim(1, -1)
