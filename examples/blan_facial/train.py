"""Train BLAN: ``python examples/blan_facial/train.py --help``.

The file shows a run from top to bottom: settings, data, model, training, test, pictures.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from blan_facial.config import Config, ConfigError, config_errors, parse
from blan_facial.data.splits import Splits, load_splits
from blan_facial.machines.devices import launched, layout, make_fabric, rank
from blan_facial.machines.launching import LOST, follow_launcher, launch
from blan_facial.machines.processes import PeerError, Processes, lost_contact
from blan_facial.machines.signals import Stopped
from blan_facial.network.builder import build
from blan_facial.network.encoder import load_encoder_weights
from blan_facial.network.model import Network
from blan_facial.network.objective import Objective
from blan_facial.network.parameters import parameter_table
from blan_facial.report.run_page import write_report
from blan_facial.report.sample import draw_sample
from blan_facial.results.environment import environment
from blan_facial.results.finished import load_run
from blan_facial.results.run_folder import ENVIRONMENT, begin, check_output, open_output, save_results
from blan_facial.results.starting import start_from
from blan_facial.results.terminal import labels_table, metrics_table, parameters_table
from blan_facial.training.checkpoint import Position
from blan_facial.training.learner import Learner
from blan_facial.training.loop import Trainer, evaluation_loader
from blan_facial.training.metrics import calibrate, evaluate
from shared.files import write_json
from shared.program import log_to_terminal, print_error, run_program
from shared.warned import summed


def run(config: Config, console: Console, held: ExitStack) -> Path:
    """Train, test and show the results; return the output folder, which ``held`` locks against other runs until closed.

    With several processes, only the first writes, prints and draws.
    """
    fabric = make_fabric(config)
    processes = Processes(fabric)
    processes.of_first(lambda: check_output(config))

    def prepare() -> tuple[Splits, Network, Objective]:
        source = None if config.init_from is None or config.resume else load_run(config.init_from)
        faces = load_splits(config, console)
        if config.thresholds is not None and faces.validation is None:
            raise ConfigError(
                "train: --thresholds needs a validation split, got none. Leave it out, or label images for validation."
            )
        console.print(labels_table(faces.counts()))
        with config_errors("train"):
            model, objective = build(config, faces.train.attributes)
        objective.look_at(faces.train.labels)
        if source is not None:
            said = start_from(source, model, faces.train.attributes, config)
            console.print(said, markup=False, highlight=False)
        elif config.os and config.encoder_weights is not None and not config.resume:
            load_encoder_weights(model.encoder, config.encoder_weights)
        return faces, model, objective

    faces, model, objective = processes.one_by_one(prepare)
    parameters = parameter_table(model, objective)
    with config_errors("train"):
        learner = Learner(config, fabric, processes, model, objective)
        trainer = Trainer(config, processes, learner, faces.train, faces.validation, console)
    folder = processes.of_first(lambda: held.enter_context(open_output(config)))
    if config.resume:
        trainer.restore(folder)
    # Nothing in the folder has changed so far.
    processes.of_first(lambda: begin(folder, config, faces.train.attributes))
    console.print(parameters_table(parameters))
    position = trainer.fit(folder)

    model = trainer.kept_model()
    scaling = thresholds = None
    if trainer.validation is not None:
        scaling, thresholds = calibrate(fabric, model, trainer.validation, processes, config.thresholds)
    loader = evaluation_loader(config, faces.test, processes.share)
    tested = evaluate(fabric, model, loader, processes=processes, in_full=True, scaling=scaling, thresholds=thresholds)
    if not processes.first:
        return folder
    metrics = {
        "data": faces.test.name,
        "split": faces.test.split,
        **tested,
        "parameters": parameters.inference,
        "training_parameters": parameters.training,
        "kept": trainer.kept,
        "train_seconds": position.seconds,
        "waiting_seconds": position.waiting,
        "images_per_second": position.images_per_second,
        "labels": faces.counts(),
    }
    save_results(folder, model, metrics, scaling, thresholds)
    write_json(folder / ENVIRONMENT, environment(fabric.device))
    write_report(folder, draw_sample(model, faces.test, device=fabric.device, seed=config.seed))
    console.print(metrics_table(metrics))
    if model.fusion is not None:
        start = 1 / len(model.fusion.weight)
        moved = (model.fusion.weight.detach() - start).abs()
        console.print(
            f"The fusion weights moved from {start} by {moved.mean():.4f} on average, {moved.max():.4f} at most."
        )
    console.print(_speed(position), highlight=False)
    if position.skipped:
        console.print(f"Corrupt images were left out of training batches {position.skipped} times.")
    if corrupt := len(faces.test) - tested["images"]:
        console.print(f"{corrupt} of {len(faces.test)} test images were corrupt and left out.")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    first = rank() == 0
    level = logging.WARNING if first else logging.ERROR
    log_to_terminal(level)
    for package in ("lightning.fabric", "lightning.pytorch"):  # the one speaks through the other
        logging.getLogger(package).setLevel(level)
    return run_program("train", partial(_run_or_launch, arguments, follow_launcher()), quiet=not first)


def _run_or_launch(arguments: Sequence[str] | None, watched: bool, console: Console) -> int:
    """Run in this process or, on several devices, in one process per device, and return the exit status.

    Our launcher stops all processes as soon as one fails. A process that leaves the error message to another therefore
    exits with success under it.
    """
    config = parse(arguments)
    if not launched() and (count := layout(config).processes) > 1:
        given = sys.argv[1:] if arguments is None else arguments
        return launch(str(Path(__file__).resolve()), given, count)
    try:
        with ExitStack() as held, summed("PIL", console):
            folder = run(config, console, held)
    except Stopped as stop:
        console.print(f"Training was {stop} and saved; the same command with --resume continues from there.")
        return 0 if watched and rank() > 0 else 128 + stop.number
    except PeerError:
        return 0 if watched else 1
    except RuntimeError as error:
        if not lost_contact(error):
            raise
        if not watched or "/gloo/" not in str(error):  # our launcher names the failed process
            print_error(
                f"train: all processes must run to the end, got one that has died, noticed by process {rank()} "
                f"({str(error).splitlines()[0]}). The same command with --resume continues from the last checkpoint."
            )
        return LOST
    console.print(f"Results are in {folder}.", markup=False, highlight=False, soft_wrap=True)
    return 0


def _speed(position: Position) -> str:
    """Return a sentence on how long training took and how long it waited for images."""
    seconds, waiting = position.seconds, position.waiting
    sentence = (
        f"Training took {seconds:.0f} s, {waiting:.0f} s of it waiting for images: "
        f"{position.images_per_second:.0f} images per second in all, "
        f"{position.images / max(seconds - waiting, 1e-9):.0f} without the waiting."
    )
    return f"{sentence} More --workers may load them faster." if waiting > 0.2 * seconds else sentence


if __name__ == "__main__":
    sys.exit(main())
