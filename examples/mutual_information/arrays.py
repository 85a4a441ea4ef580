"""Reading and checking the user's files."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shared.program import UserError

Line: TypeAlias = tuple[int, list[str]]
"""The number of a line, counted from 1, and its fields."""

FORMATS = (".npy", ".csv", ".tsv")
_EXACT = 2.0**53
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-")  # in any case


class ArraysError(UserError):
    """A file that does not contain a valid array."""


def read(path: Path, *, categories: bool = False) -> npt.NDArray[Any]:
    """Read an array from a NumPy file (.npy) or a table (.csv with commas, .tsv with tabs), with or without a header.

    A NumPy file is mapped into memory, not copied. A table of numbers has a header if a field of its first line is
    neither a number nor a missing value, such as NA. A table of categories has a header if no field of its first line
    occurs again in its column, and one is not a missing value. Empty lines at the end are ignored.

    Args:
        path: The file.
        categories: Whether to keep a table's fields as strings.

    Raises:
        ArraysError: The file has another format, is broken, is not a table of numbers, or has an empty line, a missing
            or infinite number, or an empty category.
        OSError: The file cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ArraysError(
            f"between: files must be .npy, .csv or .tsv, got {path}. Save the array in one of these formats."
        )
    if kind != ".npy":
        return _read_table(path, "," if kind == ".csv" else "\t", categories)
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        if "object" in str(error).lower():  # NumPy says so of any unknown format, and recommends to unpickle it
            wanted, dtype = ("categories", "str") if categories else ("numbers", "float")
            raise ArraysError(
                f"between: {path} must contain an array of {wanted}, got Python objects or another format. "
                f"Save {wanted}, for example by numpy.save(path, array.astype({dtype}))."
            ) from error
        raise ArraysError(
            f"between: {path} must contain an array of numbers, got a file that does not load ({error}). "
            "Save it again with numpy.save."
        ) from error
    if not isinstance(content, np.ndarray):
        content.close()
        raise ArraysError(
            f"between: {path} must contain one array, got an archive of {len(content.files)}. "
            "Save the array alone, with numpy.save."
        )
    return content


def _read_table(path: Path, delimiter: str, categories: bool) -> npt.NDArray[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            lines = [(reader.line_num, fields) for fields in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ArraysError(
                f"between: {path} must be a table in UTF-8, got a file that cannot be read ({error}). Save it again."
            ) from error
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise ArraysError(f"between: {path} must contain a table of numbers, got an empty file. Check the path.")
    for number, fields in lines:
        if not fields:
            raise ArraysError(
                f"between: {path} must have a row in every line, got an empty line {number}. Remove it, and make sure "
                "that the rows of both files still belong together."
            )
    header = lines[0][1] if _has_header(lines, categories) else None
    width, rows = len(lines[0][1]), lines if header is None else lines[1:]
    if not rows:
        raise ArraysError(f"between: {path} must contain a table of numbers, got only a header. Check the file.")
    for number, fields in rows:
        if len(fields) != width:
            raise ArraysError(
                f"between: {path} must have {width} fields in every line, as in its first, got {len(fields)} in line "
                f"{number}. Fix that line."
            )
    if categories:
        _refuse_empty(path, rows, header)
        return np.array([fields for _, fields in rows])
    values = np.array([_row(path, number, fields, header) for number, fields in rows])
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        (number, fields), column = rows[bad[0, 0]], bad[0, 1]
        raise ArraysError(
            f"between: {path} must have a finite number in every field, got {fields[column]!r} in line {number}, "
            f"{_named(column, header)} ({len(bad)} in all). Leave these rows out of every file, or fill them in."
        )
    return values


def _has_header(lines: Sequence[Line], categories: bool) -> bool:
    first = lines[0][1]
    if not categories:
        return any(_number(field) is None for field in first)
    if all(_missing(field) for field in first):
        return False
    return not any(field == again for _, fields in lines[1:] for field, again in zip(first, fields, strict=False))


def _refuse_empty(path: Path, rows: Sequence[Line], header: Sequence[str] | None) -> None:
    for number, fields in rows:
        for column, field in enumerate(fields):
            if not field.strip():
                raise ArraysError(
                    f"between: {path} must have a category in every field, got {field!r} in line {number}, "
                    f"{_named(column, header)}. Leave the row out of every file, or write a category such as 'missing'."
                )


def _row(path: Path, number: int, fields: Sequence[str], header: Sequence[str] | None) -> list[float]:
    """Return the numbers of a line; a missing value is NaN."""
    values = []
    for column, field in enumerate(fields):
        value = _number(field)
        if value is None:
            raise ArraysError(
                f"between: {path} must contain numbers, got {field!r} in line {number}, "
                f"{_named(column, header)}. {_remedy(field)}"
            )
        if abs(value) > _EXACT and field.strip().lstrip("+-").isdecimal():
            raise ArraysError(
                f"between: {path} must have integers of at most 2**53, which are exact in float64, got {field} in "
                f"line {number}, {_named(column, header)}. Subtract an offset from the column first."
            )
        values.append(value)
    return values


def _remedy(field: str) -> str:
    """Return what to do about a field that is no number."""
    parts = re.split(r"[;\t,\s]+", field.strip())
    if len(parts) > 1 and all(_number(part) is not None for part in parts):
        return "Separate fields by commas in .csv and by tabs in .tsv, and write numbers with a decimal point."
    return "Pass --discrete for a table of categories, or leave the column out."


def _named(column: int, header: Sequence[str] | None) -> str:
    return f"column {column}" if header is None else f"column {header[column]!r}"


def _missing(field: str) -> bool:
    return field.strip().lower() in _MISSING


def _number(field: str) -> float | None:
    if _missing(field):
        return float("nan")
    try:
        return float(field)
    except ValueError:
        return None
