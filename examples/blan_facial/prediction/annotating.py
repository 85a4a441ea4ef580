"""Pictures with what a model says of them beside them: the part that draws, imported only when asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from blan_facial.data.faces import decode_picture
from blan_facial.prediction.predictor import Answer
from shared.files import replacing
from shared.sheet import DPI, FAINT, INK, MARGIN, Sheet, lay, spoken, style

LONGEST, LINE, ROWS = 3.4, 0.165, 24  # inches of the picture's longest side and of a row; most rows of a column
HEADER, GAP = 0.75, 0.25
NAME, BAR, NUMBER, LEVEL = 1.4, 0.9, 0.4, 0.4
YES = "#0072b2"

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
        picture = decode_picture(data, round(LONGEST * DPI))
        with style(), replacing(path) as file:
            figure = annotated_figure(picture, name, answers, self.threshold)
            figure.savefig(file, format="png", dpi=figure.dpi, facecolor="white")
        return path

    def _free(self, name: str) -> Path:
        path, number = self.folder / f"{name}.png", 1
        while path in self._taken:
            number += 1
            path = self.folder / f"{name}-{number}.png"
        self._taken.add(path)
        return path


def annotated_figure(picture: np.ndarray, name: str, answers: Sequence[Answer], threshold: float) -> Figure:
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
    column = NAME + BAR + NUMBER + LEVEL + GAP
    body = max(height, LINE * len(columns[0]))
    sheet = Sheet(2 * MARGIN + LONGEST + len(columns) * column, HEADER + body + MARGIN)

    title = name if len(name) <= _TITLE else f"…{name[1 - _TITLE :]}"
    sheet.title(title, f"{sum(answer.predicted for answer in answers)} of {len(answers)} predicted")
    words = "bar: probability, line: threshold, right: level that decided"
    sheet.text(MARGIN + LONGEST + GAP, 0.42, words, color=FAINT)
    axes = sheet.axes(MARGIN, HEADER, width, height)
    axes.set_axis_off()
    lay(axes, picture)
    for place, part in enumerate(columns):
        _draw_column(sheet, MARGIN + LONGEST + GAP + place * column, part, threshold)
    return sheet.figure


def _draw_column(sheet: Sheet, left: float, answers: Sequence[Answer], threshold: float) -> None:
    axes = sheet.axes(left + NAME, HEADER, BAR, LINE * len(answers))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(answers) - 0.5, -0.5)
    places = range(len(answers))
    axes.barh(places, [1] * len(answers), height=0.6, color="#eeeeee")
    colors = [YES if answer.predicted else "#b0b0b0" for answer in answers]
    axes.barh(places, [answer.probability for answer in answers], height=0.6, color=colors)
    axes.axvline(threshold, color=INK, linewidth=0.6)
    for place, answer in enumerate(answers):
        top = HEADER + LINE * (place + 0.5)
        kind = {"color": INK if answer.predicted else FAINT, "va": "center_baseline"}
        weight = "bold" if answer.predicted else "normal"
        sheet.text(left + NAME - 0.08, top, spoken(answer.attribute), ha="right", fontweight=weight, **kind)
        sheet.text(left + NAME + BAR + NUMBER - 0.02, top, f"{answer.probability:.3f}", ha="right", **kind)
        sheet.text(left + NAME + BAR + NUMBER + 0.08, top, answer.level or "", **kind)
