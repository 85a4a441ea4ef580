"""What a model saw and made of a few faces, ready for the page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from blan_facial.data.faces import UNKNOWN
from blan_facial.report.page.images import gate, picture, scale
from blan_facial.report.pictures import SIGNS, pale
from blan_facial.report.sample import Sample
from shared.sheet import spoken

SHOWN = 12
"""Faces under the attention maps, and beside their reconstructions."""


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
    """A grey face, and for each level its number, its gate and what is said of it."""
    low: float
    high: float
    colors: str
    """The colours from low to high, as a gradient in CSS."""


class Marked(NamedTuple):
    """A face and its attributes."""

    picture: str
    right: int
    known: int
    wrong: tuple[tuple[str, str, str, str], ...]
    """Class, sign, meaning and attribute of each that is predicted and not true, or true and not predicted."""
    correct: tuple[str, ...]
    """The attributes that are predicted and true."""


def signs() -> list[tuple[str, str, str]]:
    """Return class, sign and meaning of every kind of mark."""
    return [(kind.replace(" ", "-"), sign, meaning) for kind, (sign, _, meaning) in SIGNS.items()]


def attention(sample: Sample) -> Attention | None:
    """Lay the gates over grey faces, all on one scale; None without RDAM."""
    maps = [gates[:SHOWN] for gates in sample.spatial_maps]
    if not maps:
        return None
    low, high = min(float(gates.min()) for gates in maps), max(float(gates.max()) for gates in maps)
    faces = []
    for place, face in enumerate(pale(sample.faces[:SHOWN])):
        over = tuple(
            (level, gate(gates[place], low, high), _said(level, place, gates[place]))
            for level, gates in enumerate(maps, start=1)
        )
        faces.append((picture(face[..., 0]), over))
    levels = tuple(
        Gates(level, "{} \N{MULTIPLICATION SIGN} {}".format(*gates.shape[1:]), gates.min(), gates.mean(), gates.max())
        for level, gates in enumerate(maps, start=1)
    )
    return Attention(levels, tuple(faces), low, high, f"linear-gradient(to right, {', '.join(scale())})")


def reconstructions(sample: Sample) -> Mapping[str, Any] | None:
    """Return faces, what the decoder made of them, and the error of each; None without reconstruction."""
    if sample.reconstructions is None or sample.squared_errors is None:
        return None
    pairs = zip(sample.faces[:SHOWN], sample.reconstructions[:SHOWN], sample.squared_errors[:SHOWN], strict=True)
    return {
        "pairs": [(picture(face), picture(rebuilt), float(error)) for face, rebuilt, error in pairs],
        "error": float(sample.squared_errors.mean()),
        "plain": float(sample.plain_errors.mean()),
    }


def faces(sample: Sample) -> list[Marked]:
    """Return every face with the attributes that it has or is said to have."""
    found = []
    for place, face in enumerate(sample.faces):
        marks = sample.marks(place)
        wrong = tuple(
            (kind.replace(" ", "-"), SIGNS[kind][0], SIGNS[kind][2], spoken(attribute))
            for attribute, kind in marks
            if kind != "correct"
        )
        correct = tuple(spoken(attribute) for attribute, kind in marks if kind == "correct")
        right = int((sample.predicted[place] == sample.labels[place]).sum())
        known = int((sample.labels[place] != UNKNOWN).sum())
        found.append(Marked(picture(face), right, known, wrong, correct))
    return found


def _said(level: int, place: int, values: np.ndarray) -> str:
    row, column = np.unravel_index(values.argmax(), values.shape)
    height, width = values.shape
    where = ("top", "middle", "bottom")[int(3 * row / height)], ("left", "centre", "right")[int(3 * column / width)]
    values_said = f"{values.min():.2f} to {values.max():.2f}, highest at the {' '.join(where)}"
    return f"gate of level {level} over face {place + 1}, {values_said}"
