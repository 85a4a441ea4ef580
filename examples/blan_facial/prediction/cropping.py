"""Finding faces in pictures by the cascade in OpenCV's package; imported only when needed."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.program import UserError

MARGIN = 0.4
"""Margin on each side of a face, relative to its side: about as much as in CelebA's aligned images."""

_LONGEST = 640  # pixels of the picture that is searched
_SMALLEST = 24  # pixels of a face in it
_CASCADE = "haarcascade_frontalface_default.xml"


class FaceCropper:
    """Crops a picture to its largest face; it may be called from several threads.

    Raises:
        UserError: OpenCV is not installed, or its version has no cascades.
    """

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise _lacking("none") from error
        self._cv2: Any = cv2
        self._of_thread = threading.local()
        self._detector()

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray | None, int]:
        """Return the part of the picture with the largest face and its margin, and the number of faces found.

        Args:
            picture: uint8 RGB (height, width, 3).
        """
        height, width = picture.shape[:2]
        scale = min(1.0, _LONGEST / max(height, width))
        grey = self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2GRAY)
        if scale < 1:
            size = max(1, round(scale * width)), max(1, round(scale * height))
            grey = self._cv2.resize(grey, size, interpolation=self._cv2.INTER_AREA)
        found = self._detector().detectMultiScale(grey, 1.1, 5, minSize=(_SMALLEST, _SMALLEST))
        if not len(found):
            return None, 0
        largest = max(found, key=lambda box: box[2] * box[3])
        left, top, right, bottom = _with_margin([value / scale for value in largest], width, height)
        return picture[top:bottom, left:right], len(found)

    def _detector(self) -> Any:
        """Return the detector of this thread; detectors have a state, so that threads cannot share one."""
        if not hasattr(self._of_thread, "detector"):
            try:
                detector = self._cv2.CascadeClassifier(self._cv2.data.haarcascades + _CASCADE)
            except (AttributeError, self._cv2.error) as error:
                raise _lacking(self._cv2.__version__) from error
            if detector.empty():
                raise _lacking(self._cv2.__version__)
            self._of_thread.detector = detector
        return self._of_thread.detector


def _lacking(got: str) -> UserError:
    return UserError(
        f"predict: --crop faces needs OpenCV 4, which includes a face detector, got {got}. "
        "Install it with pip install 'blan-layers[crop]', or leave --crop out."
    )


def _with_margin(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a box with its margin, clipped to the picture."""
    left, top, wide, high = box
    return (
        max(0, round(left - MARGIN * wide)),
        max(0, round(top - MARGIN * high)),
        min(width, round(left + (1 + MARGIN) * wide)),
        min(height, round(top + (1 + MARGIN) * high)),
    )
