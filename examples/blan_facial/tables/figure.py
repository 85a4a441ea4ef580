"""Fig. 3 as small multiples: the accuracy of every level, an attribute each."""

from collections.abc import Sequence
from pathlib import Path

from blan_facial.network.model import LEVEL_NAMES
from blan_facial.tables.plan import Experiment
from blan_facial.tables.results import Entry
from shared.files import replacing
from shared.sheet import INK, MARGIN, Sheet, spoken, style

COLUMNS, WIDTH, HEIGHT = 3, 2.0, 1.3  # inches
BEST, OTHER = "#0072b2", "#b8cbd8"


def write_figure(path: Path, experiment: Experiment, entries: Sequence[Entry]) -> None:
    """Draw the attributes that were measured, the best level dark, with the spread over the seeds."""
    cells = {(entry.row, entry.column): entry.ours for entry in entries}
    measured = [row for row in experiment.rows if cells[row, LEVEL_NAMES[0]] is not None]
    lines = -(-len(measured) // COLUMNS)
    with style():
        sheet = Sheet(2 * MARGIN + COLUMNS * (WIDTH + 0.4), 0.6 + lines * (HEIGHT + 0.6))
        sheet.title(
            "Accuracy by level, in percent", "bars: mean over the seeds; lines: standard deviation; dark: the best"
        )
        for place, attribute in enumerate(measured):
            line, column = divmod(place, COLUMNS)
            top = 0.9 + line * (HEIGHT + 0.6)
            axes = sheet.axes(MARGIN + 0.3 + column * (WIDTH + 0.4), top, WIDTH, HEIGHT)
            found = [cells[attribute, level] for level in LEVEL_NAMES]
            means = [float(ours.mean) for ours in found if ours is not None]
            spreads = [ours.spread or 0.0 for ours in found if ours is not None]
            colors = [BEST if mean == max(means) else OTHER for mean in means]
            axes.bar(LEVEL_NAMES, means, yerr=spreads, color=colors, ecolor=INK, width=0.7)
            low, high = (
                side(mean + sign * spread for mean, spread in zip(means, spreads, strict=True))
                for side, sign in ((min, -1), (max, 1))
            )
            room = max(0.5, 0.3 * (high - low))
            axes.set_ylim(max(0.0, low - room), high + room)
            axes.set_title(spoken(attribute), fontsize=8)
            axes.tick_params(length=0, labelsize=7)
            axes.spines[["top", "right", "left"]].set_visible(False)
        with replacing(path) as file:
            sheet.figure.savefig(file, format="png", dpi=sheet.figure.dpi, facecolor="white")
