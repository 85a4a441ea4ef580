"""Tables in text files from any program: separated by commas, semicolons or tabs, with or without pandas' index."""

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from blan_facial.data.faces import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

MOST_COLUMNS = 10_000
MOST_CHARACTERS = 2**22
"""Maximum number of characters of a line."""

Row = tuple[int, list[str]]
"""The number of a line, and its columns without surrounding whitespace."""

_INDEX = re.compile(r"|Unnamed: \d+(\.\d+)*")  # pandas' names for a column of row numbers
_QUOTED = re.compile(r'"[^"]*("|$)')


def read_rows(path: Path, option: str) -> Iterator[Row]:
    """Yield every non-blank row; the first contains the names of the columns.

    Leading index columns written by pandas, which contain row numbers, are left out.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        DataError: The file does not exist, or is not text or not a table.
    """
    first: int | None = None
    for number, columns in _rows(path, option):
        if first is None:
            named = (place for place, name in enumerate(columns) if not _INDEX.fullmatch(name))
            first = next(named, 0)
        yield number, columns[first:]


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file: UTF-8, or UTF-16 as written by Excel.

    Raises:
        UnicodeError: The encoding is neither.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(codecs.BOM_UTF32_LE):
        raise UnicodeError("UTF-32")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        raise UnicodeError("NUL bytes")
    return "utf-8-sig"


def _rows(path: Path, option: str) -> Iterator[Row]:
    try:
        if not path.is_file():  # reading a pipe may block forever
            raise FileNotFoundError
        encoding = encoding_of(path)
        with path.open(encoding=encoding, newline="") as lines:
            reader = csv.reader(bounded(path, lines), delimiter=_delimiter(path, encoding), strict=True)
            for row in reader:
                if len(row) > MOST_COLUMNS:
                    rule = f"must have at most {MOST_COLUMNS:,} columns, got {len(row):,}. Correct the line."
                    raise DataError(f"{path}, line {reader.line_num}: {rule}")
                columns = [column.strip() for column in row]
                if any(columns):
                    yield reader.line_num, columns
    except FileNotFoundError as error:
        raise DataError(f"{path}: must be a readable CSV file, got none. Name it with {option}.") from error
    except UnicodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got {error}. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: must be CSV, got {error}. Correct the line.") from error


def _delimiter(path: Path, encoding: str) -> str:
    """Return the delimiter: the most frequent candidate outside quotes in the first non-blank line."""
    with path.open(encoding=encoding, newline="") as lines:
        first = next((line for line in bounded(path, lines) if line.strip()), "")
    return max(DELIMITERS, key=_QUOTED.sub("", first).count)


def bounded(path: Path, lines: TextIO) -> Iterator[str]:
    """Yield lines, and refuse one that is too long before it is completely in memory."""
    number = 0
    while line := lines.readline(MOST_CHARACTERS + 1):
        number += 1
        if len(line) > MOST_CHARACTERS:
            raise DataError(
                f"{path}, line {number}: must have at most {MOST_CHARACTERS:,} characters, got more. "
                "Split the table into lines."
            )
        yield line
