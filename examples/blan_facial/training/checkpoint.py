"""The checkpoint that a run goes on from."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blan_facial.config import Config
from shared.files import replacing
from shared.program import UserError

CHECKPOINT, LOGS = "last.ckpt", "logs"
"""What training leaves in the folder of a run."""

_FORMAT = 2


class RunError(UserError):
    """An output folder that cannot be used as it was asked to be."""


class Position(NamedTuple):
    """How far a run has come."""

    step: int = 0
    """Steps done."""
    images: int = 0
    """Training images seen."""
    skipped: int = 0
    """Corrupt images left out."""
    seconds: float = 0.0
    """Time spent in training steps, those of earlier sittings included."""
    waiting: float = 0.0
    """The part of it in which they waited for images."""

    @property
    def images_per_second(self) -> float:
        """Training images a second, over all devices."""
        return self.images / max(self.seconds, 1e-9)


class Checkpoint(NamedTuple):
    """What a run goes on from, its states whole, whatever the devices that it ran on."""

    position: Position
    weights: dict[str, Tensor]
    """Of model and objective."""
    adam: dict[str, dict[str, Tensor]]
    """What Adam keeps for each weight; the SGD of the fusion weights keeps nothing."""
    scaler: dict[str, Any]
    """The state of the gradient scaler."""


def save_checkpoint(folder: Path, config: Config, data: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all; ``data`` tells the training data apart from others."""
    content = {
        "format": _FORMAT,
        "config": config.comparable(),
        "data": data,
        **checkpoint._asdict(),
        "position": checkpoint.position._asdict(),
    }
    packed = io.BytesIO()  # torch words a disk that is full as an error of its own
    torch.save(content, packed)
    with replacing(folder / CHECKPOINT) as file:
        file.write(packed.getbuffer())


def read_checkpoint(folder: Path, config: Config, data: dict[str, Any]) -> Checkpoint:
    """Return a run's checkpoint.

    Raises:
        RunError: The checkpoint is broken, or was written by another configuration or for other data.
    """
    path = folder / CHECKPOINT
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        written, theirs, trained_on = content["format"], content["config"], content["data"]
    except Exception as error:  # whatever the reader runs into in a broken file
        raise RunError(
            f"train: {path} must be a checkpoint of this program, got a file that does not load "
            f"({type(error).__name__}). Start over by --overwrite."
        ) from error
    if written != _FORMAT:
        raise RunError(
            f"train: {path} must be of checkpoint format {_FORMAT}, got {written}. Resume it with the release it is of."
        )
    ours = config.comparable()
    theirs = Config().comparable() | theirs  # a setting that an older release did not have is the default
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        listed = ", ".join(f"{name} {theirs.get(name)!r} (now {ours.get(name)!r})" for name in differing)
        raise RunError(
            f"train: --resume needs the configuration that the checkpoint was written with, got another in {folder}: "
            f"{listed}. Repeat the run's options, or start a new run."
        )
    if trained_on != data:
        raise RunError(
            f"train: --resume needs the data that the checkpoint in {folder} was trained on, {_describe(trained_on)}, "
            f"got {_describe(data)}. Resume with the run's own data."
        )
    content["position"] = Position(**content["position"])
    return Checkpoint(**{name: content[name] for name in Checkpoint._fields})


def _describe(data: dict[str, Any]) -> str:
    return f"{data['images']} images with {len(data['attributes'])} attributes (labels {data['labels'][:8]})"
