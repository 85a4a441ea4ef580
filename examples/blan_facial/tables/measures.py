"""Measures: functions that compute the value of a cell from a finished run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from blan_facial.config import Config
from blan_facial.tables import speed

Measure: TypeAlias = Callable[["Result"], float | str | None]


class Result(NamedTuple):
    """A finished run with one seed."""

    metrics: Mapping[str, Any]
    """The metrics in ``metrics.json`` or, on another data set, from ``evaluate.py``; for ``lmim`` with ``levels``."""
    config: Config
    """The settings of the run."""
    folder: Path
    """The folder of the run."""


def percent(key: str) -> Measure:
    """Return the measure of a fraction in ``metrics.json``, in percent."""

    def measure(result: Result) -> float | None:
        value = result.metrics[key]
        return None if value is None else 100 * value

    return measure


def millions(result: Result) -> float:
    """Return the number of inference parameters in millions."""
    return float(result.metrics["parameters"] / 1e6)


def of_attribute(attribute: str, key: str) -> Measure:
    """Return the measure of an attribute's fraction, None if the data set lacks the attribute or its labels."""

    def measure(result: Result) -> float | None:
        values = result.metrics["per_attribute"].get(attribute)
        return None if values is None or values[key] is None else 100 * values[key]

    return measure


def best_level(attribute: str) -> Measure:
    """Return the measure of an attribute's best level, with a star if significantly better than the second."""

    def measure(result: Result) -> str | None:
        values = result.metrics["statistics"]["per_attribute"].get(attribute)
        if values is None or values["winner"] is None:
            return None
        winner = values["winner"]
        return f"{winner['level']}{'*' if winner['significant'] else ''}"

    return measure


def information(level: str) -> Measure:
    """Return the measure of the information between a level's maps and summaries, in nats."""
    return lambda result: result.metrics["levels"][level]["information"]


def probe(level: str) -> Measure:
    """Return the measure of the average precision of linear probes of a level, in percent."""

    def measure(result: Result) -> float | None:
        value = result.metrics["levels"][level]["probe"]
        return None if value is None else 100 * value

    return measure


def kept(result: Result) -> float:
    """Return the epoch whose model was kept."""
    return float(result.metrics["kept"]["epoch"])


def seconds(result: Result) -> float:
    """Return the total training time in seconds."""
    return float(result.metrics["train_seconds"])


def milliseconds(result: Result) -> float:
    """Return the inference time of a single image in milliseconds."""
    return speed.milliseconds(result.config, tuple(result.metrics["per_attribute"]))
