"""Images of filled shapes among outlines of the same forms, blobs and lines, with masks of the filled shapes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FORMS = {"disc": None, "square": 4, "triangle": 3}
"""Forms and their numbers of sides."""
LEAST_SIZE = 16
"""Smallest side in pixels at which the forms are distinguishable."""


class Shapes(NamedTuple):
    """Images float32 (N, 3, H, W) in [0, 1], and masks bool (N, 1, H, W) of their filled shapes."""

    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]


class Canvas:
    """A square image to paint on, and the mask of the shapes filled so far.

    Lengths and positions are in pixels, x to the right and y downwards. Every form has the area of a disc with the
    given radius.
    """

    def __init__(self, background: Array) -> None:
        self.image = background.copy()
        size = background.shape[-1]
        self.mask = np.zeros((size, size), bool)
        self._y, self._x = np.mgrid[:size, :size] + 0.5

    def fill(self, form: str, x: float, y: float, radius: float, angle: float, color: Array) -> None:
        """Paint a filled form, and add it to the mask."""
        inside = -self._distance(form, x, y, radius, angle)
        self._paint(inside + 0.5, color)
        self.mask |= inside >= 0

    def outline(self, form: str, x: float, y: float, radius: float, angle: float, width: float, color: Array) -> None:
        """Paint only the edge of a form."""
        self._paint(width / 2 + 0.5 - np.abs(self._distance(form, x, y, radius, angle)), color)

    def blob(self, x: float, y: float, radius: float, color: Array) -> None:
        """Paint a spot without an edge."""
        self._paint(np.exp(-((self._x - x) ** 2 + (self._y - y) ** 2) / radius**2), color)

    def line(self, x: float, y: float, angle: float, width: float, color: Array) -> None:
        """Paint a straight line across the whole image."""
        away = np.abs((self._x - x) * math.sin(angle) - (self._y - y) * math.cos(angle))
        self._paint(width / 2 + 0.5 - away, color)

    def _paint(self, opacity: Array, color: Array) -> None:
        self.image += np.clip(opacity, 0, 1) * (color[:, None, None] - self.image)

    def _distance(self, form: str, x: float, y: float, radius: float, angle: float) -> Array:
        """Return the signed distance of every pixel's centre from the edges of a form, positive outside."""
        right, down, sides = self._x - x, self._y - y, FORMS[form]
        if sides is None:
            return np.hypot(right, down) - radius
        apothem = radius * math.sqrt(math.pi / sides / math.tan(math.pi / sides))
        normals = angle + 2 * math.pi * np.arange(sides) / sides
        return np.max([right * math.cos(normal) + down * math.sin(normal) for normal in normals], 0) - apothem


def draw(count: int, size: int, seed: int | Sequence[int]) -> Shapes:
    """Draw images; the same arguments give the same images.

    Raises:
        ValueError: ``size`` is too small for the forms to be distinguishable.
    """
    if size < LEAST_SIZE:
        raise ValueError(f"draw: size must be at least {LEAST_SIZE}, got {size}. Raise it.")
    rng = np.random.default_rng(seed)
    images = np.empty((count, 3, size, size), np.float32)
    masks = np.empty((count, 1, size, size), bool)
    for image, mask in zip(images, masks, strict=True):
        canvas = _scene(size, rng)
        noise = rng.normal(0, rng.uniform(0.02, 0.08), canvas.image.shape)
        image[:], mask[0] = np.clip(canvas.image + noise, 0, 1), canvas.mask
    return Shapes(images, masks)


def _scene(size: int, rng: np.random.Generator) -> Canvas:
    """Return an image without noise: a background with a gradient, distractors, and filled shapes on top."""
    base, slopes = rng.uniform(0.15, 0.5, 3), rng.uniform(-0.15, 0.2, (2, 3))
    across = np.linspace(-1, 1, size)
    canvas = Canvas(
        base[:, None, None] + slopes[0][:, None, None] * across + slopes[1][:, None, None] * across[:, None]
    )

    def place() -> tuple[float, float]:
        x, y = rng.uniform(0.1 * size, 0.9 * size, 2)
        return x, y

    def form(least: float, most: float) -> tuple[str, float, float, float, float]:
        return str(rng.choice(list(FORMS))), *place(), size * rng.uniform(least, most), rng.uniform(0, 2 * math.pi)

    def color() -> Array:
        direction = np.abs(rng.normal(size=3))
        return np.clip(base + rng.uniform(0.25, 0.6) * direction / np.linalg.norm(direction), 0, 1)

    canvas.blob(*place(), size * rng.uniform(0.08, 0.2), color())
    canvas.line(*place(), rng.uniform(0, math.pi), size * rng.uniform(0.03, 0.06), color())
    for _ in range(rng.integers(1, 4)):
        canvas.outline(*form(0.12, 0.25), size * rng.uniform(0.03, 0.06), color())
    for _ in range(rng.integers(1, 4)):
        canvas.fill(*form(0.1, 0.22), color())
    return canvas
