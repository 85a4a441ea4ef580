"""CelebA, read from its official folder or a copy.

The official folder has `img_align_celeba/*.jpg`, `list_attr_celeba.txt` (the number of rows, the attributes' names,
then a row of -1 and 1 per image) and `list_eval_partition.txt` (an image and 0, 1 or 2 per row), in one folder or, as
downloaded, in `Img/`, `Anno/` and `Eval/`. In Kaggle's copy the text files are CSV, and the images are one folder
deeper. Other copies have everything one folder deeper, or PNG images listed as JPEG, which are matched without their
extensions. Images may still be in their ZIP archive. Partial copies may be inconsistent: the images that occur in all
three parts are used.
Optional files next to the labels are `identity_CelebA.txt` (an image and the number of its person per row) and
`list_bbox_celeba.txt`, by which images in the wild are cropped.
"""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from blan_facial.data.celeba_files import (
    BOXES,
    IDENTITIES,
    LABELS,
    PARTITION,
    find_base,
    find_images,
    find_optional,
    find_text,
    read_boxes,
    read_identities,
    read_labels,
    read_partition,
    stem,
)
from blan_facial.data.faces import FORMATS, SUFFIXES, DataError, FaceDataset, ImageReader, check_request, number_people
from blan_facial.data.folders import ImageFiles, find_files, open_root
from blan_facial.data.zipped import ZipImages, is_archive, member_names

_LOOKED_AT = 16  # images whose sizes show whether they are aligned


def load_celeba(root: Path | str, split: str, *, image_size: int, image_folder: Path | None = None) -> FaceDataset:
    """Read CelebA's labels and partition; images are decoded on access.

    Args:
        root: The official folder or a copy.
        split: `"train"`, `"validation"` or `"test"`, by the official partition.
        image_size: Side in pixels; the whole aligned image is resized to the square.
        image_folder: The folder or archive of the images, if it is not one of the official ones.

    Returns:
        The split, in the order of the label file; its notes list what the folder lacks.

    Raises:
        DataError: A part of the folder is missing or violates its format, or a link leads out of it.
        ValueError: `split` or `image_size` is out of range.
    """
    check_request("load_celeba", split, image_size)
    base = find_base(open_root("load_celeba", root))
    place = find_images(base) if image_folder is None else image_folder
    if not is_archive(place):
        place = _images_in(open_root("load_celeba", place, "--image-folder"))
    label_file = find_text(base, "Anno", LABELS)
    partition_file = find_text(base, "Eval", PARTITION)
    images, twins = _by_stem(place)
    if not images:
        raise DataError(
            f"load_celeba: {place} must have images, got none in it or in its only subfolder. "
            "Name the folder or archive of the images with --image-folder."
        )
    labels = read_labels(label_file)
    partition = read_partition(partition_file)

    complete = {name for name in labels.images if name in images and name in partition}
    if not complete:
        raise DataError(
            f"load_celeba: some images must have both a label row and a partition row, got none among {len(images)} "
            f"images in {place}, {len(labels.images)} label rows and {len(partition)} partition rows. "
            "Check that all three come from the same copy of CelebA."
        )
    rows = [row for row, name in enumerate(labels.images) if name in complete and partition[name] == split]
    if not rows:
        raise DataError(
            f"load_celeba: split {split!r} must have images, got none of the {len(complete)} complete ones in {base}. "
            f"Add images of this split, or rows to {partition_file.name}."
        )
    notes = [
        _left_out(len(labels.images) - len(complete), len(labels.images), "label rows", "no image or no partition row"),
        _left_out(len(partition) - len(complete), len(partition), "partition rows", "no image or no label row"),
        _left_out(len(images) - len(complete), len(images), "images", "no label row or no partition row"),
        _left_out(twins, twins + len(images), "images", "the name of another, apart from folder and extension,"),
    ]
    if labels.announced not in (None, len(labels.images)):
        notes.insert(0, f"{label_file.name} announces {labels.announced} rows but contains {len(labels.images)}.")
    stems = [labels.images[row] for row in rows]
    people = None
    if (identities := find_optional(base, IDENTITIES)) is not None:
        by_image = read_identities(identities)
        people = [by_image.get(name, "") for name in stems]
        notes.append(
            _left_out(
                people.count(""),
                len(people),
                f"{split} images",
                "no identity row",
                "are treated as images of different people",
            )
        )
    boxes, note = _boxes(base, place, {name: images[name] for name in complete}, stems)
    return FaceDataset(
        name="celeba",
        split=split,
        attributes=labels.attributes,
        labels=labels.values[rows],
        images=_reader(place, [images[name] for name in stems]),
        image_size=image_size,
        notes=tuple(note for note in (*notes, note) if note),
        groups=None if people is None else number_people(people),
        boxes=boxes,
    )


def _images_in(folder: Path) -> Path:
    """Return the folder that contains the images: the given one, or its only subfolder, as in Kaggle's copy."""
    with os.scandir(folder) as entries:
        names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    folders = [name for name, is_folder in names.items() if is_folder and not name.startswith((".", "__"))]
    if len(folders) != 1 or any(_is_image(name) for name, is_folder in names.items() if not is_folder):
        return folder
    return _images_in(folder / folders[0])


def _by_stem(place: Path) -> tuple[dict[str, str], int]:
    """Return the names of the images by their stems, the first for each stem, and the number left out by this.

    Raises:
        DataError: The folder or archive cannot be read, or a link leads out of it.
    """
    if place.is_file():
        names = [name for name in member_names(place) if _is_image(name)]
    else:
        listed = [name for name in os.listdir(place) if _is_image(name)]
        names = list(compress(listed, find_files("load_celeba", place, listed)))
    by_stem = {stem(name): name for name in sorted(names, reverse=True)}
    return by_stem, len(names) - len(by_stem)


def _is_image(name: str) -> bool:
    file = PurePosixPath(name)
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _reader(place: Path, names: Sequence[str]) -> ImageReader:
    return (ZipImages if place.is_file() else ImageFiles)(place, np.array(names))


def _boxes(base: Path, place: Path, images: Mapping[str, str], stems: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """Return the boxes for cropping images in the wild, and a note on them; aligned images have none.

    Raises:
        DataError: The boxes are not those of images of this size.
    """
    sizes = _some_sizes(place, images)
    if not sizes or 2 * max(Counter(sizes.values()).values()) > len(sizes):  # aligned, perhaps with an odd one
        return None, ""
    path = find_optional(base, BOXES)
    if path is None:
        return None, (
            f"The images in {place} are not aligned, and faces in them may be small. Copy {BOXES}.txt to the folder of "
            "the labels, so that they are cropped, or use img_align_celeba."
        )
    boxes: Mapping[str, tuple[int, int, int, int]] = read_boxes(path)
    outside = [
        name for name, size in sizes.items() if name in boxes and (boxes[name][2] > size[0] or boxes[name][3] > size[1])
    ]
    if 2 * len(outside) > len(sizes.keys() & boxes.keys()):
        width, height = sizes[outside[0]]
        raise DataError(
            f"{path}: boxes must lie in their images, got {boxes[outside[0]]} for {images[outside[0]]} of "
            f"{width} x {height} pixels in {place}, and others. Use images of the original size, or remove the file to "
            "leave them uncropped."
        )
    whole = sum(name not in boxes for name in stems)
    note = f"The images in {place} are not aligned and were cropped with {path.name}"
    without = f", except {whole} of {len(stems)}, which have no box" if whole else ""
    return np.array([boxes.get(name, (0, 0, 0, 0)) for name in stems]), f"{note}{without}."


def _some_sizes(place: Path, images: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return the sizes of some images, the same for all splits, which differ unless the images are aligned."""
    some = sorted(images)[:: -(-len(images) // _LOOKED_AT)]
    reader, sizes = _reader(place, [images[name] for name in some]), {}
    for index, name in enumerate(some):
        try:
            with Image.open(io.BytesIO(reader.read(index)), formats=FORMATS) as image:
                sizes[name] = image.size
        except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            continue  # training reports the error
    return sizes


def _left_out(count: int, total: int, things: str, lack: str, consequence: str = "were left out") -> str:
    return f"{count} of {total} {things} have {lack} and {consequence}." if count else ""
