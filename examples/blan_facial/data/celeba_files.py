"""The parts of a copy of CelebA in any layout: official text files or Kaggle's CSV, folders or archives."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from blan_facial.data.attributes import read_attribute_names
from blan_facial.data.columns import IMAGE, NAMES, SPLIT_VALUES, fold
from blan_facial.data.delimited import DELIMITERS, Row, bounded, encoding_of, read_rows
from blan_facial.data.faces import SPLITS, SUFFIXES, DataError
from blan_facial.data.folders import find_part

LABELS, PARTITION, IDENTITIES, BOXES = "list_attr_celeba", "list_eval_partition", "identity_CelebA", "list_bbox_celeba"
"""The names of the text files, without .txt or .csv."""

_IMAGES = ("img_align_celeba", "img_align_celeba_png")
_FOLDERS = ("", "Anno", "Eval", "Img")
_SIGNS, _BITS = frozenset(("1", "-1")), frozenset(("1", "0"))  # the values of labels
_PARTITIONS = {str(number): split for number, split in enumerate(SPLITS)} | SPLIT_VALUES
_DIGITS = 9  # maximum digits of a row count


class Labels(NamedTuple):
    """The rows of the label file."""

    attributes: tuple[str, ...]
    images: Sequence[str]
    """The images' names without extensions, which differ between copies."""
    values: np.ndarray
    """int8 (rows, attributes), 0 or 1."""
    announced: int | None
    """The row count in the file's first line; None without it."""


class _Text(NamedTuple):
    announced: int | None
    heading: Row | None
    """The names of the columns, except that of the image."""
    rows: Iterator[Row]


def stem(name: str) -> str:
    """Return the name of an image without folders and extension."""
    return PurePosixPath(name.replace("\\", "/")).stem


def find_base(root: Path) -> Path:
    """Return the folder of the parts: the given one, or its subfolder that contains the labels.

    Raises:
        DataError: Several subfolders contain labels.
    """
    if _find(root, LABELS) is not None:
        return root
    bases = [path for path in sorted(root.iterdir()) if path.is_dir() and _find(path, LABELS) is not None]
    if len(bases) > 1:
        raise DataError(
            f"load_celeba: the data folder must contain one copy, got {' and '.join(base.name for base in bases)} in "
            f"{root}. Name one of them with --data-root."
        )
    return bases[0] if bases else root


def find_text(base: Path, folder: str, name: str) -> Path:
    """Return a required text file.

    Raises:
        DataError: It is missing.
    """
    found = _find(base, name)
    places = (base / f"{name}.txt", base / folder / f"{name}.txt")
    return found or find_part("load_celeba", places, f"Copy it from CelebA's {folder} folder.")


def find_optional(base: Path, name: str) -> Path | None:
    """Return an optional text file, or None."""
    return _find(base, name)


def find_images(base: Path) -> Path:
    """Return the folder or the archive of the images.

    Raises:
        DataError: There is none.
    """
    places = [base / folder / name for name in _IMAGES for folder in ("", "Img")]
    archives = [place.with_name(f"{place.name}.zip") for place in places]
    found = next((place for place in (*places, *archives) if _holds_something(place)), None)
    if found is None:
        remedy = "Copy img_align_celeba.zip there, or name the images' folder or archive with --image-folder."
        return find_part("load_celeba", (places[0], places[1]), remedy)
    return found


def read_labels(path: Path) -> Labels:
    """Read the attributes and labels of all images."""
    text = _read(path)
    if text.heading is None:
        number, fields = next(text.rows, (1, []))
        raise DataError(
            f"{path}, line {number}: must contain only the number of label rows, got {' '.join(fields)[:60]!r}. "
            "Restore the official file's first two lines, or start a CSV file with image_id and the attributes."
        )
    attributes = read_attribute_names(text.heading[1], f"{path}, line {text.heading[0]}")
    values_by_image: dict[str, str] = {}
    allowed, used = _SIGNS, set[str]()
    for number, (file, *values) in text.rows:
        if len(values) != len(attributes):
            raise DataError(
                f"{path}, line {number}: a label row must have {1 + len(attributes)} columns (the image and "
                f"{len(attributes)} attributes), got {1 + len(values)}. Restore or remove the row."
            )
        if not allowed.issuperset(values):
            values = [fold(value) for value in values]  # for example, 1.0
        if not allowed.issuperset(values) and "-1" not in used and _BITS.issuperset(values):
            allowed = _BITS
        if not allowed.issuperset(values):
            attribute, value = next(pair for pair in zip(attributes, values, strict=True) if pair[1] not in allowed)
            rule = "1 or -1" if allowed is _SIGNS else "1 or 0"
            other = value in ("0", "-1") and used - {"1"}
            before = f", as in the previous lines, or 1 or {value} in all of them" if other else ""
            raise DataError(
                f"{path}, line {number}: {attribute} must be {rule}{before}, got {value!r}. Correct the value."
            )
        used.update(values)
        image = stem(file)
        if image in values_by_image:
            raise DataError(
                f"{path}, line {number}: an image must have one row, got {file} again. Remove one of the two."
            )
        values_by_image[image] = "".join(values)
    digits = "".join(values_by_image.values()).replace("-1", "0")
    table = np.frombuffer(digits.encode("ascii"), dtype=np.int8).reshape(-1, len(attributes)) - ord("0")
    return Labels(attributes, list(values_by_image), table, text.announced)


def read_partition(path: Path) -> dict[str, str]:
    """Return the split of each image."""
    partition: dict[str, str] = {}
    for number, image, (value,) in _read_images(path, 1, "a partition row", "0, 1 or 2"):
        split = _PARTITIONS.get(value) or _PARTITIONS.get(fold(value))
        if split is None:
            raise DataError(
                f"{path}, line {number}: the partition must be 0 (train), 1 (validation) or 2 (test), got {value!r}. "
                "Correct the value."
            )
        partition[image] = split
    return partition


def read_identities(path: Path) -> dict[str, str]:
    """Return the person in each image."""
    people: dict[str, str] = {}
    for number, image, (person,) in _read_images(path, 1, "an identity row", "the number of its person"):
        if not person.isdecimal():
            raise DataError(
                f"{path}, line {number}: a person must be a whole number, got {person!r}. Correct the value, or remove "
                "the file, which training does not need."
            )
        people[image] = person
    return people


def read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return left, top, right and bottom of the face in each uncropped image."""
    boxes: dict[str, tuple[int, int, int, int]] = {}
    for number, image, values in _read_images(path, 4, "a row", "the left, top, width and height of its face"):
        try:
            left, top, width, height = map(int, values)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: a box must be four whole numbers, got {' '.join(values)}. Restore the file, "
                "or remove it to leave images uncropped."
            ) from error
        boxes[image] = left, top, left + width, top + height
    return boxes


def _find(base: Path, name: str) -> Path | None:
    places = (base / folder / f"{name}{suffix}" for folder in _FOLDERS for suffix in (".txt", ".csv"))
    return next((place for place in places if place.is_file()), None)


def _holds_something(place: Path) -> bool:
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def _read_images(path: Path, count: int, row: str, value: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line number, image and values of each row."""
    seen: set[str] = set()
    for number, fields in _read(path).rows:
        if len(fields) != 1 + count:
            raise DataError(
                f"{path}, line {number}: {row} must have {1 + count} columns (the image and {value}), got "
                f"{len(fields)}. Restore or remove the row."
            )
        image = stem(fields[0])
        if image in seen:
            raise DataError(
                f"{path}, line {number}: an image must have one row, got {fields[0]} again. Remove one of the two."
            )
        seen.add(image)
        yield number, image, fields[1:]


def _read(path: Path) -> _Text:
    """Read a text file in the official format (count, names, rows), as CSV (names, rows), or with rows only."""
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        return _Text(None, None, rows)
    number, fields = first
    if len(fields) == 1 and fields[0].isdecimal() and len(fields[0]) <= _DIGITS:
        line, names = next(rows, (number + 1, []))
        if names and PurePosixPath(names[0]).suffix.lower() in SUFFIXES:  # a row: the line of the names is lacking
            return _Text(int(fields[0]), None, _again((line, names), rows))
        return _Text(int(fields[0]), (line, names[_names_image(names) :]), rows)
    if _names_image(fields):
        return _Text(None, (number, fields[1:]), rows)
    return _Text(None, None, _again(first, rows))


def _names_image(fields: Sequence[str]) -> bool:
    return bool(fields) and fields[0].casefold() in NAMES[IMAGE]


def _again(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _rows(path: Path) -> Iterator[Row]:
    """Yield the number and the fields of every non-blank line, separated by spaces or in CSV format."""
    try:
        encoding = encoding_of(path)
        with path.open(encoding=encoding) as lines:
            first = next((line for line in bounded(path, lines) if line.strip()), "")
        if any(delimiter in first for delimiter in (",;" if path.suffix == ".txt" else DELIMITERS)):
            yield from read_rows(path, "--data-root")
            return
        with path.open(encoding=encoding) as lines:
            for number, line in enumerate(bounded(path, lines), start=1):
                if fields := line.split():
                    yield number, fields
    except UnicodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got {error}. Use the official file.") from error
