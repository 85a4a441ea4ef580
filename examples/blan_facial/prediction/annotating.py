"""Pictures with what a model says of them beside them: the part that draws, imported only when asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from blan_facial.data.attributes import spoken
from blan_facial.data.faces import decode_picture
from blan_facial.prediction.predictor import Answer
from shared.files import replacing
from shared.svg import FAINT, INK, MARGIN, ZOOM, element, embedded, image, png, text

LONGEST, LINE, ROWS = 340, 16.5, 24  # the picture's longest side and a row's height; most rows of a column
HEADER, GAP = 76, 24
NAME, BAR, NUMBER, LEVEL = 140, 90, 44, 40

_TITLE = 60  # characters


class Annotator:
    """Writes a picture for each image.

    Args:
        folder: Where they go, each to its place in the folder that its image was found in.
        threshold: Above this probability an attribute is predicted.
    """

    def __init__(self, folder: Path, threshold: float) -> None:
        self.folder = folder
        self.threshold = threshold
        self._taken: set[Path] = set()

    def write(self, name: str, data: bytes, answers: Sequence[Answer]) -> Path:
        """Write the picture of an image and return its path; images of the same name get numbers.

        Args:
            name: The image's place in the folder that it was found in.
            data: Its file's bytes.
            answers: What is said of it.

        Raises:
            OSError: The picture cannot be written.
            ValueError: The bytes do not decode.
        """
        path = self._free(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = decode_picture(data, round(LONGEST * ZOOM))
        with replacing(path) as file:
            file.write(annotated(picture, name, answers, self.threshold))
        return path

    def _free(self, name: str) -> Path:
        path, number = self.folder / f"{name}.png", 1
        while path in self._taken:
            number += 1
            path = self.folder / f"{name}-{number}.png"
        self._taken.add(path)
        return path


def annotated(picture: np.ndarray, name: str, answers: Sequence[Answer], threshold: float) -> bytes:
    """Draw an image beside its answers, the most probable first, each with a bar and the level that decided it.

    Args:
        picture: uint8 RGB (height, width, 3).
        name: What stands above it.
        answers: One or more.
        threshold: Drawn as a line across the bars.
    """
    ordered = sorted(answers, key=lambda answer: -answer.probability)
    rows = -(-len(ordered) // -(-len(ordered) // ROWS))  # as many in each column
    columns = [ordered[start : start + rows] for start in range(0, len(ordered), rows)]
    height, width = (LONGEST * side / max(picture.shape[:2]) for side in picture.shape[:2])
    left = MARGIN + LONGEST + GAP
    parts = [
        text("bar: probability, line: threshold, right: level that decided", left, 52, color=FAINT),
        image(embedded(picture, max(picture.shape), quality=95), MARGIN, HEADER, width, height),
    ]
    for place, column in enumerate(columns):
        parts += _column(left + place * (NAME + BAR + NUMBER + LEVEL + GAP), column, threshold)
    return png(
        name if len(name) <= _TITLE else f"…{name[1 - _TITLE :]}",
        f"{sum(answer.predicted for answer in answers)} of {len(answers)} predicted",
        left + max(len(columns) * (NAME + BAR + NUMBER + LEVEL + GAP), 370),
        HEADER + max(height, LINE * rows) + MARGIN,
        *parts,
    )


def _column(left: float, answers: Sequence[Answer], threshold: float) -> list[Markup]:
    parts, bars = [], left + NAME
    for place, answer in enumerate(answers):
        top = HEADER + LINE * place
        color, weight = (INK, "bold") if answer.predicted else (FAINT, "normal")
        bar = {"x": bars, "y": top + 0.2 * LINE, "height": 0.6 * LINE}
        parts += [
            element("rect", width=BAR, fill="#eeeeee", **bar),
            element("rect", width=BAR * answer.probability, fill="#2269b8" if answer.predicted else "#b0b0b0", **bar),
            text(spoken(answer.attribute), bars - 8, top + 12, color=color, text_anchor="end", font_weight=weight),
            text(f"{answer.probability:.3f}", bars + BAR + NUMBER - 4, top + 12, color=color, text_anchor="end"),
            text(answer.level or "", bars + BAR + NUMBER + 8, top + 12, color=color),
        ]
    at, end = bars + BAR * threshold, HEADER + LINE * len(answers)
    return [*parts, element("line", x1=at, x2=at, y1=HEADER, y2=end, stroke=INK, stroke_width=0.7)]
