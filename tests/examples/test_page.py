"""The pages of runs and experiments: what they read, say and hide, and how they do in a real browser."""

import csv
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from blan_facial.config import parse
from blan_facial.data.avatars import ATTRIBUTES as AVATARS
from blan_facial.published import published
from blan_facial.report.__main__ import main as report
from blan_facial.report.charts import Curve, curves, rounded, ticks
from blan_facial.report.history import read_history
from blan_facial.report.pages import NOTHING
from blan_facial.report.progress import LIMIT, bounds, charts, epochs
from blan_facial.report.provenance import command
from blan_facial.report.run_page import write_report
from blan_facial.results.environment import commit, environment
from blan_facial.results.run_folder import PICTURES
from blan_facial.tables.entries import entries
from blan_facial.tables.plan import experiment
from blan_facial.tables.running import Job
from blan_facial.tables.table_page import write_table_page
from blan_facial.training.checkpoint import RunError
from shared.svg import element
from tests.examples.pages import as_baseline, change, table_page, without_labels

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """A page's elements, which must close as they opened, with all that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.policy = ""
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag in ("img", "script", "iframe", "link", "source"):
            self.loaded += [found[name] or "" for name in ("src", "href") if name in found]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        if tag == "img":
            assert found.get("alt")
        if tag == "a":
            self.links.append(found["href"] or "")
        if tag == "th":
            assert found.get("scope") in ("col", "row")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open) and "small" not in self.open:
            self.tables[-1][-1][-1] = (self.tables[-1][-1][-1] + data).strip()

    def table(self, *columns: str) -> list[list[str]]:
        """Return the rows of the one table that has these among its columns."""
        (found,) = [rows for rows in self.tables if set(columns) <= set(rows[0])]
        return found


def log(folder: Path, version: int, rows: list[dict[str, Any]], *, torn: str = "") -> None:
    path = folder / "logs" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, ["step", "epoch", "total", "lmim_AC1", "sparsity", "validation_accuracy"])
        lines.writeheader()
        lines.writerows(rows)
        file.write(torn)


class TestHistory:
    def test_sittings_are_joined_and_the_later_one_counts(self, tmp_path: Path) -> None:
        log(tmp_path, 2, [{"step": step, "epoch": step / 4, "total": step} for step in range(7)], torn="7,1.7")
        log(tmp_path, 10, [{"step": step, "epoch": step / 4, "total": -step} for step in range(4, 12)])
        (tmp_path / "logs" / "version_11").mkdir()
        found = read_history(tmp_path)
        assert found is not None
        assert found.series["total"].steps.tolist() == list(range(12))
        assert found.series["total"].values.tolist() == [0, 1, 2, 3, *(-step for step in range(4, 12))]
        assert (found.steps_per_epoch, found.taken_up, found.end) == (4, (1.0,), 3.0)
        assert found.by_epoch("total") == {1: 1.5, 2: -5.5, 3: -9.5}

    def test_a_validation_lies_behind_its_step_and_in_its_epoch(self, tmp_path: Path) -> None:
        rows = [{"step": step, "epoch": step / 4, "total": 1} for step in range(8)]
        rows += [{"step": 3, "validation_accuracy": 0.5}, {"step": 7, "validation_accuracy": 0.75}]
        log(tmp_path, 0, rows)
        found = read_history(tmp_path)
        assert found is not None
        assert found.epochs("validation_accuracy").tolist() == [1, 2]
        assert found.epochs("total").tolist() == [step / 4 for step in range(8)]
        assert found.by_epoch("validation_accuracy") == {1: 0.5, 2: 0.75}

    def test_lines_that_say_nothing_are_passed_over(self, tmp_path: Path) -> None:
        log(tmp_path, 0, [{"step": 0, "epoch": 0, "total": "nan"}, {"step": "x", "total": 1}, {"step": 1, "total": 2}])
        found = read_history(tmp_path)
        assert found is not None
        assert found.series["total"].values.tolist() == [2]
        assert [chart.title for chart in charts(found)] == ["Objective"]

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"step,total\n", b"step\n" + b"1" * 200_000])
    def test_a_log_without_a_line_is_left_out_with_a_warning(
        self, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        log(tmp_path, 0, [{"step": 0, "epoch": 0, "total": 2}])
        log(tmp_path, 1, [])
        path = tmp_path / "logs" / "version_1" / "metrics.csv"
        path.write_bytes(content)
        found = read_history(tmp_path)
        assert found is not None
        assert found.series["total"].values.tolist() == [2]
        assert f"report: {path} must contain lines with a step, got none. It is left out" in caplog.text
        caplog.clear()
        path.write_bytes(b"")
        read_history(tmp_path)
        assert not caplog.records

    def test_a_term_that_the_page_has_no_words_for_is_shown_by_its_name(self, tmp_path: Path) -> None:
        log(tmp_path, 0, [{"step": n, "epoch": n / 2, "total": 2, "sparsity": n, "lmim_AC1": 1} for n in range(4)])
        found = read_history(tmp_path)
        assert found is not None
        assert [chart.title for chart in charts(found)] == ["Objective", "Mutual information", "Sparsity"]
        assert epochs(found) == (["objective", "sparsity"], [(1, [2, 0.5]), (2, [2, 2.5])])

    def test_lmim_is_told_in_nats(self, tmp_path: Path) -> None:
        losses = [LIMIT, LIMIT, 0.75 * LIMIT, 0.25 * LIMIT]
        log(tmp_path, 0, [{"step": n, "epoch": n / 2, "lmim_AC1": loss} for n, loss in enumerate(losses)])
        found = read_history(tmp_path)
        assert found is not None
        (bound,) = bounds(found)
        assert bound[:3] == ("AC1", pytest.approx(0), pytest.approx(0.5 * 1.3862943611))
        assert bound.strip is not None
        assert bound.strip.at == pytest.approx(50)
        (chart,) = charts(found)
        assert (chart.title, chart.legend[0].last) == ("Mutual information", "0.69")


class TestDrawing:
    @given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e6))
    def test_ticks_are_few_round_and_inside(self, low: float, span: float) -> None:
        found = ticks(low, low + span)
        assert 1 <= len(found) <= 6
        assert all(low - 1e-6 * span <= tick <= low + (1 + 1e-6) * span for tick in found)
        around = rounded(low, low + span)
        assert around[0] <= low + 1e-6 * span < low + span <= around[1] + 1e-6 * span

    def test_everything_in_an_element_is_escaped(self) -> None:
        assert element("text", '<b> & "c"', class_='"><script>', x=1.50, y=None) == Markup(
            '<text class="&#34;&gt;&lt;script&gt;" x="1.5">&lt;b&gt; &amp; &#34;c&#34;</text>'
        )

    @pytest.mark.parametrize(
        "values", [[1.0], [2.0] * 5, [0.0] * 5, [1.0, 1e9, 2.0], np.random.default_rng(0).normal(size=9999)]
    )
    def test_a_curve_of_any_length_and_height_is_drawn(self, values: Any) -> None:
        drawing = curves("label", [Curve("a", "whole", np.arange(len(values)), np.array(values))], end=len(values))
        points = re.findall(r'<polyline[^>]*points="([^"]*)"', drawing)
        assert len(points) == 1
        assert 1 <= len(points[0].split()) <= 150
        assert not re.search("nan|inf", drawing)


class TestEnvironment:
    def test_names_versions_and_device(self) -> None:
        found = environment("cpu")
        assert found["device"] == "cpu"
        assert {"torch", "blan-layers", "lightning"} <= set(found["packages"])
        json.dumps(found, allow_nan=False)

    def test_a_commit_is_told_with_a_plus_if_files_differ(self, tmp_path: Path) -> None:
        assert commit(tmp_path / "nowhere") is None
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        (tmp_path / "file").write_text("a")
        for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "a"], ["tag", "v1"]):
            subprocess.run([*git, *words], cwd=tmp_path, check=True)
        clean = commit(tmp_path)
        assert clean is not None
        assert re.fullmatch("[0-9a-f]{40}", clean)
        (tmp_path / "file").write_text("b")
        assert commit(tmp_path) == f"{clean}+"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--preset", "celeba", "--data-root", "/some where/it's", "--no-os", "--lr", "0.5", "--max-steps", "7"],
        ["--blocks", "1", "2", "3", "4", "--no-decoder", "--no-fusion", "--seed", "3"],
        ["--model", "mcnn", "--clip-norm", "1"],
        [
            *("--data", "csv", "--data-root", "x", "--labels", "t.csv", "--columns", "c.toml", "--unknown", "zero"),
            *("--attributes", "Wears a hat", "Smiling", "--extend", "3", "--thresholds", "balanced", "--balance"),
        ],
        ["--preset", "lfwa", "--data-root", "x", "--rdam-norm", "--encoder-weights", "a b.pth"],
    ],
)
def test_the_command_on_the_page_repeats_the_run(options: list[str]) -> None:
    config = parse(options)
    words = shlex.split(command(config.as_json()))
    assert words[:2] == ["python", "examples/blan_facial/train.py"]
    again = parse(words[2:])
    assert again.comparable() == config.comparable()
    repeated = ("data_root", "max_steps", "labels", "columns", "unknown", "attributes", "extend")
    assert [getattr(again, name) for name in repeated] == [getattr(config, name) for name in repeated]


class TestRun:
    def test_train_py_writes_a_page_that_loads_nothing(self, tiny_run: Path) -> None:
        page = Page(tiny_run / "report.html")
        assert all(source.startswith("data:image/") for source in page.loaded)
        assert len(page.loaded) > 50
        assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
        assert len(set(page.ids)) == len(page.ids)
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page.text)
        assert page.policy.startswith("default-src 'none'; img-src data:; ")
        assert (tiny_run / "report.html").stat().st_size < 2e6
        sections = [
            "attention",
            "attributes",
            "levels",
            "training",
            "information",
            "fusion",
            "reconstructions",
            "faces",
        ]
        assert [name for name in page.ids if name in (*sections, "setup")] == [*sections, "setup"]

    def test_its_tables_hold_the_metrics(self, tiny_run: Path) -> None:
        metrics = json.loads((tiny_run / "metrics.json").read_text())
        page = Page(tiny_run / "report.html")
        header, *rows, average = page.table("majority", "gain")
        assert [row[0] for row in rows] == [name.replace("_", " ") for name in metrics["per_attribute"]]
        assert len(header) == len(average) == 8  # the paper has no column for avatars
        for row, of in zip(rows, metrics["per_attribute"].values(), strict=True):
            assert row[1] == f"{100 * of['accuracy']:.1f}"
            assert row[3] == f"{100 * of['majority']:.1f}"
        assert average[1] == f"{100 * metrics['accuracy']:.1f}"
        header, *rows, average = page.table("AC1", "p-value")
        for row, (name, of) in zip(rows, metrics["per_attribute"].items(), strict=True):
            winner = metrics["statistics"]["per_attribute"][name]["winner"]
            assert row[1:8] == [*(f"{100 * of[level]:.1f}" for level in header[1:7]), winner["level"]]
            assert row[-1] == ("yes ★" if winner["significant"] else "no")
        weights = page.tables[[table[0][-1] for table in page.tables].index("sum")]
        assert len(weights) == 1 + len(metrics["per_attribute"])
        assert all(re.fullmatch(r"\d\.\d{3}", cell) for row in weights[1:] for cell in row[1:])
        epochs = page.table("epoch", "objective", "validation accuracy")
        assert [row[0] for row in epochs[1:]] == ["1", "2"]
        assert all(cell != NOTHING for row in epochs[1:] for cell in row)

    def test_label_counts_and_thresholds_stand_there(self, run_copy: Path) -> None:
        metrics = json.loads((run_copy / "metrics.json").read_text())
        at = {"threshold": 0.25, "accuracy": 0.875, "balanced": None}
        of_each = dict.fromkeys(metrics["per_attribute"], at)
        change(
            run_copy / "metrics.json",
            at_thresholds={"accuracy": 0.875, "balanced_accuracy": 0.75, "per_attribute": of_each},
        )
        page = Page(write_report(run_copy, None))
        _, *rows = page.table("train: yes", "train: unknown", "test: no")
        assert [row[0] for row in rows] == [name.replace("_", " ") for name in metrics["per_attribute"]]
        counts = [of for split in metrics["labels"].values() for of in [next(iter(split.values()))]]
        assert rows[0][1:] == [str(of[kind]) for of in counts for kind in ("yes", "no", "unknown")]
        _, *rows = page.table("threshold", "balanced")
        assert {tuple(row[1:]) for row in rows} == {("0.250", "87.5", NOTHING)}
        del metrics["labels"]
        (run_copy / "metrics.json").write_text(json.dumps(metrics))
        text = write_report(run_copy, None).read_text(encoding="utf-8")
        assert "Thresholds" not in text
        assert "train: yes" not in text

    def test_attributes_that_are_not_all_are_in_the_command(self, run_copy: Path) -> None:
        assert "--attributes" not in write_report(run_copy, None).read_text(encoding="utf-8")
        change(run_copy / "config.json", attributes=["Smiling", "Wears a hat"])
        text = write_report(run_copy, None).read_text(encoding="utf-8")
        assert "--attributes Smiling &#39;Wears a hat&#39;" in text
        for names, data in ((AVATARS[::-1], "avatars"), (AVATARS, "csv")):  # in another order, and of other data
            change(run_copy / "config.json", attributes=names, data=data)
            assert f"--attributes {names[0]} " in write_report(run_copy, None).read_text(encoding="utf-8")

    def test_the_epochs_are_those_of_the_model(self, run_copy: Path) -> None:
        change(run_copy / "config.json", extend=3)
        for kept, shown in ({"epoch": 5.0}, "5"), ({"epoch": 1.5}, "1.5 of 5"), (None, "5"):
            change(run_copy / "metrics.json", kept=kept)
            assert f"<dt>epochs</dt><dd>{shown}</dd>" in write_report(run_copy, None).read_text(encoding="utf-8")

    def test_what_the_user_named_is_escaped(self, run_copy: Path) -> None:
        evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
        metrics = json.loads((run_copy / "metrics.json").read_text())
        for of in (metrics["per_attribute"], metrics["statistics"]["per_attribute"]):
            of[evil] = of.pop("Bald")
        (run_copy / "metrics.json").write_text(json.dumps(metrics))
        change(run_copy / "config.json", data_root=evil, data="csv")
        folder = run_copy.rename(run_copy.with_name("<b onclick='x'>&\""))
        page = Page(write_report(folder, None, without_faces=evil))
        assert page.text.count("<script") == 1
        assert "<img" not in page.text.split("</style>")[1]
        assert "<b onclick" not in page.text
        assert evil in [row[0] for row in page.table("majority", "gain")]

    def test_a_model_without_levels_has_no_sections_of_them(self, run_copy: Path) -> None:
        page = Page(as_baseline(run_copy))
        sections = {"attention", "levels", "fusion", "reconstructions"} & set(page.ids)
        assert not sections
        assert {link[1:] for link in page.links} <= set(page.ids)
        assert "ResNet" in page.text
        assert [row[0] for row in page.tables[0][1:-1]] == ["majority", "sum"]

    def test_a_run_that_is_not_finished(self, run_copy: Path) -> None:
        for name in ("metrics.json", "model.safetensors", "environment.json"):
            (run_copy / name).unlink()
        assert report([str(run_copy)]) == 0
        page = Page(run_copy / "report.html")
        assert "Not finished" in page.text
        assert "no weights yet" in page.text
        assert "did not record its environment" in page.text
        assert "training" in page.ids
        assert "attributes" not in page.ids

    def test_a_run_without_logs(self, run_copy: Path) -> None:
        shutil.rmtree(run_copy / "logs")
        page = Page(write_report(run_copy, None))
        assert "contains no logs" in page.text
        assert "information" not in page.ids

    def test_an_attribute_without_known_labels_has_dashes(self, run_copy: Path) -> None:
        page = Page(without_labels(run_copy, "Bald"))
        (row,) = [row for row in page.table("majority", "gain") if row[0] == "Bald"]
        assert row == ["Bald", NOTHING, "", NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]
        (row,) = [row for row in page.table("AC1", "p-value") if row[0] == "Bald"]
        assert set(row[1:]) == {NOTHING}
        assert "those with known labels" in page.text

    def test_says_who_is_resampled_and_how_calibrated_it_is(self, tiny_run: Path, run_copy: Path) -> None:
        text = Page(tiny_run / "report.html").text
        assert "with 95&#8239;% intervals (resampled 48 images)" in text
        assert "McNemar's exact test over the images" in text
        metrics = json.loads((run_copy / "metrics.json").read_text())
        metrics["statistics"]["bootstrap"] |= {"resampled": "people", "units": 9}
        metrics["statistics"]["per_attribute"]["Bald"]["left_out"] = 134
        metrics |= {
            "scaling": {"images": 48},
            "scaled_calibration_error": 0.0312,
            "scaled_nll": 0.456,
            "scaled_accuracy": 0.871,
            "scaled_balanced_accuracy": 0.662,
        }
        for of in metrics["statistics"]["per_attribute"].values():
            of["columns"]["fused"]["scaled_calibration_error"] = 0.0456
        (run_copy / "metrics.json").write_text(json.dumps(metrics))
        text = Page(write_report(run_copy, None)).text
        assert "its 95&#8239;% interval (resampled 9 people, each with all their images)" in text
        assert "an exact sign-flip test over the people" in text
        scaled = "Scaled for each attribute, fitted on 48 validation images: calibration error 0.031, log loss 0.456"
        assert f"{scaled}, accuracy 87.1 %, balanced 66.2 %." in text
        assert "0.031 scaled for each attribute" in text
        assert text.count("<small>scaled 0.046</small>") == len(metrics["per_attribute"])
        assert "balanced accuracy: Bald 134 of 1,000." in " ".join(text.split())

    @pytest.mark.parametrize(("data", "column"), [("celeba", "CelebA"), ("lfwa", "LFWA")])
    def test_the_paper_s_column_stands_beside_ours(self, data: str, column: str, run_copy: Path) -> None:
        change(run_copy / "metrics.json", data=data)
        header, *rows, average = Page(write_report(run_copy, None)).table("majority", "paper")
        place = header.index("paper")
        paper = {row[0]: row[place] for row in (*rows, average)}
        assert paper["Bald"] == f"{published()['table7', 'Bald', column]:.2f}"
        assert paper["Average"] == f"{published()['table7', 'Average', column]:.2f}"

    def test_files_that_are_broken_get_one_clear_error(
        self, run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert report([str(tmp_path), str(run_copy)]) == 1  # and go on with the next
        assert f"error: {tmp_path}: must be the output folder of a run" in capsys.readouterr().err
        assert report([str(run_copy), "--data-root", "gone"]) == 1
        error = capsys.readouterr().err
        assert f"error: report: --data-root must be the folder of the data of {run_copy}, got gone: " in error
        shutil.move(run_copy / "config.json", tmp_path / "settings.json")
        (run_copy / "config.json").mkdir()
        assert report([str(run_copy)]) == 1
        assert "error: report: files must be readable and outputs writable, got [Errno 21]" in capsys.readouterr().err
        (run_copy / "config.json").rmdir()
        shutil.move(tmp_path / "settings.json", run_copy / "config.json")
        (run_copy / "metrics.json").write_text("[]")
        assert report([str(run_copy)]) == 1
        assert f"{run_copy / 'metrics.json'}: must be JSON that a run wrote, got no metrics." in capsys.readouterr().err
        (run_copy / "metrics.json").write_text('{"data": "avatars", "spl')
        assert report([str(run_copy)]) == 1
        assert "must be JSON that a run wrote, got Unterminated string" in capsys.readouterr().err
        (run_copy / "metrics.json").write_text("[" * 100_000)
        assert report([str(run_copy)]) == 1
        assert "metrics.json: must be JSON that a run wrote, got maximum recursion depth" in capsys.readouterr().err
        (run_copy / "metrics.json").write_text('{"data": "avatars"}')
        assert report([str(run_copy)]) == 1
        assert "must contain what train.py writes, got none of split, images," in capsys.readouterr().err
        (run_copy / "model.safetensors").write_bytes(b"x")
        assert report([str(run_copy)]) == 1
        assert "model.safetensors: must be a whole safetensors file" in capsys.readouterr().err

    def test_contents_of_other_types_get_one_error_that_names_the_file(self, run_copy: Path) -> None:
        path, page = run_copy / "metrics.json", run_copy / "report.html"
        whole, before = path.read_text(), page.read_text()
        damaged: dict[str, Any] = {
            "data": [],
            "split": None,
            "images": "x",
            "accuracy": {},
            "per_level": {},
            "per_attribute": [],
        }
        damaged |= {"parameters": None, "nll": "x", "scaling": {}, "statistics": None, "labels": [1]}
        for name, value in damaged.items():
            change(path, **{name: value})
            with pytest.raises(RunError, match=rf"^report: {path} must contain what train\.py writes, got \w+\("):
                write_report(run_copy, None)
            path.write_text(whole)
        change(run_copy / "environment.json", packages=[])
        with pytest.raises(RunError, match=r"environment\.json must contain what train\.py writes, got TypeError"):
            write_report(run_copy, None)
        assert page.read_text() == before

    def test_after_a_broken_run_the_others_get_their_page(
        self, run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (run_copy / "model.safetensors").unlink()  # no faces, which take long
        intact = Path(shutil.copytree(run_copy, tmp_path / "intact"))
        change(run_copy / "metrics.json", per_attribute=[])
        (intact / "report.html").unlink()
        assert report([str(run_copy), str(intact)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: report: {run_copy / 'metrics.json'} must contain what train.py writes, got ")
        assert error.count("\n") == 1
        assert (intact / "report.html").is_file()

    def test_the_command_writes_the_page_and_pictures_that_train_py_wrote(self, tiny_run: Path, run_copy: Path) -> None:
        for name in ("report.html", *PICTURES):
            (run_copy / name).unlink()
        assert report([str(run_copy)]) == 0
        assert all((run_copy / name).read_bytes() == (tiny_run / name).read_bytes() for name in PICTURES)
        ours, theirs = ((of / "report.html").read_text() for of in (run_copy, tiny_run))
        assert ours == theirs.replace("tiny", "run")

    def test_data_that_are_gone_cost_the_faces_alone(self, run_copy: Path) -> None:
        change(run_copy / "config.json", data="celeba", data_root="/nowhere")
        assert report([str(run_copy)]) == 0
        page = Page(run_copy / "report.html")
        assert "The faces are not shown, because" in page.text
        assert "/nowhere" in page.text
        assert {"attributes", "fusion"} <= set(page.ids)


class TestExperiment:
    def test_says_whose_each_value_is_and_leads_to_the_runs(self, tiny_run: Path, tmp_path: Path) -> None:
        page = Page(table_page("table4", tiny_run, tmp_path))
        assert all(source.startswith("data:image/") for source in page.loaded)
        header, *rows = page.table("row", "balanced accuracy")
        assert header[:3] == ["row", "accuracy", "accuracy"]  # ours, the paper's
        assert [row[:3] for row in rows[:3]] == [
            ["Enc", "81.00 ± 1.00", "88.89"],
            ["Enc + LMIM", "83.00", "90.14"],
            ["Dec + LMIM", NOTHING, "89.83"],
        ]
        assert "4 of 18 runs finished" in page.text
        assert "the paper's, on CelebA" in page.text
        assert page.table("row", "column", "values")[1] == ["Enc", "accuracy", "80.00, 81.00, 82.00"]
        _, first, second, *others = page.table("run", "options", "seed 2")
        assert first == ["enc", "--no-decoder --no-lmim --no-fusion --no-os", "80.00", "81.00", "82.00"]
        assert second[2:] == ["83.00", "not finished", "not finished"]
        assert all(row[2:] == ["not finished"] * 3 for row in others)
        reports = [link for link in page.links if not link.startswith("#")]
        assert reports == ["enc/seed-0/report.html"]
        assert (tmp_path / reports[0]).is_file()

    def test_figure_3_is_drawn_as_small_multiples(self, tiny_run: Path, tmp_path: Path) -> None:
        page = Page(table_page("figure3", tiny_run, tmp_path))
        drawings = re.findall(r'aria-label="Accuracy of ([\w ]+) in percent: AC1', page.text)
        assert drawings[:2] == ["Bags Under Eyes", "Big Nose"]
        assert "Big Lips" not in drawings  # avatars have no lips to tell
        card = page.text.split("Big Nose</h3>")[1].split("</li>")[0]
        assert f"paper {published()['figure3', 'Big_Nose', 'best level']}" in card

    def test_before_any_run_is_finished_there_is_the_paper_alone(self, tmp_path: Path) -> None:
        plan = experiment("table6", "avatars")
        jobs = {run: [Job(run.name, tmp_path / run.name / "seed-0", run.options)] for run in plan.runs}
        write_table_page(tmp_path / "table6.html", plan, entries(plan, {}), "budget", jobs)
        page = Page(tmp_path / "table6.html")
        assert page.table("row", "alpha 0.1")[2] == ["beta 0.1", "87.07", "87.13", "87.06"]
        assert "charts" not in page.ids
