"""The drawn faces as tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from blan_facial.data.avatars import ATTRIBUTES, COUNTS, load_avatars
from blan_facial.data.avatars.drawing import Progress
from blan_facial.data.faces import FaceDataset

__all__ = ["ATTRIBUTES", "COUNTS", "Faces", "Splits", "load", "split_counts"]


class Faces(NamedTuple):
    """Images float32 (n, 3, S, S) in [-1, 1], and labels float32 (n, N), 0 or 1."""

    images: Tensor
    labels: Tensor

    def take(self, indices: Tensor) -> "Faces":
        """Return the faces with these indices."""
        return Faces(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    """Faces for training, validation and test."""

    train: Faces
    validation: Faces
    test: Faces


def split_counts(faces: int) -> dict[str, int]:
    """Return the number of faces in each split, in the proportions of the full data set."""
    return {split: max(1, faces * count // COUNTS["train"]) for split, count in COUNTS.items()}


def load(size: int, faces: int, progress: Progress | None = None) -> Splits:
    """Draw the faces, or read them from the cache.

    Args:
        size: Side of the images in pixels.
        faces: Number of training faces.
        progress: Called with (faces drawn, total faces) for each split that is drawn.
    """
    counts = split_counts(faces)
    return Splits(
        *(_tensors(load_avatars(split, image_size=size, count=counts[split], progress=progress)) for split in counts)
    )


def _tensors(avatars: FaceDataset) -> Faces:
    images = torch.from_numpy(avatars.images).movedim(-1, 1) / 127.5 - 1
    return Faces(images.contiguous(memory_format=torch.channels_last), torch.from_numpy(avatars.labels).float())
