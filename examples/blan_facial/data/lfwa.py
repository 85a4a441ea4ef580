r"""LFWA, read from its official MATLAB files.

The folder holds `lfw_att_40.mat` (`label`, 0 or 1; `AttrName`; `name`, such as `Aaron_Eckhart\Aaron_Eckhart_0001.jpg`),
`indices_train_test.mat` (`indices_img_train` and `indices_img_test`, counted from 1) and the people's folders of images
in `lfw/`, in `lfw-deepfunneled/` or directly. There is no official validation split.
"""

from pathlib import Path

import h5py
import numpy as np

from blan_facial.data.attributes import read_attribute_names
from blan_facial.data.faces import DataError, FaceDataset, FaceFiles, check_request
from blan_facial.data.folders import find_part, open_root, relative_name

_IMAGE_FOLDERS = ("lfw", "lfw-deepfunneled")
_COPY = "Copy it from LFWA's download."


def load_lfwa(root: Path | str, split: str, *, image_size: int) -> FaceDataset:
    """Read LFWA's labels and split; the images are decoded when asked for.

    Args:
        root: The official folder.
        split: `"train"` or `"test"`, the official halves.
        image_size: Side in pixels; the whole image is resized to the square.

    Returns:
        The split, in the order of its indices; images that are missing are left out and counted in its notes.

    Raises:
        DataError: A part of the folder is missing or is not what its format says.
        ValueError: `split` or `image_size` is out of range, or `split` is `"validation"`.
    """
    check_request("load_lfwa", split, image_size)
    if split == "validation":
        raise ValueError(
            "load_lfwa: split must be 'train' or 'test', got 'validation'. "
            "LFWA has no validation split: hold back a part of 'train'."
        )
    root = open_root("load_lfwa", root)
    attributes, names, labels = _read_labels(find_part("load_lfwa", [root / "lfw_att_40.mat"], _COPY))
    index_file = find_part("load_lfwa", [root / "indices_train_test.mat"], _COPY)
    rows = _read_indices(index_file, f"indices_img_{split}", len(names))

    folder = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), root)
    found = np.array([(folder / names[row]).is_file() for row in rows], dtype=bool)
    if not found.any():
        first = names[rows[0]] if len(rows) else "no index at all"
        raise DataError(
            f"load_lfwa: split {split!r} must have images, got none of {len(rows)} in {folder} (first: {first}). "
            f"Unpack LFW's images into {root / _IMAGE_FOLDERS[0]}."
        )
    missing = len(rows) - int(found.sum())
    rows = rows[found]
    return FaceFiles(
        "lfwa",
        split,
        attributes,
        labels[rows],
        folder=folder,
        files=np.array(names)[rows],
        image_size=image_size,
        notes=(f"{missing} of {len(found)} images of the {split} split are missing and were left out.",)
        if missing
        else (),
    )


def _read_labels(path: Path) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Return the attributes, the n image files and their labels, int8 (n, attributes)."""
    with _open_matlab(path) as file:
        attributes = read_attribute_names(_strings(path, file, "AttrName"), f"{path}: AttrName")
        names = [relative_name(str(path), name, "Take the official file.") for name in _strings(path, file, "name")]
        labels = np.asarray(_variable(path, file, "label"))
    shape = (len(names), len(attributes))
    if labels.shape == shape[::-1]:  # MATLAB writes its columns as HDF5's rows
        labels = labels.T
    if labels.shape != shape:
        raise DataError(
            f"{path}: label must be {shape[0]} x {shape[1]}, a row per name and a column per AttrName, "
            f"got {' x '.join(map(str, labels.shape))}. Take the official file."
        )
    strange = labels[~np.isin(labels, (-1, 0, 1))]
    if strange.size:
        raise DataError(f"{path}: label must hold 0 or 1, got {strange[0]}. Take the official file.")
    if (labels == 0).any() and (labels == -1).any():
        raise DataError(f"{path}: label must hold 0 and 1, or -1 and 1, got 0 and -1. Take the official file.")
    return attributes, names, (labels > 0).astype(np.int8)


def _read_indices(path: Path, key: str, count: int) -> np.ndarray:
    """Return the rows of a split, counted from 0."""
    with _open_matlab(path) as file:
        indices = np.asarray(_variable(path, file, key)).ravel()
    strange = indices[(indices < 1) | (indices > count) | (indices != np.floor(indices))]
    if strange.size:
        raise DataError(
            f"{path}: {key} must hold whole numbers from 1 to {count}, the number of names, got {strange[0]}. "
            "Take both .mat files from the same download."
        )
    return indices.astype(np.int64) - 1


def _open_matlab(path: Path) -> h5py.File:
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            version5 = file.read(10) == b"MATLAB 5.0"
        raise DataError(
            f"{path}: must be a MATLAB v7.3 (HDF5) file, got {'a MATLAB v5 file' if version5 else 'something else'}. "
            f"Take the official file, or load it in MATLAB and save it with '-v7.3'."
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: must be a whole HDF5 file, got {error}. Copy it again.") from error


def _variable(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    if key not in file:
        variables = ", ".join(sorted(name for name in file if not name.startswith("#"))) or "none"
        raise DataError(f"{path}: needs the variable {key}, got {variables}. Take the official file.")
    return file[key]


def _strings(path: Path, file: h5py.File, key: str) -> list[str]:
    """Read a MATLAB cell array of strings: references to arrays of UTF-16 code units."""
    cells = _variable(path, file, key)
    if h5py.check_ref_dtype(cells.dtype) is None:
        raise DataError(f"{path}: {key} must be a cell array of strings, got {cells.dtype}. Take the official file.")
    return [file[cell][()].astype("<u2").tobytes().decode("utf-16-le") for cell in cells[()].ravel()]
