"""The page of one run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import UndefinedError

from blan_facial.data.attributes import spoken
from blan_facial.report import looks, progress, provenance, scores
from blan_facial.report.charts import WIDTH
from blan_facial.report.pages import count, duration, fixed, percent, write_page
from blan_facial.report.pictures import write_pictures
from blan_facial.report.record import Record, read_record
from blan_facial.report.sample import Sample
from blan_facial.results.run_folder import ENVIRONMENT, METRICS, REPORT
from blan_facial.results.terminal import calibrated, resampled, score_names, tested_on, trained
from blan_facial.training.checkpoint import RunError

KINDS = {"blan": "BLAN", "resnet": "ResNet", "moon": "MOON", "mcnn": "MCNN"}


def write_report(
    folder: Path, sample: Sample | None, *, without_faces: str = "No face of the test split can be decoded."
) -> Path:
    """Write ``report.html`` and the pictures into a run's folder, from the files there.

    Args:
        folder: The run's folder.
        sample: Faces with the model's predictions; None if there are none to show.
        without_faces: A sentence that explains why there are none.

    Returns:
        The path of the page.

    Raises:
        RunError: The folder is not that of a run, or a file in it is broken.
        OSError: A file cannot be written.
    """
    record = read_record(folder)
    path = folder / REPORT
    with _of_train(folder / ENVIRONMENT):
        environment = None if record.environment is None else provenance.environment(record.environment)
    with _of_train(folder / METRICS):
        content = _content(record, sample)
        write_pictures(folder, sample, record.metrics)
        write_page(path, "run.html.j2", **content, environment=environment, without_faces=without_faces)
    return path


@contextmanager
def _of_train(path: Path) -> Iterator[None]:
    """Explain errors of code that relies on the content of a run's file.

    Raises:
        RunError: The content has other types or keys than train.py writes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError) as error:
        raise RunError(
            f"report: {path} must contain what train.py writes, got {error!r}. Restore the file, or repeat the run."
        ) from error


def _content(record: Record, sample: Sample | None) -> dict[str, Any]:
    """Return the variables of the template, None for parts that the run lacks."""
    config, metrics, history = record.config, record.metrics, record.history
    kind = KINDS.get(str(config.get("model", "blan")), "model")
    return {
        "name": record.name,
        "kind": kind,
        "chips": _chips(record),
        "tested": None if metrics is None else tested_on(metrics),
        "metrics": metrics,
        "known": 0 if metrics is None else sum(of["accuracy"] is not None for of in metrics["per_attribute"].values()),
        "overview": None if metrics is None else scores.overview(metrics),
        "tiles": [] if metrics is None else _tiles(metrics),
        "charts": [] if history is None else progress.charts(history),
        "chart_width": WIDTH,
        "bounds": [] if history is None else progress.bounds(history),
        "limit": progress.LIMIT,
        "epochs": None if history is None else progress.epochs(history),
        "taken_up": () if history is None else history.taken_up,
        "attributes": None if metrics is None else scores.attributes(metrics),
        "resampled": "" if metrics is None else resampled(metrics),
        "by_people": metrics is not None and resampled(metrics).endswith("people"),
        "calibrated": "" if metrics is None else calibrated(metrics),
        "at_thresholds": None if metrics is None else metrics.get("at_thresholds"),
        "labels": None if metrics is None else metrics.get("labels"),
        "left_out": [] if metrics is None else scores.left_out(metrics),
        "paper": None if metrics is None else scores.PAPER.get(metrics["data"]),
        "levels": _levels(metrics),
        "multiples": [] if metrics is None else scores.multiples(metrics),
        "fusion": _fusion(record),
        "attention": None if sample is None else looks.attention(sample),
        "reconstructions": None if sample is None else looks.reconstructions(sample),
        "faces": [] if sample is None else looks.faces(sample),
        "signs": looks.SIGNS,
        "settings": provenance.settings(config),
        "command": provenance.command(config),
    }


def _chips(record: Record) -> list[tuple[str, str]]:
    config = record.config
    data = str(config.get("data", ""))
    chips = [("data", scores.PAPER.get(data, data)), ("image", f"{config.get('image_size')} px")]
    if record.metrics is not None:
        chips.append(("test images", count(record.metrics["images"])))
        chips.append(("parameters", f"{record.metrics['parameters'] / 1e6:.2f} M"))
    epochs = trained(config.get("epochs", 0) + config.get("extend", 0), record.metrics)
    return [*chips, ("epochs", epochs), ("seed", str(config.get("seed")))]


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the key figures: name, value, and a value to compare with."""
    described = scores.described(metrics)["columns"][score_names(metrics)[-1]]

    def span(name: str) -> str:
        interval = described[f"{name}_interval"]
        return "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"

    seconds = metrics["train_seconds"]
    waited = f"{metrics['waiting_seconds'] / max(seconds, 1e-9):.0%} of it waiting for images"
    return [
        ("Balanced accuracy", f"{percent(metrics['balanced_accuracy'])} %", span("balanced")),
        ("Average precision", f"{percent(metrics['average_precision'])} %", span("average_precision")),
        ("Calibration error", fixed(metrics["calibration_error"]), _scaled(metrics)),
        ("Majority's accuracy", f"{percent(metrics['majority_accuracy'])} %", "always the more frequent label"),
        ("Training", duration(seconds), waited),
        ("Throughput", f"{metrics['images_per_second']:,.0f}", "training images per second"),
    ]


def _scaled(metrics: Mapping[str, Any]) -> str:
    """Return a note on the calibration error after scaling."""
    if metrics["scaling"] is None:
        return "not scaled; 0 is perfect"
    return f"{fixed(metrics['scaled_calibration_error'])} scaled for each attribute"


def _levels(metrics: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the table of the levels; None for a model without levels."""
    if metrics is None:
        return None
    names, rows, average = scores.by_level(metrics)
    if len(names) < 2:
        return None
    return {"names": names, "rows": rows, "average": average, "winners": scores.winners(rows)}


def _fusion(record: Record) -> Mapping[str, Any] | None:
    """Return the weights W_s, each with its change since the start; None without fusion."""
    weights, metrics = record.fusion, record.metrics
    if weights is None or metrics is None or weights.shape[1] != len(metrics["per_attribute"]):
        return None
    start = 1 / len(weights)
    moved = weights - start
    deep = scores.deepest(np.abs(moved).ravel().tolist(), 1e-3)
    names = [*(f"AC{level}" for level in range(1, len(weights))), "sum"]
    rows = [
        (spoken(attribute), [(float(weight), scores.depth(float(weight) - start, deep)) for weight in column])
        for attribute, column in zip(metrics["per_attribute"], weights.T, strict=True)
    ]
    most = float(np.abs(moved).max())
    return {"names": names, "rows": rows, "start": start, "mean": float(np.abs(moved).mean()), "most": most}
