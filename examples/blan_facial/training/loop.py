"""The training loop, which resumes bit for bit from any step.

A batch depends only on the run's seed, the epoch and its position in the epoch; the random numbers of a step depend on
the seed and the step. Several processes share every batch equally, and either take each step or stop together.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from torch import Tensor

from blan_facial.config import Config, ConfigError
from blan_facial.data.faces import UNKNOWN, DataError, FaceDataset
from blan_facial.data.labelled import MixedBatches, has_label
from blan_facial.data.loading import Batch, EpochBatches, FaceLoader, make_loader
from blan_facial.machines.processes import Processes, lost_contact
from blan_facial.machines.share import WHOLE, Share
from blan_facial.machines.signals import Stopped, Wish
from blan_facial.network.model import Network
from blan_facial.training.checkpoint import CHECKPOINT, Best, Position, RunError, read_checkpoint, save_checkpoint
from blan_facial.training.learner import Counted, Learner
from blan_facial.training.log import TrainingLog
from blan_facial.training.metrics import evaluate

LOG_EVERY = 10
"""Steps between reading the losses, which synchronises with the device."""

MIRROR = 0.5
"""Probability of mirroring a training image, as part of overfitting suppression."""

VALIDATED = ("accuracy", "balanced_accuracy", "average_precision")
"""Metrics logged for the validation faces after every epoch; the last one chooses the best epoch."""


class Trainer:
    """One run of training.

    Args:
        config: Its settings.
        processes: The processes that train together.
        learner: The model, objective and optimisers.
        train: Training faces.
        validation: Faces to evaluate on after every epoch, or None.
        console: Where progress is shown.

    Attributes:
        position: Progress of the run.
        best: With ``--keep best``, the model of the best epoch on the validation faces; None before an evaluation.

    Raises:
        ConfigError: ``--keep best`` is given without validation faces.
        DataError: The labels of the validation faces cannot be used.
    """

    def __init__(
        self,
        config: Config,
        processes: Processes,
        learner: Learner,
        train: FaceDataset,
        validation: FaceDataset | None,
        console: Console,
    ) -> None:
        self.config = config
        self.processes = processes
        self.learner = learner
        self.console = console
        self.data = {
            "images": len(train),
            "attributes": list(train.attributes),
            "digest": train.digest(),
            "validation": None if validation is None else validation.digest(),
        }
        self.position = Position()
        self.best: Best | None = None
        if config.keep == "best" and validation is None:
            raise ConfigError(
                f"train: --keep best needs a validation split, got --data {config.data} without one. "
                "Use --keep last, or data with a validation split."
            )
        if validation is not None:
            _check_labels(validation, config)
        with processes.together():
            self.loader = training_loader(config, train, processes.share)
            self.validation = None if validation is None else evaluation_loader(config, validation, processes.share)
        self._wish = Wish()
        self.loader.stopping = lambda: self._wish.number

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self.loader.batch_sampler)

    @property
    def steps(self) -> int:
        """Steps of the whole run, including its extension."""
        return (self.config.epochs + self.config.extend) * self.steps_per_epoch

    def restore(self, folder: Path) -> None:
        """Restore the run of a folder from its checkpoint.

        Raises:
            RunError: The checkpoint is broken, is of another configuration or other data, or lies beyond the run's end
                or ``max_steps``.
        """
        with self.processes.together():
            position, states, best = read_checkpoint(folder, self.config, self.data)
            if position.step > self.steps:
                beyond = -(-position.step // self.steps_per_epoch) - self.config.epochs
                raise RunError(
                    f"train: {folder / CHECKPOINT} must be within the {self.steps} steps of the run, got step "
                    f"{position.step}. Give --extend {beyond} if it was extended, or start over with --overwrite."
                )
            if position.step > (self.config.max_steps or self.steps):
                raise RunError(
                    f"train: --max-steps must not be less than the steps already trained, got {self.config.max_steps} "
                    f"and step {position.step} in {folder / CHECKPOINT}. Raise it, or start over with --overwrite."
                )
        fault = self.learner.load(states)
        with self.processes.together():
            if fault:
                raise RunError(
                    f"train: {folder / CHECKPOINT} must contain the states of this model, got others ({fault}). "
                    "Start over with --overwrite."
                )
        self.position, self.best = position, best

    def fit(self, folder: Path) -> Position:
        """Train to the end of the run or to ``max_steps``, and return its progress.

        Args:
            folder: Where checkpoint and logs go; a resumed run adds to its earlier logs.

        Raises:
            CorruptImageError: An image does not decode.
            NonFiniteLossError: A part of the loss or a weight is not finite; the last good checkpoint is kept.
            PeerError: One of these errors occurred in another process.
            Stopped: One of the processes received SIGINT, SIGTERM or SIGHUP; the run was saved at that step.
        """
        log = TrainingLog(
            folder,
            self.processes,
            self.learner.objective.shown,
            self.console,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate=self.learning_rate,
        )
        if self.position.step == 0:
            self._save(log)
        last = min(self.steps, self.config.max_steps or self.steps)
        with self._wish.listening(), log.showing(self.position, last):
            try:
                self._make_up(log)
                while self.position.step < last:
                    self._run_epoch(last, log)
                    log.look(self.position)
                    self._save(log)
                    self._stop_if_asked()
                    self._judge(log)
                    self._stop_if_asked()
            finally:
                log.save()  # including the losses that led to an error
        return self.position

    def learning_rate(self, step: int) -> float:
        """Return Adam's learning rate in a step: warm-up, then decay to a tenth [D10]; an extension keeps the tenth."""
        config, done = self.config, min(1.0, step / (self.config.epochs * self.steps_per_epoch))
        decay = 1 - 0.9 * done if config.lr_decay == "linear" else (1.0 if done < 0.5 else 0.1)
        return config.lr * decay * min(1.0, (step + 1) / (config.warmup_steps + 1))

    def _run_epoch(self, last: int, log: TrainingLog) -> None:
        """Train from the current position to the end of the epoch or to step ``last``."""
        sampler = self.loader.batch_sampler
        sampler.epoch, sampler.first_batch = divmod(self.position.step, self.steps_per_epoch)
        end = min(last, (sampler.epoch + 1) * self.steps_per_epoch)
        self.learner.step.train()
        batches = iter(self.loader)
        while self.position.step < end:
            before, started = self.position, time.perf_counter()
            batch = self._next(batches, log)
            known = int((batch.labels != UNKNOWN).sum())
            said = self.processes.numbers(self._wish.number, len(batch.images), batch.skipped, known)
            signals, images, skipped, labels = said.unbind(1)
            loaded = time.perf_counter()
            if signals.any():
                log.look(before)
                self._save(log)
                self._stop(signals)
            if images.min() >= 2:  # corrupt images may leave too few to train on
                counted = Counted(_part(len(batch.images), images), _part(known, labels))
                lr = self.learning_rate(before.step)
                log.keep(before.step, self.learner.learn(before.step, lr, batch.images, batch.labels, counted))
            self.position = before._replace(
                step=before.step + 1,
                images=before.images + int(images.sum()),
                skipped=before.skipped + int(skipped.sum()),
                seconds=before.seconds + time.perf_counter() - started,
                waiting=before.waiting + loaded - started,
            )
            if self.position.step % LOG_EVERY == 0:
                log.look(self.position)

    def _next(self, batches: Iterator[Batch], log: TrainingLog) -> Batch:
        """Return the next batch; if loading fails in a process, save the progress of all processes."""
        try:
            with self.processes.together():
                return next(batches)
        except Exception as error:
            if not (isinstance(error, RuntimeError) and lost_contact(error)):
                log.look(self.position)
                self._save(log)
            raise

    def _stop_if_asked(self) -> None:
        signals = self.processes.numbers(self._wish.number)
        if signals.any():
            self._stop(signals)

    def _stop(self, signals: Tensor) -> NoReturn:
        raise Stopped(int(signals.max()), self.position.step)

    def _make_up(self, log: TrainingLog) -> None:
        """Evaluate the model if the run ended between the checkpoint at the end of an epoch and the evaluation."""
        step = self.position.step
        if step and self.validation is not None:
            done = self.config.keep == "last" and self.processes.of_first(
                lambda: log.has(f"validation_{VALIDATED[0]}", step - 1)
            )
            if not done:
                self._judge(log)
                self._stop_if_asked()

    @property
    def kept(self) -> dict[str, float]:
        """The epoch whose model is kept, and the seconds of training until then."""
        step, seconds = (self.best or self.position).step, (self.best or self.position).seconds
        return {"epoch": step / self.steps_per_epoch, "seconds": seconds}

    def kept_model(self) -> Network:
        """Return the trained model to test and save, identical in all processes, which must call this together.

        With ``--keep best`` it is the model of the best epoch, unless the run ended within its first epoch.
        """
        model = self.learner.whole_model()
        if self.best is not None:
            model.load_state_dict(self.best.weights)
        return model

    def _judge(self, log: TrainingLog) -> None:
        """At the end of an epoch, evaluate the model on the validation faces, and keep it if it is the best so far."""
        epoch, inside = divmod(self.position.step, self.steps_per_epoch)
        if inside or self.position.judged == self.position.step:
            return
        score = self._validate(epoch, log)
        self.position = self.position._replace(judged=self.position.step)
        if self.config.keep == "last":
            return
        score = self.processes.of_first(lambda: score)
        if score is not None and (self.best is None or score > self.best.score):
            whole = self.learner.whole_model().state_dict()
            weights = {name: tensor.detach().cpu().clone() for name, tensor in whole.items()}
            self.best = Best(self.position.step, self.position.seconds, score, weights)
        self._save(log)

    def _validate(self, epoch: int, log: TrainingLog) -> float | None:
        """Log and show validation metrics; the first process returns the mean average precision."""
        score, epochs = None, self.config.epochs + self.config.extend
        line = f"epoch {epoch}/{epochs}: {self.position.images_per_second:.0f} images/s"
        if self.validation is not None:
            fabric, model = self.learner.fabric, self.learner.whole_model()
            metrics = evaluate(fabric, model, self.validation, processes=self.processes)
            if not self.processes.first:
                return None
            score = metrics["average_precision"]
            shown = {name: metrics[name] for name in VALIDATED if metrics[name] is not None}
            log.write({f"validation_{name}": value for name, value in shown.items()}, self.position.step - 1)
            log.save()
            words = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in shown.items())
            line += f", validation {', '.join(words)}"
        self.console.print(line, highlight=False)
        return score

    def _save(self, log: TrainingLog) -> None:
        """Write the checkpoint, unless the last update broke a weight.

        Raises:
            NonFiniteLossError: A weight is not finite.
        """
        states = self.learner.states()
        with self.processes.together():
            if self.processes.first:
                log.save()
                log.refuse_broken(states.weights, self.position.step)
                save_checkpoint(log.folder, self.config, self.data, self.position, states, self.best)


def _check_labels(validation: FaceDataset, config: Config) -> None:
    """Refuse validation faces of which nothing can be evaluated, or by which no epoch can be chosen."""
    if not (validation.labels != UNKNOWN).any():
        raise DataError(
            f"train: some of the {len(validation)} validation images must have a known label, got none. "
            "Label some, or leave the split out."
        )
    if config.keep == "best" and not (validation.labels == 1).any():
        raise DataError(
            "train: --keep best needs at least one positive validation label, got none. "
            "Label some validation images, or use --keep last."
        )


def training_loader(config: Config, faces: FaceDataset, share: Share = WHOLE) -> FaceLoader:
    """Return a process's share of the training batches of a run.

    Raises:
        ConfigError: There are not enough faces, labelled or unlabelled, for the batches.
    """
    try:
        batches = _training_batches(config, faces, share)
    except ConfigError:
        raise
    except ValueError as error:  # from the class of the batches, in words of its own
        words = str(error).partition(": ")[2].replace("batch_size", "--batch-size")
        raise ConfigError(f"train: {words}") from error
    return _loader(config, faces, batches, mirror=MIRROR if config.os else 0.0)


def _training_batches(config: Config, faces: FaceDataset, share: Share) -> EpochBatches:
    if config.labelled is None and not config.unlabelled:
        return EpochBatches(len(faces), config.batch_size, seed=config.seed, share=share)
    labelled, without = has_label(faces), 0
    if config.unlabelled:
        without = config.batch_size - round(config.labelled_fraction * config.batch_size)
    if config.unlabelled and labelled.all():
        raise ConfigError(
            f"train: --unlabelled needs training faces without labels, got {len(faces)} faces with labels. "
            "Leave it out, or give --labelled a smaller number."
        )
    return MixedBatches(labelled, config.batch_size, seed=config.seed, unlabelled=without, share=share)


def evaluation_loader(config: Config, faces: FaceDataset, share: Share = WHOLE) -> FaceLoader:
    """Return a loader of a process's share of a split, in the order of the faces."""
    batches = EpochBatches(len(faces), config.batch_size, seed=config.seed, shuffle=False, drop_last=False, share=share)
    return _loader(config, faces, batches, mirror=0.0)


def _loader(config: Config, faces: FaceDataset, batches: EpochBatches, *, mirror: float) -> FaceLoader:
    return make_loader(faces, batches, mirror=mirror, workers=config.workers, skip_corrupt=config.skip_corrupt)


def _part(mine: int, all_parts: Tensor) -> float:
    """Return the weight of a process's mean such that the weighted means of all processes average to the whole's."""
    return mine * len(all_parts) / max(1, int(all_parts.sum()))
