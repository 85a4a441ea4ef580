"""A sample of faces with a model's predictions, gates and reconstructions."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from blan_facial.data.faces import CorruptImageError, FaceDataset
from blan_facial.data.loading import denormalize, normalize
from blan_facial.network.model import Features, Network
from blan_layers.networks import capture_maps

FACES = 24

Kind: TypeAlias = Literal["correct", "false-positive", "missed"]

_log = logging.getLogger(__name__)


class Mark(NamedTuple):
    """A true or predicted attribute of a face."""

    attribute: str
    kind: Kind


class Sample(NamedTuple):
    """B faces with a model's predictions."""

    attributes: tuple[str, ...]
    """The N attributes."""
    faces: np.ndarray
    """uint8 (B, S, S, 3)."""
    labels: np.ndarray
    """int8 (B, N): 1, 0 or UNKNOWN."""
    predicted: np.ndarray
    """bool (B, N)."""
    spatial_maps: tuple[np.ndarray, ...]
    """RDAM's spatial gates, level by level, float32 (B, H_i, W_i) in [0, 1]; () without RDAM."""
    reconstructions: np.ndarray | None
    """float32 (B, S, S, 3) in [0, 1]; None without reconstruction."""
    squared_errors: np.ndarray | None
    """Mean squared error of each reconstruction (B,), in the normalised units of the loss; None without one."""
    plain_errors: np.ndarray
    """The same error (B,) for a uniform picture in the face's mean colour."""

    def marks(self, face: int) -> list[Mark]:
        """Return the marks of one face."""
        return marks(self.attributes, self.predicted[face], self.labels[face])


def marks(attributes: Sequence[str], predicted: Sequence[bool], true: Sequence[int]) -> list[Mark]:
    """Return a mark for every attribute that is predicted or true; unknown attributes get none.

    Args:
        attributes: N names.
        predicted: N predictions.
        true: N labels: 1, 0 or UNKNOWN.

    Returns:
        The correct ones, then the false positives, then the missed ones, each group in the order of `attributes`.
    """
    kinds: dict[tuple[bool, int], Kind] = {
        (True, 1): "correct",
        (True, 0): "false-positive",
        (False, 1): "missed",
    }
    answers = [(bool(says), int(is_so)) for says, is_so in zip(predicted, true, strict=True)]
    return [
        Mark(name, kind)
        for answer, kind in kinds.items()
        for name, given in zip(attributes, answers, strict=True)
        if given == answer
    ]


@torch.no_grad()
def draw_sample(
    model: Network, faces: FaceDataset, count: int = FACES, *, device: torch.device | str, seed: int
) -> Sample | None:
    """Apply a model to some faces.

    Args:
        model: The model, which is put into evaluation mode.
        faces: The data set.
        count: Maximum number of faces.
        device: Where the model is.
        seed: Seed of the random choice; corrupt images are skipped.

    Returns:
        The sample, or None if no face decodes.

    Raises:
        ValueError: The numbers of attributes of model and data set, or their image sizes, differ.
    """
    if model.attributes != len(faces.attributes):
        raise ValueError(
            f"draw_sample: the model must have the data set's {len(faces.attributes)} attributes, "
            f"got {model.attributes}. Use the data set that the model was trained on."
        )
    indices, pictures = _decode(faces, count, seed)
    if not indices:
        return None
    images = np.stack(pictures)
    inputs = normalize(torch.from_numpy(images).movedim(-1, 1).to(device))
    features, maps = _with_maps(model.eval(), inputs)
    logits, rebuilt = features.logits, features.reconstruction
    return Sample(
        attributes=faces.attributes,
        faces=images,
        labels=faces.labels[indices],
        predicted=logits.argmax(-1).bool().cpu().numpy(),
        spatial_maps=tuple(map(_numpy, maps)),
        reconstructions=None if rebuilt is None else _numpy(denormalize(rebuilt).movedim(1, -1)),
        squared_errors=None if rebuilt is None else _numpy((rebuilt.float() - inputs).square().mean((1, 2, 3))),
        plain_errors=_numpy(inputs.var((2, 3), correction=0).mean(1)),
    )


def _with_maps(model: Network, images: Tensor) -> tuple[Features, list[Tensor]]:
    """Return the model's outputs for images, and the spatial maps (B, H, W) of its joins, if they have gates."""
    if not any(getattr(module, "gates", None) for module in model.modules()):
        return model(images, reconstruct=model.reconstructs), []
    with capture_maps(model) as captured:
        features = model(images, reconstruct=model.reconstructs)
    return features, [
        maps["spatial_map"].squeeze(1) if "spatial_map" in maps else maps["attention_maps"].mean((1, 2))
        for maps in captured.values()
    ]


def _decode(faces: FaceDataset, count: int, seed: int) -> tuple[list[int], list[np.ndarray]]:
    indices: list[int] = []
    pictures: list[np.ndarray] = []
    for index in np.random.default_rng(seed).permutation(len(faces)).tolist():
        if len(indices) == count:
            break
        try:
            pictures.append(faces.image(index))
        except CorruptImageError as error:
            _log.info("left out: %s", error)
        else:
            indices.append(index)
    return indices, pictures


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
