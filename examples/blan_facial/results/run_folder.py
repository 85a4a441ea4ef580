"""The output folder of a run."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from torch import nn

from blan_facial.config import Config
from blan_facial.results.weights_file import WEIGHTS, write_weights
from blan_facial.training.checkpoint import CHECKPOINT, LOGS, RunError
from blan_facial.training.scaling import Scaling
from shared.files import LOCK, locked, remove_leftovers, write_json

CONFIG, METRICS = "config.json", "metrics.json"
RESULTS = (CONFIG, METRICS, CHECKPOINT, WEIGHTS)
ENVIRONMENT, REPORT = "environment.json", "report.html"
PICTURES = ("faces.png", "attention.png", "reconstructions.png", "accuracy.png")

_RUNS = Path("runs")
_ATTRIBUTES = "attributes"  # beside the settings in config.json
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # errors of a full disk


def check_output(config: Config) -> None:
    """Refuse an output folder that cannot be used, before any work; nothing is created or changed.

    Raises:
        RunError: The folder contains results without --resume or --overwrite, there is no checkpoint to resume from,
            the folder cannot be written, or it is that of --init-from.
    """
    folder = _last(config.preset) if config.output is None and config.resume else config.output
    if folder is not None:
        _check_results(folder, config)
        if config.init_from is not None and os.path.realpath(folder) == os.path.realpath(config.init_from):
            raise RunError(
                "train: --output must not be the run of --init-from, which would be lost, got "
                f"{folder} for both. Give another --output."
            )
    folder = folder or _RUNS
    try:
        with TemporaryFile(dir=next(place for place in (folder, *folder.absolute().parents) if place.exists())):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"train: the output folder must be writable, got {folder} ({error.strerror}). Give another --output."
    )


@contextmanager
def open_output(config: Config) -> Iterator[Path]:
    """Create the run's folder if needed, and lock it against other runs; existing files are unchanged.

    Raises:
        RunError: The folder contains results without --resume or --overwrite, there is no checkpoint to resume from,
            the folder cannot be written, or another run has locked it.
    """
    folder = config.output
    if folder is None:
        folder = _last(config.preset) if config.resume else _first_free(config.preset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    with locked(folder / LOCK) as ours:
        if not ours:
            raise RunError(
                f"train: the output folder must be free, got {folder}, where another run is training. "
                "Wait for it, or give another --output."
            )
        _check_results(folder, config)  # another run may have ended since they were checked
        with _staying(folder):
            yield folder


@contextmanager
def _staying(folder: Path) -> Iterator[None]:
    """Explain system errors that are due to the folder: it was moved or deleted, or its disk is full."""
    begun = folder.stat()
    try:
        yield
    except OSError as error:
        if not (folder.is_dir() and os.path.samestat(folder.stat(), begun)):
            raise RunError(
                f"train: the output folder must stay in place until the run has ended, got {folder} moved or "
                "deleted. Move it back and continue with --resume, or start again."
            ) from error
        if error.errno in _FULL and error.filename is None:
            error.filename = str(folder)
        raise


def _check_results(folder: Path, config: Config) -> None:
    """Refuse a folder without a checkpoint to resume from, or with results that would be lost."""
    if config.resume and not (folder / CHECKPOINT).is_file():
        raise RunError(
            f"train: --resume needs a checkpoint to continue from, got none at {folder / CHECKPOINT}. "
            "Name the run's folder with --output, or leave --resume out to start a run."
        )
    found = [name for name in RESULTS if (folder / name).exists()]
    if found and not (config.resume or config.overwrite):
        raise RunError(
            f"train: the output folder must not contain results, got {', '.join(found)} in {folder}. "
            "Give --resume to continue, --overwrite to start over, or another --output."
        )


def begin(folder: Path, config: Config, attributes: Sequence[str]) -> None:
    """Write settings and attributes; remove leftovers of a killed run, and what the last end of the run wrote.

    With --resume, checkpoint and logs stay, so that the run can write its results again.
    """
    remove_leftovers(folder)
    if config.overwrite or config.resume:
        for name in (METRICS, WEIGHTS, ENVIRONMENT, REPORT, *PICTURES):
            (folder / name).unlink(missing_ok=True)
    if config.overwrite:
        for name in (CONFIG, CHECKPOINT):
            (folder / name).unlink(missing_ok=True)
        for version in (folder / LOGS).glob("version_*"):
            shutil.rmtree(version)
    write_json(folder / CONFIG, settings_json(config, attributes))


def settings_json(config: Config, attributes: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return config.as_json() | {_ATTRIBUTES: list(attributes)}


def read_settings(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings in ``config.json`` as JSON, and the attributes in the order of the model's scores.

    Raises:
        RunError: The file is missing, or was not written by a run.
    """
    path = folder / CONFIG
    try:
        content = read_object(path, "settings")
    except (FileNotFoundError, NotADirectoryError) as error:
        got = f"no {CONFIG} in it" if folder.is_dir() else "no such folder"
        raise RunError(f"{folder}: must be the output folder of a run, got {got}. Name another.") from error
    attributes = content.pop(_ATTRIBUTES, None)
    if not isinstance(attributes, list) or not attributes or not all(isinstance(name, str) for name in attributes):
        raise RunError(f"{path}: {_ATTRIBUTES} must be a list of names, got {attributes!r}. Restore it.")
    return content, tuple(attributes)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a JSON file of a run.

    Args:
        path: The file.
        what: Description of the content, for messages.

    Raises:
        RunError: The file was not written by a run.
        OSError: The file cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        found = f"no {what}"
    except (ValueError, RecursionError) as error:  # the latter for deep nesting
        found = str(error)
    raise RunError(f"{path}: must be JSON that a run wrote, got {found}. Restore it, or repeat the run.")


def save_results(
    folder: Path,
    model: nn.Module,
    metrics: dict[str, Any],
    scaling: Scaling | None = None,
    thresholds: Sequence[float] | None = None,
) -> None:
    """Write the metrics, and the inference weights with their scaling and thresholds."""
    write_weights(folder / WEIGHTS, model, scaling, thresholds)
    write_json(folder / METRICS, metrics)


def _first_free(preset: str) -> Path:
    """Create the first folder of the preset that does not exist; two runs never get the same one."""
    number = 0
    while True:
        folder = _RUNS / f"{preset}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _unwritable(folder, error) from error
        else:
            return folder


def _last(preset: str) -> Path:
    numbers = [path.parent.name.removeprefix(f"{preset}-") for path in _RUNS.glob(f"{preset}-*/{CHECKPOINT}")]
    return _RUNS / f"{preset}-{max((int(n) for n in numbers if n.isdecimal()), default=0)}"
