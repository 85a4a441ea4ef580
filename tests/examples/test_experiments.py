"""The tables: what they plan, run, read, show and refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from blan_facial.config import parse
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.avatars import ATTRIBUTES as AVATARS
from blan_facial.data.avatars import load_avatars
from blan_facial.data.faces import DataError
from blan_facial.experiments import main
from blan_facial.network.builder import build
from blan_facial.published import published
from blan_facial.results.run_folder import begin
from blan_facial.tables import speed
from blan_facial.tables.cells import DRAWN, Cell, Data, Experiment, Name, Run, options_of
from blan_facial.tables.entries import entries
from blan_facial.tables.layout import insert, terminal
from blan_facial.tables.measures import Result
from blan_facial.tables.plan import experiment
from blan_facial.tables.running import ExperimentError, Job, complete, places
from blan_facial.tables.sources import read_once
from blan_facial.training.checkpoint import RunError
from tests.examples.celeba_folder import write_celeba_folder
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

TINY = [
    *("--images", "32", "--image-size", "32", "--width", "2", "--summary-channels", "8", "--critic-channels", "64"),
    *("--batch-size", "16", "--warmup-steps", "0", "--accelerator", "cpu"),
]

METRICS = {"accuracy": 0.9123, "balanced_accuracy": 0.8, "average_precision": 0.7, "parameters": 1_000_000}


def table(folder: Path, *options: str, training: list[str] = TINY) -> int:
    return main([*options, "--epochs", "1", "--output", str(folder), "--", *training])


class TestPlans:
    @pytest.mark.parametrize("data", get_args(Data))
    def test_runs_of_one_name_are_the_same_in_all_tables(self, data: Data) -> None:
        found: dict[str, Run] = {}
        for name in get_args(Name):
            for run in experiment(name, data).runs:
                assert found.setdefault(run.name, run) == run
        root = [] if data in DRAWN else ["--data-root", "x"]
        settings = [
            (json.dumps(parse([*options_of(data), *root, *run.options]).comparable()), run.longer)
            for run in found.values()
        ]
        assert len(set(settings)) == len(settings)  # nothing is trained twice

    def test_what_ours_are_is_said(self) -> None:
        for name in ("table3", "table10"):
            assert (
                "MOON and MCNN of ours: their ideas on this project's encoder, w/ OS" in experiment(name, "lfwa").title
            )

    def test_every_published_value_has_a_cell(self) -> None:
        places = {
            (name, row, column)
            for name in get_args(Name)
            for row in experiment(name, "avatars").rows
            for column in experiment(name, "avatars").columns
        }
        assert set(published()) <= places

    @pytest.mark.parametrize(("column", "mean"), [("CelebA", 91.801), ("LFWA", 87.125)])
    def test_table_7_is_whole_and_has_the_printed_means(self, column: str, mean: float) -> None:
        values = [float(published()["table7", attribute, column]) for attribute in CELEBA_ATTRIBUTES]
        assert np.mean(values) == pytest.approx(mean, abs=5e-4)
        assert np.mean(values) == pytest.approx(published()["table7", "Average", column], abs=6e-3)  # cells are rounded

    def test_table_4_has_the_paper_s_rows(self) -> None:
        rows = {row: published()["table4", row, "accuracy"] for row in experiment("table4", "avatars").rows}
        assert list(rows.values()) == [88.89, 90.14, 89.83, 90.93, 91.51, 91.73]
        settings = {row: parse(experiment("table4", "avatars").cells[row, "accuracy"].run.options) for row in rows}
        parts = {row: (c.decoder, c.encoder_features, c.join, c.lmim, c.fusion) for row, c in settings.items()}
        assert list(parts.values()) == [
            (False, True, "rdam", False, False),  # without a decoder nothing is joined
            (False, True, "rdam", True, False),
            (True, False, "rdam", True, False),
            (True, True, "concat", True, False),
            (True, True, "rdam", True, False),
            (True, True, "rdam", True, True),
        ]


class TestRunning:
    def test_a_table_is_run_shown_written_and_then_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text("before\n<!-- figure3 avatars -->\nold\n<!-- end of figure3 avatars -->\nafter\n")
        options = ["figure3", "--seeds", "0", "1", "--markdown", str(page), "--parallel", "2"]
        assert table(tmp_path, *options) == 0
        assert "2 runs, of which 0 are finished" in capsys.readouterr().out
        content = json.loads((tmp_path / "avatars" / "figure3.json").read_text())
        cells = {(cell["row"], cell["column"]): cell for cell in content["cells"]}
        metrics = [
            json.loads((tmp_path / "avatars" / "blan" / f"seed-{seed}" / "metrics.json").read_text()) for seed in (0, 1)
        ]
        values = [100 * of["per_attribute"]["Black_Hair"]["AC1"] for of in metrics]
        assert cells["Black_Hair", "AC1"]["ours"]["values"] == pytest.approx(values)
        assert cells["Black_Hair", "AC1"]["source"] == "ours"
        assert cells["Black_Hair", "best level"]["source"] == "ours and paper"
        assert cells["Big_Lips", "best level"]["source"] == "paper"  # avatars have no lips to tell
        assert cells["Oval_Face", "AC1"]["source"] == "empty"
        text = (tmp_path / "avatars" / "figure3.md").read_text()
        assert page.read_text() == (
            f"before\n<!-- figure3 avatars -->\n\n{text}\n<!-- end of figure3 avatars -->\nafter\n"
        )
        assert (tmp_path / "avatars" / "figure3.png").stat().st_size > 10_000

        older = tmp_path / "avatars" / "blan" / "seed-0" / "config.json"
        settings = json.loads(older.read_text())
        del settings["train_images"]  # as an older release wrote it
        older.write_text(json.dumps(settings))
        assert table(tmp_path, *options) == 0
        assert "2 runs, of which 2 are finished" in capsys.readouterr().out
        assert table(tmp_path, *options, training=[*TINY, "--lr", "0.5"]) == 1
        assert "a finished run must have the requested settings" in " ".join(capsys.readouterr().err.split())

    def test_what_was_stopped_goes_on(self, tmp_path: Path, repository: Path) -> None:
        script = repository / "examples" / "blan_facial" / "experiments.py"
        command = [sys.executable, str(script), "figure3", "--seeds", "0", "--output", str(tmp_path), "--parallel", "1"]
        command += ["--epochs", "5000", "--", *TINY]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        first = tmp_path / "avatars" / "blan" / "seed-0"
        deadline = time.monotonic() + 120
        while not ((first / "train.log").exists() and "epoch 1/" in (first / "train.log").read_text()):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert "the same command continues from there" in process.communicate(timeout=60)[1].decode()
        assert process.returncode == 128 + signal.SIGTERM
        assert "--resume continues from there" in " ".join((first / "train.log").read_text().split())
        job = Job("blan", first, (*TINY, "--epochs", "5000", "--seed", "0"))
        assert job.command()[-1] == "--resume"

    def test_a_run_that_fails_leaves_its_cells_empty_and_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert table(tmp_path, "table7", "--seeds", "0", training=[*TINY, "--batch-size", "64"]) == 1
        folder = tmp_path / "avatars" / "blan" / "seed-0"
        error = capsys.readouterr().err
        assert error.startswith("error: blan, seed 0 ended with status 1: train: --batch-size must ")
        assert error.endswith(f". To start over, remove {folder}.\n")
        assert "─" not in error
        content = json.loads((tmp_path / "avatars" / "table7.json").read_text())
        assert {cell["source"] for cell in content["cells"]} == {"paper", "empty"}

    def test_weights_are_tested_once_on_the_same_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_run(tmp_path / "run", *SMALL)
        faces = load_avatars("train", image_size=40, count=16)
        root = write_celeba_folder(
            tmp_path / "celeba", [faces.image(index) for index in range(len(faces))], faces.labels, faces.attributes
        )
        job = Job("blan", tmp_path / "run", ())
        metrics = job.tested_on("celeba", root)
        assert (metrics["data"], metrics["split"], metrics["images"]) == ("celeba", "test", 2)
        assert tuple(metrics["per_attribute"]) == ATTRIBUTES
        measured: list[list[str]] = []

        def measure(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
            measured.append(command)
            Path(command[-1]).write_text("{}")
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(subprocess, "run", measure)
        assert job.tested_on("celeba", root) == metrics  # read
        assert not measured
        other = write_celeba_folder(
            tmp_path / "other", [faces.image(index) for index in range(len(faces))], faces.labels, faces.attributes
        )
        job.tested_on("celeba", other)
        assert len(measured) == 1
        write_run(tmp_path / "run", *SMALL, "--seed", "1")  # started over
        job.tested_on("celeba", root)
        assert len(measured) == 2
        Image.new("RGB", (40, 40)).save(root / "img_align_celeba" / "000008.jpg")  # of the test split
        read_once.cache_clear()  # as in another process
        job.tested_on("celeba", root)
        assert len(measured) == 3
        job.tested_on("celeba", root)
        assert len(measured) == 3
        with pytest.raises(DataError, match=r"load_lfwa: needs lfw_att_40\.mat"):
            job.tested_on("lfwa", root)

    def test_the_other_data_set_is_refused_where_nothing_is_tested_on_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert table(tmp_path, "table4", "--other-root", "x") == 1
        assert "experiments: --other-root is for table9 with CelebA or LFWA, got table4" in capsys.readouterr().err

    def test_settings_that_contradict_one_another_are_refused_before_any_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert table(tmp_path, "table4", training=["--beta", "-1"]) == 1
        assert "train: --beta must be 0 or a positive number" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_an_option_that_a_row_does_not_take_is_refused_with_the_row(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ("labels", "--output", str(tmp_path), "--existing")
        assert main([*options, "--rows", "BLAN, w/ OS", "--", *TINY]) == 0
        assert main([*options, "--rows", "ResNet", "--", *TINY]) == 1
        error = capsys.readouterr().err
        assert f"error: experiments: options after -- must suit every row, got {' '.join(TINY)} for " in error
        text = (
            "-resnet-with-os: train: --summary-channels has no effect with --model resnet, got both. Give one of them."
        )
        assert f"{text} --rows leaves rows out." in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parallel", "-1"], "experiments: --parallel must be at least 1, got -1. Give a positive number."),
        (["--epochs", "0"], "experiments: --epochs must be at least 1, got 0. Give a positive number."),
        (["--seeds", "1", "1"], "experiments: --seeds must be different numbers, got 1 1. Name each once."),
        (
            ["--", "--lr", "1", "--seed=7"],
            "experiments: options after -- must not be set by the table, got --seed. Give --seeds before --.",
        ),
        (
            ["--", "--overwrite"],
            "experiments: options after -- must not be set by the table, got --overwrite. Leave it out; a run starts "
            "over if its folder is removed.",
        ),
    ],
)
def test_a_number_out_of_its_range_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table4", "--output", str(tmp_path), *options]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    "words",
    [
        *("table4 --os", "table4 --lmim", "table3 --model resnet", "table5 --arrangement=parallel", "table7 --no-os"),
        *("figure3 --no_os", "table6 --no-os", "table6 --beta 1", "table7 --model moon", "labels --keep last"),
        *("labels --no-unlabelled", "labels --decoder", "labels --gamma=1", "table8 --train_images 100"),
        *("lmim --no-lmim", "budget --fusion"),
    ],
)
def test_an_option_that_changes_what_rows_are_is_refused_before_any_run(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blan_facial.experiments.complete", lambda *_: pytest.fail("a run was started"))
    name, option, *values = words.split()
    assert main([name, "--output", str(tmp_path), "--", "--lr", "1", option, *values]) == 1
    assert capsys.readouterr().err == (
        f"error: experiments: options after -- must not change what the rows of {name} are, got "
        f"{option.partition('=')[0].replace('_', '-')}. Leave it out, or train that model with train.py.\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        *("table4 --width 8", "table4 --keep best", "table5 --summary-channels 8", "table7 --precision bf16-mixed"),
        *("labels --width 4", "labels --batch-size 16", "table3 --image_size=32"),
    ],
)
def test_an_option_that_leaves_rows_what_they_are_is_passed_to_all_runs(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *training = words.split()
    seen: list[Job] = []

    def complete(jobs: list[Job], *_: Any) -> list[str]:
        seen.extend(jobs)
        return []

    monkeypatch.setattr("blan_facial.experiments.complete", complete)
    assert main([name, "--output", str(tmp_path), "--", *training]) == 0
    assert seen
    assert all(job.arguments[-len(training) - 2 : -2] == tuple(training) for job in seen)


@pytest.mark.parametrize("option", ["--max-steps", "--extend"])
def test_a_run_of_another_length_is_not_finished(option: str, tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL, option, "3", attributes=AVATARS)
    assert Job("a run", tmp_path, SMALL).metrics() is None
    assert Job("a run", tmp_path, (*SMALL, option, "3")).metrics() is not None
    begin(tmp_path, parse([*SMALL, "--resume"]), AVATARS)  # and is interrupted
    assert Job("a run", tmp_path, SMALL).metrics() is None


def test_a_finished_run_is_on_the_attributes_that_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL, attributes=["Smiling", "Bangs"])
    assert Job("a run", tmp_path, (*SMALL, "--attributes", "smiling,bangs")).metrics() is not None
    for names in ([], ["--attributes", "Bangs", "Smiling"], ["--attributes", "Smiling"]):
        with pytest.raises(ExperimentError, match=r"got others in .*: attributes \['Smiling', 'Bangs'\] \(now"):
            Job("a run", tmp_path, (*SMALL, *names)).metrics()


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_broken_metrics_of_a_finished_run_are_refused(text: str, tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL, attributes=AVATARS)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=r"metrics\.json: must be JSON that a run wrote, got"):
        Job("a run", tmp_path, SMALL).metrics()


@pytest.mark.parametrize("option", ["--data-root", "--image-folder"])
def test_a_finished_run_is_of_the_data_that_are_named(option: str, tmp_path: Path) -> None:
    celeba = ("--data", "celeba", "--data-root", str(tmp_path))
    write_run(tmp_path / "run", *SMALL, *celeba, attributes=CELEBA_ATTRIBUTES)
    relative = ("--data-root", os.path.relpath(tmp_path))
    assert Job("a run", tmp_path / "run", (*SMALL, *celeba, *relative)).metrics() is not None
    with pytest.raises(ExperimentError, match=f"{option.strip('-').replace('-', '_')} .* \\(now '{tmp_path}/other'"):
        Job("a run", tmp_path / "run", (*SMALL, *celeba, option, str(tmp_path / "other"))).metrics()


def test_runs_share_the_gpus_that_the_user_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["3", "5", "3"]


def test_mean_and_spread_are_over_the_seeds() -> None:
    cell = Cell(Run("run", ()), lambda of: of.metrics["a"])
    plan = Experiment("table4", "", "", ("row",), ("a", "b"), {("row", "a"): cell})
    config = parse([])
    results = {cell: [Result({"a": value}, config, Path()) for value in (1.0, 3.0)]}
    first, second = entries(plan, results)
    assert str(first.ours) == "2.00 ± 1.41"
    assert (first.source, second.source) == ("ours", "empty")
    assert str(entries(plan, {cell: results[cell][:1]})[0].ours) == "1.00"
    levels = {cell: [Result({"a": level}, config, Path()) for level in ("AC1", "AC2", "AC2")]}
    assert str(entries(plan, levels)[0].ours) == "AC2 (2 of 3)"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shows_every_row_and_value(width: int) -> None:
    plan = experiment("table4", "avatars")
    results = {cell: [Result(METRICS, parse([]), Path())] * 2 for cell in plan.cells.values()}
    stream = StringIO()
    console = Console(width=width, file=stream)
    console.print(terminal(plan, entries(plan, results), "avatars"))
    shown = "".join(stream.getvalue().split())
    assert "…" not in shown
    for row in plan.rows:
        assert all(word in shown for word in row.split())
    assert shown.count("91.23") == len(plan.rows)
    assert shown.count("91.73") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!-- table4 avatars -->\n", "experiments: --markdown needs the lines <!-- table4 avatars --> and"),
        ("•".encode("utf-16"), "experiments: --markdown must be a UTF-8 file, got "),
        (None, "experiments: files must be readable and outputs writable, got "),
    ],
)
def test_a_page_without_its_markers_is_refused_before_any_run_and_kept(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if content is not None:
        page.write_bytes(content)
    assert table(tmp_path / "runs", "table4", "--markdown", str(page)) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "runs").exists()
    assert content is None or page.read_bytes() == content


def test_a_page_keeps_its_line_ends(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"\xef\xbb\xbfa\r\n<!-- x -->\r\nold\r\n<!-- end of x -->\r\nb\r\n")
    insert(page, "x", "new\n")
    new = b"<!-- x -->\r\n\r\nnew\r\n\r\n<!-- end of x -->"
    assert page.read_bytes() == b"\xef\xbb\xbfa\r\n" + new + b"\r\nb\r\n"


def test_the_cores_are_shared_among_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert places(None) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert places(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert places(None) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert places(2) == [{"OMP_NUM_THREADS": "3"}] * 2


def test_one_image_is_timed_in_the_layout_that_evaluation_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def watched(*given: Any) -> tuple[Any, Any]:
        model, objective = build(*given)
        model.register_forward_pre_hook(
            lambda module, images: seen.append(
                all(
                    of.is_contiguous(memory_format=torch.channels_last)
                    for of in (images[0], module.encoder.conv1.weight)
                )
            )
        )
        return model, objective

    monkeypatch.setattr(speed, "build", watched)
    assert speed.milliseconds(parse([*SMALL, "--width", "16"]), ATTRIBUTES) > 0
    assert set(seen) == {True}


def test_what_draws_is_imported_when_it_draws(repository: Path) -> None:
    code = (
        "import sys, blan_facial.experiments, blan_facial.predict; "
        "print({'matplotlib', 'jinja2'} & set(sys.modules) or 'neither')"
    )
    path = {"PYTHONPATH": os.pathsep.join((str(repository / "examples"), str(repository)))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "neither"


def test_nothing_to_run_runs_nothing() -> None:
    assert complete([], [{}], Console(quiet=True)) == []
