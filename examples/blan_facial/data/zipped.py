"""Images in a ZIP archive, with random access from any number of processes."""

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from blan_facial.data.faces import SUFFIXES, DataError
from blan_facial.data.image_file import limit_bytes

_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of name and extra field


class ZipImages:
    """Images of an archive, by index. Every access opens the archive again, so that processes share no state.

    Args:
        path: The archive.
        members: Names of the n images in it.

    Raises:
        DataError: An image is encrypted, or compressed by an unsupported method.
    """

    def __init__(self, path: Path, members: np.ndarray) -> None:
        self.path = path
        self.members = members
        entries = [_directory(path)[name] for name in members.tolist()]
        for entry in entries:
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "an encrypted one" if entry.flag_bits & 1 else f"compression {entry.compress_type}"
                raise DataError(f"{path}: images must be stored or deflated, got {kind} ({entry.filename}). Unpack it.")
        fields = [(e.header_offset, e.compress_size, e.file_size, e.CRC, e.compress_type) for e in entries]
        self.places = np.array(fields, dtype=np.int64).reshape(-1, 5)

    def read(self, index: int) -> bytes:
        """Return the bytes of image file `index`.

        Raises:
            OSError: The archive cannot be read.
            ValueError: The file is damaged.
        """
        offset, packed, size, checksum, method = self.places[index].tolist()
        if max(packed, size) > limit_bytes():
            raise ValueError(f"more than the {limit_bytes():,} bytes that an image may have")
        with self.path.open("rb") as file:
            file.seek(offset)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
                raise ValueError("an archive that is truncated or has changed")
            _, name, extra = _HEADER.unpack(header)
            file.seek(name + extra, 1)
            data = file.read(packed)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1) if method else data
        except zlib.error as error:
            raise ValueError(f"data that cannot be unpacked ({error})") from error
        if len(data) != size or zlib.crc32(data) != checksum:
            raise ValueError("data that fails its checksum")
        return data

    def name(self, index: int) -> str:
        """Return the name of file `index` without its folder."""
        return self.place(index).name

    def place(self, index: int) -> Path:
        """Return the path of the archive followed by that of file `index` in it."""
        return self.path / str(self.members[index])


def is_archive(path: Path) -> bool:
    """Return whether a path is that of a ZIP archive, by its name."""
    return path.suffix.lower() == ".zip" and path.is_file()


def find_members(path: Path, names: Sequence[str]) -> list[str | None]:
    """Return the members with the given names, either directly or within the common folder of all images.

    Raises:
        DataError: The archive cannot be read.
    """
    members = _directory(path)
    paths = (PurePosixPath(member) for member in members)
    parents = {path.parent.as_posix() for path in paths if path.suffix.lower() in SUFFIXES}
    common = PurePosixPath(posixpath.commonpath(parents) if parents else "")
    folders = [folder.as_posix() for folder in (common, *common.parents)]
    places = ((PurePosixPath(folder, name).as_posix() for folder in reversed(folders)) for name in names)
    return [next((member for member in of_name if member in members), None) for of_name in places]


def member_names(path: Path) -> list[str]:
    """Return the names of an archive's files.

    Raises:
        DataError: The archive cannot be read.
    """
    return list(_directory(path))


def _directory(path: Path) -> dict[str, zipfile.ZipInfo]:
    state = path.stat()
    return _read_directory(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # used by every split
def _read_directory(path: Path, changed: int, size: int) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: must be a whole ZIP archive, got {error}. Copy it again, or unpack it.") from error
    by_name: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/").lstrip("/")).as_posix()
        if name in by_name:
            raise DataError(
                f"{path}: must contain each file once, got {name} twice. Unpack it, and keep one of the two."
            )
        if not name.startswith("__MACOSX/"):
            by_name[name] = entry
    return by_name
