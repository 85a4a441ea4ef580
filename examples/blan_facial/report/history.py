"""The logs of a run, joined over its sessions."""

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blan_facial.training.checkpoint import LOGS

VALIDATION = "validation_"

_log = logging.getLogger(__name__)


class Series(NamedTuple):
    """A logged quantity."""

    steps: np.ndarray
    """The steps at which it was logged, counted from 0, in ascending order."""
    values: np.ndarray
    """Its value at each of these steps, finite."""


class History(NamedTuple):
    """Everything that a run logged."""

    series: Mapping[str, Series]
    """Logged quantities by their names in ``metrics.csv``."""
    steps_per_epoch: int
    """Steps of a whole epoch; 1 if unknown from the logs."""
    taken_up: tuple[float, ...]
    """Epochs completed when later sessions resumed the run."""

    @property
    def end(self) -> float:
        """Total number of logged epochs."""
        return float(max(series.steps[-1] for series in self.series.values()) + 1) / self.steps_per_epoch

    def epochs(self, name: str) -> np.ndarray:
        """Return the epoch at which each value was logged: before the step in training, after it in validation."""
        return (self.series[name].steps + name.startswith(VALIDATION)) / self.steps_per_epoch

    def by_epoch(self, name: str) -> dict[int, float]:
        """Return the mean of a quantity in each epoch, numbered from 1."""
        numbers, values = self.series[name].steps // self.steps_per_epoch + 1, self.series[name].values
        return {int(number): float(values[numbers == number].mean()) for number in np.unique(numbers)}


def read_history(folder: Path) -> History | None:
    """Join the logs of all sessions of a run; None if there are none.

    A later session resumes from a checkpoint and therefore repeats steps that an earlier one logged after it. The
    values of the later session are used. Lines left incomplete by a killed run are skipped, and a
    log without any other lines is left out with a warning.

    Args:
        folder: The run's folder.
    """
    sessions = [rows for path in _logs(folder) if (rows := _read(path))]
    if not sessions:
        return None
    starts = [min(step for step, _ in rows) for rows in sessions]
    joined: dict[int, dict[str, float]] = {}
    for start, rows in zip(starts, sessions, strict=True):
        joined = {step: values for step, values in joined.items() if step < start}
        for step, values in rows:
            joined[step] = joined.get(step, {}) | values
    length = _steps_per_epoch(joined)
    series = {}
    for name in dict.fromkeys(name for values in joined.values() for name in values if name != "epoch"):
        steps = [step for step in sorted(joined) if name in joined[step]]
        series[name] = Series(np.array(steps), np.array([joined[step][name] for step in steps]))
    return History(series, length, tuple(start / length for start in starts[1:] if start))


def _logs(folder: Path) -> Sequence[Path]:
    numbered = [
        (path.parent.name.removeprefix("version_"), path) for path in folder.glob(f"{LOGS}/version_*/metrics.csv")
    ]
    return [path for _, path in sorted((int(number), path) for number, path in numbered if number.isdecimal())]


def _read(path: Path) -> list[tuple[int, dict[str, float]]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = list(_rows(csv.DictReader(file)))
    except (csv.Error, ValueError):  # for very long fields or, on Python 3.10, null characters
        rows = []
    if not rows and path.stat().st_size:
        _log.warning("report: %s must contain lines with a step, got none. It is left out; restore the file.", path)
    return rows


def _rows(lines: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str, float]]]:
    for line in lines:
        step = line.pop("step", None) or ""
        values = {name: _number(text) for name, text in line.items() if isinstance(text, str)}
        if step.isdecimal():
            yield int(step), {name: value for name, value in values.items() if math.isfinite(value)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _steps_per_epoch(joined: Mapping[int, Mapping[str, float]]) -> int:
    """Return the number of steps per epoch, from the last line that shows it."""
    for step in sorted(joined, reverse=True):
        if epoch := joined[step].get("epoch"):
            return max(1, round(step / epoch))
    return 1
