"""The checkpoint that a run goes on from."""

import io
import math
import zipfile
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
    judged: int = 0
    """The last step at which the model was tested on the validation faces."""

    @property
    def images_per_second(self) -> float:
        """Training images per second, over all devices."""
        return self.images / max(self.seconds, 1e-9)


class States(NamedTuple):
    """The states that a run goes on from, whole, whatever the devices that it ran on."""

    weights: dict[str, Tensor]
    """Of model and objective."""
    adam: dict[str, dict[str, Any]]
    """What Adam keeps for each weight; the SGD of the fusion weights keeps nothing."""
    scaler: dict[str, Any]
    """The state of the gradient scaler."""


class Best(NamedTuple):
    """The model as it did best on the validation faces."""

    step: int
    """Steps it had done."""
    seconds: float
    """Time spent in them."""
    score: float
    """Mean average precision."""
    weights: dict[str, Tensor]
    """Of the model alone, whole."""


def save_checkpoint(
    folder: Path, config: Config, data: dict[str, Any], position: Position, states: States, best: Best | None = None
) -> None:
    """Write the checkpoint, whole or not at all; ``data`` tells the training data apart from others."""
    content = {
        "format": _FORMAT,
        "config": config.comparable(),
        "data": data,
        "position": position._asdict(),
        **states._asdict(),
        "best": None if best is None else best._asdict(),
    }
    packed = io.BytesIO()  # torch words a disk that is full as an error of its own
    torch.save(content, packed)
    with replacing(folder / CHECKPOINT) as file:
        file.write(packed.getbuffer())


def read_checkpoint(folder: Path, config: Config, data: dict[str, Any]) -> tuple[Position, States, Best | None]:
    """Return where a run's checkpoint stands, its states, and the best model so far.

    Raises:
        RunError: The checkpoint is broken, or was written by another configuration or for other data.
    """
    path = folder / CHECKPOINT
    try:
        content = _load(path)
        written = content["format"]
    except Exception as error:  # whatever the readers run into in a broken file
        raise _broken(path, error) from error
    if written != _FORMAT:
        raise RunError(
            f"train: {path} must be of checkpoint format {_FORMAT}, got {written}. Resume it with the release it is of."
        )
    try:
        theirs, trained_on = dict(content["config"]), dict(content["data"])
        description = _describe(trained_on)
        position, states, best = _position(content["position"]), _states(content), _best(content.get("best"))
    except Exception as error:  # as above
        raise _broken(path, error) from error
    ours = config.comparable()
    theirs = Config().comparable() | theirs  # a setting that an older release did not have is the default
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        listed = ", ".join(f"{name} {theirs.get(name)!r} (now {ours.get(name)!r})" for name in differing)
        remedy = "Repeat the run's options, or start a new run"
        if differing == ["epochs"] and config.epochs > int(theirs["epochs"]):
            more = config.epochs - int(theirs["epochs"])
            remedy = f"To go on longer, give --epochs {theirs['epochs']} --extend {more}, at the last learning rate"
        raise RunError(
            f"train: --resume needs the configuration that the checkpoint was written with, got another in {folder}: "
            f"{listed}. {remedy}."
        )
    if trained_on != data:
        raise RunError(
            f"train: --resume needs the data that the checkpoint in {folder} was trained on, {description}, "
            f"got {_describe(data)}. Resume with the run's own data."
        )
    return position, states, best


def _load(path: Path) -> Any:
    """Load a file whose checksums hold, which torch does not look at."""
    with zipfile.ZipFile(path) as packed:
        if (name := packed.testzip()) is not None:
            raise ValueError(f"{name} is not as it was written")
        # No checksum tells these, by which torch would read an entry as a folder or to another length.
        if any(entry.external_attr or entry.compress_size != entry.file_size for entry in packed.infolist()):
            raise ValueError("an entry is not of the kind or length that it was written with")
    return torch.load(path, map_location="cpu", weights_only=True)


def _position(found: Any) -> Position:
    position = Position(**found)
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in position):
        raise ValueError("a position must be numbers of at least 0")
    return position


def _states(content: Any) -> States:
    states = States(*(dict(content[name]) for name in States._fields))
    _check_finite(states.weights)
    return states


def _best(found: Any) -> Best | None:
    if found is None:
        return None
    best = Best(**found)
    _check_finite(best.weights)
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in best[:3]):
        raise ValueError("what is said of the best model must be numbers of at least 0")
    return best


def _check_finite(weights: dict[str, Any]) -> None:
    if not all(isinstance(weight, Tensor) and bool(weight.isfinite().all()) for weight in weights.values()):
        raise ValueError("weights must be finite tensors")


def _broken(path: Path, error: Exception) -> RunError:
    return RunError(
        f"train: {path} must be a checkpoint of this program, got a file that does not load "
        f"({type(error).__name__}). Start over by --overwrite."
    )


def _describe(data: dict[str, Any]) -> str:
    return f"{data['images']} images with {len(data['attributes'])} attributes (labels {data['labels'][:8]})"
