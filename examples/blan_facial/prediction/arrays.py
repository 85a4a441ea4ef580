"""A finished run for programs: it answers for arrays, pictures and video frames."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image

from blan_facial.data.attributes import choose
from blan_facial.data.faces import upright_rgb
from blan_facial.prediction.cropping import FaceCropper
from blan_facial.prediction.predictor import Answer, Predictor
from blan_facial.results.finished import load_run

Picture = np.ndarray | Image.Image
"""RGB: uint8 (height, width, 3), or an image of Pillow's."""


class BLANPredictor:
    """A finished run that answers for pictures in memory.

    Args:
        predictor: The model.
        image_size: Side of its input in pixels.
        batch_size: Pictures per batch.
        crop: Crops a picture to its largest face first; None uses the whole picture.

    Example:
        predict = BLANPredictor.from_run("runs/demo-0", attributes=["Smiling"])
        for (smiling,) in predict(images):
            print(smiling.probability, smiling.predicted)
    """

    def __init__(
        self, predictor: Predictor, image_size: int, *, batch_size: int = 32, crop: FaceCropper | None = None
    ) -> None:
        if not issubclass(type(batch_size), Integral) or batch_size < 1:
            _refuse("batch_size must be a whole number of at least 1", batch_size, "Use 32, for example")
        self.predictor = predictor
        self.image_size = image_size
        self.batch_size = batch_size
        self.crop = crop

    @classmethod
    def from_run(
        cls,
        folder: Path | str,
        *,
        attributes: Sequence[str] = (),
        threshold: float | None = None,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        crop: bool = False,
    ) -> "BLANPredictor":
        """Return the predictor of a run's output folder.

        Args:
            folder: The folder, from which ``config.json`` and ``model.safetensors`` are read.
            attributes: Attributes to predict, in this order; by default all attributes of the model.
            threshold: Probability above which an attribute is predicted; by default the run's thresholds, or 0.5.
            device: Device for the computation.
            batch_size: Pictures per batch.
            crop: Whether to crop each picture to its largest face first, by OpenCV (extra ``crop``).

        Raises:
            RunError: The folder does not contain a finished run.
            UserError: Faces are to be cropped, and OpenCV is not installed.
            ValueError: The model lacks an attribute, one is named again, a number is out of range, or the device is not
                available.
        """
        if isinstance(attributes, str):
            _refuse("attributes must be a list of names", attributes, f"Write [{attributes!r}]")
        if threshold is not None and not (issubclass(type(threshold), Real) and 0 < threshold < 1):
            _refuse("threshold must be a number in (0, 1)", threshold, "Use 0.5, for example")
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError, TypeError):  # the first for a device that torch was built without
            _refuse("device must be available here", str(device), 'Use "cpu"')
        run = load_run(Path(folder))
        asked, lacking = choose(attributes, run.attributes)
        if lacking:
            _refuse("attributes must be attributes of the model", lacking[0], f"It has {', '.join(run.attributes)}")
        predictor = Predictor(
            run.model,
            run.attributes,
            asked=asked or None,
            threshold=run.probabilities if threshold is None else threshold,
            scaling=run.scaling,
            device=device,
        )
        return cls(predictor, run.config.image_size, batch_size=batch_size, crop=FaceCropper() if crop else None)

    def __call__(self, images: Picture | Sequence[Picture]) -> list[list[Answer]]:
        """Answer for pictures of any size: a list of them, an array (B, height, width, 3), or a single picture.

        Returns:
            A list of answers for each picture; [] if no face was found in it.

        Raises:
            TypeError: A picture has an unsupported type or dtype.
            ValueError: A picture has an unsupported shape, or does not decode.
        """
        if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            return list(self.frames([images]))
        return list(self.frames(images))

    def frames(self, frames: Iterable[Picture]) -> Iterator[list[Answer]]:
        """Yield the answers for a stream of pictures, such as the frames of a video, in batches of ``batch_size``.

        OpenCV reads frames as BGR: pass ``frame[:, :, ::-1]``.
        """
        following = iter(frames)
        while batch := [self._input(frame) for frame in islice(following, self.batch_size)]:
            faces = [face for face in batch if face is not None]
            answers = iter(self.predictor(np.stack(faces)) if faces else [])
            for face in batch:
                yield [] if face is None else next(answers)

    def _input(self, picture: Picture) -> np.ndarray | None:
        pixels = _pixels(picture)
        if self.crop is not None:
            face, _ = self.crop(pixels)
            if face is None:
                return None
            pixels = face
        return resized(pixels, self.image_size)


def resized(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Resize a picture to the square input of a model."""
    square = Image.fromarray(pixels).resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(square)


def _refuse(rule: str, got: object, remedy: str) -> NoReturn:
    raise ValueError(f"BLANPredictor: {rule}, got {got!r}. {remedy}.")


def _pixels(picture: Picture) -> np.ndarray:
    if isinstance(picture, Image.Image):
        try:
            picture = upright_rgb(picture)
        except Exception as error:  # decoders can raise anything for a broken file
            raise ValueError(
                f"BLANPredictor: a picture must decode completely, got {error}. Open it again, or replace it."
            ) from error
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        got = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise TypeError(
            f"BLANPredictor: a picture must be a Pillow image or a uint8 array, got {got}. "
            "Convert it; for values in 0..1, use (255 * picture).round().astype('uint8')."
        )
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(
            f"BLANPredictor: a picture must have the shape (height, width, 3), got {picture.shape}. "
            "Put the colour axis last, and repeat a grey picture three times."
        )
    return np.ascontiguousarray(picture)
