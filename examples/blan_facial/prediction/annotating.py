"""Pictures annotated with a model's answers; imported only when needed.

Pillow draws more than twenty of them per second; an SVG with as many words takes several times as long.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blan_facial.data.attributes import spoken
from blan_facial.prediction.predictor import Answer
from shared.files import replacing
from shared.fonts import boxed, missing, others, own_fonts
from shared.program import shown

INK, FAINT, MARGIN = "#1c2028", "#5a6170", 24
ZOOM = 1.5  # pixels per unit of the lengths below
LONGEST, LINE, ROWS = 340, 16.5, 24  # longest side of the picture, height of a row, rows per column
HEADER, GAP = 76, 24
NAME, BAR, NUMBER, LEVEL = 140, 90, 44, 40

PICTURE = round(LONGEST * ZOOM)
"""Longest side of a picture in pixels."""

_TITLE = 60  # characters
_QUICK = {"compress_level": 1, "compress_type": 3}  # zlib's fastest settings, with slightly larger files
_NAME = 230  # bytes; systems allow 255, including what is added


class Annotator:
    """Writes an annotated picture for each image.

    Args:
        folder: Output folder, with the same subfolders as the folder in which the images were found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, picture: np.ndarray, answers: Sequence[Answer]) -> Path:
        """Write the picture of an image and return its path; taken names are numbered, long names are shortened.

        An existing file is never replaced, since it could be an image to read.

        Args:
            name: Path of the image relative to the folder in which it was found.
            picture: uint8 RGB (height, width, 3), its longest side ``PICTURE``.
            answers: The model's answers.

        Raises:
            OSError: The picture cannot be written.
        """
        path = self._free(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(annotated(picture, shown(name), answers))
        return path

    def _free(self, name: str) -> Path:
        parent, _, file = name.rpartition("/")
        if len(os.fsencode(file)) > _NAME:
            digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
            name = os.path.join(parent, os.fsdecode(os.fsencode(file)[: _NAME - 9]) + f"-{digest}")
        path, number = self.folder / f"{name}.png", 1
        while os.path.lexists(path):
            number += 1
            path = self.folder / f"{name}-{number}.png"
        return path


def annotated(picture: np.ndarray, name: str, answers: Sequence[Answer]) -> bytes:
    """Draw an image next to its answers, the most probable first, each with bar, threshold and decisive level.

    Args:
        picture: uint8 RGB (height, width, 3).
        name: Title above the image.
        answers: One or more answers.

    Returns:
        A PNG file.
    """
    ordered = sorted(answers, key=lambda answer: -answer.probability)
    rows = -(-len(ordered) // -(-len(ordered) // ROWS))  # equal numbers in all columns
    columns = [ordered[start : start + rows] for start in range(0, len(ordered), rows)]
    height, width = (LONGEST * side / max(picture.shape[:2]) for side in picture.shape[:2])
    left = MARGIN + LONGEST + GAP
    sheet = _Sheet(
        left + max(len(columns) * (NAME + BAR + NUMBER + LEVEL + GAP), 370),
        HEADER + max(height, LINE * rows) + MARGIN,
    )
    sheet.words(name if len(name) <= _TITLE else f"…{name[1 - _TITLE :]}", MARGIN, 30, size=17, bold=True)
    note = f"{sum(answer.predicted for answer in answers)} of {len(answers)} predicted"
    sheet.words(note, MARGIN, 52, color=FAINT)
    sheet.words("bar: probability, line: threshold, right: decisive level", left, 52, color=FAINT)
    sheet.picture(picture, MARGIN, HEADER, width, height)
    for place, column in enumerate(columns):
        _draw(sheet, left + place * (NAME + BAR + NUMBER + LEVEL + GAP), column)
    return sheet.png()


def _draw(sheet: "_Sheet", left: float, answers: Sequence[Answer]) -> None:
    bars = left + NAME
    for place, answer in enumerate(answers):
        top = HEADER + LINE * place
        color = INK if answer.predicted else FAINT
        sheet.bar(bars, top + 0.2 * LINE, BAR, 0.6 * LINE, "#eeeeee")
        fill = "#2269b8" if answer.predicted else "#b0b0b0"
        sheet.bar(bars, top + 0.2 * LINE, BAR * answer.probability, 0.6 * LINE, fill)
        name, last = spoken(answer.attribute), bars + BAR + NUMBER
        sheet.words(name, bars - 8, top + 12, color=color, bold=answer.predicted, end=True, longest=NAME - 8)
        sheet.words(f"{answer.probability:.3f}", last - 4, top + 12, color=color, end=True)
        sheet.words(answer.level or "", last + 8, top + 12, color=color)
        sheet.bar(bars + BAR * answer.threshold, top, 0.7, LINE, INK)


class _Sheet:
    """A white sheet to draw on; all lengths are before zooming."""

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (round(ZOOM * width), round(ZOOM * height)), "white")
        self.draw = ImageDraw.Draw(self.image)

    def bar(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Fill a rectangle, at least one pixel wide unless its width is 0."""
        if width > 0:
            right, bottom = round(ZOOM * (left + width)) - 1, round(ZOOM * (top + height)) - 1
            start = round(ZOOM * left)
            self.draw.rectangle((start, round(ZOOM * top), max(right, start), bottom), fill=color)

    def picture(self, pixels: np.ndarray, left: float, top: float, width: float, height: float) -> None:
        """Place a picture, scaled smoothly."""
        size = max(1, round(ZOOM * width)), max(1, round(ZOOM * height))
        scaled = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        self.image.paste(scaled, (round(ZOOM * left), round(ZOOM * top)))

    def words(
        self,
        words: str,
        x: float,
        y: float,
        *,
        size: int = 11,
        color: str = INK,
        bold: bool = False,
        end: bool = False,
        longest: float | None = None,
    ) -> None:
        """Write words whose baseline begins or ends at (x, y), truncated at the maximum length."""
        pixels = round(ZOOM * size)
        runs = list(_runs(words, pixels, bold))
        if longest is not None:
            while len(words) > 1 and _length(runs) > ZOOM * longest:
                words = words[: -2 if words.endswith("…") else -1] + "…"
                runs = list(_runs(words, pixels, bold))
        at = ZOOM * x - (_length(runs) if end else 0)
        for part, font in runs:
            self.draw.text((at, ZOOM * y), part, fill=color, font=font, anchor="ls")
            at += font.getlength(part)

    def png(self) -> bytes:
        """Return the sheet as a PNG file."""
        packed = io.BytesIO()
        self.image.save(packed, "PNG", **_QUICK)
        return packed.getvalue()


def _runs(words: str, size: int, bold: bool) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """Yield parts of words, each with a font that contains its characters."""
    printed = boxed(
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)
    )
    elsewhere = others(missing(printed))
    for path, part in groupby(printed, lambda character: elsewhere.get(character, own_fonts()[bold])):
        yield "".join(part), _font(path, size)


def _length(runs: Sequence[tuple[str, ImageFont.FreeTypeFont]]) -> float:
    return sum(font.getlength(part) for part, font in runs)


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
