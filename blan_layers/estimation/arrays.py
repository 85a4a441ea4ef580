"""The inputs of a measurement: arrays, tensors and data frames, and the errors for those that cannot be used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from blan_layers._checks import choice, said

Array: TypeAlias = npt.NDArray[np.float64]

Discrete: TypeAlias = Literal["x", "y", "both"] | None

LEAST_ROWS = 100

MOST_CATEGORIES = 10
"""Minimum number of rows per category of a column."""

_ROWS = (list, tuple, np.ma.MaskedArray)  # what a list may contain that can have masked values
_KNOWN_TO_NUMPY = (torch.float16, torch.float32, torch.float64)
_EXACT = 2.0**53
_AT_ONCE = 1 << 16  # rows that are checked at a time


@dataclass(frozen=True)
class Side:
    """One of the two variables, one row per observation."""

    values: Array
    """Numbers (n, d), or codes of categories starting from 0."""
    discrete: bool
    """Whether the values are codes."""


class _Table:
    """An input array, two-dimensional, with the names of its columns if it has any."""

    def __init__(self, name: str, given: object, discrete: bool) -> None:
        self.name, self.discrete = name, discrete
        self.labels: Sequence[object] | None = list(given.columns) if _is_frame(given) else None  # type: ignore[attr-defined]
        self.values = self._two_dimensional(given)

    def _two_dimensional(self, given: object) -> npt.NDArray[Any]:
        array = as_array(self.name, given, self.discrete)
        if array.ndim == 0 and not hasattr(given, "shape"):
            raise TypeError(
                said(
                    f"{self.name} must be an array, a tensor or a data frame, got {type(given).__name__}. "
                    "Pass one row per observation, (n,) or (n, d)."
                )
            )
        if array.ndim not in (1, 2) or 0 in array.shape[1:]:
            raise ValueError(
                said(
                    f"{self.name} must be (n,) or (n, d) with d >= 1, got shape {array.shape}. "
                    "Pass one row per observation, flattened to one axis."
                )
            )
        if not self.discrete:  # pandas returns times with a zone, or beside numbers, as objects, and categories as such
            for place, dtype in enumerate(_dtypes(given)):
                if getattr(dtype, "kind", "O") in "mM" or str(dtype) == "category":
                    column = self.name if self.labels is None else f"{self.name}[{self.labels[place]!r}]"
                    _check_kind(self.name, dtype, False, column)
        _check_kind(self.name, array.dtype, self.discrete, self.name)
        if not self.discrete and array.dtype.kind == "f":
            for row, place, value in _rounded(given):
                raise self._inexact(value, row, place)
        return array if array.ndim == 2 else array[:, None]

    def _inexact(self, value: object, row: int, place: int) -> ValueError:
        return ValueError(
            said(
                f"{self.name} must have integers of at most 2**53, which are exact in float64, got {value} in row "
                f"{row}, {self.column(place)}. Subtract an offset first, for example by {self.name} - "
                f"{self.name}.min()."
            )
        )

    def column(self, place: int) -> str:
        """Return the name of a column in messages."""
        return f"column {place}" if self.labels is None else f"column {self.labels[place]!r}"

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield chunks of rows with the index of their first row, so that a file is never fully in memory."""
        for start in range(0, len(self.values), _AT_ONCE):
            yield start, np.asarray(self.values[start : start + _AT_ONCE])

    def check_values(self) -> None:
        """Refuse missing or infinite values, and constant columns."""
        count, first, varies = 0, None, np.zeros(self.values.shape[1], dtype=bool)
        rule, remedy = "have no missing values" if self.values.dtype.kind in "OUS" else "be finite", "fill them in"
        for start, chunk in self.chunks():
            measured = self._measured(chunk)
            bad = _missing(measured)
            if bad.any() and first is None:
                row, column = np.argwhere(bad)[0]
                first = f"{chunk[row, column]!s} in row {start + row}, {self.column(column)}"
                if not _missing(chunk)[row, column]:
                    rule, remedy = "be finite in float64", "scale the column"
            if (
                not self.discrete
                and chunk.dtype.kind in "iu"
                and (large := np.abs(measured.astype(float)) > _EXACT).any()
            ):
                row, column = np.argwhere(large)[0]
                raise self._inexact(chunk[row, column], start + int(row), int(column))
            count += int(bad.sum())
            if first is None:
                varies |= (measured != self._measured(self.values[:1])).any(0)
        if first is not None:
            raise ValueError(
                said(
                    f"{self.name} must {rule}, got {first} ({count} in all). Leave these rows out of both arrays, "
                    f"or {remedy}."
                )
            )
        if not varies.all():
            place = int(np.flatnonzero(~varies)[0])
            raise ValueError(
                said(
                    f"{self.name} must vary in every column, got the constant {self.values[0, place]} in "
                    f"{self.column(place)}. Leave it out: a constant has no information."
                )
            )

    def _measured(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values as they are measured: numbers wider than float64 may become infinite, or equal."""
        if self.discrete or values.dtype.kind != "f" or values.dtype.itemsize <= 8:
            return values
        with np.errstate(over="ignore"):
            return values.astype(np.float64)

    def side(self, rows: npt.NDArray[np.intp] | slice) -> Side:
        """Return the selected rows as numbers or codes."""
        values = np.asarray(self.values[rows])
        drawn = f" drawn from {len(self.values):,}" if len(values) < len(self.values) else ""
        if drawn and (constant := (values == values[:1]).all(0)).any():
            place = int(np.flatnonzero(constant)[0])
            raise ValueError(
                said(
                    f"{self.name} must vary in every column, got the constant {values[0, place]} in "
                    f"{self.column(place)} of the {len(values):,} rows{drawn}. Raise max_rows, or leave it out."
                )
            )
        if not self.discrete:
            return Side(values.astype(np.float64), False)
        return Side(np.stack([self._codes(values[:, c], c, drawn) for c in range(values.shape[1])], 1), True)

    def _codes(self, column: npt.NDArray[Any], place: int, drawn: str) -> Array:
        try:
            names, codes = np.unique(column, return_inverse=True)
        except TypeError:
            kinds = " and ".join(sorted({type(value).__name__ for value in column}))
            raise TypeError(
                said(
                    f"{self.name} must contain categories of one type, got {kinds} in {self.column(place)}. "
                    f"Convert them to strings, for example with str()."
                )
            ) from None
        if MOST_CATEGORIES * len(names) > len(column):
            raise ValueError(
                said(
                    f"{self.name} must have at least {MOST_CATEGORIES} rows for each category, got {len(names)} "
                    f"categories in {len(column)} rows{drawn} in {self.column(place)}. "
                    f"{'Raise max_rows, merge' if drawn else 'Merge'} some categories, or measure the column as "
                    "numbers."
                )
            )
        return codes.astype(np.float64)


class Pairs:
    """The two input arrays, with all checks passed that do not need all rows in memory."""

    def __init__(self, x: object, y: object, discrete: Discrete) -> None:
        choice("discrete", discrete, (None, "x", "y", "both"))
        x = _in_pandas("x", x)
        y = aligned("x", x, "y", y)
        self.index: tuple[str, object] = ("x", x) if _is_indexed(x) else ("y", y)
        """The name of the input whose index, if it has one, says which row is which, and this input."""
        self.x, self.y = _Table("x", x, discrete in ("x", "both")), _Table("y", y, discrete in ("y", "both"))
        rows = len(self.x.values)
        if rows != len(self.y.values):
            raise ValueError(
                said(
                    f"x and y must have one row per pair, got {rows} and {len(self.y.values)} rows. "
                    "Pair them row by row first."
                )
            )
        for table in (self.x, self.y):
            if rows and table.values.shape[1] > rows:
                raise ValueError(
                    said(
                        f"{table.name} must have more rows than columns, got shape {table.values.shape}. "
                        f"If its columns are observations, pass {table.name}.T; otherwise reduce it to fewer columns."
                    )
                )
        if rows < LEAST_ROWS:
            raise ValueError(
                said(
                    f"needs at least {LEAST_ROWS} rows, for training and for held-out estimates, got {rows}. "
                    "Collect more pairs."
                )
            )
        for table in (self.x, self.y):
            table.check_values()

    def __len__(self) -> int:
        return len(self.x.values)

    def sides(self, rows: npt.NDArray[np.intp] | slice) -> tuple[Side, Side]:
        """Return the selected rows of both as numbers, or raise if two columns are identical."""
        x, y = self.x.side(rows), self.y.side(rows)
        drawn = f" in the {len(x.values):,} rows drawn from {len(self):,}" if len(x.values) < len(self) else ""
        raised = "Raise max_rows, or leave" if drawn else "Leave"
        for table, side in ((self.x, x), (self.y, y)):
            same = _equal_columns(side.values, side.values, within=True)
            if same is not None:
                raise ValueError(
                    said(
                        f"{table.name} must not have the same column twice, got equal {table.column(same[0])} and "
                        f"{table.column(same[1])}{drawn}. {raised} one of them out: it adds no information."
                    )
                )
        same = None if x.discrete or y.discrete else _equal_columns(x.values, y.values)
        if same is not None:
            raise ValueError(
                said(
                    f"x and y must differ, got {self.x.column(same[0])} of x equal to {self.y.column(same[1])} of y. "
                    "A column in both has infinite information: leave it out of one of them."
                )
            )
        return x, y


def _is_frame(given: object) -> bool:
    return hasattr(given, "to_numpy") and hasattr(given, "columns")  # polars' lazy frames warn of the second


def _is_indexed(given: object) -> bool:
    return hasattr(given, "index") and hasattr(given, "to_numpy") and hasattr(given, "loc")


def _dtypes(given: Any) -> list[Any]:
    return list(getattr(given, "dtypes", [])) if _is_frame(given) else [getattr(given, "dtype", None)]


def _rounded(given: Any) -> Iterator[tuple[int, int, object]]:
    """Yield row, column and value of integers that an array of floats cannot hold, the first of each column or row."""
    if isinstance(given, list | tuple):
        for row, cells in enumerate(given):
            for place, value in enumerate(cells if isinstance(cells, list | tuple) else [cells]):
                if isinstance(value, int | np.integer) and abs(int(value)) > _EXACT:
                    yield row, place, value
    elif hasattr(given, "to_numpy"):
        for place, dtype in enumerate(_dtypes(given)):
            if getattr(dtype, "kind", "") not in ("i", "u") and not str(dtype).startswith(("Int", "UInt")):
                continue
            column = given if not _is_frame(given) else given.iloc[:, place] if _is_indexed(given) else given[:, place]
            for value in (column.min(), column.max()):
                if not is_missing(value) and abs(int(value)) > _EXACT:
                    yield column.to_list().index(value), place, value


def _in_pandas(name: str, given: Any) -> Any:
    """Return an array of xarray whose rows have labels as a series or a frame, and other inputs as they are."""
    if not (hasattr(given, "dims") and hasattr(given, "indexes")):
        return given
    if hasattr(given, "data_vars"):
        raise TypeError(
            said(
                f"{name} must be an array, a tensor or a data frame, got {type(given).__name__}. "
                f"Pass its variables as columns, for example by {name}.to_dataframe()."
            )
        )
    return given.to_pandas() if len(given.dims) in (1, 2) and given.dims[0] in given.indexes else given


def aligned(name: str, given: object, other_name: str, other: Any) -> Any:
    """Return the other input in the order of the index of the given one, if both have an index."""
    other = _in_pandas(other_name, other)
    if not (_is_indexed(given) and _is_indexed(other)):
        return other
    left, right = given.index, other.index  # type: ignore[attr-defined]
    if left.equals(right):
        return other
    for owner, index in ((name, left), (other_name, right)):
        if not index.is_unique:
            twice = index[index.duplicated()].tolist()[0]
            raise ValueError(
                said(
                    f"{owner}'s index must have unique labels to be aligned with the other, got {twice!r} twice. "
                    "Make it unique, or pair by position by passing .to_numpy()."
                )
            )
    missing, more = left.difference(right), right.difference(left)
    if len(missing) or len(more):
        only = (missing.tolist()[0], name) if len(missing) else (more.tolist()[0], other_name)
        raise ValueError(
            said(
                f"{name} and {other_name} must have the same labels in their indices, got {len(missing) + len(more)} "
                f"without partner, {only[0]!r} only in {only[1]}. Join them first, or pair by position by passing "
                ".to_numpy()."
            )
        )
    return other.loc[left]


def as_array(name: str, given: Any, discrete: bool) -> npt.NDArray[Any]:
    """Return the values of an input; ``discrete`` keeps those of a data frame as they are."""
    if isinstance(given, torch.Tensor):
        return _of_tensor(name, given)
    if np.ma.isMaskedArray(given):
        return _of_masked(name, given)
    if _is_indexed(given):
        dtypes = _dtypes(given)
        if not discrete and all(isinstance(dtype, np.dtype) and dtype.kind in "iu" for dtype in dtypes):
            return np.asarray(given.to_numpy())  # integers, of which not all are exact in float64
        if not discrete and all(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes):
            # missing values of any kind become NaN, whose position is reported later
            dtype = np.longdouble if np.longdouble in dtypes else np.float64
            return np.asarray(given.to_numpy(dtype=dtype, na_value=np.nan))
        return np.asarray(given.to_numpy())
    if isinstance(given, list | tuple) and any(issubclass(kind, _ROWS) for kind in set(map(type, given))):
        places = [(place, column) for place, row in enumerate(given) for column in _masked_columns(row)]
        if places:
            raise _masked(name, places, ", or fill them in")
    try:
        if isinstance(given, list | tuple) and any(isinstance(row, torch.Tensor) for row in given):
            given = [as_array(name, row, discrete) for row in given]
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(
            said(
                f"{name} must have the same number of values in every row, got a ragged {type(given).__name__}. "
                "Pad or truncate it."
            )
        ) from error


def _check_kind(name: str, dtype: np.dtype[Any], discrete: bool, column: str) -> None:
    if dtype.kind in ("biufOUS" if discrete else "biuf"):
        return
    if discrete and dtype.kind in "cmM":
        raise TypeError(
            said(
                f"{name} must contain categories as strings or numbers, got dtype {dtype}. "
                f"Convert them, for example by {column}.astype(str)."
            )
        )
    remedy = {
        "c": "Pass real and imaginary parts as columns",
        "M": f"Pass times as numbers, for example ({column} - {column}.min()).astype('int64')",
        "m": f"Pass times as numbers, for example {column}.astype('int64')",
        "V": "Pass each field as a column",
        "O": f'Convert numbers by {name}.astype(float), or pass discrete="{name}" (or "both")',
    }.get(dtype.kind, f'If they are categories, pass discrete="{name}" (or "both")')
    raise TypeError(said(f"{name} must contain real numbers, got dtype {dtype}. {remedy}."))


def _of_tensor(name: str, given: torch.Tensor) -> npt.NDArray[Any]:
    if given.is_quantized:
        raise TypeError(
            said(f"{name} must contain real numbers, got dtype {given.dtype}. Convert it by {name}.dequantize().")
        )
    if given.layout != torch.strided or given.is_nested or given.is_meta:
        got, remedy = str(given.layout), f"Convert it, for example by {name}.to_dense()"
        if given.is_nested:
            got, remedy = "a nested tensor", "Give all rows the same length"
        elif given.is_meta:
            got, remedy = "a tensor without values (meta)", "Load its values first"
        raise TypeError(said(f"{name} must be dense, got {got}. {remedy}."))
    wide = given if given.dtype in _KNOWN_TO_NUMPY or not given.is_floating_point() else given.float()
    return np.asarray(wide.detach().resolve_conj().resolve_neg().cpu().numpy())


def _of_masked(name: str, given: Any) -> npt.NDArray[Any]:
    if given.dtype.names is not None:
        _check_kind(name, given.dtype, True, name)
    mask = np.ma.getmaskarray(given)
    if mask.any():
        keep = f"~np.ma.getmaskarray({name}){'.any(1)' if mask.ndim > 1 else ''}"
        raise _masked(name, np.argwhere(mask), f": keep = {keep}")
    return np.asarray(given.data)


def _masked_columns(row: object) -> list[int]:
    """Return the places of masked values in a row, which may be a number, a list or an array."""
    if np.ma.isMaskedArray(row):
        return [int(place) for place in np.flatnonzero(np.ma.getmask(row))]
    return [place for place, value in enumerate(row) if value is np.ma.masked] if isinstance(row, list | tuple) else []


def _masked(name: str, places: Sequence[Any] | npt.NDArray[np.intp], remedy: str) -> ValueError:
    row, *column = places[0]
    return ValueError(
        said(
            f"{name} must have no masked values, got one in row {row}, column {column[0] if column else 0} "
            f"({len(places)} of them in all). Leave these rows out of both arrays{remedy}."
        )
    )


def is_missing(value: object) -> bool:
    """Return whether a value is None, NaN, or another that does not equal itself, such as pandas.NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _missing(chunk: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if chunk.dtype.kind == "f":
        return np.asarray(~np.isfinite(chunk), dtype=bool)
    if chunk.dtype.kind == "O":
        return np.array([[is_missing(value) for value in row] for row in chunk], dtype=bool)
    return np.zeros(chunk.shape, dtype=bool)


def _equal_columns(left: Array, right: Array, within: bool = False) -> tuple[int, int] | None:
    """Return the first two columns with equal values, or None."""
    seen: dict[bytes, int] = {} if within else {column.tobytes(): c for c, column in reversed([*enumerate(left.T)])}
    for place, column in enumerate(right.T):
        found = seen.get(column.tobytes())
        if found is not None:
            return found, place
        if within:
            seen[column.tobytes()] = place
    return None
