"""A finished run for programs: arrays, pictures and frames of a video in, answers out."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

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
        predictor: The model that answers.
        image_size: Side of its input in pixels.
        batch_size: Pictures at a time.
        crop: What cuts the largest face out of a picture first; None: the whole picture is taken.

    Example:
        predict = BLANPredictor.from_run("runs/demo-0", attributes=["Smiling"])
        for (smiling,) in predict(images):
            print(smiling.probability, smiling.predicted)
    """

    def __init__(
        self, predictor: Predictor, image_size: int, *, batch_size: int = 32, crop: FaceCropper | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"BLANPredictor: batch_size must be at least 1, got {batch_size}. Raise it.")
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
            folder: The folder, of which ``config.json`` and ``model.safetensors`` are read.
            attributes: Answer these only, in this order; by default all that the model knows.
            threshold: An attribute is predicted above this probability; by default the run's own thresholds, or 0.5.
            device: Where to compute.
            batch_size: Pictures at a time.
            crop: Whether to cut the largest face out of each picture first, by OpenCV (extra ``crop``).

        Raises:
            RunError: The folder is no finished run's.
            UserError: Faces are to be cut out, and OpenCV is not here.
            ValueError: The model does not know an attribute, or a number is out of its range.
        """
        run = load_run(Path(folder))
        asked, lacking = choose(attributes, run.attributes)
        if lacking:
            known = ", ".join(run.attributes)
            raise ValueError(
                f"BLANPredictor: attributes must be attributes of the model, got {lacking[0]!r}. It has {known}."
            )
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"BLANPredictor: threshold must be in (0, 1), got {threshold}. Use 0.5, for example.")
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
        """Answer for pictures of any size: a list of them, an array (B, height, width, 3), or one alone.

        Returns:
            A list of answers for each picture, [] for one in which no face was found.

        Raises:
            TypeError: A picture is of another kind or dtype.
            ValueError: A picture has another shape.
        """
        if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
            return list(self.frames([images]))
        return list(self.frames(images))

    def frames(self, frames: Iterable[Picture]) -> Iterator[list[Answer]]:
        """Yield the answers for one picture after the other, such as the frames of a video, ``batch_size`` at a time.

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
    """Return a picture as the square that a model takes."""
    square = Image.fromarray(pixels).resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(square)


def _pixels(picture: Picture) -> np.ndarray:
    if isinstance(picture, Image.Image):
        try:
            picture = upright_rgb(picture)
        except ValueError as error:
            raise ValueError(f"BLANPredictor: a picture must have 8 or 16 bits, got {error}.") from error
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
