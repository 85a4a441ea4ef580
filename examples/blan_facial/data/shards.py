"""Images in tar files, for storage that is slow at opening many files, over a network above all.

The tar files, or shards, are WebDataset's: uncompressed, `000001.jpg` beside `000001.json`. Beside a shard,
`train-000000.tar`, may lie its index, `train-000000.idx`, in the format of NVIDIA DALI's `wds2idx`: the place of every
file. Without it the headers of the shard are read.

WebDataset's own reader streams through the shards and shuffles in a buffer: what a batch holds depends on all that came
before it, and differs with the number of workers. Here a file is read where it lies, so that a batch is known by seed,
epoch and place, whatever came before; `EpochBatches` keeps the reads of some time within a few shards.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from blan_facial.data.faces import CorruptImageError, DataError, FaceDataset, decode_face
from shared.files import replacing

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK  # zeros that a tar file ends with
_VERSION = "v1.2"
_OPEN = 64  # shards that a process keeps open


class Member(NamedTuple):
    """Where a file lies."""

    shard: int
    """Place of its shard among the paths."""
    offset: int
    """Of its first byte in the shard."""
    size: int
    """Of the file, in bytes."""


class Shards(NamedTuple):
    """Tar files and what they hold."""

    paths: tuple[Path, ...]
    members: Mapping[str, Member]
    """The files by their names, without folders."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def has_shards(folder: Path) -> bool:
    """Say whether a folder holds tar files."""
    return any(folder.glob("*.tar"))


def read_shards(folder: Path) -> Shards:
    """Read which files the tar files of a folder hold.

    Raises:
        DataError: A tar file or an index is broken, or two shards hold files of one name.
    """
    paths = tuple(sorted(folder.glob("*.tar")))
    members: dict[str, Member] = {}
    for shard, path in enumerate(paths):
        for name, offset, size in _read_members(path, path.stat().st_size, path.stat().st_mtime_ns):
            other = members.setdefault(name, Member(shard, offset, size))
            if other != (shard, offset, size):
                raise DataError(
                    f"{path}: a file must lie in the shards once, got {name} in {paths[other.shard].name} as well. "
                    "Remove one of the two."
                )
    without = sum(not _index_of(path).exists() for path in paths)
    note = f"{without} of {len(paths)} shards have no index (.idx); their headers were read instead."
    return Shards(paths, members, (note,) if without else ())


class FaceShards(FaceDataset):
    """Faces that are files in shards.

    Args:
        name: Name of the data set.
        split: One of `SPLITS`.
        attributes: The N attributes.
        labels: int8 (n, N): 1, 0 or `UNKNOWN`.
        shards: Where the files lie.
        files: Names of the n files.
        image_size: Side of the images in pixels.
        notes: Sentences for the user.
    """

    def __init__(
        self,
        name: str,
        split: str,
        attributes: tuple[str, ...],
        labels: np.ndarray,
        *,
        shards: Shards,
        files: np.ndarray,
        image_size: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, split, attributes, labels, image_size=image_size, notes=notes)
        self.files = files
        self.paths = shards.paths
        self.members = np.array([shards.members[file] for file in files.tolist()], dtype=np.int64)
        self.shards = self.members[:, 0]

    def image(self, index: int) -> np.ndarray:
        """Read and decode file `index`.

        Raises:
            CorruptImageError: The file is no image, or not a whole one, or the shard's index does not fit it.
            OSError: The shard cannot be read at all.
        """
        shard, offset, size = self.members[index].tolist()
        path, name = self.paths[shard], str(self.files[index])
        content = os.pread(_open(path).number, _BLOCK + size, offset - _BLOCK)
        try:
            if _name_in(content[:_BLOCK]) != name:
                raise ValueError("another file at the place that the index names")
            return decode_face(content[_BLOCK:], self.image_size)
        except ValueError as error:
            raise CorruptImageError(path / name, index, str(error)) from error


def write_shard(path: Path, faces: Iterable[tuple[Path, Mapping[str, object]]]) -> None:
    """Write a shard and its index, each whole or not at all; the same faces make the same bytes.

    Args:
        path: The tar file.
        faces: Image files, whose bytes are taken as they are, and what the JSON file beside each is to say.
    """
    lines = []
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image, description in faces:
            key, _, suffix = image.name.partition(".")
            line = []
            for extension, content in ((suffix, image.read_bytes()), ("json", json.dumps(description).encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                line.append(f"{extension} {tar.offset + _BLOCK} {member.size} {member.name}")
                tar.addfile(member, io.BytesIO(content))
            lines.append(" ".join(line))
    with replacing(_index_of(path)) as file:
        file.write("\n".join([f"{_VERSION} {len(lines)}", *lines, ""]).encode())


@lru_cache(maxsize=4096)
def _read_members(path: Path, size: int, changed: int) -> tuple[tuple[str, int, int], ...]:
    """Return name, offset and size of every file of a shard, which is read once for all splits.

    Args:
        path: The tar file.
        size: Its size in bytes.
        changed: When it was changed; the result is kept for as long as it is not.
    """
    index = _index_of(path)
    members = _read_index(index) if index.exists() else _read_headers(path)
    end = max((offset + -(-length // _BLOCK) * _BLOCK for _, offset, length in members), default=0)
    if size < end + _END:
        raise DataError(
            f"{path}: must be a whole, uncompressed tar file, got {size} bytes of at least {end + _END}. "
            "Copy or write it again."
        )
    return tuple((name.rpartition("/")[2], offset, length) for name, offset, length in members)


def _read_index(path: Path) -> list[tuple[str, int, int]]:
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if first.split() != [_VERSION, str(len(lines))]:
        _refuse_index(path, 1, first)
    members: list[tuple[str, int, int]] = []
    for number, line in enumerate(lines, start=2):
        fields = line.split()  # extension, offset, size and name of every file of a sample
        offsets, sizes, names = fields[1::4], fields[2::4], fields[3::4]
        if len(fields) % 4 or not all(field.isdecimal() for field in (*offsets, *sizes)):
            _refuse_index(path, number, line)
        if any(int(offset) < _BLOCK for offset in offsets):  # a header stands before every file
            _refuse_index(path, number, line)
        members += zip(names, map(int, offsets), map(int, sizes), strict=True)
    return members


def _refuse_index(path: Path, number: int, line: str) -> NoReturn:
    raise DataError(
        f"{path}, line {number}: must be a whole index in the format {_VERSION} of DALI's wds2idx, got {line[:60]!r}. "
        "Remove the file: the headers of its shard are then read instead."
    )


def _read_headers(path: Path) -> list[tuple[str, int, int]]:
    try:
        with tarfile.open(path, "r:") as tar:
            return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: must be a whole, uncompressed tar file, got {error}. Copy or write it again."
        ) from error


def _index_of(path: Path) -> Path:
    return path.with_suffix(".idx")


def _name_in(header: bytes) -> str:
    """Return the name that a tar header gives, without folders.

    Raises:
        ValueError: It is no header.
    """
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name.rpartition("/")[2]
    except tarfile.HeaderError as error:
        raise ValueError(f"no file at the place that the index names ({error})") from error


class _Descriptor:
    """A file that is open for as long as it is used; forked workers share it, since it is read at named places."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(maxsize=_OPEN)
def _open(path: Path) -> _Descriptor:
    return _Descriptor(path)
