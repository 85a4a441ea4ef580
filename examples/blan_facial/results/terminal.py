"""Metrics and parameter counts as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from blan_facial.network.model import LEVEL_NAMES
from blan_facial.network.parameters import ParameterTable
from blan_facial.results.run_folder import METRICS

_ATTRIBUTES = 40  # rows of a table of labels


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Return a table of the accuracies of every attribute and their means in percent, with the interval of the mean."""
    table = Table(title=tested_on(metrics), caption=_certainty(metrics), caption_justify="left")
    table.add_column("attribute", no_wrap=True, max_width=40)
    for column in ("accuracy", "majority", "balanced"):
        table.add_column(f"{column} %", justify="right")
    table.add_column("best level", justify="right")
    for name, values in metrics["per_attribute"].items():
        table.add_row(name, *_cells(values, values))
    table.add_section()
    table.add_row("mean", *_cells(averages(metrics), metrics["per_level"]), style="bold")
    return table


def labels_table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """Return a table of the numbers of positive, negative and unknown labels in each split, for up to 40 attributes.

    Args:
        counts: By split, attribute, and ``yes``, ``no`` or ``unknown``.
    """
    attributes = list(next(iter(counts.values())))
    more = len(attributes) - _ATTRIBUTES
    caption = f"{more} more attributes will be in {METRICS} when the run has ended." if more > 0 else None
    table = Table(title="Labels: yes / no / unknown", caption=caption, caption_justify="left")
    table.add_column("attribute", no_wrap=True, max_width=40)
    for split in counts:
        table.add_column(split, justify="right")
    for attribute in attributes[:_ATTRIBUTES]:
        cells = (counted[attribute].values() for counted in counts.values())
        table.add_row(Text(attribute), *(" / ".join(f"{number:,}" for number in cell) for cell in cells))
    return table


def parameters_table(table: ParameterTable) -> Table:
    """Return a table of the parameters of every part, and of their sum next to the paper's."""
    printed = Table(title="Parameters", caption=table.note or None, caption_justify="left", min_width=60)
    printed.add_column("part", ratio=1)
    printed.add_column("parameters", justify="right")
    printed.add_column("millions", justify="right")
    for part, count in table.rows:
        printed.add_row(part, *_counted(count))
    printed.add_section()
    printed.add_row("in inference", *_counted(table.inference), style="bold")
    printed.add_row("in training", *_counted(table.training))
    if table.paper is not None:
        printed.add_row("paper, Table 10", *_counted(table.paper))
    return printed


def tested_on(metrics: Mapping[str, Any]) -> str:
    """Return a description of the test images."""
    images = metrics["images"]
    return f"{metrics['split'].capitalize()} split of {metrics['data']}, {images:,} image{'s' * (images != 1)}"


def trained(epochs: int, metrics: Mapping[str, Any] | None) -> str:
    """Return the number of epochs after which the model was kept, of those of the schedule."""
    kept = ((metrics or {}).get("kept") or {}).get("epoch", epochs)
    return str(epochs) if kept == epochs else f"{kept:.4g} of {epochs}"


def resampled(metrics: Mapping[str, Any]) -> str:
    """Return a description of the units that were resampled for the intervals."""
    bootstrap = metrics["statistics"]["bootstrap"]
    return f"resampled {bootstrap['units']:,} {bootstrap['resampled']}"


def calibrated(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the calibration of the probabilities, raw and scaled."""
    raw, scaling = _calibration(metrics), metrics["scaling"]
    if scaling is None:
        return f"{raw}; not scaled: the run had no labelled validation images with finite scores."
    return (
        f"{raw}. Scaled for each attribute, fitted on {scaling['images']:,} validation images: "
        f"{_calibration(metrics, 'scaled_').lower()}, accuracy {100 * metrics['scaled_accuracy']:.1f} %, "
        f"balanced {100 * metrics['scaled_balanced_accuracy']:.1f} %."
    )


def averages(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means over the attributes, with the same keys as the rates of an attribute."""
    return {"accuracy": metrics["accuracy"]} | {name: metrics[f"{name}_accuracy"] for name in ("majority", "balanced")}


def score_names(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the available scores: the levels', their sum and, with fusion, the fused ones."""
    return tuple(name for name, accuracy in metrics["per_level"].items() if accuracy is not None)


def best_level(values: Mapping[str, Any]) -> str | None:
    """Return the level with the highest accuracy, AC1 to AC4, the lowest in a tie; None without levels."""
    levels = [level for level in LEVEL_NAMES if values[level] is not None]
    return max(levels, key=lambda level: values[level]) if levels else None


def _certainty(metrics: Mapping[str, Any]) -> str:
    """Return sentences on the interval of the mean accuracy, the resampling and the calibration."""
    interval = metrics["statistics"]["mean"]["columns"][score_names(metrics)[-1]]["accuracy_interval"]
    if interval is None:
        drawn = metrics["statistics"]["bootstrap"]["resampled"]
        sure = f"95 % interval of the mean accuracy: none, which takes at least two {drawn}."
    else:
        span = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
        sure = f"95 % interval of the mean accuracy: {span} ({resampled(metrics)})."
    return f"{sure} {calibrated(metrics)}{_at_thresholds(metrics)}"


def _at_thresholds(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the predictions at the run's fitted thresholds, if it has any."""
    at = metrics.get("at_thresholds")
    if at is None:
        return ""
    rates = f"accuracy {100 * at['accuracy']:.1f} %, balanced {100 * at['balanced_accuracy']:.1f} %"
    return f" With thresholds for each attribute, fitted on the validation split: {rates}."


def _calibration(metrics: Mapping[str, Any], kind: str = "") -> str:
    error, loss = metrics[f"{kind}calibration_error"], metrics[f"{kind}nll"]
    return f"Calibration error {error:.3f}, log loss {loss:.3f}"


def _cells(values: Mapping[str, float | None], levels: Mapping[str, Any]) -> list[str | Text]:
    accuracy, majority, balanced = (values[name] for name in ("accuracy", "majority", "balanced"))
    if accuracy is None or majority is None or balanced is None:
        return ["", "", "", "unknown"]
    level = best_level(levels)
    shown, *percent = (f"{100 * value:.1f}" for value in (accuracy, majority, balanced))
    return [
        Text.assemble((shown, "red" if accuracy < majority else "")),
        *percent,
        "" if level is None else f"{level} {100 * levels[level]:5.1f}",
    ]


def _counted(count: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / 1e6:.2f}"
