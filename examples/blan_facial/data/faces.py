"""The class of all face data sets, and decoding image files."""

import dataclasses
import hashlib
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
"""The label of an attribute whose value is unknown; 1 means present and 0 absent."""

MAX_PIXELS = 89_478_485
"""Maximum number of pixels of a decoded image, unless set by `limit_pixels`: Pillow's own limit."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") + ("AVIF",) * bool(features.check("avif"))
"""Pillow's names of the supported image formats, independent of file names. Other formats may start programs."""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
        *(".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
    )
)
"""Extensions of image files in folders, in lower case; HEIC is refused with a message that names it."""

# Pillow checks the size of an image before decoding; between the limit and twice the limit it only warns.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")  # harmless for the image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operations that turn an image upright, by EXIF orientation."""


Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of a region of an image."""


class DataError(UserError):
    """A data folder or file that cannot be used; the message states the problem and the remedy."""


class NoSplitError(DataError):
    """The data set lacks the requested split."""


class CorruptImageError(DataError):
    """An image file that cannot be decoded.

    Args:
        place: The file, or another description of the image's location.
        index: Index of the image in the data set.
        reason: The decoder's message.
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
    """An image that needs much memory, although only small ones were requested."""


class PixelLimitError(ValueError):
    """An image with more pixels than allowed."""


class ImageReader(Protocol):
    """Reads image files by index from any storage."""

    def read(self, index: int) -> bytes:
        """Return the bytes of image file `index`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The stored bytes are damaged.
        """

    def name(self, index: int) -> str:
        """Return the name of the image, wherever its file is."""

    def place(self, index: int) -> Path | str:
        """Return the location of the image, for messages."""


@dataclass(eq=False, kw_only=True)
class FaceDataset:
    """Square RGB faces with binary attributes; labels are in memory, image files are decoded on access.

    Attributes:
        name: Name of the data set, as in `--data`.
        split: One of `SPLITS`.
        attributes: The N attributes; those of CelebA and LFWA by their CelebA names.
        labels: int8 (n, N): 1, 0 or `UNKNOWN`.
        images: At least n images: uint8 RGB (n, image_size, image_size, 3) in memory, or a reader of image files.
        image_size: Side of the images in pixels.
        notes: Sentences for the user, such as "12 images have no label row and were left out".
        groups: int64 (n,), the number of the person in each image; None if people are unknown.
        boxes: At least n boxes, int (n, 4): left, top, right and bottom in pixels of the file, to which the image is
            cropped; a box without area, or None, leaves the image uncropped.
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
            CorruptImageError: The file is not an image, or is incomplete.
            OSError: The file cannot be read.
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

    def digest(self) -> str:
        """Return a checksum of the labels and the names of the images, wherever their files are."""
        found = hashlib.sha256(self.labels.tobytes())
        if isinstance(self.images, np.ndarray):
            found.update(self.images[: len(self)].tobytes())
        else:
            names = (self.images.name(index) for index in range(len(self)))
            found.update("\n".join(names).encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of positive, negative and unknown labels of each attribute."""
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
        """Return the same faces with a selection of their attributes, in the given order.

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
    """Return a number for each person, int64 (n,); each image without a name counts as another person."""
    people = [name or place for place, name in enumerate(names)]
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
    return np.array([numbers[person] for person in people], dtype=np.int64)


def decode_face(data: bytes, image_size: int, *, box: Sequence[int] | None = None, large: bool = True) -> np.ndarray:
    """Decode an image of any mode and size, and resize it to a square, bilinear and antialiased.

    The image is turned upright by its EXIF orientation.

    Args:
        data: The image file's bytes, in one of `FORMATS`.
        image_size: Side of the square in pixels.
        box: Left, top, right and bottom of the region to use; None, or a box without area, uses the whole image.
        large: Whether decoding may need much memory. Parallel threads leave such images to one of them.

    Returns:
        uint8 RGB (image_size, image_size, 3).

    Raises:
        ValueError: The bytes are not an image, or are incomplete.
        LargeImageError: Decoding needs much memory, and `large` is False.
        PixelLimitError: The image has more pixels than Pillow's limit (89 million, or as set by `limit_pixels`).
    """
    return _decode(data, lambda width, height: (image_size, image_size), box, large=large)


def decode_picture(data: bytes, longest: int, *, enlarge: bool = True, large: bool = True) -> np.ndarray:
    """Decode an image like `decode_face`, but keep its aspect ratio.

    Args:
        data: The image file's bytes.
        longest: Longest side in pixels.
        enlarge: Whether smaller images are enlarged to that size.
        large: As for `decode_face`.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        ValueError: The bytes are not an image, or are incomplete.
        LargeImageError: Decoding needs much memory, and `large` is False.
        PixelLimitError: The image has more pixels than Pillow's limit.
    """

    def size(width: int, height: int) -> tuple[int, int]:
        scale = longest / max(width, height)
        if not enlarge:
            scale = min(1.0, scale)
        return max(1, round(scale * width)), max(1, round(scale * height))

    return _decode(data, size, large=large)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Return a Pillow image of any mode upright as uint8 RGB (height, width, 3), like `decode_face`.

    Raises:
        ValueError: The black and white levels of its pixels are unknown.
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
    """Decode an image or a region of it, and resize it to a size that depends on its own."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = size(*image.size)
            cost = 4 * image.width * image.height  # Pillow uses four bytes per pixel
            # A large JPEG decodes at a fraction of its size, rounded up to whole pixels; the box marks the exact end.
            box: Box | None = None if part is None else _within(part, *image.size)
            if box is None and (draft := image.draft("RGB", (2 * width, 2 * height))):
                box = draft[1]
            if not image.info.get("progressive"):  # all scans of those are kept in memory
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
    except Exception as error:  # decoders can raise anything for a broken file
        raise ValueError(str(error) or type(error).__name__) from error


def _unknown_format(data: bytes) -> str:
    """Describe an image in an unsupported format."""
    kind = data[8:12] if data[4:8] == b"ftyp" else b""
    names = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
    if kind in names:
        return f"an {names[kind]} image, which is not supported; convert it to JPEG"
    return "no known image format"


def _within(box: Sequence[int], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Clip a box to an image; None if nothing is left."""
    left, top, right, bottom = box
    inside = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else None


def limit_pixels(pixels: int) -> None:
    """Set the maximum number of pixels of decoded images for the rest of this process.

    Raises:
        ValueError: The number is below 1.
    """
    if pixels < 1:
        raise ValueError(f"limit_pixels: pixels must be at least 1, got {pixels}.")
    Image.MAX_IMAGE_PIXELS = pixels


def check_request(owner: str, split: str, image_size: int) -> None:
    """Refuse an unknown split or an invalid image size.

    Raises:
        ValueError: `split` is not one of `SPLITS`, or `image_size` is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"{owner}: split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if image_size < 1:
        raise ValueError(f"{owner}: image_size must be at least 1 pixel, got {image_size}.")


def _refuse_unknown_range(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("32-bit pixels, whose black and white levels are unknown; save it with 8 or 16 bits")


def _shrunk(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Resize a region of a large image in strips, first by integer factors, so that memory holds only one copy."""
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
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":  # transparency in a palette needs conversion through RGBA
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upright(resized: Image.Image, image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow can raise anything for broken EXIF
        turn = None
    return resized if turn is None else resized.transpose(turn)
