"""The user's own faces, read from a CSV table.

The first line names the columns: `image`, the path of an image in the data folder; `split`, with the values train,
validation or test; and optionally `person`, which identifies the person in the image and is empty for a person without
other images. Every other column is an attribute. A label is 1, true or yes if the attribute is present, -1, 0, false or
no if it is absent, and empty if it is unknown. In a table with both 0 and -1, one of them means unknown, as selected by
an option.

    image,split,person,Smiling,Freckles
    anna/1.jpg,train,Anna,1,0
    anna/2.jpg,test,Anna,,1

Columns are separated by commas, semicolons or tabs. `columns` describes other tables.
"""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blan_facial.data.attributes import choose
from blan_facial.data.columns import (
    IMAGE,
    MINUS_ONE,
    MISSING,
    NAMES,
    PERSON,
    SPLIT,
    ZERO,
    Attribute,
    Columns,
    Unknown,
    fold,
    plain,
    without_effect,
)
from blan_facial.data.delimited import Row, read_rows
from blan_facial.data.faces import SPLITS, UNKNOWN, DataError, FaceDataset, NoSplitError, check_request, number_people
from blan_facial.data.faults import Faults
from blan_facial.data.folders import ImageFiles, find_files, open_root, relative_name
from blan_facial.data.zipped import ZipImages, find_members, is_archive

_SUFFIXES = (".csv", ".tsv", ".txt")
_STRANGE = 3  # invalid values of an attribute that are named in a message


class Table(NamedTuple):
    """The content of a CSV file."""

    path: Path
    """The file, or the folder of several."""
    attributes: tuple[str, ...]
    """The N attributes, by the names of their columns."""
    files: np.ndarray
    """Paths of the n images relative to the data folder, with forward slashes."""
    splits: np.ndarray
    """The n names of their splits."""
    labels: np.ndarray
    """int8 (n, N): 1, 0 or `UNKNOWN`."""
    groups: np.ndarray | None
    """int64 (n,), the number of the person in each image; None without a person column."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


class _Layout(NamedTuple):
    """Positions of the columns of a table."""

    width: int
    image: int
    split: int | None
    person: int | None
    attributes: Sequence[tuple[int, Attribute]]
    categories: Sequence[tuple[int, str]]


class _Read:
    """The part of a table that has been read."""

    def __init__(self) -> None:
        self.splits: dict[str, str] = {}
        self.people: list[str] = []
        self.labels = array("b")
        self.categories: list[array[int]] = []
        self.values: list[dict[str, tuple[int, str]]] = []
        """For each category column, the number and the spelling of each value, by its folded form."""
        self.strange: dict[str, set[str]] = {}


def read_table(
    path: Path | str,
    columns: Columns | None = None,
    *,
    unknown: Unknown | None = None,
    attributes: Sequence[str] = (),
) -> Table:
    """Read a CSV file, without reading the images.

    Args:
        path: The file, or a folder of several with the same columns.
        columns: Meaning of the columns; by default they are recognised by their names.
        unknown: Which of 0 and -1 means unknown; required if both occur.
        attributes: Read only these attributes, if they exist; by default all.

    Raises:
        DataError: The file is missing or violates the format; one message lists all mistakes.
    """
    path, columns = Path(path), columns or Columns()
    read = _Read()
    layout: _Layout | None = None
    for file in _files(path):
        faults = Faults(file)
        rows = read_rows(file, "--labels")
        line, header = next(rows, (0, []))
        found = _find_columns(header, line, columns, attributes, faults)
        if found is None:
            faults.refuse()
            break
        if layout is not None and _named(found) != _named(layout):
            faults.add(f"must have the same columns as the other files in {path}, got others. Name one table.")
        layout = found
        _read_rows(rows, layout, columns, read, faults)
        faults.refuse()
    if not read.splits or layout is None:
        raise DataError(f"{path}: needs one row per image, got none. Add rows below the first line.")
    faults = Faults(path)
    names = tuple(attribute.name for _, attribute in layout.attributes)
    labels = np.array(read.labels, dtype=np.int8).reshape(len(read.splits), len(names))
    notes: tuple[str, ...] = ()
    if unknown is not None and (ZERO if unknown == "zero" else MINUS_ONE) not in read.labels:
        notes = (without_effect(unknown),)
    labels = _decided(labels, names, unknown, faults)
    names, labels = _with_categories(names, labels, layout, columns, read, faults)
    faults.refuse()
    files, splits = (np.array(list(column)) for column in (read.splits, read.splits.values()))
    groups = None if layout.person is None else number_people(read.people)
    return Table(path, names, files, splits, labels, groups, notes)


def load_csv(table: Table, root: Path | str, split: str, *, image_size: int) -> FaceDataset:
    """Return a split of a table; images are decoded on access.

    Args:
        table: The table, from `read_table`.
        root: The data folder to which the paths in the table are relative, or a ZIP archive of it.
        split: `"train"`, `"validation"` or `"test"`.
        image_size: Side in pixels; the whole image is resized to the square.

    Returns:
        The split, in the order of its rows; missing images are left out and counted in its notes.

    Raises:
        DataError: The split has no images or no known labels, or an image lies outside the folder.
        NoSplitError: No row belongs to the split.
        ValueError: `split` or `image_size` is out of range.
    """
    check_request("load_csv", split, image_size)
    root = Path(root)
    packed = is_archive(root)
    if not packed:
        root = open_root("load_csv", root)
    rows = np.flatnonzero(table.splits == split)
    if not len(rows):
        raise NoSplitError(
            f"{table.path}: split {split!r} must have images, got none of {len(table.files)}. "
            f"Write {split} into the column {SPLIT} of some rows, or raise its share in --columns."
        )
    files = table.files[rows]
    members = np.array(find_members(root, files.tolist()) if packed else files.tolist(), dtype=object)
    found = members != None if packed else find_files("load_csv", root, files.tolist())  # noqa: E711  # of each
    if not found.any():
        raise DataError(
            f"load_csv: split {split!r} must have images, got none of {len(files)} in {root} (first: {files[0]}). "
            "Name the folder to which the paths are relative with --data-root."
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
        images=ZipImages(root, members[found]) if packed else ImageFiles(root, table.files[rows]),
        image_size=image_size,
        notes=(*table.notes, *((note,) if missing else ())),
        groups=None if table.groups is None else table.groups[rows],
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{path}: must be a readable CSV file, got none. Name it with --labels.")
    return files


def _named(layout: _Layout) -> list[object]:
    return [layout[:4], [(place, attribute.name) for place, attribute in layout.attributes], layout.categories]


def _find_columns(
    header: Sequence[str], line: int, columns: Columns, asked: Sequence[str], faults: Faults
) -> _Layout | None:
    """Return the positions of the columns; None if the table cannot be read."""
    where = f"line {line}"
    if not header:
        faults.add(
            f"needs a first line that names the columns, got an empty file. Name them {IMAGE}, {SPLIT} and the "
            "attributes."
        )
        return None
    for place, name in enumerate(header):
        if not name:
            faults.add(f"every column must have a name, got none for column {place + 1}. Name it.", where)
        elif name in header[:place]:
            faults.add(f"a column must be named once, got {name} twice. Remove one of the two.", where)
    remedies = {
        IMAGE: "Rename the column of the paths, or name it with --columns; commas, semicolons or tabs separate columns",
        SPLIT: f"Add it, with {', '.join(SPLITS[:-1])} or {SPLITS[-1]} in each row, or split the images with --columns",
        PERSON: "Correct the name in --columns",
    }
    places = {name: _find(header, name, getattr(columns, name)) for name in NAMES}
    needed = {IMAGE: True, SPLIT: not columns.parts, PERSON: columns.person is not None}
    for name, found in places.items():
        if len(found) > 1:
            twice = " and ".join(header[place] for place in found)
            faults.add(f"must have one column {name}, got {twice}. Choose one with --columns.", where)
        if found and name == SPLIT and columns.parts:
            got = header[found[0]]
            faults.add(
                f"must have either a column {SPLIT} or shares in --columns, got the column {got} too. "
                "Remove the shares, or the column.",
                where,
            )
        if not found and needed[name]:
            wanted, got = getattr(columns, name) or name, ", ".join(header)[:200]
            faults.add(f"needs the column {wanted}, got {got}. {remedies[name]}.", where)
    given = {place for found in places.values() for place in found}
    others = [name for place, name in enumerate(header) if place not in given and name]
    told = list(columns.attributes or ()) if columns.chosen else [plain(name) for name in others]
    if asked:
        chosen, _ = choose(asked, [attribute.name for attribute in told])
        told = [attribute for attribute in told if attribute.name in chosen] or told
    for column in (*(attribute.column for attribute in told), *(columns.categories or ())):
        if column not in header:
            faults.add(
                f"needs the column {column}, got {', '.join(header)[:200]}. Correct its name in --columns.", where
            )
    if not told and not columns.categories:
        faults.add(f"needs a column for each attribute, got only {' and '.join(header)}. Add one.", where)
    if not places[IMAGE] or (needed[SPLIT] and not places[SPLIT]):
        return None
    image, split, person = (places[name][0] if places[name] else None for name in NAMES)
    return _Layout(
        width=len(header),
        image=image or 0,
        split=None if columns.parts else split,
        person=person,
        attributes=[(header.index(told_by.column), told_by) for told_by in told if told_by.column in header],
        categories=[(header.index(column), column) for column in columns.categories or () if column in header],
    )


def _find(header: Sequence[str], name: str, given: str | None) -> list[int]:
    """Return the positions of the given column or of those with the default name; an exact match has precedence."""
    if given is not None or name in header:
        return [place for place, column in enumerate(header) if column == (given or name)][:1]
    return [place for place, column in enumerate(header) if column.casefold() in NAMES[name]]


def _read_rows(rows: Iterator[Row], layout: _Layout, columns: Columns, read: _Read, faults: Faults) -> None:
    if not read.categories:
        read.categories = [array("i") for _ in layout.categories]
        read.values = [{} for _ in layout.categories]
    for number, row in rows:
        where = f"line {number}"
        if len(row) != layout.width:
            faults.add(
                f"a row must have {layout.width} columns, as many as the first line, got {len(row)}. "
                "Put text with commas in double quotes, or restore the row.",
                where,
            )
            continue
        file = _read_file(where, row[layout.image], faults)
        if file in read.splits and file:
            faults.add(f"an image must have one row, got {file} again. Remove one of the two.", where)
        person = "" if layout.person is None else fold(row[layout.person])
        person = "" if person in MISSING else person
        read.people += [] if layout.person is None else [person]
        splits = [columns.part_of(person or file)] if layout.split is None else columns.splits_of(row[layout.split])
        if len(splits) != 1:
            faults.add(_split_fault(row[layout.split or 0], splits, columns), where)
        read.splits[file] = splits[0] if splits else ""
        codes = [attribute.read(row[place]) for place, attribute in layout.attributes]
        if None in codes:
            for (place, attribute), code in zip(layout.attributes, codes, strict=True):
                if code is None:
                    faults.add(_label_fault(attribute, row[place], read.strange), where)
            codes = [UNKNOWN if code is None else code for code in codes]
        read.labels.extend(code for code in codes if code is not None)
        for (place, _), numbers, values in zip(layout.categories, read.categories, read.values, strict=True):
            value = fold(row[place])
            spelling = value if value[:1].isdecimal() else row[place]
            numbers.append(values.setdefault(value, (len(values), spelling))[0])


def _split_fault(value: str, splits: Sequence[str], columns: Columns) -> str:
    if splits:
        return (
            f"{SPLIT} must be unique, got {value!r}, which matches {' and '.join(splits)} in --columns. Correct them."
        )
    if columns.patterns:
        return f"{SPLIT} must match a value in --columns, got {value!r}. Add it there, or correct the value."
    return (
        f"{SPLIT} must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {value!r}. "
        "Correct the value, or define it in --columns."
    )


def _label_fault(attribute: Attribute, cell: str, strange: dict[str, set[str]]) -> str:
    told = strange.setdefault(attribute.name, set())
    if len(told) < _STRANGE:
        told.add(cell)
    return (
        f"{attribute.name} must be {attribute.expected}, got {repr(cell) if cell in told else 'other values too'}. "
        "Correct the value, or select the attribute columns with --columns or --attributes."
    )


def _read_file(where: str, name: str, faults: Faults) -> str:
    if not name:
        faults.add(f"{IMAGE} must be the path of an image, got nothing. Fill it in, or remove the row.", where)
        return ""
    try:
        return relative_name("", name, "Write its path relative to the data folder.")
    except DataError as error:
        faults.add(str(error).removeprefix(": "), where)
        return ""


def _decided(labels: np.ndarray, names: Sequence[str], unknown: Unknown | None, faults: Faults) -> np.ndarray:
    """Return labels with 0 and -1 resolved to no or unknown; refuse to guess if both occur."""
    zeros, minus_ones = ((labels == code).any(0) for code in (ZERO, MINUS_ONE))
    if unknown is None and zeros.any() and minus_ones.any():
        faults.add(
            f"must say which of 0 and -1 means unknown, got 0 in {names[int(zeros.argmax())]} and -1 in "
            f"{names[int(minus_ones.argmax())]}. Give --unknown zero or --unknown minus-one; the other value means no."
        )
    meaning = {ZERO: UNKNOWN if unknown == "zero" else 0, MINUS_ONE: UNKNOWN if unknown == "minus-one" else 0}
    for code, label in meaning.items():
        labels[labels == code] = label
    if unknown is not None and not (labels == 0).any() and (zeros if unknown == "zero" else minus_ones).any():
        faults.add(
            f"must have labels that mean no, got none, since {'0' if unknown == 'zero' else '-1'} means unknown. "
            "Leave --unknown out."
        )
    return labels


def _with_categories(
    names: tuple[str, ...], labels: np.ndarray, layout: _Layout, columns: Columns, read: _Read, faults: Faults
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return attributes and labels including those of the categories, with one attribute per value."""
    parts = [labels]
    for (_, column), numbers, values in zip(layout.categories, read.categories, read.values, strict=True):
        occurring = sorted(spelling for value, (_, spelling) in values.items() if value not in MISSING)
        listed = (columns.categories or {})[column] or occurring
        numbered = {value: number for value, (number, _) in values.items()}
        for value in listed:
            if fold(value) not in numbered:
                faults.add(f"categories: {column} must have rows of {value!r}, got none. Correct or remove the value.")
        wanted = np.array([numbered.get(fold(value), -1) for value in listed])
        missing = [numbered[value] for value in MISSING & set(numbered) if numbered[value] not in wanted]
        found = np.array(numbers)[:, None]
        parts.append(np.where(np.isin(found, missing), UNKNOWN, found == wanted).astype(np.int8))
        names += tuple(f"{column}_{value}" for value in listed)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        faults.add(f"an attribute must be named once, got {name} twice. Rename one of the two.")
    return names, np.concatenate(parts, axis=1)
