"""Writing answers as a table, CSV or JSON lines."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from blan_facial.prediction.predictor import Answer
from shared.program import Terminal, shown

DIGITS = 6

_WIDTH = 80  # columns of a table outside a terminal


class Writer(ABC):
    """Writes answers, image by image.

    Args:
        stream: Output; characters that represent undecodable bytes of file names are written as those bytes.
        scaled: Whether the probabilities are calibrated by the run's scaling.
        fitted: Whether each attribute has its own threshold, which is then part of the answers.
    """

    def __init__(self, stream: IO[str], *, scaled: bool = False, fitted: bool = False) -> None:
        self.stream = stream
        self.fitted = fitted
        self.scaled = scaled

    @abstractmethod
    def write(self, path: Path, answers: Sequence[Answer], picture: Path | None) -> None:
        """Write the answers for an image, and the path of its annotated picture, if there is one."""


class TableWriter(Writer):
    """A table for each image, with the most probable answers first."""

    def __init__(self, stream: IO[str], *, scaled: bool = False, fitted: bool = False) -> None:
        super().__init__(stream, scaled=scaled, fitted=fitted)
        width = None if stream.isatty() else _WIDTH
        self.console = Terminal(file=stream, width=width)

    def write(self, path: Path, answers: Sequence[Answer], picture: Path | None) -> None:
        """Print it."""
        self.console.print(Text(shown(str(path)), "bold"), soft_wrap=True)
        scaled = "scaled for each attribute" if self.scaled else "not scaled"
        predicted = "; predicted at thresholds for each attribute, fitted on the validation split" * self.fitted
        self.console.print(_table(answers, f"Probabilities {scaled}{predicted}."))


class CSVWriter(Writer):
    """A line per image and attribute. Text that a spreadsheet would evaluate (``=1+1``) gets a leading quote."""

    def __init__(self, stream: IO[str], *, scaled: bool = False, fitted: bool = False) -> None:
        super().__init__(stream, scaled=scaled, fitted=fitted)
        self.lines = csv.writer(stream, lineterminator="\n")
        self.quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.lines.writerow(("image", "attribute", "probability", "predicted", "level", "scaled"))

    def write(self, path: Path, answers: Sequence[Answer], picture: Path | None) -> None:
        """Write the lines."""
        for answer in answers:
            predicted = "true" if answer.predicted else "false"
            probability = f"{answer.probability:.{DIGITS}f}"
            values = (_as_text(str(path)), _as_text(answer.attribute), probability, predicted, answer.level)
            lines = self.quoted if "\r" in f"{path}{answer.attribute}" else self.lines  # Python does not quote it
            lines.writerow((*values, "true" if self.scaled else "false"))


class JSONLinesWriter(Writer):
    """A JSON object per image and line, including the contributions of the levels to the log-odds."""

    def write(self, path: Path, answers: Sequence[Answer], picture: Path | None) -> None:
        """Write the line."""
        content: dict[str, Any] = {"image": str(path)}
        if picture is not None:
            content["picture"] = str(picture)
        content["scaled"] = self.scaled
        content["attributes"] = {answer.attribute: self._answer(answer) for answer in answers}
        self.stream.write(json.dumps(content) + "\n")

    def _answer(self, answer: Answer) -> dict[str, Any]:
        return {
            "probability": round(answer.probability, DIGITS),
            **({"threshold": round(answer.threshold, DIGITS)} if self.fitted else {}),
            "predicted": answer.predicted,
            "level": answer.level,
            "contributions": {level: round(value, DIGITS) for level, value in answer.contributions.items()},
            **({"shift": round(answer.shift, DIGITS)} if self.scaled else {}),
        }


WRITERS: dict[str, type[Writer]] = {"table": TableWriter, "csv": CSVWriter, "jsonl": JSONLinesWriter}


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def _table(answers: Sequence[Answer], caption: str) -> Table:
    table = Table(caption=caption, caption_justify="left")
    table.add_column("attribute", no_wrap=True, max_width=40)
    table.add_column("probability", justify="right")
    table.add_column("")
    table.add_column("predicted")
    table.add_column("level")
    ordered = sorted(answers, key=lambda answer: -answer.probability)
    for place, answer in enumerate(ordered):
        last = place + 1 < len(ordered) and answer.predicted and not ordered[place + 1].predicted
        table.add_row(
            answer.attribute,
            f"{answer.probability:.4f}",
            Bar(1.0, 0.0, answer.probability, width=16),
            Text("yes", "green") if answer.predicted else "no",
            answer.level or "",
            style="" if answer.predicted else "dim",
            end_section=last,
        )
    return table
