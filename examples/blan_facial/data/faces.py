"""What every data set of faces offers, and how a file becomes a face."""

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from shared.program import UserError

SPLITS = ("train", "validation", "test")

UNKNOWN = -1
"""The label of an attribute of which nobody said whether the face has it; 1 says that it has, 0 that it has not."""

MAX_PIXELS = 89_478_485
"""Pixels that an image may have to be decoded, unless `limit_pixels` says otherwise: Pillow's own limit."""

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


class DataError(UserError):
    """A data folder or file that cannot be used; the message says what is wrong and what to do."""


class CorruptImageError(DataError):
    """An image file that does not decode.

    Args:
        path: The file.
        index: Its index in the data set.
        reason: What the decoder found.
    """

    def __init__(self, path: Path, index: int, reason: str) -> None:
        super().__init__(
            f"{path}: image {index} must decode as a whole, got {reason}. "
            "Replace the file, or go on without such images by --skip-corrupt."
        )
        self.path = path
        self.index = index
        self.reason = reason

    def __reduce__(self) -> tuple[type["CorruptImageError"], tuple[Path, int, str]]:
        return type(self), (self.path, self.index, self.reason)


class PixelLimitError(ValueError):
    """An image of more pixels than may be decoded."""


class FaceDataset(ABC):
    """Square RGB faces with binary attributes; the labels stand in memory, the images are made when asked for.

    Attributes:
        name: `"avatars"`, `"celeba"`, `"lfwa"` or `"csv"`.
        split: One of `SPLITS`.
        attributes: The N attributes; those of CelebA and LFWA by their CelebA names.
        labels: int8 (n, N): 1, 0 or `UNKNOWN`.
        image_size: Side of the images in pixels.
        notes: Sentences for the user, such as "12 images have no label row and were left out".
        shards: Number of the tar file of each face, int (n,); None where faces have files of their own.
    """

    name: str
    split: str
    attributes: tuple[str, ...]
    labels: np.ndarray
    image_size: int
    notes: tuple[str, ...]
    shards: np.ndarray | None = None

    def __init__(
        self,
        name: str,
        split: str,
        attributes: tuple[str, ...],
        labels: np.ndarray,
        *,
        image_size: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.split = split
        self.attributes = attributes
        self.labels = labels
        self.image_size = image_size
        self.notes = notes

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Return face `index` as uint8 RGB (image_size, image_size, 3)."""


class FaceFiles(FaceDataset):
    """Faces that are image files in one folder.

    Args:
        name: Name of the data set.
        split: One of `SPLITS`.
        attributes: The N attributes.
        labels: int8 (n, N): 1, 0 or `UNKNOWN`.
        folder: The folder that the files are in.
        files: The n file names relative to `folder`. An array, since forked workers share its memory for good,
            where reading a list of strings copies it page by page.
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
        folder: Path,
        files: np.ndarray,
        image_size: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, split, attributes, labels, image_size=image_size, notes=notes)
        self.folder = folder
        self.files = files

    def image(self, index: int) -> np.ndarray:
        """Decode file `index`.

        Raises:
            CorruptImageError: The file is no image, or not a whole one.
            OSError: The file cannot be read at all.
        """
        path = self.folder / str(self.files[index])
        try:
            return decode_face(path.read_bytes(), self.image_size)
        except ValueError as error:
            raise CorruptImageError(path, index, str(error)) from error


def decode_face(data: bytes, image_size: int) -> np.ndarray:
    """Decode an image of any format, mode and size, and resize the whole of it to a square, bilinear and antialiased.

    An image that says by EXIF how it was taken is turned upright.

    Args:
        data: The image file's bytes.
        image_size: Side of the square in pixels.

    Returns:
        uint8 RGB (image_size, image_size, 3).

    Raises:
        ValueError: The bytes are no image, or not a whole one.
        PixelLimitError: The image has more pixels than Pillow's limit (89 million, or what `limit_pixels` set).
    """
    return _decode(data, lambda width, height: (image_size, image_size))


def decode_picture(data: bytes, longest: int) -> np.ndarray:
    """Decode an image as `decode_face` does, but in its own proportions.

    Args:
        data: The image file's bytes.
        longest: Longest side in pixels.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        ValueError: The bytes are no image, or not a whole one.
        PixelLimitError: The image has more pixels than Pillow's limit.
    """

    def size(width: int, height: int) -> tuple[int, int]:
        scale = longest / max(width, height)
        return max(1, round(scale * width)), max(1, round(scale * height))

    return _decode(data, size)


def _decode(data: bytes, size: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    """Decode an image, and resize it to the size that its own asks for."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = size(*image.size)
            # A large JPEG decodes at a fraction of its size, rounded up to whole pixels; the box says where it ends.
            draft = image.draft("RGB", (2 * width, 2 * height))
            box = draft[1] if draft else None
            resized = _rgb(image).resize((width, height), Image.Resampling.BILINEAR, box)
            return np.array(_upright(resized, image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PixelLimitError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, perhaps a decompression bomb") from error
    except UnidentifiedImageError as error:
        raise ValueError("bytes of no known image format") from error
    except Exception as error:  # a decoder meets a broken file with whatever its code runs into
        raise ValueError(str(error) or type(error).__name__) from error


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
