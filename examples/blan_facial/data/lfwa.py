r"""LFWA, read from its official MATLAB files.

The folder has `lfw_att_40.mat` (`label`, 0 or 1; `AttrName`; `name`, such as `Aaron_Eckhart\Aaron_Eckhart_0001.jpg`),
`indices_train_test.mat` (`indices_img_train` and `indices_img_test`, counted from 1) and the people's folders of images
in `lfw/`, in `lfw-deepfunneled/` or directly.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from blan_facial.data.attributes import read_attribute_names
from blan_facial.data.faces import DataError, FaceDataset, NoSplitError, check_request, number_people
from blan_facial.data.folders import ImageFiles, find_files, find_part, open_root, relative_name
from blan_facial.data.matlab import open_matlab

Partition: TypeAlias = Literal["50:50", "80:10", "all"]
"""Percentages of the images for training and for the test."""

_IMAGE_FOLDERS = ("lfw", "lfw-deepfunneled")
_COPY = "Copy it from LFWA's download."


def load_lfwa(
    root: Path | str, split: str, *, image_size: int, partition: Partition = "50:50", image_folder: Path | None = None
) -> FaceDataset:
    """Read LFWA's labels and split; images are decoded on access.

    Args:
        root: The official folder.
        split: `"train"`, `"test"` or, with the partition 80:10, `"validation"`.
        image_size: Side in pixels; the whole image is resized to the square.
        partition: `"50:50"`, the official halves; `"80:10"`, about 80 % of the images for training and 10 % each for
            validation and test, with all images of a person in one split; or `"all"`, training on every image and
            testing on the official half.
        image_folder: The folder that contains the people's folders, if it is not one of the official ones.

    Returns:
        The split, in the order of its indices; missing images are left out and counted in its notes.

    Raises:
        DataError: A part of the folder is missing or violates its format, or a link leads out of it.
        NoSplitError: The partition lacks this split.
        ValueError: `split`, `image_size` or `partition` is out of range.
    """
    check_request("load_lfwa", split, image_size)
    if partition not in get_args(Partition):
        raise ValueError(f"load_lfwa: partition must be one of {', '.join(get_args(Partition))}, got {partition!r}.")
    if split == "validation" and partition != "80:10":
        raise NoSplitError(
            f"load_lfwa: split must be 'train' or 'test' for the partition {partition}, got 'validation'. "
            "Use the partition 80:10, or hold out a part of 'train'."
        )
    root = open_root("load_lfwa", root)
    attributes, names, labels = _read_labels(find_part("load_lfwa", [root / "lfw_att_40.mat"], _COPY))
    if partition == "80:10":
        rows = _rows_by_person(names, split)
    elif partition == "all" and split == "train":
        rows = np.arange(len(names))
    else:
        index_file = find_part("load_lfwa", [root / "indices_train_test.mat"], _COPY)
        rows = _read_indices(index_file, f"indices_img_{split}", len(names))

    if image_folder is None:
        folder = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)
    else:
        folder = open_root("load_lfwa", image_folder, "--image-folder")
    found = find_files("load_lfwa", folder, [names[row] for row in rows])
    if not found.any():
        first = names[rows[0]] if len(rows) else "no indices"
        raise DataError(
            f"load_lfwa: split {split!r} must have images, got none of {len(rows)} in {folder} (first: {first}). "
            f"Unpack LFW's images into {root / _IMAGE_FOLDERS[0]}, or name their folder with --image-folder."
        )
    notes = []
    if missing := len(rows) - int(found.sum()):
        notes.append(f"{missing} of {len(rows)} images of the {split} split are missing and were left out.")
    if partition == "all":
        notes.append("The test images are also training images: their metrics say nothing about new faces.")
    rows = rows[found]
    return FaceDataset(
        name="lfwa",
        split=split,
        attributes=attributes,
        labels=labels[rows],
        images=ImageFiles(folder, np.array(names)[rows]),
        image_size=image_size,
        notes=tuple(notes),
        groups=number_people(_people(names))[rows],
    )


def _read_labels(path: Path) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Return the attributes, the n image files and their labels, int8 (n, attributes)."""
    with open_matlab(path) as file:
        attributes = read_attribute_names(file.strings("AttrName"), f"{path}: AttrName")
        names = [relative_name(str(path), name, "Use the official file.") for name in file.strings("name")]
        labels = file.numbers("label")
    shape = (len(names), len(attributes))
    if labels.shape == shape[::-1]:  # MATLAB stores arrays column by column
        labels = labels.T
    if labels.shape != shape:
        raise DataError(
            f"{path}: label must be {shape[0]} x {shape[1]}, a row per name and a column per AttrName, "
            f"got {' x '.join(map(str, labels.shape))}. Use the official file."
        )
    strange = labels[~np.isin(labels, (-1, 0, 1))]
    if strange.size:
        raise DataError(f"{path}: label must contain 0 or 1, got {strange[0]}. Use the official file.")
    if (labels == 0).any() and (labels == -1).any():
        raise DataError(f"{path}: label must contain 0 and 1, or -1 and 1, got 0 and -1. Use the official file.")
    return attributes, names, (labels > 0).astype(np.int8)


def _people(names: Sequence[str]) -> list[str]:
    """Return the person in each image, by the name of its folder."""
    return [name.rpartition("/")[0] or name for name in names]


def _rows_by_person(names: Sequence[str], split: str) -> np.ndarray:
    """Return the rows of a split of 80:10; people are assigned in the order of their names' hashes, so it is fixed."""
    people = _people(names)
    counts = Counter(people)
    splits, before = {}, 0
    for person in sorted(counts, key=lambda person: hashlib.sha256(person.encode()).digest()):
        middle = (before + counts[person] / 2) / len(names)
        splits[person] = "train" if middle < 0.8 else "validation" if middle < 0.9 else "test"
        before += counts[person]
    return np.flatnonzero([splits[person] == split for person in people])


def _read_indices(path: Path, key: str, count: int) -> np.ndarray:
    """Return the rows of a split, counted from 0."""
    with open_matlab(path) as file:
        indices = file.numbers(key).ravel()
    strange = indices[(indices < 1) | (indices > count) | (indices != np.floor(indices))]
    if strange.size:
        raise DataError(
            f"{path}: {key} must contain whole numbers from 1 to {count}, the number of names, got {strange[0]}. "
            "Take both .mat files from the same download."
        )
    return indices.astype(np.int64) - 1
