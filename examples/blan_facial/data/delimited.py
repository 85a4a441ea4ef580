"""Tables in text files, whoever wrote them: commas, semicolons or tabs between the columns, an index by pandas."""

import csv
from collections.abc import Iterator
from pathlib import Path

from blan_facial.data.faces import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Row = tuple[int, list[str]]
"""The number of a line, and its columns without blanks around them."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_rows(path: Path, option: str) -> Iterator[Row]:
    """Yield every row that is not blank, the first of them with the columns' names.

    A first column that pandas wrote, the number of each row under no name, is left out.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        DataError: There is no such file, or it is no text, or no table.
    """
    indexed: bool | None = None
    for number, columns in _rows(path, option):
        if indexed is None:
            indexed = len(columns) > 1 and columns[0] in ("", "Unnamed: 0")
        yield number, columns[1:] if indexed else columns


def _rows(path: Path, option: str) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"
        with path.open(encoding=encoding, newline="") as lines:
            reader = csv.reader(lines, delimiter=_delimiter(path, encoding), strict=True)
            for row in reader:
                columns = [column.strip() for column in row]
                if any(columns):
                    yield reader.line_num, columns
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: must be a CSV file, got nothing to read there. Name it with {option}.") from error
    except UnicodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got {error}. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: must be CSV, got {error}. Correct the line.") from error


def _delimiter(path: Path, encoding: str) -> str:
    """Return what parts the names of the first line that is not blank."""
    with path.open(encoding=encoding, newline="") as lines:
        first = next((line for line in lines if line.strip()), "")
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([first], delimiter=delimiter), [])))
