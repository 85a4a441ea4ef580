"""Saving a finished run as a folder for others, and loading it from a disk or from the Hugging Face hub."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blan_facial.config import Config
from blan_facial.results.finished import FinishedRun, load_run
from blan_facial.results.run_folder import CONFIG, METRICS, read_object, settings_json
from blan_facial.results.terminal import trained
from blan_facial.results.weights_file import WEIGHTS
from blan_facial.training.checkpoint import RunError
from shared.files import replacing, write_json
from shared.program import shown

CARD = "README.md"
FILES = CONFIG, WEIGHTS
"""The files from which a model is rebuilt."""

_MEANS = {
    "accuracy": "accuracy",
    "majority_accuracy": "accuracy of the more frequent label",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
}

_PEOPLE = """
## What it must not be used for

The attributes are labels that somebody assigned to pictures, or drew. They are not facts about a person.

- **No conclusions about people.** Draw no conclusions about identity, gender, age, origin, health, character or
  ability, and make no decisions about anyone.
- **No surveillance.** Do not use it to find, watch, sort or rank people.
- **Bias.** Labels such as "attractive", "male" or "young" reflect the views of the annotators. Errors differ
  between groups of people. Measure them on your own data before you rely on a prediction.
- **Consent.** Ask the people whose pictures you use.
"""

_DRAWN_AS = {"avatars": "drawn faces", "avatars-hard": "harder drawn faces"}
_DRAWN = """The faces are drawings, composed at random from parts of python-avatars. No person was photographed or
labelled. A model trained on drawings does not work on photographs.
"""


def save_pretrained(run: FinishedRun, folder: Path | str) -> None:
    """Write weights, settings, metrics and a model card, without paths of this machine.

    Args:
        run: The run, from :func:`~blan_facial.results.finished.load_run`.
        folder: A new or empty folder.

    Raises:
        RunError: The folder is not empty, or the run's metrics cannot be read.
        OSError: The folder cannot be written; it is left empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"save_pretrained: folder must be new or empty, got {folder}. Name another.")
    metrics = _metrics(run.folder / METRICS)
    try:
        text = card(run, metrics)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"save_pretrained: {run.folder / METRICS} must contain what train.py writes, got {error!r}. "
            "Restore the file, or repeat the run."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_json(folder / CONFIG, settings_json(_without_paths(run.config), run.attributes))
        with replacing(folder / WEIGHTS) as file:
            file.write((run.folder / WEIGHTS).read_bytes())  # including calibration, thresholds and digest
        if metrics:
            write_json(folder / METRICS, metrics)
        with replacing(folder / CARD) as file:
            file.write(text.encode())
    except BaseException:
        for name in (CONFIG, WEIGHTS, METRICS, CARD):  # the folder was empty
            (folder / name).unlink(missing_ok=True)
        raise


def from_pretrained(source: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> FinishedRun:
    """Rebuild a run from a folder or from the hub; nothing is unpickled.

    Args:
        source: A folder, or "owner/name" on the hub, unless that exists here or is a `Path`.
        revision: Branch, tag or commit on the hub.
        local_files_only: Use only files downloaded before, without network access.

    Raises:
        RunError: There is no such model, or its files do not match each other.
    """
    if isinstance(source, Path) or os.path.exists(source):
        return load_run(Path(source))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            str(source), allow_patterns=[*FILES, METRICS], revision=revision, local_files_only=local_files_only
        )
    except HFValidationError:  # it can only be the name of a folder
        return load_run(Path(source))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise RunError(
            f"from_pretrained: source must be a folder or a model on the hub, got {source!r}: {error}. "
            "Check the name, or download it first."
        ) from error
    return load_run(Path(str(folder)))


def card(run: FinishedRun, metrics: Mapping[str, Any]) -> str:
    """Return the model card, with the numbers from the metrics."""
    config = run.config
    drawn = config.data in _DRAWN_AS
    lines = [
        "---\nlibrary_name: blan-layers\npipeline_tag: image-classification\ntags: [facial-attributes, blan]\n---\n",
        f"# {config.model.upper()} for {len(run.attributes)} facial attributes\n",
        f"Trained with blan-layers on {_DRAWN_AS.get(config.data, config.data)}{_labels(config)}, {config.image_size} "
        f"x {config.image_size} pixels, {trained(config.epochs + config.extend, metrics)} epochs, seed {config.seed}. "
        f"{run.parameters.inference:,} parameters.\n",
        _DRAWN if drawn else "",
        "## How to load it\n\n```python\nfrom blan_facial.results.pretrained import from_pretrained\n\n"
        'run = from_pretrained("FOLDER")  # or "owner/name" on the hub\n'
        "run.model, run.attributes, run.scaling\n```\n",
        "It needs a clone of https://github.com/blan-layers/blan-layers with `examples` on the path. "
        "`predict.py FOLDER PICTURE` predicts from the command line.\n",
        *_results(metrics),
        _PEOPLE,
    ]
    return "\n".join(line for line in lines if line)


def _labels(config: Config) -> str:
    if config.labelled is None:
        return ""
    rest = ", the others without labels" if config.unlabelled else ""
    return f" with the labels of {config.labelled:,} training images{rest}"


def _results(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "## Results\n"
    if metrics.get("accuracy") is None:
        yield "It was not tested.\n"
        return
    yield f"{metrics['images']:,} images of the split {metrics['split']} of {metrics['data']}.\n"
    yield "| measure | value |\n| --- | ---: |"
    for name, title in _MEANS.items():
        if metrics.get(name) is not None:
            yield f"| {title} | {metrics[name]:.3f} |"
    yield "\n| attribute | accuracy | more frequent label | balanced |\n| --- | ---: | ---: | ---: |"
    for name, found in metrics["per_attribute"].items():
        values = (found[key] for key in ("accuracy", "majority", "balanced"))
        yield f"| {_escaped(name)} | {' | '.join('' if value is None else f'{value:.3f}' for value in values)} |"


def _escaped(name: str) -> str:
    """Return a name as plain text in a cell of a Markdown table."""
    return re.sub(r"([\\`*\[\]<>&|~])", r"\\\1", shown(name))


def _without_paths(config: Config) -> Config:
    """Return the settings with paths reduced to names, which reveal nothing about the machine."""
    names = {
        field.name: Path(value.name)
        for field in dataclasses.fields(config)
        if isinstance(value := getattr(config, field.name), Path)
    }
    weights = config.encoder_weights
    names |= {} if weights is None else {"encoder_weights": Path(weights).name}  # type: ignore[dict-item]  # a name or a file
    return dataclasses.replace(config, **{**names, "output": None}, resume=False, overwrite=False)  # type: ignore[arg-type]  # names of files, or None


def _metrics(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_object(path, "metrics")
