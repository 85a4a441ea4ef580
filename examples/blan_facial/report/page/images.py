"""Pictures as data URIs, small enough that dozens of them fit on a page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image

LARGEST = 160
"""Pixels of a face's side; larger ones are scaled down."""

COLORS = "viridis"


def picture(pixels: np.ndarray) -> str:
    """Return the data URI of an RGB or grey picture (H, W, 3) or (H, W), uint8 or float in [0, 1].

    Small ones are PNG, as drawings and single pixels want it, larger ones JPEG.
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    kind, options = ("png", {"optimize": True}) if max(image.size) < 128 else ("jpeg", {"quality": 85})
    packed = io.BytesIO()
    image.save(packed, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}"


def gate(values: np.ndarray, low: float, high: float) -> str:
    """Return the data URI of a map (H, W) in colours, a pixel a location: the browser enlarges it smoothly."""
    return picture(colormaps[COLORS]((values - low) / max(high - low, 1e-9))[..., :3])


def scale(stops: int = 9) -> Sequence[str]:
    """Return colours from the lowest to the highest value, for CSS."""
    return [
        "rgb({:.0f} {:.0f} {:.0f})".format(*(255 * channel for channel in colormaps[COLORS](at)[:3]))
        for at in np.linspace(0, 1, stops)
    ]
