"""The class of all data sets of faces, and how an image file becomes a face."""

import dataclasses
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from blan_facial.data.image_file import LARGE, FileKindError
from shared.program import UserError

SPLITS = ("train", "validation", "test")

UNKNOWN = -1
"""The label of an attribute of which nobody said whether the face has it; 1 says that it has, 0 that it has not."""

MAX_PIXELS = 89_478_485
"""Pixels that an image may have to be decoded, unless `limit_pixels` says otherwise: Pillow's own limit."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") + ("AVIF",) * bool(features.check("avif"))
"""Pillow's names of the image formats that are decoded, whatever the file is called. Others may start programs."""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
        *(".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
    )
)
"""What the files of a folder end in that are taken for images, in lower case; HEIC is refused by its name."""

# Pillow sees an image's size before it decodes it; of one beyond the limit it only warns up to twice the limit.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # which spoils no image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""


Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image."""


class DataError(UserError):
    """A data folder or file that cannot be used; the message says what is wrong and what to do."""


class NoSplitError(DataError):
    """A split that the data set does not have."""


class CorruptImageError(DataError):
    """An image file that does not decode.

    Args:
        place: The file, or where else the image lies.
        index: Its index in the data set.
        reason: What the decoder found.
    """

    def __init__(self, place: Path | str, index: int, reason: str) -> None:
        super().__init__(
            f"{place}: image {index} must decode completely, got {reason}. "
            "Replace the file, or skip such images with --skip-corrupt."
        )
        self.place = place
        self.index = index
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptImageError"], tuple[Path | str, int, str]]:
        return type(self), (self.place, self.index, self.reason)


class LargeImageError(Exception):
    """An image that takes much memory where only others were asked for."""


class PixelLimitError(ValueError):
    """An image of more pixels than may be decoded."""


class ImageReader(Protocol):
    """Image files by their index, wherever their bytes lie."""

    def read(self, index: int) -> bytes:
        """Return the bytes of image file `index`.

        Raises:
            OSError: They cannot be read.
            ValueError: They are not what was written.
        """

    def place(self, index: int) -> Path | str:
        """Return where the image lies, for messages."""


@dataclass(eq=False, kw_only=True)
class FaceDataset:
    """Square RGB faces with binary attributes; the labels are in memory, image files are decoded when asked for.

    Attributes:
        name: Name of the data set, as `--data` has it.
        split: One of `SPLITS`.
        attributes: The N attributes; those of CelebA and LFWA by their CelebA names.
        labels: int8 (n, N): 1, 0 or `UNKNOWN`.
        images: At least n images: uint8 RGB (n, image_size, image_size, 3) in memory, or what reads their files.
        image_size: Side of the images in pixels.
        notes: Sentences for the user, such as "12 images have no label row and were left out".
        groups: int64 (n,), a number for the person in each image; None where the people are unknown.
        boxes: At least n boxes, int (n, 4): left, top, right and bottom of the face in the pixels of its file, which
            is cropped to it; one without an area, or None, leaves the whole image.
    """

    name: str
    split: str
    attributes: tuple[str, ...]
    labels: np.ndarray
    images: np.ndarray | ImageReader
    image_size: int
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Return face `index` as uint8 RGB (image_size, image_size, 3).

        Raises:
            CorruptImageError: Its file is no image, or not a whole one.
            OSError: Its file cannot be read at all.
        """
        if isinstance(self.images, np.ndarray):
            return self.images[index]
        box = None if self.boxes is None else self.boxes[index].tolist()
        try:
            return decode_face(self.images.read(index), self.image_size, box=box)
        except FileKindError as error:
            raise CorruptImageError(self.images.place(index), index, str(error.strerror)) from error
        except ValueError as error:
            raise CorruptImageError(self.images.place(index), index, str(error)) from error

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many faces have each attribute, have it not, and of how many that is unknown."""
        codes = {"yes": 1, "no": 0, "unknown": UNKNOWN}
        columns = {name: (self.labels == code).sum(0).tolist() for name, code in codes.items()}
        return {
            attribute: {name: column[place] for name, column in columns.items()}
            for place, attribute in enumerate(self.attributes)
        }

    def first(self, count: int) -> "FaceDataset":
        """Return the first faces, at most `count`."""
        groups = None if self.groups is None else self.groups[:count]
        return dataclasses.replace(self, labels=self.labels[:count], groups=groups)

    def with_attributes(self, attributes: Sequence[str]) -> "FaceDataset":
        """Return the same faces with some of their attributes, in the order given.

        Raises:
            DataError: The data set lacks one of them.
        """
        if lacking := [name for name in attributes if name not in self.attributes]:
            raise DataError(
                f"{self.name}: must have the {len(attributes)} requested attributes, "
                f"got none called {', '.join(lacking)}. It has {', '.join(self.attributes)}."
            )
        columns = [self.attributes.index(name) for name in attributes]
        return dataclasses.replace(self, attributes=tuple(attributes), labels=self.labels[:, columns])


def number_people(names: Sequence[str]) -> np.ndarray:
    """Return a number for each person, int64 (n,); without a name, an image is a person of its own."""
    people = [name or place for place, name in enumerate(names)]
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
    return np.array([numbers[person] for person in people], dtype=np.int64)


def decode_face(data: bytes, image_size: int, *, box: Sequence[int] | None = None, large: bool = True) -> np.ndarray:
    """Decode an image of any mode and size, and resize the whole of it to a square, bilinear and antialiased.

    An image that says by EXIF how it was taken is turned upright.

    Args:
        data: The image file's bytes, in one of `FORMATS`.
        image_size: Side of the square in pixels.
        box: Left, top, right and bottom of the part to take; without an area, or None: the whole image.
        large: Whether it may take much memory. Threads that decode side by side leave such images to one of them.

    Returns:
        uint8 RGB (image_size, image_size, 3).

    Raises:
        ValueError: The bytes are no image, or not a whole one.
        LargeImageError: It takes much memory, and `large` is False.
        PixelLimitError: The image has more pixels than Pillow's limit (89 million, or what `limit_pixels` set).
    """
    return _decode(data, lambda width, height: (image_size, image_size), box, large=large)


def decode_picture(data: bytes, longest: int, *, enlarge: bool = True, large: bool = True) -> np.ndarray:
    """Decode an image as `decode_face` does, but in its own proportions.

    Args:
        data: The image file's bytes.
        longest: Longest side in pixels.
        enlarge: Whether a smaller image is brought to that size.
        large: As for `decode_face`.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        ValueError: The bytes are no image, or not a whole one.
        LargeImageError: It takes much memory, and `large` is False.
        PixelLimitError: The image has more pixels than Pillow's limit.
    """

    def size(width: int, height: int) -> tuple[int, int]:
        scale = longest / max(width, height)
        if not enlarge:
            scale = min(1.0, scale)
        return max(1, round(scale * width)), max(1, round(scale * height))

    return _decode(data, size, large=large)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Return an image of Pillow's as `decode_face` takes it, of any mode and upright: uint8 RGB (height, width, 3).

    Raises:
        ValueError: Its black and white are unknown.
    """
    _refuse_unknown_range(image)
    return np.array(_upright(_rgb(image), image))


def _decode(
    data: bytes,
    size: Callable[[int, int], tuple[int, int]],
    part: Sequence[int] | None = None,
    *,
    large: bool,
) -> np.ndarray:
    """Decode an image, or a part of it, and resize it to the size that its own asks for."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = size(*image.size)
            cost = 4 * image.width * image.height  # Pillow keeps a pixel in four bytes
            # A large JPEG decodes at a fraction of its size, rounded up to whole pixels; the box says where it ends.
            box: Box | None = None if part is None else _within(part, *image.size)
            if box is None and (draft := image.draft("RGB", (2 * width, 2 * height))):
                box = draft[1]
            if not image.info.get("progressive"):  # of which every scan is kept in full
                cost = 4 * image.width * image.height
            if cost > LARGE and not large:
                raise LargeImageError
            _refuse_unknown_range(image)
            if cost > LARGE:
                resized = _shrunk(image, (width, height), box or (0, 0, *image.size))
            else:
                resized = _rgb(image).resize((width, height), Image.Resampling.BILINEAR, box)
            return np.array(_upright(resized, image))
    except LargeImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PixelLimitError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, perhaps a decompression bomb") from error
    except UnidentifiedImageError as error:
        raise ValueError(_unknown_format(data)) from error
    except Exception as error:  # a decoder meets a broken file with whatever its code runs into
        raise ValueError(str(error) or type(error).__name__) from error


def _unknown_format(data: bytes) -> str:
    """Say what an image is that no decoder takes."""
    kind = data[8:12] if data[4:8] == b"ftyp" else b""
    names = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
    if kind in names:
        return f"an {names[kind]} image, which is not supported; convert it to JPEG"
    return "no known image format"


def _within(box: Sequence[int], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the part of a box that lies in an image; None if there is none."""
    left, top, right, bottom = box
    inside = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else None


def limit_pixels(pixels: int) -> None:
    """Set how many pixels an image may have to be decoded, in this process, from now on.

    Raises:
        ValueError: The number is below 1.
    """
    if pixels < 1:
        raise ValueError(f"limit_pixels: pixels must be at least 1, got {pixels}.")
    Image.MAX_IMAGE_PIXELS = pixels


def check_request(owner: str, split: str, image_size: int) -> None:
    """Refuse a split or an image size that no data set has.

    Raises:
        ValueError: `split` is none of `SPLITS`, or `image_size` is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"{owner}: split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if image_size < 1:
        raise ValueError(f"{owner}: image_size must be at least 1 pixel, got {image_size}.")


def _refuse_unknown_range(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("32-bit pixels, whose black and white levels are unknown; save it with 8 or 16 bits")


def _shrunk(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Resize a part of a large image strip by strip, first by whole factors, so that there is one copy of it."""
    sides = box[2] - box[0], box[3] - box[1]
    across, down = (max(1, int(side) // (2 * wanted)) for side, wanted in zip(sides, size, strict=True))
    rows = down * max(1, LARGE // (16 * image.width * down))
    small = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    for top in range(0, image.height, rows):
        strip = _rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        small.paste(strip.reduce((across, down)), (0, top // down))
    within = (box[0] / across, box[1] / down, box[2] / across, box[3] / down)
    return small.resize(size, Image.Resampling.BILINEAR, within)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion clips instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # a palette may hold transparency, which Pillow converts by way of RGBA alone
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upright(resized: Image.Image, image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow runs into in broken EXIF
        turn = None
    return resized if turn is None else resized.transpose(turn)
