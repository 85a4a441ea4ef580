"""The command line and the trainer behind it: what a run leaves, refuses, survives and repeats."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from blan_facial.config import parse
from blan_facial.data.avatars import load_avatars
from blan_facial.data.loading import normalize
from blan_facial.machines.devices import make_fabric
from blan_facial.machines.processes import Processes
from blan_facial.network.builder import build
from blan_facial.results.finished import load_run
from blan_facial.tables.running import Job, complete
from blan_facial.train import main
from blan_facial.training.checkpoint import Position
from blan_facial.training.learner import Learner
from blan_facial.training.log import TrainingLog
from blan_facial.training.loop import Trainer
from shared.program import SIGNALS
from tests.examples.celeba_folder import write_celeba_folder

SMALL = [
    *("--images", "64", "--image-size", "32", "--width", "4", "--summary-channels", "8", "--critic-channels", "8"),
    *("--batch-size", "16", "--epochs", "2", "--warmup-steps", "0", "--accelerator", "cpu"),
]
STEPS = 2 * 64 // 16


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def run(folder: Path, *options: str) -> int:
    return main([*SMALL, "--output", str(folder), *options])


def command(repository: Path, *options: str) -> list[str]:
    return [sys.executable, str(repository / "examples" / "blan_facial" / "train.py"), *options]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in CelebA's formats, of which a part of the images is missing, with CRLF line ends."""
    faces = load_avatars("train", image_size=40, count=96)
    return write_celeba_folder(
        tmp_path_factory.mktemp("celeba"),
        [faces.image(index) for index in range(len(faces))],
        faces.labels,
        faces.attributes,
        newline="\r\n",
        missing=(3, 10, 11, 40),
    )


class TestResults:
    def test_the_folder_holds_what_the_interface_says(self, finished: Path) -> None:
        names = {path.name for path in finished.iterdir()}
        assert names == {
            ".lock",
            "config.json",
            "metrics.json",
            "last.ckpt",
            "model.safetensors",
            "logs",
            "faces.png",
            "attention.png",
            "reconstructions.png",
            "accuracy.png",
            "environment.json",
            "report.html",
        }
        assert {path.name.split(".")[0] for path in (finished / "logs" / "version_0").iterdir()} == {
            "metrics",
            "events",
        }

    def test_metrics_have_the_public_layout(self, finished: Path) -> None:
        metrics = json.loads((finished / "metrics.json").read_text())
        assert list(metrics) == [
            "data",
            "split",
            "images",
            "accuracy",
            "majority_accuracy",
            "balanced_accuracy",
            "per_level",
            "per_attribute",
            "average_precision",
            "calibration_error",
            "nll",
            "scaling",
            "scaled_calibration_error",
            "scaled_nll",
            "scaled_accuracy",
            "scaled_balanced_accuracy",
            "statistics",
            "parameters",
            "training_parameters",
            "kept",
            "train_seconds",
            "waiting_seconds",
            "images_per_second",
            "labels",
        ]
        counted = [sum(numbers.values()) for numbers in metrics["labels"]["test"].values()]
        assert counted == [64] * len(metrics["per_attribute"])
        assert (metrics["data"], metrics["split"], metrics["images"]) == ("avatars", "test", 64)
        scaling = load_run(finished).scaling
        assert scaling is not None
        assert scaling.images == metrics["scaling"]["images"] == 64  # of the validation split
        assert scaling.shift == tuple(metrics["scaling"]["shift"].values())
        levels = ["AC1", "AC2", "AC3", "AC4", "sum", "fused"]
        assert list(metrics["per_level"]) == levels
        for rates in metrics["per_attribute"].values():
            assert list(rates) == ["accuracy", "majority", "balanced", *levels]
            assert all(0 <= rate <= 1 for rate in rates.values())
        assert metrics["accuracy"] == metrics["per_level"]["fused"]
        mean = np.mean([rates["accuracy"] for rates in metrics["per_attribute"].values()])
        assert metrics["accuracy"] == pytest.approx(mean)

    def test_the_weights_alone_give_the_metrics_again(self, finished: Path) -> None:
        config = json.loads((finished / "config.json").read_text())
        assert config["image_size"] == 32
        assert tuple(config["attributes"]) == load_avatars("test", image_size=32, count=64).attributes
        faces = load_avatars("test", image_size=32, count=64)
        model, _ = build(parse([*SMALL]), faces.attributes)
        model.load_state_dict(weights(finished), strict=True)
        with torch.no_grad():
            output = model.eval()(
                normalize(torch.from_numpy(np.stack([faces.image(index) for index in range(64)])).movedim(-1, 1))
            )
        accuracy = (output.logits.argmax(-1).numpy() == faces.labels).mean()
        metrics = json.loads((finished / "metrics.json").read_text())
        assert accuracy == pytest.approx(metrics["accuracy"], abs=2e-3)  # another batch size rounds otherwise
        assert not any("critic" in name or "lmim" in name for name in weights(finished))

    def test_every_step_is_logged_with_all_parts_of_the_loss(self, finished: Path) -> None:
        lines = (finished / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
        header = lines[0].split(",")
        assert {"total", "classification", "lmim", "reconstruction", "fusion", "cls_AC1", "lmim_AC4", "lr"} <= {*header}
        measured = {"accuracy", "balanced_accuracy", "average_precision"}
        assert {f"validation_{name}" for name in measured} <= {*header}
        steps = [int(line.split(",")[header.index("step")]) for line in lines[1:]]
        assert sorted(set(steps)) == list(range(STEPS))
        validated = [line for line in lines[1:] if line.split(",")[header.index("validation_accuracy")]]
        assert len(validated) == 2  # the last epoch's too

    @pytest.mark.usefixtures("_without_report")
    def test_training_lowers_the_loss(self, tmp_path: Path) -> None:
        assert run(tmp_path, "--epochs", "12") == 0
        lines = (tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("classification")
        losses = [float(value) for line in lines[1:] if (value := line.split(",")[column])]
        assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])

    @pytest.mark.usefixtures("_without_report")
    def test_one_seed_gives_one_result_and_another_another(self, finished: Path, tmp_path: Path) -> None:
        assert run(tmp_path / "again", "--workers", "1") == 0
        assert same(weights(finished), weights(tmp_path / "again"))
        assert run(tmp_path / "other", "--seed", "1") == 0
        assert not same(weights(finished), weights(tmp_path / "other"))

    @pytest.mark.parametrize(
        "switch",
        [
            *("--no-decoder", "--no-encoder-features", "--join=concat", "--join=attention-gate", "--join=rar"),
            *("--no-lmim", "--no-fusion", "--no-os", "--decoder-order=stage-upsample"),
        ],
    )
    def test_every_ablation_trains_and_reports(self, switch: str, finished: Path, tmp_path: Path) -> None:
        critics = ["--critic-channels", "64"] if switch == "--no-lmim" else []  # as the preset has it
        assert run(tmp_path, "--epochs", "1", switch, *critics) == 0
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        whole = json.loads((finished / "metrics.json").read_text())
        assert (metrics["per_level"]["fused"] is None) == (switch == "--no-fusion")
        if switch in ("--no-os", "--decoder-order=stage-upsample"):
            assert metrics["training_parameters"] == whole["training_parameters"]
        elif switch.startswith("--join"):
            assert metrics["parameters"] != whole["parameters"]
        else:
            assert metrics["training_parameters"] < whole["training_parameters"]
        gated = switch not in ("--no-decoder", "--no-encoder-features", "--join=concat")
        assert (tmp_path / "attention.png").exists() == gated
        assert (tmp_path / "reconstructions.png").exists() == (switch != "--no-decoder")

    @pytest.mark.usefixtures("_without_report")
    def test_max_steps_ends_early_on_the_same_schedule(self, finished: Path, tmp_path: Path) -> None:
        assert run(tmp_path, "--max-steps", "3") == 0
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] == 3
        assert run(tmp_path, "--resume") == 0
        assert same(weights(tmp_path), weights(finished))

    @pytest.mark.usefixtures("_without_report")
    @pytest.mark.parametrize("option", [["--lr-decay", "step"], ["--clip-norm", "1"], ["--warmup-steps", "3"]])
    def test_options_of_training_change_the_result(self, option: list[str], finished: Path, tmp_path: Path) -> None:
        assert run(tmp_path, *option) == 0
        assert not same(weights(tmp_path), weights(finished))

    @pytest.mark.usefixtures("_without_report")
    def test_bfloat16_trains_and_resumes_exactly_too(self, tmp_path: Path) -> None:
        options = ["--image-size", "64", "--images", "32"]
        assert run(tmp_path / "float32", *options) == 0
        assert run(tmp_path / "whole", *options, "--precision", "bf16-mixed") == 0
        assert not same(weights(tmp_path / "whole"), weights(tmp_path / "float32"))
        assert run(tmp_path / "parts", *options, "--precision", "bf16-mixed", "--max-steps", "1") == 0
        assert run(tmp_path / "parts", *options, "--precision", "bf16-mixed", "--resume") == 0
        assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.usefixtures("_without_report")
class TestInterruption:
    def test_killed_at_a_random_moment_and_resumed_it_ends_in_the_same_weights(
        self, finished: Path, tmp_path: Path, repository: Path
    ) -> None:
        arguments = command(repository, *SMALL, "--output", str(tmp_path))
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        delay = random.random() * 0.3
        deadline = time.monotonic() + 120
        while not (tmp_path / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
        process.communicate()
        done = torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"]
        assert 0 <= done <= STEPS
        assert run(tmp_path, "--resume") == 0
        assert same(weights(tmp_path), weights(finished)), f"killed after {delay} s, resumed from step {done}"

    @pytest.mark.parametrize(
        ("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (SIGNALS[-1], 4), (signal.SIGTERM, 6)]
    )
    def test_a_signal_saves_at_its_step_and_resumes_there(
        self, number: signal.Signals, step: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        learn = Learner.learn

        def interrupted(self: Learner, place: int, *batch: Any) -> dict[str, torch.Tensor]:
            losses = learn(self, place, *batch)
            if place + 1 == step:
                signal.raise_signal(number)
            return losses

        with monkeypatch.context() as patch:
            patch.setattr(Learner, "learn", interrupted)
            assert run(tmp_path) == 128 + number
        assert f"stopped by {number.name} after step {step} and saved" in " ".join(capsys.readouterr().out.split())
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] == step
        assert not (tmp_path / "metrics.json").exists()
        assert run(tmp_path, "--resume", "--workers", "1") == 0
        assert same(weights(tmp_path), weights(finished))
        assert {path.name for path in (tmp_path / "logs").iterdir()} == {"version_0", "version_1"}

    def test_sigterm_from_outside_ends_the_program_with_its_status(self, tmp_path: Path, repository: Path) -> None:
        arguments = command(repository, *SMALL, "--epochs", "2000", "--output", str(tmp_path))
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (tmp_path / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert "the same command with --resume continues from there" in " ".join(output.split())
        assert not errors
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] > 0

    def test_a_signal_while_validating_stops_before_the_next_step(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        validate = Trainer._judge

        def interrupted(self: Trainer, log: TrainingLog) -> None:
            signal.raise_signal(signal.SIGTERM)
            validate(self, log)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_judge", interrupted)
            assert run(tmp_path) == 128 + signal.SIGTERM
            assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] == STEPS // 2
            assert run(tmp_path, "--resume") == 128 + signal.SIGTERM  # after the last epoch, before the test
        assert run(tmp_path, "--resume") == 0
        assert same(weights(tmp_path), weights(finished))

    def test_ctrl_c_elsewhere_ends_without_a_traceback(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("blan_facial.train.evaluate", interrupted)
        assert run(tmp_path, "--max-steps", "1") == 130
        assert capsys.readouterr().err.strip() == "Stopped."

    def test_the_handlers_are_put_back(self, tmp_path: Path) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert run(tmp_path, "--max-steps", "1") == 0
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_a_full_disk_keeps_the_earlier_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path, "--max-steps", "4") == 0
        before = (tmp_path / "last.ckpt").read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            assert run(tmp_path, "--resume") == 1
        assert "No space left on device" in capsys.readouterr().err
        assert (tmp_path / "last.ckpt").read_bytes() == before
        assert not list(tmp_path.glob("*.tmp"))

    def test_a_disk_that_fills_up_in_reality(self, tmp_path: Path, repository: Path) -> None:
        limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        script = str(repository / "examples" / "blan_facial" / "train.py")
        code = (
            limit + f"sys.argv[0] = {script!r}; sys.path.insert(0, ''); runpy.run_path({script!r}, run_name='__main__')"
        )
        arguments = [sys.executable, "-c", code, *SMALL, "--output", str(tmp_path)]
        result = subprocess.run(arguments, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith("error: train: files must be readable and outputs writable, got [Errno")
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "last.ckpt").exists()
        assert not list(tmp_path.glob("*.tmp"))

    def test_an_update_that_breaks_a_weight_does_not_replace_the_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        learn = Learner.learn

        def broken(self: Learner, place: int, *batch: Any) -> dict[str, torch.Tensor]:
            losses = learn(self, place, *batch)
            if place + 1 == STEPS // 2:
                self.model.encoder.conv1.weight.data[0] = torch.nan
            return losses

        monkeypatch.setattr(Learner, "learn", broken)
        assert run(tmp_path) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert (
            "every weight must be finite, got a value in model.encoder.conv1.weight that is not, after step 4"
            in message
        )
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"] == 0

    def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path, "--lr", "1e30") == 1
        message = " ".join(capsys.readouterr().err.split())
        found = re.search(
            r"every part of the loss must be finite, got (\w+) = (nan|inf) in step (\d+) \(epoch 1\)\. The last good "
            r"checkpoint is .*last\.ckpt\. Start again with a smaller --lr, or with --clip-norm 1\.$",
            message,
        )
        assert found, message
        assert found[1].startswith(("cls_AC", "lmim_AC", "reconstruction"))
        logged = (tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
        assert len(logged) == int(found[3])  # a heading, and the steps before the one that is not finite
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert content["position"]["step"] == 0
        assert all(tensor.isfinite().all() for tensor in content["weights"].values())


@pytest.mark.usefixtures("_without_report")
class TestCelebA:
    def options(self, root: Path) -> list[str]:
        return [*SMALL, "--data", "celeba", "--data-root", str(root), "--max-steps", "3"]

    def test_trains_on_a_partial_official_folder(
        self, celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*self.options(celeba), "--workers", "2", "--output", str(tmp_path)]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert "4 of 96 label rows have no image or no partition row and were left out." in output
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert (metrics["data"], metrics["images"]) == ("celeba", 12)

    def test_a_corrupt_image_stops_by_name_or_is_skipped_and_counted(
        self, celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = tmp_path / "celeba"
        faces = load_avatars("train", image_size=40, count=96)
        write_celeba_folder(root, [faces.image(index) for index in range(len(faces))], faces.labels, faces.attributes)
        broken = root / "img_align_celeba" / "000002.jpg"
        whole = broken.read_bytes()
        for path in (broken, broken.with_name("000008.jpg")):  # one to train on, one of the test
            path.write_bytes(path.read_bytes()[:200])
        options = [*self.options(root)[:-2], "--epochs", "1"]
        assert main([*options, "--output", str(tmp_path / "a")]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert f"{broken}: image 1 must decode completely" in error
        assert main([*options, "--skip-corrupt", "--output", str(tmp_path / "b")]) == 0
        output = " ".join(capsys.readouterr().out.split())
        assert "Corrupt images were left out of training batches 1 times." in output
        assert "1 of 12 test images were corrupt and left out." in output
        content = torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)
        assert content["position"]["skipped"] == 1
        assert content["position"]["images"] == content["position"]["step"] * 16 - 1
        broken.write_bytes(whole)  # the other is found after training
        assert main([*options, "--output", str(tmp_path / "c")]) == 1
        assert main([*options, "--resume", "--skip-corrupt", "--output", str(tmp_path / "c")]) == 0


def test_the_progress_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True)
    config = parse(SMALL)
    _, objective = build(config, ("Smiling",))
    processes = Processes(make_fabric(config))
    log = TrainingLog(
        tmp_path, processes, objective.shown, console, steps_per_epoch=4, learning_rate=lambda step: config.lr
    )
    position = Position(step=STEPS, images=16 * STEPS, seconds=1)
    with log.showing(position, STEPS):
        log.keep(STEPS - 1, dict.fromkeys(objective.shown, torch.tensor(123.456)))
        log.look(position)
    shown = screen.getvalue()
    assert f"{STEPS}/{STEPS}" in shown
    assert "images/s" in shown
    assert "loss 123  cls 123  lmim 123  rec 123  fusion 123" in shown


def test_a_fusion_without_its_loss_is_not_stepped() -> None:
    config = parse([*SMALL, "--gamma", "0"])
    fabric = make_fabric(config)
    learner = Learner(config, fabric, Processes(fabric), *build(config, ("Smiling", "Bald")))
    assert learner.optimizers == [learner.adam]
    assert learner.model.fusion is not None
    trained = {id(weight) for group in learner.adam.param_groups for weight in group["params"]}
    assert id(learner.model.fusion.weight) not in trained


Prepare = Callable[[Path], list[str]]


def with_results(folder: Path) -> list[str]:
    assert run(folder, "--max-steps", "1") == 0
    return []


def with_broken_checkpoint(folder: Path) -> list[str]:
    (folder / "last.ckpt").write_bytes(b"not a checkpoint")
    return ["--resume"]


def with_truncated_checkpoint(folder: Path) -> list[str]:
    with_results(folder)
    content = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(content[: len(content) // 2])
    return ["--resume"]


def with_old_checkpoint(folder: Path) -> list[str]:
    torch.save({"format": 1, "config": {}, "data": {}}, folder / "last.ckpt")
    return ["--resume"]


def with_other_width(folder: Path) -> list[str]:
    with_results(folder)
    return ["--resume", "--width", "8", "--lr", "0.5"]


def with_output_below_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--output", str(folder / "file" / "run")]


MISTAKES: list[tuple[Prepare, str]] = [
    (
        with_results,
        "train: the output folder must not contain results, got config.json, metrics.json, last.ckpt, "
        "model.safetensors in "
        "{folder}. Give --resume to continue, --overwrite to start over, or another --output.",
    ),
    (
        lambda folder: ["--resume"],
        "train: --resume needs a checkpoint to continue from, got none at {folder}/last.ckpt. "
        "Name the run's folder with --output, or leave --resume out to start a run.",
    ),
    (
        with_broken_checkpoint,
        "train: {folder}/last.ckpt must be a checkpoint of this program, got a file that does not load "
        "(BadZipFile). Start over with --overwrite.",
    ),
    (
        with_truncated_checkpoint,
        "train: {folder}/last.ckpt must be a checkpoint of this program, got a file that does not load "
        "(BadZipFile). Start over with --overwrite.",
    ),
    (
        with_old_checkpoint,
        "train: {folder}/last.ckpt must have checkpoint format 3, got 1. Use the release that wrote it.",
    ),
    (
        with_other_width,
        "train: --resume needs the configuration that the checkpoint was written with, got another in {folder}: "
        "lr 0.008 (now 0.5), width 4 (now 8). Repeat the run's options, or start a new run.",
    ),
    (
        with_output_below_a_file,
        "train: the output folder must be writable, got {folder}/file/run (Not a directory). Give another --output.",
    ),
    (
        lambda folder: ["--image-size", "48"],
        "train: --image-size must be divisible by 32, got 48. Use 64, for example.",
    ),
    (
        lambda folder: ["--data", "celeba"],
        "train: --data celeba needs --data-root, got none. Name the data set's official folder.",
    ),
    (
        lambda folder: ["--data", "celeba", "--data-root", str(folder / "nowhere")],
        "load_celeba: the data folder must exist, got {folder}/nowhere (nothing there). Name it with --data-root.",
    ),
    (
        lambda folder: ["--image-folder", "x"],
        "train: --image-folder is only for --data celeba and lfwa, got --data avatars. Leave it out.",
    ),
    (
        lambda folder: ["--lfwa-split", "80:10"],
        "train: --lfwa-split is only for --data lfwa, got --data avatars. Leave it out.",
    ),
    (
        lambda folder: ["--data", "lfwa", "--data-root", "x", "--keep", "best"],
        "train: --keep best needs validation images, got --lfwa-split 50:50. Use --lfwa-split 80:10, or --keep last.",
    ),
    (
        lambda folder: ["--train-images", "64"],
        "train: --train-images must be below --images, which limits every split, got 64 and 64. Leave one of them out.",
    ),
    (
        lambda folder: ["--data-root", "x"],
        "train: --data avatars draws its faces, got --data-root x. Leave --data-root out.",
    ),
    (
        lambda folder: ["--skip-corrupt"],
        "train: --data avatars has no image files that could be corrupt, got --skip-corrupt. Leave it out.",
    ),
    (
        lambda folder: ["--batch-size", "1"],
        "train: --batch-size must be at least 2, for norms and negative pairs, got 1. Raise it.",
    ),
    (
        lambda folder: ["--batch-size", "65"],
        "train: --batch-size must be at most the number of images, 64, since incomplete batches are dropped, "
        "got 65. Use smaller batches or more images.",
    ),
    (
        lambda folder: ["--labelled", "4", "--unlabelled", "--labelled-fraction", "0.9"],
        "train: a batch needs 14 labelled faces, got 4 training faces. Use smaller batches, or another",
    ),
    (
        lambda folder: ["--labelled", "4", "--unlabelled", "--labelled-fraction", "nan"],
        "train: --labelled-fraction must leave room for both kinds in a batch of 16, got nan. Use 0.5, for example.",
    ),
    (lambda folder: ["--seed", str(2**64)], f"train: --seed must be less than 2**64, got {2**64}. Give a smaller"),
    (lambda folder: ["--epochs", "0"], "train: --epochs must be at least 1, got 0. Give a positive number."),
    (lambda folder: ["--workers", "-1"], "train: --workers must not be negative, got -1. Give 0 or more."),
    (lambda folder: ["--lr", "nan"], "train: --lr must be a positive number, got nan. Give a number above 0."),
    (lambda folder: ["--alpha", "-1"], "train: --alpha must be 0 or a positive number, got -1.0. Give 0 or more."),
    (lambda folder: ["--devices", "0"], "train: --devices must be at least 1, got 0. Give a positive number, or auto."),
    (
        lambda folder: ["--devices", "3"],
        "train: --batch-size must give 3 equal shares of at least 2 images, one per device, got 16. "
        "Use 15, for example.",
    ),
    (
        lambda folder: ["--nodes", "2"],
        "train: --nodes 2 needs torchrun, which connects the machines, got a plain start. On each machine run torchrun "
        "--nnodes 2 --nproc-per-node DEVICES --rdzv-backend c10d --rdzv-endpoint HOST:PORT instead of python.",
    ),
    (lambda folder: ["--strategy", "fsdp"], "train: --strategy fsdp needs several devices, got 1. Leave it out."),
    (
        lambda folder: ["--strategy", "fsdp", "--devices", "2", "--precision", "16-mixed"],
        "train: --strategy fsdp does not support loss scaling, got --precision 16-mixed. Use bf16-mixed or 32-true.",
    ),
    (
        lambda folder: ["--sync-batch-norm", "--devices", "2"],
        "train: --sync-batch-norm needs CUDA, got cpu, for which PyTorch has none. Leave it out.",
    ),
    (
        lambda folder: ["--precision", "bf16-mixed"],
        "train: --precision bf16-mixed on a CPU needs --image-size 64 or more, got 32: PyTorch's bfloat16 gradient of "
        "a convolution over a single pixel is wrong there. Use 32-true.",
    ),
    (
        lambda folder: ["--no-lmim", "--alpha", "0.7"],
        "train: --alpha has no effect with --no-lmim, got both. Give one of them.",
    ),
    (
        lambda folder: ["--alpha", "0", "--critic-channels", "16"],
        "train: --critic-channels has no effect with --alpha 0, got both. Give one of them.",
    ),
    (
        lambda folder: ["--gamma", "0", "--fusion-lr", "1"],
        "train: --fusion-lr has no effect with --gamma 0, got both. Give one of them.",
    ),
    (
        lambda folder: ["--join", "none", "--arrangement", "parallel"],
        "train: --arrangement has no effect with --join none, got both. Give one of them.",
    ),
    (lambda folder: ["--blocks", "1", "0", "1", "1"], "train: --blocks must be 1 to 256 each, got 1 0 1 1. Use 3 4"),
    (
        lambda folder: ["--join", "none", "--beta", "0"],
        "train: --join none uses the decoder only for the reconstruction, got --beta 0. Use --no-decoder.",
    ),
    (
        lambda folder: ["--join", "rar", "--no-rdam-norm"],
        "train: --no-rdam-norm has no effect with --join rar, got both. Give one of them.",
    ),
    (lambda folder: ["--dropout", "1"], "train: --dropout must be in [0, 1), got 1.0. Use 0.5, or 0 for none."),
    (lambda folder: ["--width", "0"], "train: --width must be at least 1, got 0. Give a positive number."),
    (
        lambda folder: ["--no-encoder-features", "--arrangement", "parallel"],
        "train: --arrangement has no effect with --no-encoder-features, got both. Give one of them.",
    ),
    (lambda folder: ["--alpha", "inf"], "train: --alpha must be 0 or a positive number, got inf. Give 0 or more."),
    (
        lambda folder: ["--resume", "--overwrite"],
        "train: --resume and --overwrite exclude each other, got both. Give one of them.",
    ),
    (
        lambda folder: ["--precision", "16-mixed"],
        "train: --precision 16-mixed needs CUDA, got none. Use bf16-mixed or 32-true.",
    ),
    (
        lambda folder: ["--no-decoder", "--no-encoder-features"],
        "train: needs features to classify, got --no-decoder and --no-encoder-features. "
        "Use --no-decoder to classify the encoder's, or --no-encoder-features to classify the decoder's.",
    ),
    (
        lambda folder: ["--encoder-weights", str(folder / "none.pth")],
        "Encoder weights: need ResNet-34's width 64 and blocks (3, 4, 6, 3), got width 4 and blocks (1, 1, 1, 1). "
        "Give --encoder-weights None, or leave out --width and --blocks.",
    ),
]


@pytest.mark.usefixtures("_without_report")
@pytest.mark.parametrize(
    ("prepare", "message"), MISTAKES, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_a_mistake_gets_one_clear_error(
    prepare: Prepare, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = prepare(tmp_path)
    capsys.readouterr()
    assert run(tmp_path, *options) == 1
    captured = capsys.readouterr()
    assert message.format(folder=tmp_path) in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


@pytest.mark.usefixtures("_without_report")
@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        *MISTAKES[:2],
        (with_output_below_a_file, "train: the output folder must be writable, got "),
        (lambda folder: ["--init-from", str(folder / "no")], "{folder}/no: must be the output folder of a run, got no"),
        (
            lambda folder: [*with_results(folder), "--init-from", str(folder), "--overwrite"],
            "train: --output must not be the run of --init-from, which would be lost, got {folder} for both.",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_the_data_are_read(
    prepare: Prepare, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    monkeypatch.setattr("blan_facial.train.load_splits", None)
    assert run(tmp_path, *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {message.format(folder=tmp_path)}")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_held_by_one_run(tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = (
        "import sys; from pathlib import Path; from shared.files import locked\nwith locked(Path(sys.argv[1])): input()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=repository / "examples") as other:
        while not (tmp_path / ".lock").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        before = sorted(tmp_path.iterdir())
        assert run(tmp_path, "--max-steps", "1") == 1
        assert sorted(tmp_path.iterdir()) == before
        (failure,) = complete([Job("a run", tmp_path, tuple(SMALL))], [{}], Console())
        assert failure.endswith("where another run is training. Wait for it, or give another --output.")
        other.communicate(b"\n")
    assert capsys.readouterr().err == (
        f"error: train: the output folder must be free, got {tmp_path}, where another run is training. "
        "Wait for it, or give another --output.\n"
    )
    assert run(tmp_path, "--max-steps", "1") == 0


def test_overwrite_starts_over(tmp_path: Path, finished: Path) -> None:
    assert run(tmp_path, "--seed", "5", "--max-steps", "1") == 0
    (tmp_path / "notes.txt").write_text("the user's own")
    (tmp_path / "logs" / "mine.txt").write_text("the user's own")
    assert run(tmp_path, "--overwrite", "--no-decoder", "--max-steps", "1") == 0
    assert not (tmp_path / "attention.png").exists()
    assert run(tmp_path, "--overwrite") == 0
    assert same(weights(tmp_path), weights(finished))
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"version_0", "mine.txt"}
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.usefixtures("_without_report")
def test_a_refused_run_leaves_the_folder_as_it_was(finished: Path, tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    assert run(tmp_path, "--batch-size", "65") == 1
    assert not content()
    assert run(tmp_path) == 0
    before = content()
    assert run(tmp_path, "--resume", "--width", "8") == 1
    assert run(tmp_path, "--overwrite", "--precision", "16-mixed") == 1
    assert run(tmp_path, "--overwrite", "--batch-size", "65") == 1
    assert content() == before


@pytest.mark.usefixtures("_without_report")
def test_resuming_on_other_data_is_refused(celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--data", "celeba", "--data-root", str(celeba), "--output", str(tmp_path), "--max-steps", "1"]
    assert main(options) == 0
    faces = load_avatars("validation", image_size=40, count=96)
    other = write_celeba_folder(
        tmp_path / "other", [faces.image(index) for index in range(len(faces))], faces.labels, faces.attributes
    )
    options[options.index(str(celeba))] = str(other)
    assert main([*options, "--resume"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "--resume needs the data that the checkpoint" in message
    assert "64 images with 23 attributes" in message


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04 garbage", os.urandom(500)])
def test_no_broken_checkpoint_gets_a_traceback(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    assert run(tmp_path, "--resume") == 1
    assert "must be a checkpoint of this program, got a file that does not load" in capsys.readouterr().err


@pytest.mark.usefixtures("_without_report")
def test_resuming_a_finished_run_tests_it_again(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    (tmp_path / "metrics.json").unlink()
    assert run(tmp_path, "--resume") == 0
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["per_attribute"] == json.loads((finished / "metrics.json").read_text())["per_attribute"]


def test_the_script_explains_itself_from_any_folder(tmp_path: Path, repository: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "100"}
    result = subprocess.run(
        command(repository, "--preset", "celeba", "--help"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for option in ("--preset", "--data-root", "--no-encoder-features", "--encoder-weights", "--resume", "--blocks"):
        assert option in result.stdout
    assert "(default: 256)" in result.stdout  # the preset's own default
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_without_report")
def test_a_folder_is_chosen_if_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([*SMALL, "--max-steps", "1"]) == 0
    assert main([*SMALL, "--max-steps", "2", "--resume"]) == 0
    steps = [
        torch.load(tmp_path / "runs" / f"demo-{k}" / "last.ckpt", weights_only=True)["position"]["step"] for k in (0, 1)
    ]
    assert steps == [1, 2]
