"""The training log: losses are logged, shown, and checked for values that are not finite."""

import csv
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from blan_facial.machines.processes import Processes
from blan_facial.training.checkpoint import CHECKPOINT, LOGS, Position
from shared.program import UserError


class NonFiniteLossError(UserError):
    """A part of the loss, or a weight, became infinite or not a number."""


class TrainingLog:
    """Logs the losses, averaged over the processes, to CSV and TensorBoard files and to the terminal.

    Losses stay on the device until :meth:`look`, so that a step does not wait for them.

    Args:
        folder: The run's folder; a resumed run adds to its earlier logs.
        processes: The processes that train together; the first one writes.
        shown: Short names of the losses for the progress display, by their full names.
        console: Where progress is shown.
        steps_per_epoch: Steps of a whole epoch.
        learning_rate: Returns the learning rate of a step.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        shown: Mapping[str, str],
        console: Console,
        *,
        steps_per_epoch: int,
        learning_rate: Callable[[int], float],
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.shown = shown
        self.console = console
        self.steps_per_epoch = steps_per_epoch
        self.learning_rate = learning_rate
        self._loggers = _loggers(folder) if processes.first else []
        self._losses: list[tuple[int, dict[str, Tensor]]] = []
        self._bar = Progress(disable=True)
        self._task = self._bar.add_task("")

    @contextmanager
    def showing(self, position: Position, last: int) -> Iterator[None]:
        """Show step, time left, speed and losses in two lines of at most 80 columns, if the output is a terminal."""
        columns = (
            BarColumn(20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}\n{task.fields[losses]}"),
        )
        watched = self.processes.first and self.console.is_terminal
        with _errors_told_once(), Progress(*columns, console=self.console, disable=not watched) as self._bar:
            self._task = self._bar.add_task("", total=last, completed=position.step, losses="", speed="")
            yield

    def keep(self, step: int, losses: dict[str, Tensor]) -> None:
        """Store the losses of a completed step, and update the progress."""
        self._losses.append((step, losses))
        self._bar.update(self._task, completed=step + 1)

    def look(self, position: Position) -> None:
        """Log and show the losses since the last call, and stop if one is not finite.

        Raises:
            NonFiniteLossError: There is one.
            PeerError: Another process raised an error.
        """
        if not self._losses:
            return
        ours = torch.stack([torch.stack(list(losses.values())) for _, losses in self._losses]).cpu().double()
        rows = self.processes.mean(ours).tolist()
        with self.processes.together():
            if self.processes.first:
                for (step, losses), row in zip(self._losses, rows, strict=True):
                    values = dict(zip(losses, row, strict=True))
                    self._refuse_not_finite(values, step)
                    self.write(values | {"lr": self.learning_rate(step), "epoch": step / self.steps_per_epoch}, step)
                shown = "  ".join(f"{short} {values[name]:.3g}" for name, short in self.shown.items())
                self._bar.update(self._task, losses=shown, speed=f"{position.images_per_second:.0f} images/s")
        self._losses.clear()

    def write(self, values: dict[str, float], step: int) -> None:
        """Log values of a step."""
        for logger in self._loggers:
            logger.log_metrics(values, step)

    def has(self, name: str, step: int) -> bool:
        """Return whether a value of a step was logged, in this session or an earlier one."""
        for path in (self.folder / LOGS).glob("version_*/metrics.csv"):
            with path.open(newline="", encoding="utf-8") as lines:
                if any(row.get("step") == str(step) and row.get(name) for row in csv.DictReader(lines)):
                    return True
        return False

    def save(self) -> None:
        """Write the logged values to disk."""
        for logger in self._loggers:
            logger.save()

    def refuse_broken(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Refuse weights that are not finite.

        Raises:
            NonFiniteLossError: There are some.
        """
        for name, tensor in weights.items():
            if not bool(tensor.isfinite().all()):
                raise NonFiniteLossError(
                    f"train: every weight must be finite, got a value in {name} that is not, after step {step}. "
                    f"{self._remedy}"
                )

    def _refuse_not_finite(self, values: Mapping[str, float], step: int) -> None:
        for name, value in sorted(values.items(), key=lambda part: "_AC" not in part[0]):  # levels first
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"train: every part of the loss must be finite, got {name} = {value} in step {step + 1} "
                    f"(epoch {step // self.steps_per_epoch + 1}). {self._remedy}"
                )

    @property
    def _remedy(self) -> str:
        return (
            f"The last good checkpoint is {self.folder / CHECKPOINT}. Start again with a smaller --lr, or with "
            "--clip-norm 1."
        )


@contextmanager
def _errors_told_once() -> Iterator[None]:
    """Keep threads from printing disk errors, which TensorBoard's writer raises again on the next write."""
    before = threading.excepthook

    def tell(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


def _loggers(folder: Path) -> list[Logger]:
    """Return the loggers, which write a new version next to those of earlier sessions."""
    csv = CSVLogger(folder, name=LOGS)
    return [csv, TensorBoardLogger(folder, name=LOGS, version=csv.version)]
