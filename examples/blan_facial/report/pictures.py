"""The pictures of a sample of faces."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blan_facial.data.faces import UNKNOWN
from blan_facial.report.sample import Kind, Sample
from blan_layers.plotting import overlay
from shared.sheet import DPI, FAINT, INK, MARGIN, Sheet, spoken

COLUMNS = 8
HEADER, FACE, GAP, LABELS, NARROWEST = 0.75, 1.15, 0.06, 1.05, 7.4  # inches
STEP = FACE + GAP

# Okabe and Ito's blue and vermilion, darkened, tell apart in any colour vision; the sign says it without colour.
SIGNS: dict[Kind, tuple[str, str, str]] = {
    "correct": ("✓", INK, "predicted and true"),
    "false positive": ("+", "#c04f00", "predicted, but not true"),
    "missed": ("\N{MINUS SIGN}", "#0072b2", "true, but not predicted"),
}


def faces_figure(sample: Sample) -> Figure:
    """Draw a contact sheet: beside each face the attributes that it has or is said to have."""
    face, words, line, gap = 1.25, 1.55, 0.15, 0.16
    columns = min(4, len(sample.faces))
    marked = [sample.marks(i) for i in range(len(sample.faces))]
    rows = [marked[i : i + columns] for i in range(0, len(marked), columns)]
    heights = [max(face, line * (1 + max(map(len, row)))) + gap for row in rows]
    width = max(columns * (face + words), NARROWEST) + 2 * MARGIN
    sheet = Sheet(width, HEADER + sum(heights) + 0.1)

    sheet.title("Predicted attributes")
    left = MARGIN
    for sign, color, meaning in SIGNS.values():
        sheet.text(left, 0.42, f"{sign}  {meaning}", color=color)
        left += 1.75
    unknown = " or unknown" if (sample.labels == UNKNOWN).any() else ""
    sheet.text(left, 0.42, f"not listed: rightly said to be absent{unknown}", color=FAINT)
    for place, marks in enumerate(marked):
        row, column = divmod(place, columns)
        left, top = MARGIN + column * (face + words), HEADER + sum(heights[:row])
        sheet.picture(sample.faces[place], left, top, face)
        right = (sample.predicted[place] == sample.labels[place]).sum()
        left += face + 0.09
        known = (sample.labels[place] != UNKNOWN).sum()
        sheet.text(left, top, f"{right} of {known} right", color=FAINT, fontsize=7)
        for number, (attribute, kind) in enumerate(marks, start=1):
            sign, color, _ = SIGNS[kind]
            weight = "normal" if kind == "correct" else "bold"
            sheet.text(left + 0.05, top + number * line, sign, color=color, fontweight=weight, ha="center")
            sheet.text(left + 0.14, top + number * line, spoken(attribute), color=color)
    return sheet.figure


def attention_figure(sample: Sample) -> Figure:
    """Draw RDAM's spatial gates over grey faces, all on one scale: a column is a face, a row is a level."""
    faces = torch.from_numpy(sample.faces[:COLUMNS]).movedim(-1, 1) / 255
    maps = {
        "level {}\n{} \N{MULTIPLICATION SIGN} {}".format(level, *gates.shape[1:]): torch.from_numpy(gates[:COLUMNS])
        for level, gates in enumerate(sample.spatial_maps, start=1)
    }
    figure = overlay(faces, maps)
    figure.set_dpi(DPI)
    figure.suptitle(
        "Spatial attention: the gates of RDAM, by which the joined features of encoder and decoder are multiplied",
        fontsize=9,
    )
    return figure


def reconstructions_figure(sample: Sample) -> Figure:
    """Draw faces above their reconstructions, each with its mean squared error.

    Raises:
        ValueError: The sample has no reconstructions.
    """
    if sample.reconstructions is None or sample.squared_errors is None:
        raise ValueError(
            "reconstructions_figure: needs a sample with reconstructions, got one without. "
            "Build the model with reconstruction=True."
        )
    count = min(COLUMNS, len(sample.faces))
    errors = sample.squared_errors
    left = MARGIN + LABELS
    sheet = Sheet(max(left + count * STEP + MARGIN, NARROWEST), HEADER + 2 * STEP + 0.35)

    sheet.title(
        "Reconstructions",
        f"Mean squared error of normalised pixels, {errors.mean():.3f} on average; "
        f"a face's mean colour alone has {sample.plain_errors.mean():.3f}.",
    )
    _draw_row(sheet, HEADER, "face", "", sample.faces[:count])
    _draw_row(sheet, HEADER + STEP, "reconstruction", "", sample.reconstructions[:count])
    top = HEADER + 2 * STEP
    sheet.text(MARGIN, top, "squared error", color=FAINT)
    for place in range(count):
        sheet.text(left + place * STEP + FACE / 2, top, f"{errors[place]:.3f}", ha="center")
    return sheet.figure


def _draw_row(sheet: Sheet, top: float, name: str, note: str, pictures: np.ndarray) -> list[Axes]:
    """Draw pictures (B, S, S, 3) side by side, named on the left."""
    sheet.text(MARGIN, top + FACE / 2, name, va="bottom", fontsize=9)
    sheet.text(MARGIN, top + FACE / 2 + 0.04, note, color=FAINT)
    return [sheet.picture(image, MARGIN + LABELS + place * STEP, top, FACE) for place, image in enumerate(pictures)]


def pale(faces: np.ndarray) -> np.ndarray:
    """Turn faces (B, S, S, 3) into light grey ones of equal contrast, so that the colours laid over them read alike."""
    grey = faces.mean(-1, keepdims=True)
    dark, bright = np.percentile(grey, (2, 98), axis=(1, 2), keepdims=True)
    return (0.4 + 0.6 * ((grey - dark) / np.maximum(bright - dark, 1)).clip(0, 1)).repeat(3, -1)
