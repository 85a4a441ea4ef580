"""People's own faces, read from a CSV table.

The table is UTF-8 text, its columns parted by commas. The first line names them: `image`, the path of an image in the
data folder; `split`, which is train, validation or test; `person`, if there is one, who is in the image, empty for a
person who is in no other. Every other column is an attribute. A label is 1, true or yes where the face has the
attribute, -1, false or no where it has not, and 0 or empty where that is unknown.

    image,split,person,Smiling,Freckles
    anna/1.jpg,train,Anna,1,-1
    anna/2.jpg,test,Anna,,1
"""

import csv
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blan_facial.data.faces import SPLITS, UNKNOWN, DataError, FaceDataset, NoSplitError, check_request, number_people
from blan_facial.data.folders import ImageFiles, find_files, open_root, relative_name

IMAGE, SPLIT, PERSON = "image", "split", "person"

_ZERO = -2  # a label that is spelled 0, told apart from an empty cell until the table is read
_CODES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("-1", "-1.0", "false", "no"), 0),
    **dict.fromkeys(("0", "0.0"), _ZERO),
    "": UNKNOWN,
}


class Table(NamedTuple):
    """What a CSV file says of images."""

    path: Path
    """The file."""
    attributes: tuple[str, ...]
    """The N attributes, by the names of their columns."""
    files: np.ndarray
    """The n images, relative to the data folder, with forward slashes."""
    splits: np.ndarray
    """The n names of their splits."""
    labels: np.ndarray
    """int8 (n, N): 1, 0 or `UNKNOWN`."""
    groups: np.ndarray | None
    """int64 (n,), a number for the person in each image; None without a column of people."""


def read_table(path: Path | str) -> Table:
    """Read a CSV file, without a look at the images.

    Raises:
        DataError: The file is missing or is not what its format says.
    """
    path = Path(path)
    rows = _rows(path)
    where, header = next(rows, (str(path), []))
    attributes = _read_header(where, header)
    image, split, *labelled = (header.index(name) for name in (IMAGE, SPLIT, *attributes))
    person = header.index(PERSON) if PERSON in header else None
    splits: dict[str, str] = {}
    people: list[str] = []
    labels = array("b")
    for where, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{where}: a row must have {len(header)} columns, as many as the first line names, got {len(row)}. "
                "Put text that holds a comma into double quotes, or restore the row."
            )
        file = _read_file(where, row[image])
        if file in splits:
            raise DataError(f"{where}: an image must have one row, got {file} again. Remove one of the two.")
        splits[file] = _read_split(where, row[split])
        people += [] if person is None else [row[person]]
        codes = [code for place in labelled if (code := _code(row[place])) is not None]
        if len(codes) < len(labelled):
            place = next(place for place, column in enumerate(labelled) if _code(row[column]) is None)
            raise DataError(
                f"{where}: {attributes[place]} must be 1, true or yes (the face has it), -1, false or no (it has not), "
                f"0 or empty (unknown), got {row[labelled[place]]!r}. Correct the value."
            )
        labels.extend(codes)
    if not splits:
        raise DataError(f"{path}: needs a row for each image, got none. Add them below the first line.")
    table = np.array(labels, dtype=np.int8).reshape(-1, len(attributes))
    if (table == _ZERO).any() and not (table == 0).any():
        raise DataError(
            f"{path}: a face that has not an attribute must be labelled -1, since 0 is unknown, got 0 and never -1. "
            "Write -1 for 0, or leave the cells of unknown labels empty."
        )
    files, names = (np.array(list(column)) for column in (splits, splits.values()))
    groups = None if person is None else number_people(people)
    return Table(path, attributes, files, names, np.maximum(table, UNKNOWN), groups)


def load_csv(table: Table, root: Path | str, split: str, *, image_size: int) -> FaceDataset:
    """Read the images of a table; they are decoded when asked for.

    Args:
        table: What `read_table` returned.
        root: The data folder, which the paths of the table start from.
        split: `"train"`, `"validation"` or `"test"`.
        image_size: Side in pixels; the whole image is resized to the square.

    Returns:
        The split, in the order of its rows; images that are missing are left out and counted in its notes.

    Raises:
        DataError: The split has no images or no known labels, or an image lies outside the folder.
        NoSplitError: No row is of the split.
        ValueError: `split` or `image_size` is out of range.
    """
    check_request("load_csv", split, image_size)
    root = open_root("load_csv", root)
    rows = np.flatnonzero(table.splits == split)
    if not len(rows):
        raise NoSplitError(
            f"{table.path}: split {split!r} must have images, got none of {len(table.files)}. "
            f"Write {split} into the column {SPLIT} of some rows."
        )
    files = table.files[rows]
    found = find_files("load_csv", root, files.tolist())
    if not found.any():
        raise DataError(
            f"load_csv: split {split!r} must have images, got none of {len(files)} in {root} (first: {files[0]}). "
            "Name the folder that the paths start from with --data-root."
        )
    missing = int((~found).sum())
    note = f"{missing} of {len(rows)} images of the {split} split are missing and were left out."
    rows = rows[found]
    labels = table.labels[rows]
    if (labels == UNKNOWN).all():
        raise DataError(
            f"{table.path}: split {split!r} must have known labels, got none in {len(labels)} rows. "
            "Label some of its images."
        )
    return FaceDataset(
        name="csv",
        split=split,
        attributes=table.attributes,
        labels=labels,
        images=ImageFiles(root, table.files[rows]),
        image_size=image_size,
        notes=(note,) if missing else (),
        groups=None if table.groups is None else table.groups[rows],
    )


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the place, for messages, and the columns, without blanks around them, of every row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            for row in reader:
                columns = [column.strip() for column in row]
                if any(columns):
                    yield f"{path}, line {reader.line_num}", columns
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: must be a CSV file, got nothing to read there. Name it with --labels.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got {error}. Save the table as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: must be CSV, got {error}. Correct the line.") from error


def _read_header(where: str, header: Sequence[str]) -> tuple[str, ...]:
    """Return the attributes."""
    if not header:
        raise DataError(
            f"{where}: needs a first line that names the columns, got an empty file. "
            f"Name them {IMAGE}, {SPLIT} and the attributes."
        )
    for place, name in enumerate(header):
        if not name:
            raise DataError(f"{where}: every column must have a name, got none for column {place + 1}. Name it.")
        if name in header[:place]:
            raise DataError(f"{where}: a column must be named once, got {name} twice. Remove one of the two.")
    remedies = {
        IMAGE: "Name the column of the paths so; commas part the columns",
        SPLIT: f"Add it, with {', '.join(SPLITS[:-1])} or {SPLITS[-1]} in each row",
    }
    for needed, remedy in remedies.items():
        if needed not in header:
            raise DataError(f"{where}: needs the column {needed}, got {', '.join(header)[:200]}. {remedy}.")
    attributes = tuple(name for name in header if name not in (*remedies, PERSON))
    if not attributes:
        raise DataError(f"{where}: needs a column for each attribute, got {' and '.join(header)} alone. Add one.")
    return attributes


def _read_file(where: str, name: str) -> str:
    if not name:
        raise DataError(f"{where}: {IMAGE} must be the path of an image, got nothing. Fill it in, or remove the row.")
    return relative_name(where, name, "Write its path from the data folder on.")


def _read_split(where: str, name: str) -> str:
    if name not in SPLITS:
        raise DataError(
            f"{where}: {SPLIT} must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {name!r}. Correct the value."
        )
    return name


@lru_cache
def _code(cell: str) -> int | None:
    """Return what a label says, whatever its case; None if that is not known."""
    return _CODES.get(cell.casefold())
