"""Drawings in SVG, and their conversion to PNG."""

import base64
import io
import re

import numpy as np
import resvg_py
from markupsafe import Markup, escape
from PIL import Image

from shared.fonts import boxed, files_for

INK, FAINT = "#1c2028", "#5a6170"
MARGIN = 24

ZOOM = 1.5
"""Pixels of a PNG per pixel of its drawing."""

UNWRITABLE = "[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
"""Characters that XML cannot contain, but file names can."""


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element with escaped content; ``class_`` becomes ``class``, and ``_`` in other names ``-``."""
    written = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(written), Markup("").join(map(escape, children)))


def embedded(pixels: np.ndarray, longest: int) -> str:
    """Return the data URI of an RGB or grey picture (H, W, 3) or (H, W), uint8 or float in [0, 1].

    Small pictures are PNG, which suits drawings and single pixels; larger ones are JPEG. Pictures are
    at most `longest` pixels wide and high.
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    kind, options = ("png", {"optimize": True}) if max(image.size) < 128 else ("jpeg", {"quality": 85})
    packed = io.BytesIO()
    image.save(packed, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}"


def text(words: str, x: float, y: float, *, color: str = INK, size: float = 11, **attributes: object) -> Markup:
    """Return words with their baseline starting at (x, y), unless the attributes say otherwise."""
    return element("text", words, x=x, y=y, style=f"fill: {color}; font-size: {size}px", **attributes)


def image(source: str, x: float, y: float, width: float, height: float, **attributes: object) -> Markup:
    """Return a smoothly scaled picture with its upper left corner at (x, y)."""
    return element("image", href=source, x=x, y=y, width=width, height=height, **attributes)


def png(title: str, note: str, width: float, height: float, *parts: Markup, style: str = "") -> bytes:
    """Return a white sheet with drawings below a title as PNG.

    Args:
        title: The title.
        note: An explanatory line.
        width: Width in pixels of the drawing.
        height: Height in pixels of the drawing.
        *parts: The drawings.
        style: CSS rules for their classes.
    """
    sheet = element(
        "svg",
        text(title, MARGIN, 30, size=17, font_weight="bold"),
        text(note, MARGIN, 52, color=FAINT),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family="DejaVu Sans",
    )
    written = boxed(re.sub(UNWRITABLE, "\N{REPLACEMENT CHARACTER}", str(sheet)))
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=written,
            zoom=ZOOM,
            background="white",
            style_sheet=style,
            skip_system_fonts=True,
            font_files=[str(path) for path in files_for([written])],  # resvg has no font of its own
        )
    )


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
