"""The layout of a table: in the terminal, as Markdown, and inside another Markdown file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from blan_facial.tables.cells import Experiment
from blan_facial.tables.entries import Entry
from blan_facial.tables.running import ExperimentError
from shared.files import replacing

EMPTY = "–"  # noqa: RUF001  # the usual dash in tables


def halves(experiment: Experiment, entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return the columns to show, each with our values, the paper's, or both side by side."""
    return [
        (column, owner)
        for column in experiment.columns
        for owner in ("ours", "paper")
        if any(getattr(entry, owner) is not None for entry in entries if entry.column == column)
    ]


def grid(experiment: Experiment, entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows."""
    cells = {(entry.row, entry.column): entry for entry in entries}
    shown = halves(experiment, entries)
    rows = [[row, *(written(getattr(cells[row, column], owner)) for column, owner in shown)] for row in experiment.rows]
    return ["", *(f"{column}, {owner}" for column, owner in shown)], rows


def caption(experiment: Experiment, entries: Sequence[Entry], budget: str) -> str:
    """Return the caption, which explains the values and their sources."""
    counts = Counter(entry.source for entry in entries)
    sources = ", ".join(
        f"{counts[name]} {name}" for name in ("ours and paper", "ours", "paper", "empty") if counts[name]
    )
    return (
        f"Ours: {budget}; mean ± sample standard deviation over the seeds, in percent unless stated otherwise. "
        f"Paper: {experiment.paper_data}. Cells: {sources}."
    )


def markdown(experiment: Experiment, entries: Sequence[Entry], budget: str) -> str:
    """Return the table and its caption as Markdown."""
    header, rows = grid(experiment, entries)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
    return "\n".join([f"**{experiment.title}**", "", *lines, "", caption(experiment, entries, budget)]) + "\n"


def terminal(experiment: Experiment, entries: Sequence[Entry], budget: str) -> Table:
    """Return the table for the terminal."""
    header, rows = grid(experiment, entries)
    table = Table(title=experiment.title, caption=caption(experiment, entries, budget), box=box.SIMPLE)
    for place, name in enumerate(header):
        words = "\n".join(name.replace(",", "").split())
        table.add_column(words, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def written(value: object) -> str:
    """Format the value of a cell, numbers with two decimals."""
    if value is None:
        return EMPTY
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def insert(path: Path, name: str, text: str) -> None:
    """Replace the text between the two marker lines of a table in a Markdown file, with the line ends of the file.

    Raises:
        ExperimentError: The file is not UTF-8, or does not contain both markers once each in their order.
        OSError: The file cannot be read or written.
    """
    before, after = around(path, name)
    begin, end = _markers(name)
    lines = f"{begin}\n\n{text}\n{end}"
    if "\r\n" in before + after:
        lines = lines.replace("\n", "\r\n")
    with replacing(path) as file:
        file.write(f"{before}{lines}{after}".encode())


def around(path: Path, name: str) -> tuple[str, str]:
    """Return the text before and after the markers of a table; the errors are those of :func:`insert`."""
    begin, end = _markers(name)
    try:
        page = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ExperimentError(
            f"experiments: --markdown must be a UTF-8 file, got {path} ({error}). Save it as UTF-8."
        ) from error
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in after:
        raise ExperimentError(
            f"experiments: --markdown needs the lines {begin} and {end} once each, got a file without them: {path}. "
            "Write them where the table should go."
        )
    return before, after


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
