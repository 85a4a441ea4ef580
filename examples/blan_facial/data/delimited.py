"""Tables in text files, whoever wrote them: commas, semicolons or tabs between the columns, an index by pandas."""

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
"""Of a line."""

Row = tuple[int, list[str]]
"""The number of a line, and its columns without blanks around them."""

_INDEX = re.compile(r"|Unnamed: \d+(\.\d+)*")  # what pandas calls a column of row numbers
_QUOTED = re.compile(r'"[^"]*("|$)')


def read_rows(path: Path, option: str) -> Iterator[Row]:
    """Yield every row that is not blank, the first of them with the columns' names.

    First columns that pandas wrote, the number of each row under no name, are left out.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        DataError: There is no such file, or it is no text, or no table.
    """
    first: int | None = None
    for number, columns in _rows(path, option):
        if first is None:
            named = (place for place, name in enumerate(columns) if not _INDEX.fullmatch(name))
            first = next(named, 0)
        yield number, columns[first:]


def encoding_of(path: Path) -> str:
    """Return how a text file is written: in UTF-8, or in UTF-16 as Excel does.

    Raises:
        UnicodeError: It is neither.
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
        if not path.is_file():  # waiting for a pipe may never end
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
    """Return what parts the names of the first line that is not blank: what stands there most often, unquoted."""
    with path.open(encoding=encoding, newline="") as lines:
        first = next((line for line in bounded(path, lines) if line.strip()), "")
    return max(DELIMITERS, key=_QUOTED.sub("", first).count)


def bounded(path: Path, lines: TextIO) -> Iterator[str]:
    """Yield lines, and refuse one that is too long before it is in memory as a whole."""
    number = 0
    while line := lines.readline(MOST_CHARACTERS + 1):
        number += 1
        if len(line) > MOST_CHARACTERS:
            raise DataError(
                f"{path}, line {number}: must have at most {MOST_CHARACTERS:,} characters, got more. "
                "Split the table into lines."
            )
        yield line
