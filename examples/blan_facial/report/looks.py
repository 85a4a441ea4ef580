"""Gates, reconstructions and predictions for a few faces, prepared for the page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blan_facial.data.attributes import spoken
from blan_facial.data.faces import UNKNOWN
from blan_facial.report.sample import Kind, Sample
from shared.svg import embedded

SHOWN = 12
"""Number of faces shown with attention maps and with reconstructions."""

SIGNS: dict[Kind, tuple[str, str]] = {
    "correct": ("✓", "predicted and true"),
    "false-positive": ("+", "predicted, but not true"),
    "missed": ("\N{MINUS SIGN}", "true, but not predicted"),
}
"""Sign and meaning of every kind of mark; the signs are distinguishable without colours."""

SCALE = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Viridis, the colours of the gates from the lowest to the highest."""


class Gates(NamedTuple):
    """The spatial gates of one level."""

    level: int
    size: str
    low: float
    mean: float
    high: float


class Attention(NamedTuple):
    """The spatial gates of every level over faces."""

    levels: tuple[Gates, ...]
    faces: tuple[tuple[str, tuple[tuple[int, str, str], ...]], ...]
    """A grey face, and for each level its number, its gate and a description."""
    low: float
    high: float
    colors: str
    """The colours from low to high, as a CSS gradient."""


class Marked(NamedTuple):
    """A face and its attributes."""

    picture: str
    right: int
    known: int
    marks: tuple[tuple[Kind, str, str, str], ...]
    """Kind, sign, meaning and name of each attribute that is predicted or true."""


def attention(sample: Sample) -> Attention | None:
    """Overlay the gates on grey faces, with a common scale; None without RDAM."""
    maps = [gates[:SHOWN] for gates in sample.spatial_maps]
    if not maps:
        return None
    low, high = min(float(gates.min()) for gates in maps), max(float(gates.max()) for gates in maps)
    faces = []
    for place, face in enumerate(_pale(sample.faces[:SHOWN])):
        over = tuple(
            (level, _gate(gates[place], low, high), _said(level, place, gates[place]))
            for level, gates in enumerate(maps, start=1)
        )
        faces.append((picture(face[..., 0]), over))
    levels = tuple(
        Gates(level, "{} \N{MULTIPLICATION SIGN} {}".format(*gates.shape[1:]), gates.min(), gates.mean(), gates.max())
        for level, gates in enumerate(maps, start=1)
    )
    return Attention(levels, tuple(faces), low, high, f"linear-gradient(to right, {', '.join(SCALE)})")


def reconstructions(sample: Sample) -> Mapping[str, Any] | None:
    """Return faces, their reconstructions and the error of each; None without reconstruction."""
    if sample.reconstructions is None or sample.squared_errors is None:
        return None
    pairs = zip(sample.faces[:SHOWN], sample.reconstructions[:SHOWN], sample.squared_errors[:SHOWN], strict=True)
    return {
        "pairs": [(picture(face), picture(rebuilt), float(error)) for face, rebuilt, error in pairs],
        "error": float(sample.squared_errors.mean()),
        "plain": float(sample.plain_errors.mean()),
    }


def faces(sample: Sample) -> list[Marked]:
    """Return every face with its true and its predicted attributes."""
    found = []
    for place, face in enumerate(sample.faces):
        marks = tuple((kind, *SIGNS[kind], spoken(name)) for name, kind in sample.marks(place))
        right = int((sample.predicted[place] == sample.labels[place]).sum())
        known = int((sample.labels[place] != UNKNOWN).sum())
        found.append(Marked(picture(face), right, known, marks))
    return found


def picture(pixels: np.ndarray) -> str:
    """Return the data URI of a face or a gate, small enough for dozens of them on a page."""
    return embedded(pixels, 160)


def _pale(faces: np.ndarray) -> np.ndarray:
    """Convert faces (B, S, S, 3) to light grey with equal contrast, so that overlaid colours are comparable."""
    grey = faces.mean(-1, keepdims=True)
    dark, bright = np.percentile(grey, (2, 98), axis=(1, 2), keepdims=True)
    return (0.4 + 0.6 * ((grey - dark) / np.maximum(bright - dark, 1)).clip(0, 1)).repeat(3, -1)


def _gate(values: np.ndarray, low: float, high: float) -> str:
    """Return the data URI of a map (H, W) in colours, with a pixel per location; the viewer enlarges it smoothly."""
    colors = np.array([[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in SCALE])
    at = np.linspace(low, max(high, low + 1e-9), len(colors))
    return picture(np.stack([np.interp(values, at, channel) for channel in colors.T], -1))


def _said(level: int, place: int, values: np.ndarray) -> str:
    row, column = np.unravel_index(values.argmax(), values.shape)
    height, width = values.shape
    where = ("top", "middle", "bottom")[int(3 * row / height)], ("left", "centre", "right")[int(3 * column / width)]
    values_said = f"{values.min():.2f} to {values.max():.2f}, highest at the {' '.join(where)}"
    return f"gate of level {level} over face {place + 1}, {values_said}"
