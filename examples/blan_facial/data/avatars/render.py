"""From the description of a face to its pixels."""

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
import resvg_py
from PIL import Image

from blan_facial.data.avatars import parts
from blan_facial.data.avatars.design import LONG, WAVY, Face, draw_face

_LEFT, _TOP, _SIDE = 50, 28, 164  # the square that is shown, tight around the head
_NATURAL_LIPS: Final = "#8A4A40"


def svg(face: Face) -> str:
    """The picture of a face as an SVG document."""
    square = f'width="{_SIDE}" height="{_SIDE}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_LEFT} {_TOP} {_SIDE} {_SIDE}" {square}>'
        f'<rect x="{_LEFT}" y="{_TOP}" {square} fill="{face.background}"/><g transform="{_pose(face)}">'
        f"{_body(face)}{_front(face, _features(face))}{_hair(face)}{_front(face, _over_hair(face))}"
        f"{_colored(face.earrings, parts.earrings()) if face.earrings else ''}</g></svg>"
    )


def pixels(face: Face, image_size: int) -> np.ndarray:
    """The face in even light: RGB, uint8 (image_size, image_size, 3)."""
    png = resvg_py.svg_to_bytes(svg_string=svg(face), width=image_size, height=image_size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))[..., :3]


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image under random light - its strength, its tint, its fall from one side - with the noise of a camera."""
    gain = rng.uniform(0.65, 1.1) * rng.uniform(0.95, 1.05, size=3)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    ramp = np.linspace(-slope, slope, len(image), dtype=np.float32)
    light = 1 + np.float32(np.cos(angle)) * ramp[None, :] + np.float32(np.sin(angle)) * ramp[:, None]
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 18))
    return (image * gain.astype(np.float32) * light[..., None] + noise).round().clip(0, 255).astype(np.uint8)


def stream(seed: int, split: int, indices: range, image_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image and labels of each index; they depend on the seed, the split's number and the index alone."""
    for index in indices:
        rng = np.random.default_rng([seed, split, index])
        face = draw_face(rng)
        yield photograph(pixels(face, image_size), rng), face.labels()


def _pose(face: Face) -> str:
    x, y = face.shift
    moved = f"translate({132 + x:.2f} {110 + y:.2f})"
    return f"{moved} rotate({face.rotation:.2f}) scale({face.scale:.4f}) translate(-132 -110)"


def _body(face: Face) -> str:
    pieces = [
        _colored(face.skin, parts.head()),
        _colored(face.clothing_color, parts.clothing(face.clothing)),
    ]
    if face.hair in LONG:
        pieces.insert(0, _colored(face.hair_color, parts.hair_behind()))
    if face.beard:
        pieces.append(_colored(_darker(face.hair_color), parts.beard(face.beard)))
    if face.rosy_cheeks:
        pieces.append(parts.cheeks())
    return "".join(pieces)


def _features(face: Face) -> str:
    pieces = [
        parts.nose(face.nose, big=face.big_nose),
        _colored(face.lipstick or _NATURAL_LIPS, parts.mouth(face.mouth)),
        parts.eyes(face.eyes, narrow=face.narrow_eyes),
    ]
    if face.bags_under_eyes:
        pieces.append(parts.eye_bags())
    if face.mustache:
        pieces.append(_colored(_darker(face.hair_color), parts.mustache(face.mustache)))
    return "".join(pieces)


def _hair(face: Face) -> str:
    if face.hair is None:
        return ""
    pieces = [parts.hair(face.hair, long=face.hair in LONG)]
    if face.hair in WAVY:
        pieces.append(parts.waves())
    if face.bangs:
        pieces.append(parts.fringe())
    return _colored(face.hair_color, "".join(pieces))


def _over_hair(face: Face) -> str:
    brows = parts.brows(arched=face.arched_eyebrows, bushy=face.bushy_eyebrows)
    return parts.glasses(face.glasses) + brows if face.glasses else brows


def _front(face: Face, pieces: str) -> str:
    """The features, enlarged, and shifted as the head turns."""
    x, y = face.turn
    moved = f"translate({132 + x:.2f} {136 + y:.2f})"
    return f'<g transform="{moved} scale(1.22 1.1) translate(-132 -136)">{pieces}</g>'


def _colored(color: str, piece: str) -> str:
    return f'<g color="{color}">{piece}</g>'


def _darker(color: str) -> str:
    """The shade of a beard, darker than the hair so that a blond one stands out from the skin."""
    return "#" + "".join(f"{int(color[at : at + 2], 16) * 3 // 4:02X}" for at in (1, 3, 5))
