"""Faces in Parquet files, such as the copies of CelebA on the Hugging Face hub, read by `datasets`.

The split of a file is the one with which its name or its folder's name begins: `train-00000-of-00019.parquet`,
`validation-...` or `valid-...`, `test-...`. If the files have a column `split`, it is used instead. The column `image`
contains image files; `person`, `identity` or `celeb_id` identifies the person. Every other column of booleans or
numbers is an attribute, with 0 and 1 or -1 and 1; empty cells are unknown.

Parquet does not support random access. `datasets` therefore copies the files once to its cache in Arrow format, which
is mapped into memory. No network access is needed.
"""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blan_facial.data.attributes import choose
from blan_facial.data.columns import MISSING, SPLIT_VALUES, Unknown, fold, without_effect
from blan_facial.data.faces import SPLITS, UNKNOWN, DataError, FaceDataset, NoSplitError, check_request, number_people

if TYPE_CHECKING:  # both are slow to import, so they are imported where they are used
    import datasets
    import pyarrow as pa

IMAGE, SPLIT, PEOPLE = "image", "split", ("person", "identity", "celeb_id")

_NAMES = "train-*.parquet, validation-*.parquet and test-*.parquet"


class ParquetImages:
    """The image files in the column `image`.

    Args:
        table: The opened files.
        rows: The n rows with the images.
        where: The table in messages.
    """

    def __init__(self, table: "datasets.Dataset", rows: np.ndarray, where: str) -> None:
        from datasets import Image

        self.table = table.select_columns([IMAGE]).cast_column(IMAGE, Image(decode=False))
        self.rows = rows
        self.where = where

    def read(self, index: int) -> bytes:
        """Return the bytes of image file `index`."""
        data: bytes = self._cell(index)["bytes"]
        return data

    def name(self, index: int) -> str:
        """Return the row number of image file `index`, and its file name if it has one."""
        file = self._cell(index)["path"]
        return f"row {self.rows[index]}" + (f" ({file})" if file else "")

    def place(self, index: int) -> str:
        """Return the table of image file `index`, and its name."""
        return f"{self.where}, {self.name(index)}"

    def _cell(self, index: int) -> dict[str, Any]:
        return dict(self.table[int(self.rows[index])][IMAGE])


def load_parquet(
    root: Path | str,
    split: str,
    *,
    image_size: int,
    unknown: Unknown | None = None,
    attributes: Sequence[str] = (),
) -> FaceDataset:
    """Read the labels of a split; images are decoded on access.

    Args:
        root: A Parquet file or a folder of them.
        split: `"train"`, `"validation"` or `"test"`.
        image_size: Side in pixels; the whole image is resized to the square.
        unknown: Which of 0 and -1 means unknown; required if both occur in any split.
        attributes: Read only these attributes, if they exist; by default all.

    Returns:
        The split, ordered by file name and row. Rows without an image and columns without labels are left out and
        mentioned in its notes.

    Raises:
        DataError: The files cannot be read, do not define splits, lack images or labels, or labels are not binary.
        NoSplitError: No file belongs to the split.
        ValueError: `split` or `image_size` is out of range.
    """
    check_request("load_parquet", split, image_size)
    root = Path(root)
    files = _find(root)
    columns = _read_columns(files)
    notes: list[str] = []
    every = files
    if SPLIT not in columns:
        files, notes = _of_split(root, files, split)
    numbers = _attributes(files[0], columns)
    if others := [name for name in columns if name not in (IMAGE, SPLIT, *PEOPLE, *numbers)]:
        notes.append(f"Columns without truth values or numbers were left out: {', '.join(others)}.")
    names = tuple(choose(attributes, numbers)[0]) or numbers
    nothing = _unknown_numbers(root, every, names, unknown)
    if unknown is not None and not nothing:
        notes.append(without_effect(unknown))
    table = _open(root, split, files, [name for name in columns if name in (IMAGE, SPLIT, *PEOPLE, *names)])
    name = f"{root}, {split}"
    rows = _rows_of_split(root, table, split) if SPLIT in columns else np.arange(len(table))

    found = _has_image(table)[rows]
    if not found.any():
        raise DataError(
            f"{name}: the column {IMAGE} must contain the bytes of images, got none in {len(rows)} rows, perhaps only "
            "paths. Write the files again, with the bytes."
        )
    if missing := len(rows) - int(found.sum()):
        notes.append(f"{missing} of {len(rows)} images of the {split} split are missing and were left out.")
    rows = rows[found]
    people = next((column for column in PEOPLE if column in columns), None)
    return FaceDataset(
        name="parquet",
        split=split,
        attributes=names,
        labels=_read_labels(name, table, names, rows, nothing),
        images=ParquetImages(table, rows, name),
        image_size=image_size,
        notes=tuple(notes),
        groups=None if people is None else _read_people(table, people, rows),
    )


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Convert Arrow's errors for a damaged file to an error that names it; system errors are passed through."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        words = " ".join(str(error).split()) or "one that needs more memory than is available"
        raise DataError(f"{path}: must be a whole Parquet file, got {words} Copy or write it again.") from error


def _find(root: Path) -> list[Path]:
    """Return the Parquet files of a folder in the order of their names, or the given file."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*.parquet") if path.is_file())
    if not files:
        state = "a folder without Parquet files" if root.is_dir() else "nothing there"
        raise DataError(
            f"load_parquet: the data must be a Parquet file or a folder of them, got {root} ({state}). "
            "Name it with --data-root."
        )
    return files


def _read_columns(files: Sequence[Path]) -> dict[str, "pa.DataType"]:
    """Return the common columns of all files, and their types."""
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        with _whole(path):
            schema = pq.read_schema(path)
        if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
            raise DataError(f"{path}: a column must be named once, got {repeated[0]} again. Rename one of the two.")
        tables.append(dict(zip(schema.names, schema.types, strict=True)))
        if tables[-1] != tables[0]:
            raise DataError(
                f"{path}: must have the same columns and types as {files[0]}, got others. "
                "Name the folder of a single data set with --data-root."
            )
    return tables[0]


def _of_split(root: Path, files: Sequence[Path], split: str) -> tuple[list[Path], list[str]]:
    """Return the files of a split, by name, and a note on files without a split."""
    splits = [_split_of(path.relative_to(root.parent if root.is_file() else root)) for path in files]
    if not any(splits):
        raise DataError(
            f"{root}: needs file names that begin with a split, or a column {SPLIT}, got {files[0].name}. "
            f"Name the files {_NAMES}."
        )
    if split not in splits:
        others = " and ".join(known for known in SPLITS if known in splits)
        raise NoSplitError(f"{root}: split {split!r} must have files, got only {others}. Name some {split}-*.parquet.")
    without = splits.count(None)
    note = f"{without} of {len(files)} Parquet files do not have the name of a split and were left out."
    return [path for path, name in zip(files, splits, strict=True) if name == split], [note] if without else []


def _split_of(path: Path) -> str | None:
    """Return the split with which the name of a file or of its folder begins."""
    words = (re.split(r"[-_.]", name, maxsplit=1)[0].lower() for name in path.parts[:-3:-1])
    return next((SPLIT_VALUES[word] for word in words if word in SPLIT_VALUES), None)


def _attributes(path: Path, columns: Mapping[str, "pa.DataType"]) -> tuple[str, ...]:
    """Return the label columns, after checking the image column."""
    import pyarrow as pa

    def is_binary(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    kind = columns.get(IMAGE)
    if kind is None:
        raise DataError(f"{path}: needs the column {IMAGE}, got {', '.join(columns)}. Rename the column of the images.")
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind}
    if not is_binary(fields.get("bytes", kind)):
        raise DataError(
            f"{path}: the column {IMAGE} must contain image files, as bytes or as a struct of bytes and path, got "
            f"{kind}. Write the files again, with the bytes."
        )
    numbers = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    attributes = tuple(
        name
        for name, kind in columns.items()
        if name not in (IMAGE, SPLIT, *PEOPLE) and any(is_number(kind) for is_number in numbers)
    )
    if not attributes:
        raise DataError(
            f"{path}: needs a column of truth values for each attribute, got {', '.join(columns)}. Add one."
        )
    return attributes


def _open(root: Path, split: str, files: Sequence[Path], columns: list[str]) -> "datasets.Dataset":
    """Open files as one table, which `datasets` copies to its cache the first time; it refuses files without rows."""
    import datasets
    import pyarrow.parquet as pq

    files = [path for path in files if pq.read_metadata(path).num_rows]
    if not files:
        raise NoSplitError(f"{root}: split {split!r} must have rows, got none in its files. Add some.")
    hidden, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # our error includes its message
    try:
        paths = [glob.escape(str(path)) for path in files]
        return datasets.Dataset.from_parquet(paths, columns=columns)
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:  # from the system, such as a full disk
            cache = cause.filename or str(datasets.config.HF_DATASETS_CACHE)
            raise OSError(cause.errno, os.strerror(cause.errno), cache) from error
        raise DataError(
            f"{root}: must contain whole Parquet files, got {cause or error}. Copy or write them again."
        ) from error
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not hidden:
            datasets.enable_progress_bars()


def _rows_of_split(root: Path, table: "datasets.Dataset", split: str) -> np.ndarray:
    names = _column(table, SPLIT)
    splits = {name: SPLIT_VALUES.get(str(name).casefold()) for name in dict.fromkeys(names.tolist())}
    strange = [name for name, known in splits.items() if known is None]
    if strange:
        raise DataError(
            f"{root}: {SPLIT} must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {strange[0]!r}. Correct the value."
        )
    rows = np.flatnonzero([splits[name] == split for name in names])
    if not len(rows):
        raise NoSplitError(f"{root}: split {split!r} must have rows, got none of {len(names)}. Add some.")
    return rows


def _unknown_numbers(
    root: Path, files: Sequence[Path], attributes: Sequence[str], unknown: Unknown | None
) -> tuple[int, ...]:
    """Return which of 0 and -1 occurs and means unknown; refuse to guess if both occur in any split."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found: dict[int, str] = {}
    no = False
    for path in files:
        with _whole(path):
            columns = pq.read_table(path, columns=list(attributes))
        for attribute, column in zip(columns.column_names, columns.columns, strict=True):
            values = pc.unique(column).to_pylist()
            if pa.types.is_boolean(column.type):
                no |= False in values
            else:
                found |= {number: attribute for number in (0, -1) if number in values}
    if unknown is None:
        if len(found) == 2:
            raise DataError(
                f"{root}: must say which of 0 and -1 means unknown, got 0 in {found[0]} and -1 in {found[-1]}. "
                "Give --unknown zero or --unknown minus-one; the other value means no."
            )
        return ()
    nothing, other = (0, -1) if unknown == "zero" else (-1, 0)
    if nothing in found and other not in found and not no:
        raise DataError(
            f"{root}: must have labels that mean no, got none, since {nothing} means unknown. Leave --unknown out."
        )
    return (nothing,) if nothing in found else ()


def _read_labels(
    name: str, table: "datasets.Dataset", attributes: Sequence[str], rows: np.ndarray, nothing: Sequence[int]
) -> np.ndarray:
    labels = np.full((len(rows), len(attributes)), UNKNOWN, dtype=np.int8)
    for place, attribute in enumerate(attributes):
        values = _column(table, attribute)[rows].astype(np.float64)
        known = ~np.isnan(values)
        if not _holds_truth(table, attribute):
            known &= ~np.isin(values, nothing)
        strange = values[known & ~np.isin(values, (-1, 0, 1))]
        if len(strange):
            raise DataError(
                f"{name}: {attribute} must be 0 or 1, or -1 or 1, got {strange[0]:g}. Correct the value, or name the "
                "attribute columns with --attributes."
            )
        labels[known, place] = values[known] > 0
    if (labels == UNKNOWN).all():
        raise DataError(f"{name}: some labels must be known, got none in {len(rows)} rows. Label some of the images.")
    return labels


def _holds_truth(table: "datasets.Dataset", name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_boolean(table.data.column(name).type))


def _read_people(table: "datasets.Dataset", column: str, rows: np.ndarray) -> np.ndarray:
    people = table.data.column(column).to_pylist()
    names = (fold(str(people[row])) for row in rows.tolist())
    return number_people(["" if name in MISSING else name for name in names])


def _has_image(table: "datasets.Dataset") -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    images = table.data.column(IMAGE)
    return np.asarray((pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images).is_valid())


def _column(table: "datasets.Dataset", name: str) -> np.ndarray:
    """Return a column; empty cells are None or NaN."""
    return np.asarray(table.data.column(name).to_pandas())
