"""The training loop: Eq. 8 by Adam, the fusion weights by SGD, checkpoints that a run goes on from bit by bit.

A step draws its random numbers (dropout, negatives) from the run's seed and its own number, and its batch from the
seed, the epoch and its place in it. A run that was stopped anywhere therefore goes on as if it had not been.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from blan_facial.config import Config, ConfigError
from blan_facial.data.faces import FaceDataset
from blan_facial.data.loading import Batch, FaceLoader, make_loader, normalize
from blan_facial.metrics import evaluate
from blan_facial.model import BLAN
from blan_facial.objective import BLANObjective
from blan_facial.runs import CHECKPOINT, LOGS, Position, load_checkpoint, save_checkpoint

LOG_EVERY = 10
"""Steps between two looks at the losses, each of which waits for the device."""

MIRROR = 0.5
"""Probability of mirroring a training image, part of the overfitting suppression."""


class NonFiniteLossError(RuntimeError):
    """A part of the loss became infinite or not a number."""


class Stopped(Exception):
    """A signal asked training to stop, and its state is saved: no error.

    Attributes:
        number: The signal.
        step: Steps done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number
        self.step = step


class TrainingStep(nn.Module):
    """Model and objective as one module, from a batch of bytes to the losses."""

    def __init__(self, model: BLAN, objective: BLANObjective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss, and every part of it detached."""
        inputs = normalize(images)
        features = self.model.forward_features(inputs, reconstruct=self.model.reconstructs)
        terms = self.objective(features, inputs, labels)
        return terms.total, terms.logged()


class Trainer:
    """One run of training.

    Args:
        config: Its settings.
        folder: Its output folder.
        fabric: Device, precision and loggers, from :func:`make_fabric`.
        model: The network, on the CPU.
        objective: What it minimises.
        train: Training faces.
        validation: Faces to test it on after every epoch, or None.
        console: Where progress is shown.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        fabric: Fabric,
        model: BLAN,
        objective: BLANObjective,
        train: FaceDataset,
        validation: FaceDataset | None,
        console: Console,
    ) -> None:
        self.config = config
        self.folder = folder
        self.fabric = fabric
        self.model = model
        self.objective = objective
        self.console = console
        self.attributes = train.attributes
        self.position = Position()
        self.loader = training_loader(config, train)
        self.validation = None if validation is None else evaluation_loader(config, validation)

        step = TrainingStep(model, objective).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types Module.to without it
        if config.compile:
            step.compile()
        self.step = fabric.setup_module(step)
        fusion = [] if model.fusion is None else list(model.fusion.parameters())
        others = [parameter for parameter in step.parameters() if all(parameter is not weight for weight in fusion)]
        self.adam = torch.optim.Adam(others, lr=config.lr)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adam": self.adam}
        if fusion:
            self.optimizers["sgd"] = torch.optim.SGD(fusion, lr=config.fusion_lr)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.scaler = scaler or torch.amp.GradScaler(fabric.device.type, enabled=False)
        self._losses: list[tuple[int, dict[str, Tensor]]] = []
        self._signal: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self.loader.batch_sampler)

    @property
    def steps(self) -> int:
        """Steps of the whole schedule."""
        return self.config.epochs * self.steps_per_epoch

    def fit(self) -> Position:
        """Train to the end of the schedule, or to ``max_steps``, and return how far the run has come.

        Raises:
            CorruptImageError: An image does not decode.
            NonFiniteLossError: A part of the loss is not finite; the last good checkpoint is kept.
            RunError: The checkpoint to resume from does not fit.
            Stopped: SIGINT or SIGTERM came; the step at which it came is saved.
        """
        if self.config.resume:
            self.position = load_checkpoint(self.folder, self.config, self.attributes, self._modules, self._states)
        else:
            self._save()
        last = min(self.steps, self.config.max_steps or self.steps)
        with self._catching_signals(), self._showing_progress(last) as (bar, task):
            while self.position.step < last:
                self._run_epoch(last, bar, task)
                self._look_at_losses(bar, task)
                self._validate()
                self._save()
        return self.position

    def learning_rate(self, step: int) -> float:
        """Return Adam's learning rate in a step: warm-up, then the decay to a tenth [D10]."""
        config, done = self.config, step / self.steps
        decay = 1 - 0.9 * done if config.lr_decay == "linear" else (1.0 if done < 0.5 else 0.1)
        return config.lr * decay * min(1.0, (step + 1) / (config.warmup_steps + 1))

    def _run_epoch(self, last: int, bar: Progress, task: TaskID) -> None:
        """Train from where the run stands to the end of its epoch or to step ``last``."""
        sampler = self.loader.batch_sampler
        sampler.epoch, sampler.first_batch = divmod(self.position.step, self.steps_per_epoch)
        end = min(last, (sampler.epoch + 1) * self.steps_per_epoch)
        self.step.train()
        batches = iter(self.loader)
        while self.position.step < end:
            started = time.perf_counter()
            batch = next(batches)
            if len(batch.images) >= min(2, self.config.batch_size):  # corrupt images may leave too few to train on
                self._train_step(batch)
            step, images, skipped, seconds = self.position
            self.position = Position(
                step + 1,
                images + len(batch.images),
                skipped + batch.skipped,
                seconds + time.perf_counter() - started,
            )
            bar.advance(task)
            if self.position.step % LOG_EVERY == 0:
                self._look_at_losses(bar, task)
            if self._signal is not None:
                self._look_at_losses(bar, task)
                self._save()
                raise Stopped(self._signal, self.position.step)

    def _train_step(self, batch: Batch) -> None:
        step = self.position.step
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, step]).generate_state(1, np.uint64)[0]))
        self.adam.param_groups[0]["lr"] = self.learning_rate(step)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        total, losses = self.step(self.fabric.to_device(batch.images), self.fabric.to_device(batch.labels))
        self.fabric.backward(total)
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.adam)
            torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], self.config.clip_norm)
        for optimizer in self.optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()
        self._losses.append((step, losses))

    def _look_at_losses(self, bar: Progress, task: TaskID) -> None:
        """Log and show the losses of the steps since the last look, and refuse to go on with one that is not finite."""
        for step, losses in self._losses:
            values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
            parts = sorted(values.items(), key=lambda part: "_AC" not in part[0])  # the parts of a level say most
            for name, value in parts:
                if not math.isfinite(value):
                    self._refuse_loss(name, value, step)
            self.fabric.log_dict(values | {"lr": self.learning_rate(step), "epoch": step / self.steps_per_epoch}, step)
        if self._losses:
            names = ("total", "classification", "lmim", "reconstruction", "fusion")
            shown = "  ".join(f"{name[:5]} {values[name]:.3f}" for name in names if name in values)
            bar.update(task, losses=f"{shown}  {self._images_per_second():.0f} images/s")
        self._losses.clear()

    def _refuse_loss(self, name: str, value: float, step: int) -> None:
        raise NonFiniteLossError(
            f"train: every part of the loss must be finite, got {name} = {value} in step {step + 1} "
            f"(epoch {step // self.steps_per_epoch + 1}). The last good checkpoint is kept in "
            f"{self.folder / CHECKPOINT}. Start again with a smaller --lr, or with --clip-norm 1."
        )

    def _validate(self) -> None:
        """At the end of an epoch, test the model on the validation faces and say how it does."""
        epoch, inside = divmod(self.position.step, self.steps_per_epoch)
        if inside:
            return
        line = f"epoch {epoch}/{self.config.epochs}: {self._images_per_second():.0f} images/s"
        if self.validation is not None:
            metrics = evaluate(self.fabric, self.model, self.validation, self.attributes)
            shown = {name: metrics[name] for name in ("accuracy", "balanced_accuracy")}
            self.fabric.log_dict({f"validation_{name}": value for name, value in shown.items()}, self.position.step - 1)
            line += f", validation accuracy {shown['accuracy']:.4f}, balanced {shown['balanced_accuracy']:.4f}"
        self.console.print(line, highlight=False)

    def _images_per_second(self) -> float:
        return self.position.images / max(self.position.seconds, 1e-9)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "objective": self.objective}

    @property
    def _states(self) -> dict[str, Any]:
        return {**self.optimizers, "scaler": self.scaler}

    def _save(self) -> None:
        for logger in self.fabric.loggers:
            logger.save()
        save_checkpoint(self.folder, self.config, self.attributes, self.position, self._modules, self._states)

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM as the wish to save and stop after the step, the second as what it is."""
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody catch signals
            yield
            return
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, _: FrameType | None) -> None:
            self._signal = number
            signal.signal(number, handlers[signal.Signals(number)])

        try:
            for number in handlers:
                signal.signal(number, note)
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @contextmanager
    def _showing_progress(self, last: int) -> Iterator[tuple[Progress, TaskID]]:
        columns = (TextColumn("training"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[losses]}"), console=self.console) as bar:
            yield bar, bar.add_task("", total=last, completed=self.position.step, losses="")


def make_fabric(config: Config, folder: Path) -> Fabric:
    """Return the device, the precision and the loggers of a run; a resumed run logs beside what it logged before.

    Raises:
        ConfigError: This machine lacks the accelerator, or the accelerator the precision.
    """
    on_cuda = config.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    if config.precision == "16-mixed" and not on_cuda:
        raise ConfigError("train: --precision 16-mixed needs CUDA, got none. Use bf16-mixed or 32-true.")
    csv = CSVLogger(folder, name=LOGS)
    tensorboard = TensorBoardLogger(folder, name=LOGS, version=csv.version)
    try:
        return Fabric(accelerator=config.accelerator, devices=1, precision=config.precision, loggers=[csv, tensorboard])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"train: --accelerator {config.accelerator} must be there, got none ({error}). Leave the option out."
        ) from error


def training_loader(config: Config, faces: FaceDataset) -> FaceLoader:
    """Return the training batches of a run."""
    mirror = MIRROR if config.os else 0.0
    return _loader(config, faces, shuffle=True, mirror=mirror)


def evaluation_loader(config: Config, faces: FaceDataset) -> FaceLoader:
    """Return all faces of a split in their order."""
    return _loader(config, faces, shuffle=False, mirror=0.0)


def _loader(config: Config, faces: FaceDataset, *, shuffle: bool, mirror: float) -> FaceLoader:
    return make_loader(
        faces,
        config.batch_size,
        seed=config.seed,
        shuffle=shuffle,
        drop_last=shuffle,
        mirror=mirror,
        workers=config.workers,
        skip_corrupt=config.skip_corrupt,
    )
