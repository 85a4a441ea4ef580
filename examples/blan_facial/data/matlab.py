"""Reading variables of MATLAB v7.3 files, which are HDF5 files, with size limits and without external links."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np

from blan_facial.data.faces import DataError

MOST_BYTES = 2**28
"""Maximum size of an unpacked variable: fifty times that of LFWA's labels."""
MOST_CELLS = 200_000
"""Maximum number of cells in a cell array; LFWA has 13,143 names."""
MOST_CHARACTERS = 4096
"""Maximum length of a string in a cell."""

_TAKE = "Use the official file."


class MatlabFile:
    """An open file; every reading error becomes a :class:`DataError` that names file and variable."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file

    def numbers(self, key: str) -> np.ndarray:
        """Return an array of numbers.

        Raises:
            DataError: The variable is missing, not an array of numbers, too large or damaged.
        """
        with self._told(key):
            array = self._array(key)
            if array.dtype.kind not in "biuf":
                self._refuse(key, "must be an array of numbers", str(array.dtype))
            return np.asarray(array[()])

    def strings(self, key: str) -> list[str]:
        """Return a cell array of strings: references to arrays of UTF-16 code units.

        Raises:
            DataError: The variable is missing, not a cell array of strings, too large or damaged.
        """
        with self._told(key):
            cells = self._array(key)
            if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference:
                self._refuse(key, "must be a cell array of strings", str(cells.dtype))
            if cells.size > MOST_CELLS:
                self._refuse(key, f"must have at most {MOST_CELLS:,} cells", f"{cells.size:,}")
            return [self._string(key, cell) for cell in cells[()].ravel()]

    def _array(self, key: str) -> h5py.Dataset:
        link = self.file.get(key, getlink=True)
        if link is None:
            names = sorted(name for name in self.file if not name.startswith("#"))
            variables = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "") or "none"
            raise DataError(f"{self.path}: needs the variable {key}, got {variables}. {_TAKE}")
        if not isinstance(link, h5py.HardLink):
            self._refuse(key, "must be in the file itself", "a link")
        found = self.file[key]
        if not isinstance(found, h5py.Dataset):
            self._refuse(key, "must be an array", "a group, such as a saved struct")
        return self._bounded(key, found)

    def _bounded(self, key: str, found: h5py.Dataset) -> h5py.Dataset:
        if found.shape is None:
            self._refuse(key, "must be an array", "nothing in it")
        if found.is_virtual or found.external:
            self._refuse(key, "must be in the file itself", "values in other files")
        stored = math.prod(found.chunks or ()) * found.dtype.itemsize  # HDF5 unpacks a whole chunk at a time
        if max(found.nbytes, stored) > MOST_BYTES:
            shape = " x ".join(map(str, found.chunks if stored > found.nbytes else found.shape))
            self._refuse(
                key, f"must have at most {MOST_BYTES:,} bytes", f"{shape}, {max(found.nbytes, stored):,} bytes"
            )
        return found

    def _string(self, key: str, cell: h5py.Reference) -> str:
        if not cell:
            self._refuse(key, "must be a cell array of strings", "an empty reference")
        found = self.file[cell]
        if not isinstance(found, h5py.Dataset):
            self._refuse(key, "must be a cell array of strings", "a cell that is not an array")
        if found.dtype.kind != "u" or found.dtype.itemsize != 2:
            self._refuse(key, "must be a cell array of strings", f"a cell of {found.dtype}")
        if self._bounded(key, found).size > MOST_CHARACTERS:
            self._refuse(key, f"must have strings of at most {MOST_CHARACTERS:,} characters", f"{found.size:,}")
        return str(found[()].astype("<u2").tobytes().decode("utf-16-le"))

    def _refuse(self, key: str, rule: str, got: str) -> NoReturn:
        raise DataError(f"{self.path}: {key} {rule}, got {got}. {_TAKE}")

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (
            OSError,
            KeyError,
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:  # from HDF5, for damaged files
            raise DataError(f"{self.path}: {key} must be readable, got {_said(error)}. Copy the file again.") from error


@contextmanager
def open_matlab(path: Path) -> Iterator[MatlabFile]:
    """Open a file.

    Raises:
        DataError: The file is not in MATLAB's format 7.3, or is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be a file, got a folder or a device. {_TAKE}")
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            version5 = file.read(10) == b"MATLAB 5.0"
        raise DataError(
            f"{path}: must be a MATLAB v7.3 (HDF5) file, got {'a MATLAB v5 file' if version5 else 'something else'}. "
            f"Use the official file, or load it in MATLAB and save it with '-v7.3'."
        )
    try:
        opened = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: must be a whole HDF5 file, got {_said(error)}. Copy it again.") from error
    with opened:
        yield MatlabFile(path, opened)


def _said(error: Exception) -> str:
    words = " ".join(str(error.args[0] if error.args else error).split())
    return words or type(error).__name__
