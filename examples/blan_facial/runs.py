"""The output folder of a run, and the checkpoint that a run goes on from."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from blan_facial.config import Config
from blan_facial.files import replacing, write_json

CONFIG, METRICS, CHECKPOINT, WEIGHTS = "config.json", "metrics.json", "last.ckpt", "model.safetensors"
RESULTS = (CONFIG, METRICS, CHECKPOINT, WEIGHTS)
ENVIRONMENT, REPORT = "environment.json", "report.html"
PICTURES = ("faces.png", "attention.png", "reconstructions.png", "accuracy.png")
LOGS = "logs"

_FORMAT = 1
_ATTRIBUTES = "attributes"  # beside the settings in config.json


class RunError(ValueError):
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
    modules: dict[str, dict[str, Any]]
    optimizers: dict[str, dict[str, Any]]


def open_output(config: Config, root: Path = Path("runs")) -> Path:
    """Return the run's folder, made if need be and otherwise as it was.

    Raises:
        RunError: The folder holds results that the run was not told to go on from or to start over, or there is no
            checkpoint to go on from, or the folder cannot be written.
    """
    folder = config.output
    if folder is None:
        folder = _last(root, config.preset) if config.resume else _first_free(root, config.preset)
    if config.resume and not (folder / CHECKPOINT).is_file():
        raise RunError(
            f"train: --resume needs a checkpoint to go on from, got none at {folder / CHECKPOINT}. "
            "Name the run's folder by --output, or leave --resume out to start a run."
        )
    found = [name for name in RESULTS if (folder / name).exists()]
    if found and not (config.resume or config.overwrite):
        raise RunError(
            f"train: the output folder must hold no results, got {', '.join(found)} in {folder}. "
            "Give --resume to go on, --overwrite to start over, or another --output."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"train: the output folder must be writable, got {folder} ({error.strerror}). Give another --output."
        ) from error
    return folder


def begin(folder: Path, config: Config, attributes: Sequence[str]) -> None:
    """Write settings and attributes; remove what a killed run left and, to start over, what the run before wrote."""
    for file in folder.glob(f".{CHECKPOINT}.*.tmp"):
        file.unlink()
    if config.overwrite:
        for name in (*RESULTS, ENVIRONMENT, REPORT, *PICTURES):
            (folder / name).unlink(missing_ok=True)
        for version in (folder / LOGS).glob("version_*"):
            shutil.rmtree(version)
    write_json(folder / CONFIG, config.as_json() | {_ATTRIBUTES: list(attributes)})


def read_settings(folder: Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Return what ``config.json`` says: the settings as JSON, and the attributes in the order of the model's scores.

    The attributes are None in a folder of release 0.1.0, whose ``metrics.json`` alone names them.

    Raises:
        RunError: There is no such file, or it is not what a run writes.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder}: must be the output folder of a run, got no {CONFIG} in it. Name another.") from error
    except ValueError as error:
        raise RunError(f"{path}: must be JSON that a run wrote, got {error}. Restore it.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: must be JSON that a run wrote, got no settings. Restore it.")
    attributes = content.pop(_ATTRIBUTES, None)
    if attributes is None:
        return content, None
    if not isinstance(attributes, list) or not attributes or not all(isinstance(name, str) for name in attributes):
        raise RunError(f"{path}: {_ATTRIBUTES} must be a list of names, got {attributes!r}. Restore it.")
    return content, tuple(attributes)


def save_checkpoint(
    folder: Path,
    config: Config,
    data: dict[str, Any],
    position: Position,
    modules: dict[str, dict[str, Any]],
    optimizers: dict[str, dict[str, Any]],
) -> None:
    """Write the checkpoint, whole or not at all.

    ``data`` tells the training data apart from others; ``modules`` and ``optimizers`` are states of plain values and
    tensors, among them that of the gradient scaler.
    """
    content = {
        "format": _FORMAT,
        "config": config.comparable(),
        "data": data,
        "position": position._asdict(),
        "modules": modules,
        "optimizers": optimizers,
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
    return Checkpoint(Position(**content["position"]), content["modules"], content["optimizers"])


def save_results(folder: Path, model: nn.Module, metrics: dict[str, Any]) -> None:
    """Write the inference weights and the metrics."""
    with replacing(folder / WEIGHTS) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    write_json(folder / METRICS, metrics)


def _describe(data: dict[str, Any]) -> str:
    return f"{data['images']} images with {len(data['attributes'])} attributes (labels {data['labels'][:8]})"


def _first_free(root: Path, preset: str) -> Path:
    """Claim the first folder of the preset that does not exist; two runs never claim the same one."""
    number = 0
    while True:
        folder = root / f"{preset}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RunError(
                f"train: the output folder must be writable, got {folder} ({error.strerror}). Give another --output."
            ) from error
        else:
            return folder


def _last(root: Path, preset: str) -> Path:
    numbers = [path.parent.name.removeprefix(f"{preset}-") for path in root.glob(f"{preset}-*/{CHECKPOINT}")]
    return root / f"{preset}-{max((int(n) for n in numbers if n.isdecimal()), default=0)}"
