"""Test a finished run on a data set: ``python examples/blan_facial/evaluate.py --help``."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console

from blan_facial.config import Config, ConfigError, Data, config_errors
from blan_facial.data.attributes import choose
from blan_facial.data.faces import DataError, FaceDataset
from blan_facial.data.splits import load_split
from blan_facial.machines.devices import make_fabric
from blan_facial.results.finished import FinishedRun, load_run
from blan_facial.results.run_folder import METRICS, read_object
from blan_facial.results.terminal import metrics_table
from blan_facial.training.loop import evaluation_loader
from blan_facial.training.metrics import evaluate
from shared.files import make_parent, refuse_inputs, write_json
from shared.program import check_given_once, log_to_terminal, run_program
from shared.warned import summed

PROGRAM = "python examples/blan_facial/evaluate.py"
DESCRIPTION = """Test a finished run on any data set with its attributes, from its config.json and model.safetensors.
Settings not given here are those of the run; without any, the test reproduces the numbers in its metrics.json."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to test, on which data, and where to write the metrics."""

    run: tyro.conf.Positional[Path]
    """Output folder of the run."""
    data: Data | None = None
    """Data set; its attributes are matched by name."""
    data_root: Path | None = None
    """Official folder of CelebA or LFWA, or the folder to which the paths in the CSV file are relative."""
    image_folder: Path | None = None
    """Folder of CelebA's or LFWA's images, if they are not in the official folder."""
    labels: Path | None = None
    """CSV file with the columns image, split and one per attribute, or a folder of such files. For another file than
    the run's, its --columns and --unknown do not apply."""
    columns: Path | None = None
    """TOML or JSON file that describes the columns of --labels, if they do not have the expected names and values."""
    unknown: Literal["zero", "minus-one"] | None = None
    """Which of 0 and -1 means unknown in labels that contain both; the other means no."""
    attributes: tuple[str, ...] = ()
    """Attributes to test, in this order; by default all attributes of the model."""
    split: Literal["test", "validation", "train"] = "test"
    """Split to test on."""
    images: int | None = None
    """Maximum number of images."""
    skip_corrupt: bool = False
    """Skip and count images that cannot be decoded."""
    output: Path | None = None
    """JSON file for the metrics, in the layout of metrics.json."""

    batch_size: int | None = None
    """Images per batch."""
    workers: int | None = None
    """Number of processes that decode images."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Device type for the test."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    """Numerical precision; 16-mixed needs CUDA."""

    def config(self, own: Config) -> Config:
        """Return the settings of the test: those of the run, overridden by those given here.

        Raises:
            ConfigError: They contradict each other.
        """
        if self.data not in (None, own.data):
            own = dataclasses.replace(own, data_root=None, image_folder=None, labels=None, skip_corrupt=False)
            own = dataclasses.replace(own, lfwa_split=Config.lfwa_split, images=None, train_images=None)
        if self.data not in (None, own.data) or self.labels not in (None, own.labels):
            own = dataclasses.replace(own, columns=None, unknown=None)
        names: tuple[str, ...] = ("data", "data_root", "image_folder", "labels", "columns", "unknown", "images")
        names += ("batch_size", "workers", "accelerator", "precision")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        config = dataclasses.replace(own, **given, skip_corrupt=self.skip_corrupt or own.skip_corrupt).on_one_device()
        with config_errors("evaluate"):
            config.check_test()
        return config


def run(settings: Settings, console: Console) -> None:
    """Test the run, show the metrics and write them."""
    finished = load_run(settings.run)
    attributes, lacking = choose(settings.attributes, finished.attributes)
    if lacking:
        raise ConfigError(
            f"evaluate: --attributes must be attributes of the model, got {lacking[0]!r}. "
            f"It has {', '.join(finished.attributes)}."
        )
    attributes = attributes or list(finished.attributes)
    config = dataclasses.replace(settings.config(finished.config), attributes=tuple(attributes))
    if settings.output is not None:
        _check_output(settings.output, settings.run, config)
    training = _of_training(finished)
    with config_errors("evaluate"), summed("PIL", console):
        fabric = make_fabric(config)
        faces = _named_alike(load_split(config, settings.split, console), attributes)
        columns = [finished.attributes.index(name) for name in attributes]
        model = finished.model.to(fabric.device)
        loader = evaluation_loader(config, faces)
        tested = evaluate(
            fabric,
            model,
            loader,
            in_full=True,
            scaling=finished.scaling and finished.scaling.of(columns),
            thresholds=finished.thresholds and [finished.thresholds[column] for column in columns],
            columns=columns,
        )
    metrics = {"data": faces.name, "split": faces.split, **tested}
    if not _counted(faces, attributes, training.get("labels")):
        training.pop("labels", None)
    metrics |= {name: value for name, value in training.items() if name not in metrics}
    console.print(metrics_table(metrics))
    if corrupt := len(faces) - tested["images"]:
        console.print(f"{corrupt} of {len(faces)} images were corrupt and left out.")
    if settings.output is not None:
        write_json(settings.output, metrics)
        console.print(f"The metrics are in {settings.output}.", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    log_to_terminal(logging.WARNING)
    check_given_once("evaluate", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("evaluate", partial(run, settings))


def _check_output(output: Path, run: Path, config: Config) -> None:
    """Create the folder of the output, and refuse to replace an input or another file that is not JSON.

    Raises:
        OSError: The output cannot be written.
        UserError: It is an input, or not JSON.
    """
    refuse_inputs("evaluate", "--output", output, [run, *filter(None, (config.labels, config.columns))])
    make_parent(output)
    if output.is_file():
        with output.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise ConfigError(f"evaluate: --output must be new or a JSON file, got {output}. Name another.")


def _named_alike(faces: FaceDataset, attributes: Sequence[str]) -> FaceDataset:
    """Return faces with the model's names of its attributes, which are theirs apart from case and spaces.

    Raises:
        DataError: One of them was taken for several, separated by commas.
    """
    for name in attributes if len(attributes) != len(faces.attributes) else ():
        if len(parts := choose([name], faces.attributes)[0]) > 1:
            raise DataError(
                f"{faces.name}: must have the attributes of the model, got {' and '.join(parts)} in place of {name!r}. "
                "Name its column as the model does, or leave it out with --attributes."
            )
    return dataclasses.replace(faces, attributes=tuple(attributes))


def _counted(faces: FaceDataset, attributes: Sequence[str], labels: Any) -> bool:
    """Return whether the numbers of labels in ``metrics.json`` of a run are those of the tested images."""
    counts = labels.get(faces.split) if isinstance(labels, dict) else None
    return isinstance(counts, dict) and faces.counts() == {name: counts.get(name) for name in attributes}


def _of_training(finished: FinishedRun) -> dict[str, Any]:
    """Return what ``metrics.json`` of the run says about its training, or, without that file, what the model shows."""
    path = finished.folder / METRICS
    if not path.exists():
        parameters = finished.parameters
        counts = {"parameters": parameters.inference, "training_parameters": parameters.training}
        return counts | {"kept": None, "train_seconds": None, "waiting_seconds": None, "images_per_second": None}
    return read_object(path, "metrics")


if __name__ == "__main__":
    sys.exit(main())
