"""CelebA, read from its official folder.

The folder holds `img_align_celeba/*.jpg`, `list_attr_celeba.txt` (the number of rows, the attributes' names, then a row
of -1 and 1 per image) and `list_eval_partition.txt` (an image and 0, 1 or 2 per row), side by side or, as downloaded,
in `Img/`, `Anno/` and `Eval/`. In partial copies the three need not agree: the images that all three have are used.
Beside the labels there may be `identity_CelebA.txt` (an image and the number of its person per row).
"""

import os
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blan_facial.data.attributes import read_attribute_names
from blan_facial.data.faces import SPLITS, DataError, FaceDataset, check_request, number_people
from blan_facial.data.folders import ImageFiles, find_files, find_part, open_root

_LABEL_VALUES = frozenset(("1", "-1"))
_PARTITIONS = {str(number): split for number, split in enumerate(SPLITS)}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def load_celeba(root: Path | str, split: str, *, image_size: int, image_folder: Path | None = None) -> FaceDataset:
    """Read CelebA's labels and partition; the images are decoded when asked for.

    Args:
        root: The official folder.
        split: `"train"`, `"validation"` or `"test"`, by the official partition.
        image_size: Side in pixels; the whole aligned image is resized to the square.
        image_folder: The folder of the images, if it is none of the official ones.

    Returns:
        The split, in the order of the label file; its notes tell what the folder lacks.

    Raises:
        DataError: A part of the folder is missing or is not what its format says, or a link leads out of it.
        ValueError: `split` or `image_size` is out of range.
    """
    check_request("load_celeba", split, image_size)
    root = open_root("load_celeba", root)
    folder = _find_images(root) if image_folder is None else open_root("load_celeba", image_folder, "--image-folder")
    label_file = _find_text(root, "Anno", "list_attr_celeba.txt")
    partition_file = _find_text(root, "Eval", "list_eval_partition.txt")
    names = [name for name in os.listdir(folder) if name.lower().endswith(_IMAGE_SUFFIXES)]
    images = set(compress(names, find_files("load_celeba", folder, names)))
    labels = _read_labels(label_file)
    partition = _read_partition(partition_file)

    complete = {name for name in labels.files if name in images and name in partition}
    if not complete:
        raise DataError(
            f"load_celeba: some images must have both a label row and a partition row, got none among {len(images)} "
            f"images in {folder}, {len(labels.files)} label rows and {len(partition)} partition rows. "
            "Check that all three are of the same copy of CelebA."
        )
    rows = [row for row, name in enumerate(labels.files) if name in complete and partition[name] == split]
    if not rows:
        raise DataError(
            f"load_celeba: split {split!r} must have images, got none of the {len(complete)} complete ones in {root}. "
            f"Add images of this split, or rows to {partition_file.name}."
        )
    notes = [
        _left_out(len(labels.files) - len(complete), len(labels.files), "label rows", "no image or no partition row"),
        _left_out(len(partition) - len(complete), len(partition), "partition rows", "no image or no label row"),
        _left_out(len(images) - len(complete), len(images), "images", "no label row or no partition row"),
    ]
    if labels.announced != len(labels.files):
        notes.insert(0, f"{label_file.name} announces {labels.announced} rows and has {len(labels.files)}.")
    files = np.array(labels.files)[rows]
    people = _read_identities(label_file.with_name("identity_CelebA.txt"), files.tolist())
    if people is not None:
        notes.append(
            _left_out(people.count(""), len(people), f"{split} images", "no identity row", "count as a person each")
        )
    return FaceDataset(
        name="celeba",
        split=split,
        attributes=labels.attributes,
        labels=labels.values[rows],
        images=ImageFiles(folder, files),
        image_size=image_size,
        notes=tuple(note for note in notes if note),
        groups=None if people is None else number_people(people),
    )


class _Labels(NamedTuple):
    attributes: tuple[str, ...]
    files: Sequence[str]
    values: np.ndarray  # int8 (rows, attributes), 0 or 1
    announced: int  # the count in the file's first line


def _find_images(root: Path) -> Path:
    name = "img_align_celeba"
    remedy = "Unpack img_align_celeba.zip there, or name the images' folder with --image-folder."
    return find_part("load_celeba", (root / name, root / "Img" / name), remedy)


def _find_text(root: Path, folder: str, name: str) -> Path:
    return find_part("load_celeba", (root / name, root / folder / name), f"Copy it from CelebA's {folder} folder.")


def _read_labels(path: Path) -> _Labels:
    lines = _fields_by_line(path)
    number, fields = next(lines, (1, []))
    if len(fields) != 1 or not fields[0].isdecimal():
        raise DataError(
            f"{path}, line {number}: must hold the number of label rows alone, got {' '.join(fields)[:60]!r}. "
            "Restore the official file's first two lines."
        )
    announced = int(fields[0])
    number, names = next(lines, (number + 1, []))
    attributes = read_attribute_names(names, f"{path}, line {number}")
    values_by_file: dict[str, str] = {}
    for number, (file, *values) in lines:
        if len(values) != len(attributes):
            raise DataError(
                f"{path}, line {number}: a label row must have {1 + len(attributes)} columns (the image and "
                f"{len(attributes)} attributes), got {1 + len(values)}. Restore or remove the row."
            )
        if not _LABEL_VALUES.issuperset(values):
            attribute, value = next(
                pair for pair in zip(attributes, values, strict=True) if pair[1] not in _LABEL_VALUES
            )
            raise DataError(f"{path}, line {number}: {attribute} must be 1 or -1, got {value!r}. Correct the value.")
        if file in values_by_file:
            raise DataError(
                f"{path}, line {number}: an image must have one row, got {file} again. Remove one of the two."
            )
        values_by_file[file] = "".join(values)
    digits = "".join(values_by_file.values()).replace("-1", "0")
    table = np.frombuffer(digits.encode("ascii"), dtype=np.int8).reshape(-1, len(attributes)) - ord("0")
    return _Labels(attributes, list(values_by_file), table, announced)


def _read_partition(path: Path) -> dict[str, str]:
    partition: dict[str, str] = {}
    for number, file, value in _read_pairs(path, "a partition row", "0, 1 or 2"):
        if value not in _PARTITIONS:
            raise DataError(
                f"{path}, line {number}: the partition must be 0 (train), 1 (validation) or 2 (test), got {value!r}. "
                "Correct the value."
            )
        partition[file] = _PARTITIONS[value]
    return partition


def _read_identities(path: Path, files: Sequence[str]) -> list[str] | None:
    """Return the person in each file, "" where the file of identities has no row; None if there is no such file."""
    if not path.exists():
        return None
    people: dict[str, str] = {}
    for number, file, person in _read_pairs(path, "an identity row", "the number of its person"):
        if not person.isdecimal():
            raise DataError(
                f"{path}, line {number}: a person must be a whole number, got {person!r}. Correct the value, or remove "
                "the file, which training does not need."
            )
        people[file] = person
    return [people.get(file, "") for file in files]


def _read_pairs(path: Path, row: str, value: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line's number, the image and its value."""
    seen: set[str] = set()
    for number, fields in _fields_by_line(path):
        if len(fields) != 2:
            raise DataError(
                f"{path}, line {number}: {row} must have 2 columns (the image and {value}), got {len(fields)}. "
                "Restore or remove the row."
            )
        if fields[0] in seen:
            raise DataError(
                f"{path}, line {number}: an image must have one row, got {fields[0]} again. Remove one of the two."
            )
        seen.add(fields[0])
        yield number, fields[0], fields[1]


def _fields_by_line(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the blank-separated fields of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if fields := line.split():
                    yield number, fields
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got {error}. Take the official file.") from error


def _left_out(count: int, total: int, things: str, lack: str, consequence: str = "were left out") -> str:
    return f"{count} of {total} {things} have {lack} and {consequence}." if count else ""
