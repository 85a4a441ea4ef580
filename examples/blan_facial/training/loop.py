"""The training loop: Eq. 8 by Adam, the fusion weights by SGD, checkpoints that a run goes on from bit by bit.

A step draws its random numbers (dropout, negatives) from the run's seed, its own number and that of the process, and
its batch from the seed, the epoch and its place in it. A run that was stopped anywhere therefore goes on as if it had
not been. Several processes have an equal share of every batch, and step by step do the same or stop together.
"""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from blan_facial.config import Config
from blan_facial.data.faces import FaceDataset
from blan_facial.data.loading import Batch, FaceLoader, make_loader, normalize
from blan_facial.machines.processes import Processes
from blan_facial.machines.sharding import load_whole_states, whole_states
from blan_facial.machines.share import WHOLE, Share
from blan_facial.machines.signals import Stopped, Wish
from blan_facial.network.model import Network
from blan_facial.network.objective import Objective
from blan_facial.training.checkpoint import CHECKPOINT, LOGS, Checkpoint, Position, read_checkpoint, save_checkpoint
from blan_facial.training.metrics import evaluate
from shared.program import UserError

LOG_EVERY = 10
"""Steps between two looks at the losses, each of which waits for the device."""

MIRROR = 0.5
"""Probability of mirroring a training image, part of the overfitting suppression."""


class NonFiniteLossError(UserError):
    """A part of the loss became infinite or not a number."""


class TrainingStep(nn.Module):
    """Model and objective as one module, from a batch of bytes to the losses."""

    def __init__(self, model: Network, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss, and every part of it detached."""
        inputs = normalize(images)
        features = self.model(inputs, reconstruct=self.model.reconstructs)
        losses = self.objective(features, inputs, labels)
        return losses.total, losses.logged()


class Trainer:
    """One run of training.

    Args:
        config: Its settings.
        fabric: Device and precision, from :func:`blan_facial.machines.devices.make_fabric`.
        processes: Those that train together.
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
        processes: Processes,
        model: Network,
        objective: Objective,
        train: FaceDataset,
        validation: FaceDataset | None,
        console: Console,
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.processes = processes
        self.model = model
        self.objective = objective
        self.console = console
        self.data = {
            "images": len(train),
            "attributes": list(train.attributes),
            "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        }
        self.position = Position()
        with processes.together():
            self.loader = training_loader(config, train, processes.share)
            self.validation = None if validation is None else evaluation_loader(config, validation, processes.share)

        step: nn.Module = TrainingStep(model, objective)
        step = step.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types Module.to without it
        self.unwrapped = step
        sharded = processes.count > 1 and config.strategy == "fsdp"
        self._whole: Network | None = copy.deepcopy(model).to(fabric.device) if sharded else None
        if config.sync_batch_norm:
            step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
        if config.compile:
            step = torch.compile(step)  # type: ignore[assignment]  # a module that compiles what it holds
        self.step = fabric.setup_module(step)
        fusion = [] if model.fusion is None else list(model.fusion.parameters())
        others = [parameter for parameter in step.parameters() if all(parameter is not weight for weight in fusion)]
        self.adam = torch.optim.Adam(others, lr=config.lr, fused=fabric.device.type == "cuda" or None)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adam": self.adam}
        if fusion:
            self.optimizers["sgd"] = torch.optim.SGD(fusion, lr=config.fusion_lr)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.scaler = scaler or torch.amp.GradScaler(fabric.device.type, enabled=False)
        self._losses: list[tuple[int, dict[str, Tensor]]] = []
        self._wish = Wish()

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
        with self.processes.together():
            checkpoint = read_checkpoint(folder, self.config, self.data)
        load_whole_states(self.unwrapped, self.adam, checkpoint.weights, checkpoint.adam)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.position = checkpoint.position

    def whole_model(self) -> Network:
        """Return the model as it is, whole and the same in all processes, which call this together."""
        self.processes.spread_buffers(self.model)
        if self._whole is None:
            return self.model
        self._whole.load_state_dict(get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True)))
        return self._whole

    def fit(self, folder: Path) -> Position:
        """Train to the end of the schedule, or to ``max_steps``, and return how far the run has come.

        Args:
            folder: Where checkpoint and logs go; a resumed run logs beside what it logged before.

        Raises:
            CorruptImageError: An image does not decode.
            NonFiniteLossError: A part of the loss or a weight is not finite; the last good checkpoint is kept.
            PeerError: One of these came up in another process.
            Stopped: SIGINT, SIGTERM or SIGHUP came to one of the processes; the step at which it came is saved.
        """
        self.folder = folder
        self.loggers = _loggers(folder) if self.processes.first else []
        if self.position.step == 0:
            self._save()
        last = min(self.steps, self.config.max_steps or self.steps)
        with self._wish.listening(), self._showing_progress(last) as (bar, task):
            while self.position.step < last:
                self._run_epoch(last, bar, task)
                self._look_at_losses(bar, task)
                self._save()
                self._stop_if_asked()
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
            with self.processes.together():
                batch = next(batches)
            said = self.processes.numbers(self._wish.number, len(batch.images), batch.skipped)
            signals, images, skipped = said.unbind(1)
            loaded = time.perf_counter()
            if signals.any():
                self._look_at_losses(bar, task)
                self._save()
                self._stop(signals)
            if images.min() >= 2:  # corrupt images may leave too few to train on
                # Of unequal shares each counts as much as it has images, so that the mean is that of the whole batch.
                self._train_step(batch, len(batch.images) * self.processes.count / int(images.sum()))
            before = self.position
            self.position = Position(
                step=before.step + 1,
                images=before.images + int(images.sum()),
                skipped=before.skipped + int(skipped.sum()),
                seconds=before.seconds + time.perf_counter() - started,
                waiting=before.waiting + loaded - started,
            )
            bar.advance(task)
            if self.position.step % LOG_EVERY == 0:
                self._look_at_losses(bar, task)

    def _stop_if_asked(self) -> None:
        signals = self.processes.numbers(self._wish.number)
        if signals.any():
            self._stop(signals)

    def _stop(self, signals: Tensor) -> NoReturn:
        raise Stopped(int(signals.max()), self.position.step)

    def _train_step(self, batch: Batch, weight: float) -> None:
        step = self.position.step
        place = [self.config.seed, step, self.processes.rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
        self.adam.param_groups[0]["lr"] = self.learning_rate(step)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        total, losses = self.step(self.fabric.to_device(batch.images), self.fabric.to_device(batch.labels))
        if weight != 1:
            total, losses = weight * total, {name: weight * loss for name, loss in losses.items()}
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
        if not self._losses:
            return
        ours = torch.stack([torch.stack(list(losses.values())) for _, losses in self._losses]).cpu().double()
        rows = self.processes.mean(ours).tolist()
        with self.processes.together():
            if self.processes.first:
                for (step, losses), row in zip(self._losses, rows, strict=True):
                    values = dict(zip(losses, row, strict=True))
                    self._refuse_not_finite(values, step)
                    self._log(values | {"lr": self.learning_rate(step), "epoch": step / self.steps_per_epoch}, step)
                shown = "  ".join(f"{short} {values[name]:.3g}" for name, short in self.objective.shown.items())
                bar.update(task, losses=shown, speed=f"{self.position.images_per_second:.0f} images/s")
        self._losses.clear()

    def _log(self, values: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step)

    def _refuse_not_finite(self, values: dict[str, float], step: int) -> None:
        for name, value in sorted(values.items(), key=lambda part: "_AC" not in part[0]):  # those of a level say most
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"train: every part of the loss must be finite, got {name} = {value} in step {step + 1} "
                    f"(epoch {step // self.steps_per_epoch + 1}). The last good checkpoint is kept in "
                    f"{self.folder / CHECKPOINT}. Start again with a smaller --lr, or with --clip-norm 1."
                )

    def _save_logs(self) -> None:
        for logger in self.loggers:
            logger.save()

    def _validate(self) -> None:
        """At the end of an epoch, test the model on the validation faces and say how it does."""
        epoch, inside = divmod(self.position.step, self.steps_per_epoch)
        if inside:
            return
        line = f"epoch {epoch}/{self.config.epochs}: {self.position.images_per_second:.0f} images/s"
        if self.validation is not None:
            metrics = evaluate(self.fabric, self.whole_model(), self.validation, processes=self.processes)
            if not self.processes.first:
                return
            shown = {name: metrics[name] for name in ("accuracy", "balanced_accuracy")}
            self._log({f"validation_{name}": value for name, value in shown.items()}, self.position.step - 1)
            self._save_logs()
            line += f", validation accuracy {shown['accuracy']:.4f}, balanced {shown['balanced_accuracy']:.4f}"
        self.console.print(line, highlight=False)

    def _save(self) -> None:
        """Write the checkpoint, unless the last update broke a weight.

        Raises:
            NonFiniteLossError: A weight is not finite.
        """
        weights, adam = whole_states(self.unwrapped, self.adam)
        with self.processes.together():
            if self.processes.first:
                self._save_logs()
                self._refuse_broken(weights)
                checkpoint = Checkpoint(self.position, weights, adam, self.scaler.state_dict())
                save_checkpoint(self.folder, self.config, self.data, checkpoint)

    def _refuse_broken(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in weights.items():
            if not bool(tensor.isfinite().all()):
                raise NonFiniteLossError(
                    f"train: every weight must be finite, got a value in {name} that is not, after step "
                    f"{self.position.step}. The last good checkpoint is kept in {self.folder / CHECKPOINT}. "
                    "Start again with a smaller --lr, or with --clip-norm 1."
                )

    @contextmanager
    def _showing_progress(self, last: int) -> Iterator[tuple[Progress, TaskID]]:
        """Show step, time left, speed and losses, in two lines that fit 80 columns; nothing where no one looks on."""
        columns = (
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}\n{task.fields[losses]}"),
        )
        watched = self.processes.first and self.console.is_terminal
        with Progress(*columns, console=self.console, disable=not watched) as bar:
            yield bar, bar.add_task("", total=last, completed=self.position.step, losses="", speed="")


def _loggers(folder: Path) -> list[Logger]:
    """Return what writes the losses down, as a version of its own beside those of earlier sittings."""
    csv = CSVLogger(folder, name=LOGS)
    return [csv, TensorBoardLogger(folder, name=LOGS, version=csv.version)]


def training_loader(config: Config, faces: FaceDataset, share: Share = WHOLE) -> FaceLoader:
    """Return a process's share of the training batches of a run."""
    mirror = MIRROR if config.os else 0.0
    return _loader(config, faces, share, shuffle=True, mirror=mirror)


def evaluation_loader(config: Config, faces: FaceDataset, share: Share = WHOLE) -> FaceLoader:
    """Return a process's share of all faces of a split, in their order."""
    return _loader(config, faces, share, shuffle=False, mirror=0.0)


def _loader(config: Config, faces: FaceDataset, share: Share, *, shuffle: bool, mirror: float) -> FaceLoader:
    return make_loader(
        faces,
        config.batch_size,
        seed=config.seed,
        shuffle=shuffle,
        drop_last=shuffle,
        mirror=mirror,
        workers=config.workers,
        skip_corrupt=config.skip_corrupt,
        share=share,
    )
