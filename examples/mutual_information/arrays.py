"""The user's arrays: how they are read, and what is wrong with them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[np.float64]

LEAST_ROWS = 100


class ArraysError(ValueError):
    """Arrays that information cannot be measured between, or a file that holds none."""


def read(path: Path) -> npt.NDArray[np.generic]:
    """Read an array from a NumPy file (.npy) or a table (.csv with commas, .tsv with tabs), with or without header.

    Raises:
        ArraysError: The file is of another kind, broken, or no table of numbers.
        OSError: The file cannot be read.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _read_table(path, "," if kind == ".csv" else "\t")
    if kind != ".npy":
        raise ArraysError(
            f"between: files must be .npy, .csv or .tsv, got {path}. Save the array in one of these formats."
        )
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArraysError(
            f"between: {path} must hold an array of numbers, got a file that does not load ({error}). "
            "Save it anew by numpy.save."
        ) from error
    return np.asarray(content)


def checked(x: object, y: object) -> tuple[Array, Array]:
    """Return both arrays as (n, d), or say what is wrong with them.

    Raises:
        TypeError: An array does not hold numbers.
        ArraysError: An array has another shape, a value that is not finite or a constant column, or the two have
            different or too few rows.
    """
    left, right = _numbers("x", x), _numbers("y", y)
    if len(left) != len(right):
        raise ArraysError(
            f"information_between: x and y must have a row for each pair, got {len(left)} and {len(right)} rows. "
            "Pair them row by row first."
        )
    if len(left) < LEAST_ROWS:
        raise ArraysError(
            f"information_between: needs at least {LEAST_ROWS} rows to train and to hold some out, got {len(left)}. "
            "Gather more pairs."
        )
    for name, values in (("x", left), ("y", right)):
        _check_values(name, values)
    return left, right


def _numbers(name: str, values: object) -> Array:
    """Return an array as (n, d)."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"information_between: {name} must hold real numbers, got dtype {array.dtype}. "
            "Encode categories as columns of zeros and ones."
        )
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise ArraysError(
            f"information_between: {name} must be (n,) or (n, d) with d >= 1, got shape {array.shape}. "
            "Flatten what belongs to a row."
        )
    return array.reshape(len(array), -1).astype(np.float64)


def _check_values(name: str, values: Array) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ArraysError(
            f"information_between: {name} must be finite, got {values[row, column]} in row {row}, column {column} "
            f"({bad.sum()} such in all). Leave these rows out of both arrays, or fill them in."
        )
    constant = np.flatnonzero((values == values[0]).all(0))
    if len(constant):
        raise ArraysError(
            f"information_between: {name} must vary in every column, got {values[0, constant[0]]:g} throughout column "
            f"{constant[0]}. Leave it out: a constant tells nothing."
        )


def _read_table(path: Path, delimiter: str) -> Array:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            lines = [
                (number, fields) for number, fields in enumerate(csv.reader(file, delimiter=delimiter), 1) if fields
            ]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ArraysError(
                f"between: {path} must be a table in UTF-8, got a file that does not read ({error}). Save it anew."
            ) from error
    if not lines:
        raise ArraysError(f"between: {path} must hold a table of numbers, got an empty file. Check the path.")
    (_, first), *rest = lines
    header = None
    if any(_number(field) is None for field in first):
        header, lines = first, rest
    if not lines:
        raise ArraysError(f"between: {path} must hold a table of numbers, got a header alone. Check the file.")
    return np.array([_row(path, number, fields, len(first), header) for number, fields in lines])


def _row(path: Path, number: int, fields: Sequence[str], width: int, header: Sequence[str] | None) -> list[float]:
    """Return the numbers of a line; an empty field is NaN."""
    if len(fields) != width:
        raise ArraysError(
            f"between: {path} must have {width} fields in every line, as in its first, got {len(fields)} in line "
            f"{number}. Mend that line."
        )
    values = []
    for column, field in enumerate(fields):
        value = _number(field)
        if value is None:
            named = f"column {column}" if header is None else f"column {header[column]!r}"
            raise ArraysError(
                f"between: {path} must hold numbers, got {field!r} in line {number}, {named}. "
                "Encode categories as columns of zeros and ones, or leave the column out."
            )
        values.append(value)
    return values


def _number(field: str) -> float | None:
    if not field.strip():
        return float("nan")
    try:
        return float(field)
    except ValueError:
        return None
