"""The training loop: Eq. 8 by Adam, the fusion weights by SGD, checkpoints that a run goes on from bit by bit.

A step draws its random numbers (dropout, negatives) from the run's seed and its own number, and its batch from the
seed, the epoch and its place in it. A run that was stopped anywhere therefore goes on as if it had not been.
"""

import hashlib
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

from blan_facial.baselines import Network
from blan_facial.config import Config, ConfigError
from blan_facial.data.faces import FaceDataset
from blan_facial.data.loading import Batch, FaceLoader, make_loader, normalize
from blan_facial.metrics import evaluate
from blan_facial.objective import BLANObjective
from blan_facial.runs import CHECKPOINT, LOGS, Position, load_checkpoint, save_checkpoint

LOG_EVERY = 10
"""Steps between two looks at the losses, each of which waits for the device."""

SHOWN = {"total": "loss", "classification": "cls", "lmim": "lmim", "reconstruction": "rec", "fusion": "fusion"}
"""The parts of the loss that the progress shows, and what it calls them."""

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

    def __init__(self, model: Network, objective: BLANObjective) -> None:
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
        fabric: Device and precision, from :func:`make_fabric`.
        model: The network, on the CPU.
        objective: What it minimises.
        train: Training faces.
        validation: Faces to test it on after every epoch, or None.
        console: Where progress is shown.
    """

    def __init__(
        self,
        config: Config,
        fabric: Fabric,
        model: Network,
        objective: BLANObjective,
        train: FaceDataset,
        validation: FaceDataset | None,
        console: Console,
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.model = model
        self.objective = objective
        self.console = console
        self.attributes = train.attributes
        self.data = {
            "images": len(train),
            "attributes": list(train.attributes),
            "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        }
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

    def restore(self, folder: Path) -> None:
        """Take up the run of a folder where its checkpoint stands.

        Raises:
            RunError: The checkpoint is broken, or of another configuration or other data.
        """
        self.position = load_checkpoint(folder, self.config, self.data, self._modules, self._states)

    def fit(self, folder: Path) -> Position:
        """Train to the end of the schedule, or to ``max_steps``, and return how far the run has come.

        Args:
            folder: Where checkpoint and logs go; a resumed run logs beside what it logged before.

        Raises:
            CorruptImageError: An image does not decode.
            NonFiniteLossError: A part of the loss or a weight is not finite; the last good checkpoint is kept.
            Stopped: SIGINT or SIGTERM came; the step at which it came is saved.
        """
        self.folder = folder
        csv = CSVLogger(folder, name=LOGS)
        self.loggers = [csv, TensorBoardLogger(folder, name=LOGS, version=csv.version)]
        if self.position.step == 0:
            self._save()
        last = min(self.steps, self.config.max_steps or self.steps)
        with self._catching_signals(), self._showing_progress(last) as (bar, task):
            while self.position.step < last:
                self._run_epoch(last, bar, task)
                self._look_at_losses(bar, task)
                self._save()
                self._validate()
                self._stop_if_asked()
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
            if len(batch.images) >= 2:  # corrupt images may leave too few to train on
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
                self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
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
            self._log(values | {"lr": self.learning_rate(step), "epoch": step / self.steps_per_epoch}, step)
        if self._losses:
            shown = "  ".join(f"{short} {values[name]:.3g}" for name, short in SHOWN.items() if name in values)
            bar.update(task, losses=shown, speed=f"{self._images_per_second():.0f} images/s")
        self._losses.clear()

    def _log(self, values: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step)

    def _save_logs(self) -> None:
        for logger in self.loggers:
            logger.save()

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
            self._log({f"validation_{name}": value for name, value in shown.items()}, self.position.step - 1)
            self._save_logs()
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
        """Write the checkpoint, unless the last update broke a weight.

        Raises:
            NonFiniteLossError: A weight is not finite.
        """
        self._save_logs()
        for name, tensor in self.step.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise NonFiniteLossError(
                    f"train: every weight must be finite, got a value in {name} that is not, after step "
                    f"{self.position.step}. The last good checkpoint is kept in {self.folder / CHECKPOINT}. "
                    "Start again with a smaller --lr, or with --clip-norm 1."
                )
        save_checkpoint(self.folder, self.config, self.data, self.position, self._modules, self._states)

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
        """Show step, time left, speed and losses, in two lines that fit 80 columns; nothing where no one looks on."""
        columns = (
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}\n{task.fields[losses]}"),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            yield bar, bar.add_task("", total=last, completed=self.position.step, losses="", speed="")


def make_fabric(config: Config) -> Fabric:
    """Return the device and the precision of a run.

    Raises:
        ConfigError: This machine lacks the accelerator, or the accelerator the precision.
    """
    on_cuda = config.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    if config.precision == "16-mixed" and not on_cuda:
        raise ConfigError("train: --precision 16-mixed needs CUDA, got none. Use bf16-mixed or 32-true.")
    try:
        fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"train: --accelerator {config.accelerator} must be there, got none ({error}). Leave the option out."
        ) from error
    if fabric.device.type == "cpu" and config.precision == "bf16-mixed" and config.image_size < 64:
        raise ConfigError(
            f"train: --precision bf16-mixed on a CPU needs --image-size 64 or more, got {config.image_size}: PyTorch's "
            "bfloat16 gradient of a convolution over a single pixel is wrong there. Use 32-true."
        )
    return fabric


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
