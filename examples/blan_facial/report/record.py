"""A finished or unfinished run, read from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.avatars import ATTRIBUTES as AVATARS
from blan_facial.report.history import History, read_history
from blan_facial.results.run_folder import ENVIRONMENT, METRICS, read_object, read_settings
from blan_facial.results.weights_file import WEIGHTS
from blan_facial.training.checkpoint import RunError

NEEDED = (
    *("data", "split", "images", "accuracy", "majority_accuracy", "balanced_accuracy", "per_level", "per_attribute"),
    *("parameters", "training_parameters", "train_seconds", "waiting_seconds", "images_per_second"),
    *("average_precision", "calibration_error", "nll", "scaling", "statistics"),
)
"""The metrics that the page needs."""

_ALL = {"avatars": AVATARS, "avatars-hard": AVATARS, "celeba": CELEBA_ATTRIBUTES, "lfwa": CELEBA_ATTRIBUTES}
"""The attributes of a data set in their order, which its runs learn by default."""


class Record(NamedTuple):
    """The contents of a run's folder."""

    name: str
    """The name of the folder, preceded by that of the row if ``experiments.py`` named the folder by its seed."""
    config: Mapping[str, Any]
    """The settings in ``config.json``."""
    metrics: Mapping[str, Any] | None
    """``metrics.json``; None for an unfinished run."""
    environment: dict[str, Any] | None
    """``environment.json``; None for a run by a release that did not write it."""
    history: History | None
    """The logs; None without logs."""
    fusion: np.ndarray | None
    """W_s (K+1, N); None without fusion, or without weights."""


def read_record(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        RunError: The folder is not that of a run, or a file in it is broken.
    """
    config, attributes = read_settings(folder)
    if attributes != _ALL.get(str(config.get("data"))):
        config["attributes"] = list(attributes)
    metrics = _read(folder / METRICS, "metrics")
    if metrics is not None and (missing := [name for name in NEEDED if name not in metrics]):
        raise RunError(
            f"report: {folder / METRICS} must contain what train.py writes, got none of {', '.join(missing)}. "
            "Restore the file, or repeat the run."
        )
    return Record(
        _name(folder.resolve()),
        config,
        metrics,
        _read(folder / ENVIRONMENT, "environment"),
        read_history(folder),
        _fusion(folder / WEIGHTS),
    )


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("seed-") else folder.name


def _read(path: Path, what: str) -> dict[str, Any] | None:
    return read_object(path, what) if path.is_file() else None


def _fusion(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as weights:
            if "fusion.weight" not in weights.keys():  # noqa: SIM118  # safetensors' file is no dictionary
                return None
            values: np.ndarray = weights.get_tensor("fusion.weight").float().numpy()
            return values
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"report: {path} must be a file of weights, got one that does not load ({error}). "
            "Restore the file, or repeat the run."
        ) from error
