"""The pictures of a run: parts of its page as PNG files, for viewing without a browser."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from blan_facial.report import looks, scores
from blan_facial.report.pages import STYLE
from blan_facial.report.sample import Sample
from blan_facial.results.run_folder import PICTURES
from blan_facial.results.terminal import tested_on
from shared.files import replacing
from shared.svg import FAINT, MARGIN, element, image, png, text

HEADER, FACE, GAP, LABELS = 76, 112, 6, 96  # pixels of a drawing
COLUMNS = 8
"""Faces per row, except for faces with their attributes."""
OPACITY = 0.65
"""Opacity of the gates over grey faces."""

LIGHT = dict(re.findall(r"(--[\w-]+): ([^;]+);", STYLE.partition("}")[0]))
"""The page's colours for a light screen, at the start of its style sheet."""


def write_pictures(folder: Path, sample: Sample | None, metrics: Mapping[str, Any] | None) -> None:
    """Write the available pictures atomically; the same arguments give the same bytes.

    Args:
        folder: An existing folder for ``faces.png``, ``attention.png`` if the model has RDAM, ``reconstructions.png``
            if it reconstructs, and ``accuracy.png`` if it has levels.
        sample: Faces with the model's predictions; None if there are none to show.
        metrics: Content of ``metrics.json``; None if the run has none yet.

    Raises:
        OSError: A file cannot be written.
    """
    of_sample: tuple[Callable[[Sample], bytes | None], ...] = (_faces, _attention, _reconstructions)
    drawn = [None if sample is None else draw(sample) for draw in of_sample]
    drawn.append(None if metrics is None else _accuracy(metrics))
    for name, picture in zip(PICTURES, drawn, strict=True):
        if picture is not None:
            with replacing(folder / name) as file:
                file.write(picture)


def multiples(note: str, drawings: Sequence[tuple[str, Markup]]) -> bytes:
    """Return the small charts of the attributes as PNG, six per row, in the colours of a light screen."""
    width, height, columns = 186, 146, min(6, len(drawings))
    parts = []
    for place, (name, drawing) in enumerate(drawings):
        line, column = divmod(place, columns)
        words = text(name, 84, 0, text_anchor="middle", font_weight="bold")
        moved = f"translate({MARGIN + column * width} {HEADER + 10 + line * height})"
        parts.append(element("g", words, element("g", drawing, transform="translate(0 6)"), transform=moved))
    lines = -(-len(drawings) // columns)
    rules = "\n".join(re.findall(r"^(?:svg|\.level-1).*", STYLE, re.MULTILINE))
    rules = re.sub(r"var\((--[\w-]+)\)", lambda name: LIGHT[name[1]], rules)  # resvg does not support variables
    across = max(2 * MARGIN + columns * width - 18, 900)
    return png("Accuracy by level", note, across, HEADER + lines * height, *parts, style=rules)


def _accuracy(metrics: Mapping[str, Any]) -> bytes | None:
    """Draw the paper's Fig. 3 for this run; None without levels."""
    drawings = [
        (f"{attribute} ★" if significant else attribute, drawing)
        for attribute, drawing, significant in scores.multiples(metrics)
    ]
    note = (
        f"{tested_on(metrics)}, in percent with 95 % intervals; each attribute has its own scale. "
        "★: the best level is significantly better than the second."
    )
    return multiples(note, drawings) if drawings else None


def _faces(sample: Sample) -> bytes:
    """Draw a contact sheet of faces with their true and predicted attributes."""
    line, width = 14.5, 262
    colors = {"correct": LIGHT["--ink"], "false-positive": LIGHT["--bad"], "missed": LIGHT["--missed"]}
    key = [
        element("tspan", f"{sign} {meaning}", style=f"fill: {colors[kind]}", dx=18 * (place > 0))
        for place, (kind, (sign, meaning)) in enumerate(looks.SIGNS.items())
    ]
    rest = element("tspan", "not listed: correctly predicted to be absent, or unknown", style=f"fill: {FAINT}", dx=18)
    parts = [element("text", *key, rest, x=MARGIN, y=52, font_size=11)]
    found, top = looks.faces(sample), float(HEADER)
    for start in range(0, len(found), 4):
        row, longest = found[start : start + 4], 0
        for column, face in enumerate(row):
            left = MARGIN + column * width
            parts.append(image(face.picture, left, top, FACE, FACE))
            parts.append(text(f"{face.right} of {face.known} right", left + FACE + 9, top + 9, color=FAINT, size=10))
            for place, (kind, sign, _, name) in enumerate(face.marks, start=1):
                y, color = top + 9 + place * line, colors[kind]
                parts.append(text(sign, left + FACE + 14, y, color=color, text_anchor="middle", font_weight="bold"))
                parts.append(text(name, left + FACE + 23, y, color=color))
            longest = max(longest, 1 + len(face.marks))
        top += max(FACE, line * longest) + 18
    return png("Predicted attributes", "", 2 * MARGIN + min(4, max(len(found), 3)) * width, top, *parts)


def _attention(sample: Sample) -> bytes | None:
    """Overlay RDAM's spatial gates on grey faces, with a column per face and a row per level; None without RDAM."""
    attention = looks.attention(sample)
    if attention is None:
        return None
    greys, gates = zip(*attention.faces[:COLUMNS], strict=True)
    parts = [_named(HEADER, "face"), *_row(HEADER, [looks.picture(face) for face in sample.faces[:COLUMNS]])]
    for place, level in enumerate(attention.levels):
        top = HEADER + (place + 1) * (FACE + GAP)
        parts += [_named(top, f"level {level.level}", level.size), *_row(top, greys)]
        parts += _row(top, [of[place][1] for of in gates], opacity=OPACITY)
    left, top = MARGIN + LABELS + len(greys) * (FACE + GAP) + 4, HEADER + FACE + GAP
    height = len(attention.levels) * (FACE + GAP) - GAP
    stops = [element("stop", offset=place / 8, stop_color=color) for place, color in enumerate(looks.SCALE)]
    parts.append(element("linearGradient", *stops, id="scale", x1=0, x2=0, y1=1, y2=0))
    parts.append(element("rect", x=left, y=top, width=12, height=height, fill="url(#scale)", opacity=OPACITY))
    parts.append(text(f"{attention.high:.2f}", left + 17, top + 9, color=FAINT))
    parts.append(text(f"{attention.low:.2f}", left + 17, top + height, color=FAINT))
    note = "The spatial gates, which multiply the combined features of encoder and decoder."
    return png("Spatial attention", note, max(left + 44 + MARGIN, 700), top + height + MARGIN, *parts)


def _reconstructions(sample: Sample) -> bytes | None:
    """Draw faces above their reconstructions with errors; None without reconstruction."""
    found = looks.reconstructions(sample)
    if found is None:
        return None
    faces, rebuilt, errors = zip(*found["pairs"][:COLUMNS], strict=True)
    below, bottom = HEADER + FACE + GAP, HEADER + 2 * (FACE + GAP) + 10
    parts = [_named(HEADER, "face"), *_row(HEADER, faces), _named(below, "reconstruction"), *_row(below, rebuilt)]
    parts.append(text("squared error", MARGIN, bottom, color=FAINT))
    for place, error in enumerate(errors):
        middle = MARGIN + LABELS + place * (FACE + GAP) + FACE / 2
        parts.append(text(f"{error:.3f}", middle, bottom, text_anchor="middle"))
    note = (
        f"Mean squared error of normalised pixels, {found['error']:.3f} on average; "
        f"for the mean colour of each face it would be {found['plain']:.3f}."
    )
    width = max(2 * MARGIN + LABELS + len(faces) * (FACE + GAP) - GAP, 700)
    return png("Reconstructions", note, width, bottom + MARGIN, *parts)


def _named(top: float, name: str, note: str = "") -> Markup:
    """Draw the name of a row of faces on its left."""
    words = text(name, MARGIN, top + FACE / 2, size=12), text(note, MARGIN, top + FACE / 2 + 16, color=FAINT)
    return Markup("").join(words)


def _row(top: float, sources: Sequence[str], **attributes: object) -> list[Markup]:
    """Draw pictures side by side."""
    return [
        image(source, MARGIN + LABELS + place * (FACE + GAP), top, FACE, FACE, **attributes)
        for place, source in enumerate(sources)
    ]
