"""The checkpoint from which a run resumes."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blan_facial.config import RESUMABLE, Config
from shared.files import replacing
from shared.program import UserError

CHECKPOINT, LOGS = "last.ckpt", "logs"
"""The checkpoint file and the folder of logs in the folder of a run."""

_FORMAT = 3


class RunError(UserError):
    """An output folder that cannot be used as requested."""


class Position(NamedTuple):
    """Progress of a run."""

    step: int = 0
    """Completed steps."""
    images: int = 0
    """Training images seen."""
    skipped: int = 0
    """Skipped corrupt images."""
    seconds: float = 0.0
    """Seconds spent in training steps, including those of earlier sessions."""
    waiting: float = 0.0
    """Seconds of these spent waiting for images."""
    judged: int = 0
    """The last step after which the model was evaluated on the validation faces."""

    @property
    def images_per_second(self) -> float:
        """Training images per second, over all devices."""
        return self.images / max(self.seconds, 1e-9)


class States(NamedTuple):
    """The states from which a run resumes, unsharded and independent of the devices that it ran on."""

    weights: dict[str, Tensor]
    """Weights of model and objective."""
    adam: dict[str, dict[str, Any]]
    """Adam's state for each weight; the SGD of the fusion weights has no state."""
    scaler: dict[str, Any]
    """The state of the gradient scaler."""


class Best(NamedTuple):
    """The model of the best epoch on the validation faces."""

    step: int
    """Number of training steps until then."""
    seconds: float
    """Seconds spent in these steps."""
    score: float
    """Mean average precision."""
    weights: dict[str, Tensor]
    """Weights of the model without the objective, unsharded."""


def save_checkpoint(
    folder: Path, config: Config, data: dict[str, Any], position: Position, states: States, best: Best | None = None
) -> None:
    """Write the checkpoint atomically; ``data`` identifies the training data."""
    content = {
        "format": _FORMAT,
        "config": config.comparable(),
        "data": data,
        "position": position._asdict(),
        **states._asdict(),
        "best": None if best is None else best._asdict(),
    }
    packed = io.BytesIO()  # torch.save would raise its own error for a full disk
    torch.save(content, packed)
    with replacing(folder / CHECKPOINT) as file:
        file.write(packed.getbuffer())


def read_checkpoint(folder: Path, config: Config, data: dict[str, Any]) -> tuple[Position, States, Best | None]:
    """Return the progress that a checkpoint records, its states, and the best model so far.

    Raises:
        RunError: The checkpoint is broken, or was written with another configuration or for other data.
    """
    path = folder / CHECKPOINT
    try:
        content = _load(path)
        written = content["format"]
    except Exception as error:  # readers can raise anything for a broken file
        raise _broken(path, error) from error
    if written != _FORMAT:
        raise RunError(
            f"train: {path} must have checkpoint format {_FORMAT}, got {written}. Use the release that wrote it."
        )
    try:
        theirs, trained_on = dict(content["config"]), dict(content["data"])
        description = _describe(trained_on)
        position, states, best = _position(content["position"]), _states(content), _best(content.get("best"))
    except Exception as error:  # as above
        raise _broken(path, error) from error
    ours = config.comparable()
    theirs = Config().comparable() | theirs  # settings that an older release lacked have their defaults
    theirs = {name: value for name, value in theirs.items() if name not in RESUMABLE}  # an older one compared more
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        listed = ", ".join(f"{name} {theirs.get(name)!r} (now {ours.get(name)!r})" for name in differing)
        remedy = "Repeat the run's options, or start a new run"
        if differing == ["epochs"] and config.epochs > int(theirs["epochs"]):
            more = config.epochs - int(theirs["epochs"])
            remedy = f"To train longer, give --epochs {theirs['epochs']} --extend {more}, at the last learning rate"
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
    """Load a file after verifying its checksums, which torch does not do."""
    with zipfile.ZipFile(path) as packed:
        if (name := packed.testzip()) is not None:
            raise ValueError(f"{name} fails its checksum")
        # Checksums do not cover these fields, which can make torch read an entry as a folder or with another length.
        if any(entry.external_attr or entry.compress_size != entry.file_size for entry in packed.infolist()):
            raise ValueError("an entry has another type or length than when it was written")
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
        raise ValueError("step, seconds and score of the best model must be numbers of at least 0")
    return best


def _check_finite(weights: dict[str, Any]) -> None:
    if not all(isinstance(weight, Tensor) and bool(weight.isfinite().all()) for weight in weights.values()):
        raise ValueError("weights must be finite tensors")


def _broken(path: Path, error: Exception) -> RunError:
    return RunError(
        f"train: {path} must be a checkpoint of this program, got a file that does not load "
        f"({type(error).__name__}). Start over with --overwrite."
    )


def _describe(data: dict[str, Any]) -> str:
    validation = "none" if data["validation"] is None else data["validation"][:8]
    return (
        f"{data['images']} images with {len(data['attributes'])} attributes (checksum {data['digest'][:8]}, "
        f"of the validation images {validation})"
    )
