"""The tables on what BLAN is worth: which runs they have, and what they show."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from blan_facial import experiments
from blan_facial.config import PRESETS, TUNED, parse
from blan_facial.data.avatars import load_avatars
from blan_facial.experiments import main
from blan_facial.results.finished import load_run
from blan_facial.results.weights_file import write_weights
from blan_facial.tables import levels, sources
from blan_facial.tables.cells import Data, Name, Run, options_of
from blan_facial.tables.plan import experiment
from blan_facial.tables.running import Job
from shared.program import UserError
from tests.examples.celeba_folder import write_celeba_folder
from tests.examples.run_folder import SMALL, write_run

SECONDS = {"resnet": 10.0, "moon": 10.0, "mcnn": 20.0, "enc": 16.0, "blan": 80.0, "blan-tuned": 50.0}


def model_of(job: Job) -> str:
    words = job.folder.parent.name.partition("-labels-")[2].partition("-with")[0]
    return words.removesuffix("-and-the-rest")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Take every run as finished, and keep those that were asked for."""
    asked: list[Job] = []

    def complete(jobs: list[Job], *_: Any) -> list[str]:
        asked.extend(jobs)
        return []

    def metrics(job: Job) -> dict[str, Any]:
        random = np.random.default_rng(len(job.folder.parent.name) + job.config.seed)
        values = dict.fromkeys(("accuracy", "balanced_accuracy", "average_precision"), 0.6 + 0.1 * random.random())
        time = SECONDS[model_of(job)] * job.config.epochs / 5
        return values | {
            "scaled_calibration_error": 0.02,
            "train_seconds": time,
            "kept": {"epoch": 4.0, "seconds": time},
        }

    monkeypatch.setattr(experiments, "complete", complete)
    monkeypatch.setattr(Job, "metrics", metrics)
    return asked


def settings(run: Run, data: Data = "avatars-hard") -> Any:
    return parse([*options_of(data), *run.options])


@pytest.mark.parametrize("name", ["labels", "budget", "lmim"])
def test_the_epoch_of_every_run_on_lfwa_is_chosen_on_the_validation_images_that_its_halves_lack(name: Name) -> None:
    for run in experiment(name, "lfwa").runs:
        config = parse([*options_of("lfwa"), "--data-root", "x", *run.options])
        assert (config.keep, config.lfwa_split) == ("best", "80:10")


class TestLabels:
    def test_all_models_have_the_same_labels_size_and_choice_of_the_epoch(self) -> None:
        for run in experiment("labels", "avatars-hard").runs:
            config = settings(run)
            assert (config.data, config.keep, config.width, config.batch_size) == ("avatars-hard", "best", 8, 32)
            count = run.name.partition("-labels")[0]
            assert config.labelled == (None if count == "all" else int(count))
            assert config.unlabelled is ("rest" in run.name)
            assert config.os is ("with-os" in run.name)
            tuned = {name: getattr(config, name) for name in TUNED}
            assert tuned == (TUNED if "tuned" in run.name else {name: getattr(PRESETS["demo"], name) for name in TUNED})

    def test_the_table_the_page_and_the_curves(self, tmp_path: Path, trained: list[Job]) -> None:
        assert main(["labels", "--data", "avatars-hard", "--output", str(tmp_path)]) == 0
        assert len(trained) == 3 * (4 * (6 + 3) + 3 * 2)
        folder = tmp_path / "avatars-hard"
        content = json.loads((folder / "labels.json").read_text())
        assert {cell["source"] for cell in content["cells"]} == {"ours"}
        assert (folder / "labels.png").stat().st_size > 20_000
        page = (folder / "labels.html").read_text()
        assert page.count("labelled faces") == 4  # balanced accuracy and average precision, with OS and without
        assert "BLAN tuned and the rest" in page
        assert "| 4,000 labels, ResNet, w/ OS |" in (folder / "labels.md").read_text()

    def test_a_part_of_it_by_its_rows(
        self, tmp_path: Path, trained: list[Job], capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = r"^(100|300) labels, (ResNet|Enc), w/ OS"
        assert main(["labels", "--rows", rows, "--seeds", "0", "--output", str(tmp_path)]) == 0
        assert [job.name for job in trained] == [
            f"{count}-labels-{model}-with-os, seed 0" for count in (100, 300) for model in ("resnet", "enc")
        ]
        content = json.loads((tmp_path / "avatars" / "labels.json").read_text())
        assert {cell["row"].partition(" ")[0] for cell in content["cells"]} == {"100", "300"}
        for wrong, message in (
            ("(", "--rows must be a regular expression, got '('"),
            ("LeNet", "--rows must match"),
        ):
            assert main(["labels", "--rows", wrong, "--output", str(tmp_path)]) == 1
            assert message in " ".join(capsys.readouterr().err.split())

    def test_what_is_finished_is_shown_and_nothing_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(experiments, "complete", lambda *_: pytest.fail("a run was started"))
        assert main(["labels", "--existing", "--output", str(tmp_path)]) == 0
        assert not (tmp_path / "avatars" / "labels.png").exists()  # there is nothing to draw


class TestBudget:
    def test_equal_seconds_follow_from_the_seconds_of_equal_epochs(self, tmp_path: Path, trained: list[Job]) -> None:
        assert main(["budget", "--data", "avatars-hard", "--seeds", "0", "1", "--output", str(tmp_path)]) == 0
        epochs = {job.folder.parent.name: job.config.epochs for job in trained if "with-os" in job.name}
        assert epochs["all-labels-resnet-with-os"] == epochs["all-labels-blan-with-os"] == 5
        assert epochs["all-labels-resnet-with-os-to-convergence"] == 20
        assert epochs["all-labels-resnet-with-os-equal-seconds-40-epochs"] == 40
        assert epochs["all-labels-blan-tuned-with-os-equal-seconds-8-epochs"] == 8
        slowest = [name for name in epochs if name.startswith("all-labels-blan-with-os")]
        assert not any("equal-seconds" in name for name in slowest)  # it has its run on equal epochs
        cells = json.loads((tmp_path / "avatars-hard" / "budget.json").read_text())["cells"]
        seconds = {cell["row"]: cell["ours"]["mean"] for cell in cells if cell["column"] == "seconds"}
        equal = [value for row, value in seconds.items() if row.startswith("equal seconds") and "w/ OS" in row]
        assert equal == [pytest.approx(80, rel=0.1)] * 6
        assert (tmp_path / "avatars-hard" / "budget.png").is_file()

    def test_another_length_by_other_seeds_or_rows_is_another_run(self, tmp_path: Path, trained: list[Job]) -> None:
        main(["budget", "--rows", "ResNet, w/ OS|, BLAN tuned, w/ OS", "--seeds", "0", "--output", str(tmp_path)])
        main(["budget", "--seeds", "0", "--output", str(tmp_path)])
        found: dict[Path, set[int]] = {}
        for job in trained:
            found.setdefault(job.folder, set()).add(job.config.epochs)
        assert {len(epochs) for epochs in found.values()} == {1}
        names = {
            folder.parent.name: epochs for folder, epochs in found.items() if "resnet-with-os-equal" in str(folder)
        }
        assert names == {f"all-labels-resnet-with-os-equal-seconds-{epochs}-epochs": {epochs} for epochs in (25, 40)}

    def test_runs_on_all_labels_are_those_of_the_other_table(self) -> None:
        shared = {run.name for run in experiment("labels", "avatars").runs if run.name.startswith("all-")}
        assert shared < {run.name for run in experiment("budget", "avatars").runs if run.longer == 1}


class TestLMIM:
    def test_rows_differ_by_the_weight_of_lmim_alone_and_share_runs_with_labels(self) -> None:
        found = [settings(run) for run in experiment("lmim", "avatars-hard").runs]
        for config, alpha in zip(found, 2 * (0, 0.01, 0.1, 1, 10), strict=True):
            assert (config.alpha if config.lmim else 0) == alpha
            assert (config.gamma, config.keep) == (16, "best")
        assert [config.labelled for config in found] == [300] * 5 + [None] * 5
        names = {run.name for run in experiment("lmim", "avatars-hard").runs}
        shared = names & {run.name for run in experiment("labels", "avatars-hard").runs}
        assert shared == {"300-labels-blan-tuned-and-the-rest-with-os", "all-labels-blan-tuned-with-os"}

    def test_levels_are_measured_once_for_the_same_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[torch.Size, torch.Size]] = []

        def information(local: Tensor, summary: Tensor) -> float:
            shapes.append((local.shape, summary.shape))
            return float(len(shapes))

        monkeypatch.setattr(levels, "information", information)
        asked = ["lmim", "--rows", "4,000 labels, alpha 1$", "--seeds", "0", "--epochs", "1", "--output", str(tmp_path)]
        asked += ["--parallel", "1", "--", "--images", "48", "--image-size", "32", "--batch-size", "16"]
        assert main(asked) == 0
        assert shapes == [((48, channels), (48, 64)) for channels in (8, 16, 32, 64)]
        cells = json.loads((tmp_path / "avatars" / "lmim.json").read_text())["cells"]
        ours = {cell["column"]: cell["ours"]["mean"] for cell in cells}
        assert [ours[f"nats, AC{level}"] for level in (1, 2, 3, 4)] == [1, 2, 3, 4]
        assert all(20 < ours[f"probe, AC{level}"] <= 100 for level in (1, 2, 3, 4))
        assert main(asked) == 0
        assert len(shapes) == 4
        run = tmp_path / "avatars" / "all-labels-blan-tuned-with-os-alpha-1" / "seed-0"
        write_weights(run / "model.safetensors", load_run(run).model, None)  # another file: it has no scaling
        assert main(asked) == 0
        assert len(shapes) == 8

    def test_levels_are_measured_again_on_other_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        measured: list[Path] = []

        def measure(_: Any, missing: list[tuple[Path, Path]], __: int) -> list[None]:
            for _, path in missing:
                measured.append(path)
                path.parent.mkdir(exist_ok=True)
                path.write_text("{}")
            return [None for _ in missing]

        monkeypatch.setattr(levels, "each", measure)
        faces = load_avatars("train", image_size=40, count=16)
        images = [faces.image(index) for index in range(16)]
        root = write_celeba_folder(tmp_path / "celeba", images, faces.labels, faces.attributes)
        run = tmp_path / "run"
        write_run(run, *SMALL, "--data", "celeba", "--data-root", str(root))
        for changed in (None, root / "img_align_celeba" / "000001.jpg"):
            if changed is not None:
                os.utime(changed, ns=(1, 1))
            for _ in range(2):
                sources.read_once.cache_clear()  # as in another process
                levels.levels_of([run], 1, Console(quiet=True))
        assert len(measured) == len(set(measured)) == 2

    def test_columns_without_information_are_left_out(self) -> None:
        random = torch.Generator().manual_seed(0)
        local = torch.randn(200, 2, generator=random)
        summary = local[:, :1] + torch.randn(200, 1, generator=random)
        dead = torch.zeros(200, 1)
        plain = levels.information(local, summary)
        assert 0.1 < plain < 0.6
        assert levels.information(torch.cat([local, local, dead], 1), torch.cat([dead, summary], 1)) == pytest.approx(
            plain, abs=0.1
        )
        assert levels.information(dead, summary) == 0

    def test_too_few_images_are_refused(self) -> None:
        few = r"^experiments: the test split must have more images .* got 40 \(information_between: .*\) Use more"
        with pytest.raises(UserError, match=few):
            levels.information(torch.randn(40, 2), torch.randn(40, 2))
