"""Train BLAN: ``python examples/blan_facial/train.py --help``.

Reads from top to bottom what a run is: settings, data, model, training, test, pictures.
"""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.logging import RichHandler

from blan_facial.baselines import DomainBalancedObjective
from blan_facial.building import build
from blan_facial.config import Config, ConfigError, parse
from blan_facial.data.faces import DataError
from blan_facial.data.splits import load_splits
from blan_facial.encoder import EncoderWeightsError, load_encoder_weights
from blan_facial.environment import environment
from blan_facial.files import write_json
from blan_facial.metrics import evaluate
from blan_facial.model import parameter_table
from blan_facial.report import draw_sample, metrics_table, parameters_table, write_pictures, write_report
from blan_facial.runs import ENVIRONMENT, RunError, begin, open_output, save_results
from blan_facial.trainer import NonFiniteLossError, Stopped, Trainer, evaluation_loader, make_fabric


def run(config: Config, console: Console) -> Path:
    """Train, test and show; return the output folder."""
    fabric = make_fabric(config)
    faces = load_splits(config, console)
    with _as_config_errors():
        model, objective = build(config, faces.train.attributes)
    if isinstance(objective, DomainBalancedObjective):
        objective.balance(faces.train.labels)
    if config.os and config.encoder_weights is not None and not config.resume:
        load_encoder_weights(model.encoder, config.encoder_weights)
    parameters = parameter_table(model, objective)
    with _as_config_errors():
        trainer = Trainer(config, fabric, model, objective, faces.train, faces.validation, console)
    folder = open_output(config)
    if config.resume:
        trainer.restore(folder)
    begin(folder, config, faces.train.attributes)  # nothing in the folder has changed until here
    console.print(parameters_table(parameters))
    position = trainer.fit(folder)

    tested = evaluate(fabric, model, evaluation_loader(config, faces.test), faces.test.attributes, in_full=True)
    metrics = {
        "data": faces.test.name,
        "split": faces.test.split,
        **tested,
        "parameters": parameters.inference,
        "training_parameters": parameters.training,
        "train_seconds": position.seconds,
        "images_per_second": position.images / max(position.seconds, 1e-9),
    }
    save_results(folder, model, metrics)
    write_json(folder / ENVIRONMENT, environment(fabric.device))
    sample = draw_sample(model, faces.test, device=fabric.device, seed=config.seed)
    write_pictures(folder, sample, metrics)
    write_report(folder, sample)
    console.print(metrics_table(metrics))
    if model.fusion is not None:
        start = 1 / len(model.fusion.weight)
        moved = (model.fusion.weight.detach() - start).abs()
        console.print(
            f"The fusion weights moved from {start} by {moved.mean():.4f} on average, {moved.max():.4f} at most."
        )
    if position.skipped:
        console.print(f"A corrupt image was left out of a training batch {position.skipped} times.")
    if corrupt := len(faces.test) - tested["images"]:
        console.print(f"{corrupt} of {len(faces.test)} test images were corrupt and left out.")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    console, errors = Console(), Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=errors)])
    try:
        folder = run(parse(arguments), console)
    except KeyboardInterrupt:
        errors.print("\nStopped.")
        return 128 + signal.SIGINT
    except Stopped as stop:
        console.print(f"Training was {stop} and saved; the same command with --resume goes on from there.")
        return 128 + stop.number
    except (ConfigError, DataError, EncoderWeightsError, NonFiniteLossError, RunError) as error:
        _print_error(errors, str(error))
        return 1
    except OSError as error:
        _print_error(
            errors, f"train: its files must be readable and its folder writable, got {error}. Mend that first."
        )
        return 1
    console.print(f"Results are in {folder}.", markup=False, highlight=False, soft_wrap=True)
    return 0


@contextmanager
def _as_config_errors() -> Iterator[None]:
    """Take a refusal of the settings by the part that they are for as the user's mistake, which needs no traceback."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _print_error(console: Console, message: str) -> None:
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
