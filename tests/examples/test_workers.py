"""Workers that load images: what becomes of a run when they, their memory or the run's own folder fail."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from blan_facial.data.loading import EpochIndex, FaceView
from blan_facial.machines.workers import WorkerError
from blan_facial.training.learner import Learner
from blan_facial.training.loop import Trainer
from tests.examples.test_loading import NumberedFaces, loader
from tests.examples.test_train import SMALL, command, run, same, weights

CAN_MOUNT = (
    sys.platform == "linux"
    and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True, check=False
    ).returncode
)
needs_mount = pytest.mark.skipif(not CAN_MOUNT, reason="only root may mount a small file system")


class DyingFaces(NumberedFaces):
    def image(self, index: int) -> Any:
        if index == 5:
            time.sleep(0.5)  # the first batch is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


class SleepingFaces(NumberedFaces):
    def image(self, index: int) -> Any:
        time.sleep(600)


@pytest.mark.attack("15.6", "a worker is killed, as the system does where memory runs out")
def test_the_end_of_a_worker_is_told_where_it_is_waited_for() -> None:
    batches = iter(loader(DyingFaces(12), shuffle=False, workers=1))
    assert next(batches).indices.tolist() == [0, 1, 2, 3]
    time.sleep(1)  # it is dead by now, and nothing is raised
    with pytest.raises(WorkerError) as caught:
        next(batches)
    assert str(caught.value) == (
        "--workers: processes must run until everything is loaded, got one that was killed by SIGKILL, perhaps for "
        "lack of memory. Use fewer --workers, or --workers 0."
    )


@pytest.mark.attack("15.6", "a worker never answers")
def test_a_worker_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blan_facial.machines.workers.PATIENCE", 0.5)
    with pytest.raises(WorkerError, match="a batch must arrive within 0 s"):
        next(iter(loader(SleepingFaces(12), workers=1)))


@pytest.mark.attack("15.6", "a signal comes while workers do not answer")
def test_who_wants_to_stop_does_not_wait_for_workers() -> None:
    faces = loader(SleepingFaces(12), workers=1)
    faces.stopping = lambda: True
    batch = next(iter(faces))
    assert batch.images.shape == (0, 3, 8, 8)
    assert batch.labels.shape == (0, 2)


@pytest.mark.attack("15.6", "a program of the user's own sees its children end")
def test_the_handler_of_ended_children_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    next(iter(loader(NumberedFaces(8), workers=1)))
    assert signal.getsignal(signal.SIGCHLD) is before


WITHOUT_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
from tests.examples.test_loading import NumberedFaces, loader
try:
    next(iter(loader(NumberedFaces(40), workers=1)))
except ValueError as error:
    print(error)
"""


@pytest.mark.attack("15.6", "shared memory takes no batch, by a limit on the size of files")
def test_a_batch_without_room_in_shared_memory_is_told() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WITHOUT_ROOM]
    done = subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith("--workers: a batch, 0.0 MiB, must fit into the shared memory, ")
    assert "Use --workers 0, a smaller --batch-size, or give more shared memory" in done.stdout
    assert not done.stderr


def on_small_disk(place: str, size: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command where a file system of its own, of the size given, stands at a place."""
    shell = 'mount -t tmpfs -o size="$1" none "$2"; shift 2; exec "$@"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", shell, "sh", size, place, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_mount
@pytest.mark.attack("15.6", "/dev/shm of 1 MB, or of next to nothing, with workers")
@pytest.mark.parametrize(("size", "message"), [("1m", "a batch, 3.0 MiB, must fit"), ("4k", "processes must start")])
def test_shared_memory_that_is_too_small_ends_the_run_by_name(
    size: str, message: str, tmp_path: Path, repository: Path
) -> None:
    options = ["--image-size", "128", "--batch-size", "64", "--workers", "2", "--output", str(tmp_path / "run")]
    done = on_small_disk("/dev/shm", size, *command(repository, *SMALL, *options))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --workers: {message}")
    assert "/dev/shm with " in done.stderr
    assert "Use --workers 0" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "last.ckpt").exists()


@needs_mount
@pytest.mark.attack("15.6", "the disk of the output folder fills up")
@pytest.mark.parametrize("size", ["16k", "600k", "900k", "1200k"])
def test_a_full_disk_is_named(size: str, tmp_path: Path, repository: Path) -> None:
    done = on_small_disk(str(tmp_path), size, *command(repository, *SMALL, "--output", str(tmp_path / "run")))
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert str(tmp_path / "run") in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.attack("15.6", "a worker is killed while a run trains")
def test_a_run_whose_worker_is_killed_goes_on_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "whole") == 0
    load, here = FaceView.__getitems__, os.getpid()

    def deadly(view: FaceView, items: Sequence[EpochIndex]) -> Any:
        if (1, 7) in items and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(view, items)

    with monkeypatch.context() as patch:
        patch.setattr(FaceView, "__getitems__", deadly)
        assert run(tmp_path / "cut", "--workers", "1") == 1
    assert "got one that was killed by SIGKILL, perhaps for lack of memory" in capsys.readouterr().err
    assert run(tmp_path / "cut", "--resume") == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.attack("15.6", "an image vanishes while a run trains")
def test_a_run_whose_image_vanishes_keeps_every_step_that_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load, calls = FaceView.__getitems__, []

    def vanished(view: FaceView, items: Sequence[EpochIndex]) -> Any:
        calls.append(items)
        if len(calls) == 3:
            return FileNotFoundError(2, "No such file or directory", "gone.jpg")
        return load(view, items)

    monkeypatch.setattr(FaceView, "__getitems__", vanished)
    assert run(tmp_path) == 1
    assert "No such file or directory: 'gone.jpg'" in capsys.readouterr().err
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] == 2


@pytest.mark.attack("15.6", "the output folder is deleted, moved or made anew while a run trains")
@pytest.mark.parametrize("how", ["deleted", "moved", "anew"])
def test_a_folder_that_is_gone_is_the_cause(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, learn = tmp_path / "run", Learner.learn

    def losing(learner: Learner, step: int, *rest: Any) -> Any:
        if step == 2:
            folder.rename(tmp_path / "other") if how == "moved" else shutil.rmtree(folder)
            if how == "anew":
                folder.mkdir()
        return learn(learner, step, *rest)

    monkeypatch.setattr(Learner, "learn", losing)
    assert run(folder) == 1
    assert capsys.readouterr().err == (
        f"error: train: the output folder must stay in place until the run has ended, got {folder} moved or deleted. "
        "Move it back and continue with --resume, or start again.\n"
    )


@pytest.mark.attack("15", "a run is killed between the save at an epoch's end and its validation")
def test_a_validation_that_was_lost_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    def validated() -> list[str]:
        logs = (tmp_path / "logs").glob("version_*/metrics.csv")
        rows = [row for path in logs for row in csv.DictReader(path.read_text().splitlines())]
        return sorted(row["step"] for row in rows if row.get("validation_accuracy"))

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", killed)
        assert run(tmp_path) == 130
    assert validated() == []
    assert run(tmp_path, "--resume") == 0
    assert validated() == ["3", "7"]
    assert run(tmp_path, "--resume") == 0
    assert validated() == ["3", "7"]
