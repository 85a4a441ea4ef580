"""The output folder of a run, and the checkpoint that a run goes on from."""

import pickle
import shutil
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
PICTURES = ("faces.png", "attention.png", "reconstructions.png", "accuracy.png")
LOGS = "logs"

_FORMAT = 1


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


def open_output(config: Config, root: Path = Path("runs")) -> Path:
    """Return the run's folder, made if need be.

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
        if config.overwrite:
            for name in (*RESULTS, *PICTURES):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / LOGS, ignore_errors=True)
    except OSError as error:
        raise RunError(
            f"train: the output folder must be writable, got {folder} ({error.strerror}). Give another --output."
        ) from error
    return folder


def save_checkpoint(
    folder: Path,
    config: Config,
    attributes: tuple[str, ...],
    position: Position,
    modules: dict[str, nn.Module],
    optimizers: dict[str, Any],
) -> None:
    """Write the checkpoint, whole or not at all.

    ``optimizers`` holds whatever else has a ``state_dict`` of plain values and tensors, a gradient scaler for example.
    """
    content = {
        "format": _FORMAT,
        "config": config.comparable(),
        "attributes": list(attributes),
        "position": position._asdict(),
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }
    with replacing(folder / CHECKPOINT) as file:
        torch.save(content, file)


def load_checkpoint(
    folder: Path,
    config: Config,
    attributes: tuple[str, ...],
    modules: dict[str, nn.Module],
    optimizers: dict[str, Any],
) -> Position:
    """Restore modules and optimisers from the checkpoint, and return how far the run had come.

    Raises:
        RunError: The checkpoint is broken, or was written by another configuration or for other attributes.
    """
    path = folder / CHECKPOINT
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        written = content["format"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"train: {path} must be a checkpoint of this program, got a file that does not load "
            f"({type(error).__name__}). Start over by --overwrite."
        ) from error
    if written != _FORMAT:
        raise RunError(
            f"train: {path} must be of checkpoint format {_FORMAT}, got {written}. Resume it with the release it is of."
        )
    ours, theirs = config.comparable(), content["config"]
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differing:
        listed = ", ".join(f"{name} {theirs.get(name)!r} (now {ours.get(name)!r})" for name in differing)
        raise RunError(
            f"train: --resume needs the configuration that the checkpoint was written with, got another in {folder}: "
            f"{listed}. Repeat the run's options, or start a new run."
        )
    if tuple(content["attributes"]) != attributes:
        raise RunError(
            f"train: the data must have the {len(content['attributes'])} attributes of the checkpoint in {folder}, "
            f"got {len(attributes)} that differ. Resume with the run's own data."
        )
    for name, module in modules.items():
        module.load_state_dict(content["modules"][name])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(content["optimizers"][name])
    return Position(**content["position"])


def save_results(folder: Path, model: nn.Module, metrics: dict[str, Any]) -> None:
    """Write the inference weights and the metrics."""
    with replacing(folder / WEIGHTS) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    write_json(folder / METRICS, metrics)


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
    numbers = [folder.name.removeprefix(f"{preset}-") for folder in root.glob(f"{preset}-*")]
    return root / f"{preset}-{max((int(n) for n in numbers if n.isdecimal()), default=0)}"
