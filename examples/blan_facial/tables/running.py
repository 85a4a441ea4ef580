"""Training runs in a process each: finished runs are read, unfinished ones are continued, several in parallel."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from blan_facial.config import RESUMABLE, Config, parse
from blan_facial.data.attributes import CELEBA_ATTRIBUTES, choose
from blan_facial.data.avatars import ATTRIBUTES as AVATARS
from blan_facial.results.environment import cores
from blan_facial.results.run_folder import METRICS, read_object, read_settings
from blan_facial.results.weights_file import file_digest
from blan_facial.tables.cells import DRAWN
from blan_facial.tables.sources import data_digest
from blan_facial.training.checkpoint import CHECKPOINT
from shared.files import LOCK, locked
from shared.program import UserError

TRAIN, EVALUATE = (Path(__file__).resolve().parents[1] / name for name in ("train.py", "evaluate.py"))
LOG = "train.log"
_LENGTH = ("max_steps", "extend")

_POLL = 0.1  # seconds
_OF_DATA = ("data_root", "image_folder", "labels")  # a run may resume with other paths, but a table has one data set


class ExperimentError(UserError):
    """An experiment that cannot be run as requested."""


@dataclass(frozen=True)
class Job:
    """A run with one seed and its folder."""

    name: str
    folder: Path
    arguments: tuple[str, ...]
    """Options of ``train.py``, without the folder."""

    @cached_property
    def config(self) -> Config:
        """The settings.

        Raises:
            ConfigError: They contradict one another.
        """
        return parse(self.arguments)

    def metrics(self) -> dict[str, Any] | None:
        """Return the metrics of a finished run; None if it is missing or unfinished.

        Raises:
            ExperimentError: The folder contains a run with other settings.
            RunError: The settings or the metrics of that run cannot be read.
        """
        wanted = self.config.comparable()  # refuses invalid settings before the first run
        asked = self.config.as_json()
        if not (self.folder / METRICS).is_file():
            return None
        settings, attributes = read_settings(self.folder)
        found = Config().as_json() | settings  # settings that an older release lacked have their defaults
        found["attributes"] = list(attributes)
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        differing += [name for name in found if name not in wanted and name not in RESUMABLE]
        differing += [name for name in _OF_DATA if _place(found.get(name)) != _place(asked[name])]
        differing += [] if self._asks_for(attributes) else ["attributes"]
        if differing:
            listed = ", ".join(f"{name} {found.get(name)!r} (now {asked.get(name)!r})" for name in differing)
            raise ExperimentError(
                f"experiments: a finished run must have the requested settings, got others in {self.folder}: "
                f"{listed}. Repeat its options, or give another --output."
            )
        if any(found[name] != asked[name] for name in _LENGTH):  # it ended early or late, or shall: it continues
            return None
        metrics = read_object(self.folder / METRICS, "metrics")
        if "temperature" in metrics:
            raise ExperimentError(
                "experiments: a finished run must have probabilities scaled for each attribute, got those of an older "
                f"version in {self.folder}. Remove the folder, or specify another --output."
            )
        return metrics

    def _asks_for(self, attributes: Sequence[str]) -> bool:
        """Return whether a run on these attributes is the requested one."""
        if not self.config.attributes:
            return set(attributes) == set(AVATARS if self.config.data in DRAWN else CELEBA_ATTRIBUTES)
        chosen, lacking = choose(self.config.attributes, attributes)
        return chosen == list(attributes) and not lacking

    def tested_on(self, data: str, root: Path) -> dict[str, Any]:
        """Return the metrics of the finished run on another data set, cached by weights and data.

        Raises:
            DataError: The data set cannot be used.
            ExperimentError: The test failed.
        """
        state = data_digest(Config.from_json({"data": data, "data_root": str(root)}), "test")
        key = hashlib.sha256(f"{file_digest(self.folder)} {root.resolve()} {state}".encode()).hexdigest()
        path = self.folder / "evaluation" / f"{data}-test-{key[:12]}.json"
        if not path.is_file():
            command = [sys.executable, str(EVALUATE), str(self.folder), "--data", data, "--data-root", str(root)]
            done = subprocess.run([*command, "--output", str(path)], capture_output=True, check=False)
            if done.returncode:
                words = " ".join(done.stderr.decode(errors="replace").split())
                raise ExperimentError(f"experiments: {self.name} must be tested on {data}, got {words}")
        return read_object(path, "metrics")

    def command(self) -> list[str]:
        """Return the command that starts or resumes the run."""
        how = "--resume" if (self.folder / CHECKPOINT).is_file() else "--overwrite"
        return [sys.executable, str(TRAIN), *self.arguments, "--output", str(self.folder), how]


class _Running(NamedTuple):
    """A run in a process."""

    job: Job
    process: "subprocess.Popen[bytes]"
    started: float
    """Seconds of the monotonic clock."""
    logged: int
    """Bytes of the log that are older."""


def _place(path: str | None) -> Path | None:
    return None if path is None else Path(path).resolve()


def complete(jobs: Sequence[Job], places: Sequence[dict[str, str]], console: Console) -> list[str]:
    """Complete the unfinished runs, one at a time in each place, and return error messages.

    Args:
        jobs: The runs.
        places: The environment variables of each place, such as its visible GPU.
        console: Where progress is shown.
    """
    waiting = [job for job in jobs if job.metrics() is None]
    console.print(f"{len(jobs)} runs, of which {len(jobs) - len(waiting)} are finished; {len(places)} at a time.")
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    failures = []
    running: dict[int, _Running] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar, _ended(running):
        task = bar.add_task("", total=len(jobs), completed=len(jobs) - len(waiting))
        while waiting or running:
            for place in set(range(len(places))) - set(running):
                if waiting:
                    running[place] = _start(waiting.pop(0), places[place])
            bar.update(task, description=", ".join(job.name for job, *_ in running.values()))
            time.sleep(_POLL)
            for place, (job, process, started, logged) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[place]
                bar.advance(task)
                if status:
                    words = _last_words(job.folder / LOG, logged)
                    with locked(job.folder / LOCK) as ended:  # another process may train there
                        remedy = f" To start over, remove {job.folder}." if ended else ""
                    failures.append(f"{job.name} ended with status {status}: {words}{remedy}")
                metrics = None if status else job.metrics()
                outcome = "failed" if metrics is None else f"accuracy {metrics['accuracy']:.4f}"
                console.print(f"{job.name}: {outcome}, {time.monotonic() - started:.0f} s", highlight=False)
    return failures


def places(count: int | None) -> list[dict[str, str]]:
    """Return the places for runs, each with a GPU or, without GPUs, a share of the CPU threads.

    Args:
        count: Number of simultaneous runs; None for one per GPU, or one per core but at most 4.
    """
    if gpus := torch.cuda.device_count():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = seen if len(seen) == gpus else [str(gpu) for gpu in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[place % gpus]} for place in range(count or gpus)]
    count = count or min(4, cores())
    return [{"OMP_NUM_THREADS": str(max(1, cores() // count))}] * count


@contextmanager
def _ended(running: dict[int, _Running]) -> Iterator[None]:
    """At the end of the experiment for any reason, ask its runs to save and stop, and wait for them."""
    try:
        yield
    finally:
        for run in running.values():
            run.process.terminate()
        for run in running.values():
            run.process.wait()


def _start(job: Job, environment: dict[str, str]) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOG).open("ab") as log:
        logged = log.tell()
        process = subprocess.Popen(
            job.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C reaches the experiment, which forwards it
        )
        return _Running(job, process, time.monotonic(), logged)


def _last_words(log: Path, start: int) -> str:
    """Return the error at the end of a log, or its last 500 characters."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    errors = [place for place, line in enumerate(lines) if line.startswith("error: ")]
    if errors:
        return " ".join(lines[errors[-1] :]).strip().removeprefix("error: ")
    return " ".join(line.strip() for line in lines if line.strip())[-500:]
