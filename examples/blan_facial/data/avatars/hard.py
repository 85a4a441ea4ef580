"""Harder faces: drawn by the same pieces, with rates and correlations as in the wild, and less plainly to be seen.

The rates are near CelebA's, so that the more frequent label alone is right four times in five. Attributes follow a
style, an age and a smile that have no label. The head is small or large and off the middle, colours of skin, hair and
lips lie close together, things stand behind and before the face, and the light is poor. A label is read off the face
as it is under what covers it.
"""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import resvg_py
from PIL import Image, ImageFilter

from blan_facial.data.avatars.design import (
    BEARDS,
    CLOTHES,
    DYED,
    EARRINGS,
    EYES,
    FRINGED,
    GLASSES,
    HAIR_COLORS,
    LIPSTICKS,
    MOUTHS,
    MUSTACHES,
    NOSES,
    OTHER_SKINS,
    PALE_SKINS,
    SHORT,
    STRAIGHT,
    WAVY,
    Face,
)
from blan_facial.data.avatars.render import svg

_LIPS: Final = ("#8A4A40",)
_NEAR: Final = (*OTHER_SKINS, *(color for colors in HAIR_COLORS.values() for color in colors))
"""The colours of things around a face: those of faces."""


def draw_hard_face(rng: np.random.Generator) -> Face:
    """A random face whose attributes follow its style, its age and its smile."""

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def choose(options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        return options[rng.choice(len(options), p=weights)]

    def offset(most: float) -> float:
        return float(rng.uniform(-most, most))

    made_up, old, smiling = chance(0.56), chance(0.24), chance(0.48)
    bald = chance((0.0 if made_up else 0.08) + (0.14 if old and not made_up else 0.0))
    length = rng.random()
    straight, wavy = (0.28, 0.80) if made_up else (0.16, 0.28)
    hair = choose(STRAIGHT if length < straight else WAVY if length < wavy else SHORT)
    shades = (0.14, 0.12, 0.18, 0.56) if old else (0.40, 0.26, 0.32, 0.02) if made_up else (0.50, 0.10, 0.38, 0.02)
    beard = choose(BEARDS, (0.45, 0.55)) if chance(0.0 if made_up else 0.40) else None
    return Face(
        skin=choose(PALE_SKINS if chance(0.11 if made_up else 0.04) else OTHER_SKINS),
        hair=None if bald else hair,
        hair_color=choose(DYED if chance(0.12) else HAIR_COLORS[choose(tuple(HAIR_COLORS), shades)]),
        bangs=not bald and (hair in FRINGED or chance(0.10 if made_up else 0.06)),
        beard=beard,
        mustache=choose(MUSTACHES) if chance(0.0 if made_up else 0.40 if beard == "goatee" else 0.10) else None,
        eyes=choose(EYES),
        narrow_eyes=chance(0.20 if smiling else 0.07),
        bags_under_eyes=chance((0.38 if old else 0.16) + (-0.06 if made_up else 0.08)),
        arched_eyebrows=chance(0.42 if made_up else 0.07),
        bushy_eyebrows=chance(0.06 if made_up else 0.28),
        nose=choose(NOSES),
        big_nose=chance((0.12 if made_up else 0.38) + (0.08 if old else 0.0)),
        mouth=choose(MOUTHS[smiling, chance(0.74 if smiling else 0.24)]),
        lipstick=choose(LIPSTICKS) if chance(0.80 if made_up else 0.02) else None,
        rosy_cheeks=chance((0.18 if smiling else 0.09) if made_up else 0.02),
        glasses=choose(GLASSES) if chance(0.22 if old else 0.07) else None,
        earrings=choose(EARRINGS) if chance(0.32 if made_up else 0.03) else None,
        clothing=choose(CLOTHES),
        clothing_color=_shifted(choose(_NEAR), rng, 40),
        background=_shifted(choose(_NEAR), rng, 60),
        rotation=offset(22),
        scale=float(rng.uniform(0.68, 1.18)),
        shift=(offset(20), offset(14)),
        turn=(offset(10), offset(6)),
    )


def seen(face: Face, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """The face among things, under poor light: RGB, uint8 (image_size, image_size, 3)."""
    near = dataclasses.replace(
        face,
        skin=_shifted(face.skin, rng, 14),
        hair_color=_shifted(face.hair_color, rng, 22),
        lipstick=_shifted(face.lipstick or _LIPS[0], rng, 26),
    )
    behind = "".join(_thing(rng, rng.uniform(20, 60)) for _ in range(rng.integers(6)))
    before = "".join(_thing(rng, rng.uniform(9, 24)) for _ in range(rng.integers(4)))
    drawing = svg(near).replace("<g ", f"{behind}<g ", 1).replace("</svg>", f"{before}</svg>")
    png = resvg_py.svg_to_bytes(svg_string=drawing, width=image_size, height=image_size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB")
    blurred = image.filter(ImageFilter.GaussianBlur(image_size / 64 * rng.uniform(0, 0.9)))
    return _lit(np.asarray(blurred), rng)


def hard_stream(seed: int, split: int, indices: range, image_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image and labels of each index; they depend on the seed, the split's number and the index alone."""
    for index in indices:
        rng = np.random.default_rng([seed, split, index, 1])  # another stream than the plain faces'
        face = draw_hard_face(rng)
        yield seen(face, image_size, rng), face.labels()


def _thing(rng: np.random.Generator, size: float) -> str:
    """A round or straight thing somewhere in the picture, in a colour of faces."""
    x, y, turn = rng.uniform(60, 204), rng.uniform(40, 184), rng.uniform(0, 180)
    shape = (
        f'fill="{_shifted(_NEAR[rng.integers(len(_NEAR))], rng, 40)}" transform="rotate({turn:.1f} {x:.1f} {y:.1f})"'
    )
    if rng.random() < 0.5:
        return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{size:.1f}" ry="{size * 0.6:.1f}" {shape}/>'
    height = size * 0.9
    return f'<rect x="{x - size:.1f}" y="{y - height / 2:.1f}" width="{2 * size:.1f}" height="{height:.1f}" {shape}/>'


def _shifted(color: str, rng: np.random.Generator, most: float) -> str:
    """The colour, each of its parts off by at most so much."""
    parts = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) + rng.uniform(-most, most, 3)
    red, green, blue = parts.clip(0, 255).astype(int)
    return f"#{red:02X}{green:02X}{blue:02X}"


def _lit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image under light of random strength, tint and fall, with the noise of a poor camera."""
    gain = rng.uniform(0.45, 1.2) * rng.uniform(0.86, 1.14, size=3)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
    ramp = np.linspace(-slope, slope, len(image), dtype=np.float32)
    light = 1 + np.float32(np.cos(angle)) * ramp[None, :] + np.float32(np.sin(angle)) * ramp[:, None]
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(4, 26))
    return (image * gain.astype(np.float32) * light[..., None] + noise).round().clip(0, 255).astype(np.uint8)
