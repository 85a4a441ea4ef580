"""The pictures: predicted masks with the truth, and the gates over images."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from blan_layers import capture_maps
from blan_layers.plotting import overlay
from shared.sheet import FAINT, MARGIN, Sheet

SIDE, GAP, NAMES, HEADER = 0.72, 0.06, 1.05, 0.72  # inches
HIT, MISSED, EXTRA = (1.0, 1.0, 1.0), (0.25, 0.55, 1.0), (1.0, 0.5, 0.1)


def masks_figure(images: Tensor, masks: Tensor, predicted: Mapping[str, Tensor]) -> Figure:
    """Draw a column for each image: the image, its mask, and the predicted masks with errors in colour.

    Args:
        images: (N, 3, H, W).
        masks: (N, 1, H, W), bool.
        predicted: Masks of the same shape, by the names of their rows.
    """
    rows = {"image": images.movedim(1, -1).numpy(), "truth": _colored(masks, masks)}
    rows |= {name: _colored(found, masks) for name, found in predicted.items()}
    across = len(images) * (SIDE + GAP) - GAP
    sheet = Sheet(MARGIN + NAMES + across + MARGIN, HEADER + len(rows) * (SIDE + GAP) + MARGIN - GAP)
    sheet.title("Masks of held-out images", "white: correct; blue: missed; orange: false positive")
    for line, (name, pictures) in enumerate(rows.items()):
        top = HEADER + line * (SIDE + GAP)
        sheet.text(MARGIN, top + SIDE / 2, name, va="center", color=FAINT if line < 2 else "black")
        for column, picture in enumerate(pictures):
            axes = sheet.axes(MARGIN + NAMES + column * (SIDE + GAP), top, SIDE, SIDE)
            axes.set_axis_off()
            axes.imshow(picture, interpolation="nearest")
    return sheet.figure


def maps_figure(images: Tensor, networks: Mapping[str, nn.Module]) -> Figure | None:
    """Draw the spatial gates in the skip connections of networks over images, or return None if there are none.

    Args:
        images: (N, 3, H, W).
        networks: Networks by name.
    """
    gates = {}
    for name, network in networks.items():
        for gate in _spatial_gates(images, network):
            gates[f"{name}\n{gate.shape[2]} x {gate.shape[3]}"] = gate
    return overlay(images, gates) if gates else None


def _spatial_gates(images: Tensor, network: nn.Module) -> list[Tensor]:
    try:
        with torch.no_grad(), capture_maps(network.eval()) as maps:
            network(images)
    except ValueError:  # it has no attention of this library
        return []
    return [gate for captured in maps.values() if (gate := captured.get("spatial_map")) is not None]


def _colored(found: Tensor, masks: Tensor) -> npt.NDArray[np.float64]:
    """Return masks (N, H, W, 3) with errors in colour."""
    found, masks = found[:, 0], masks[:, 0]
    colors = np.zeros((*masks.shape, 3))
    for where, color in ((found & masks, HIT), (~found & masks, MISSED), (found & ~masks, EXTRA)):
        colors[where.numpy()] = color
    return colors
