"""A white sheet for charts and words, whose positions are in inches from the top left corner.

Positions are exact, without a layout engine, and no state is shared with pyplot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150

MARGIN = 0.25  # inches

INK, FAINT = "#222222", "#6b6b6b"


@contextmanager
def style() -> Iterator[None]:
    """Draw and save sheets with Matplotlib's default settings and font, independent of the user's."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": INK})
        yield


class Sheet:
    """A figure of fixed size.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes with their upper left corner at (left, top)."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        """Write words with their upper left corner at (left, top), unless the style says otherwise."""
        self.figure.text(left / self.width, 1 - top / self.height, words, **{"va": "top", **style})

    def title(self, words: str, below: str = "") -> None:
        """Write the title and an explanatory line."""
        self.text(MARGIN, 0.14, words, fontsize=12, fontweight="bold")
        self.text(MARGIN, 0.42, below, color=FAINT)
