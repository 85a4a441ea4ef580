"""The command that measures the information between two files: what is read, and what is refused."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blan_layers.estimation import information_between, joint, perceptrons
from mutual_information.arrays import ArraysError, read
from mutual_information.between import main
from mutual_information.repeated import HEADING, TASKS, Case, measure, page
from mutual_information.repeated import main as repeat

MEASURED: dict[str, Any] = {
    **{"task": "band", "seed": 0, "value": 1.7, "low": 1.6, "high": 1.8, "p_value": 0.005, "saturated": False},
    **{"others": {"neighbours": 1.7, "gaussian": None}, "seconds": 2.0},
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for trained in (joint, perceptrons):
        monkeypatch.setattr(trained, "MOST_STEPS", 25)
    monkeypatch.setattr(joint, "EVERY", 25)


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Gaussians in units of their own."""
    x, noise = np.random.default_rng(0).standard_normal((2, 400, 2))
    return 40 + 1e3 * x, 1e-4 * (0.8 * x + 0.6 * noise)


class TestCommand:
    def test_files_of_either_kind_say_the_same(
        self, tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
    ) -> None:
        x, y = (side[:400] for side in arrays)
        np.save(tmp_path / "x.npy", x)
        lines = ["first,second", *(f"{a!r},{b!r}" for a, b in y.tolist())]
        (tmp_path / "y.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
        (tmp_path / "y.tsv").write_text("\n".join(line.replace(",", "\t") for line in lines[1:]))
        assert np.array_equal(read(tmp_path / "y.csv"), y)
        assert np.array_equal(read(tmp_path / "y.tsv"), y)
        options = ["--seed", "3", "--blocks", "2", "--units", "bits", "--json", str(tmp_path / "found.json")]
        assert main([str(tmp_path / "x.npy"), str(tmp_path / "y.csv"), *options]) == 0
        content = json.loads((tmp_path / "found.json").read_text())
        assert content == json.loads(json.dumps(information_between(x, y, seed=3, blocks=2, units="bits").as_json()))
        assert f"{content['value']:.3f} bits, 95 % interval" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("x.txt", "1\n", "between: files must be .npy, .csv or .tsv, got"),
            (
                "x.npy",
                "no array",
                "must contain an array of numbers, got Python objects or another format. Save numbers, for example by "
                "numpy.save(path, array.astype(float)).",
            ),
            ("x.csv", "", "must contain a table of numbers, got an empty file. Check the path."),
            ("x.csv", "a,b\n", "must contain a table of numbers, got only a header. Check the file."),
            (
                "x.csv",
                "a,b\n1,2\n3\n",
                "must have 2 fields in every line, as in its first, got 1 in line 3. Fix that line.",
            ),
            (
                "x.csv",
                "size,colour\n1,2\n3,red\n",
                "must contain numbers, got 'red' in line 3, column 'colour'. Pass --discrete for a table of "
                "categories, "
                "or leave the column out.",
            ),
            (
                "x.csv",
                "a;b\n0.5;1\n",
                "must contain numbers, got '0.5;1' in line 2, column 'a;b'. Separate fields by commas in .csv and by "
                "tabs in .tsv, and write numbers with a decimal point.",
            ),
            (
                "x.tsv",
                "1\t2\n3\t0,5\n",
                "must contain numbers, got '0,5' in line 2, column 1. Separate fields by commas in .csv and by",
            ),
            (
                "x.csv",
                f"id\n1\n{2**60}\n",
                f"must have integers of at most 2**53, which are exact in float64, got {2**60} in line 3, column 'id'.",
            ),
            ("x.tsv", "1\t2\n3\tred\n", "must contain numbers, got 'red' in line 2, column 1."),
            ("x.csv", "1\n2\n\n\n", "needs at least 100 rows, for training and for held-out estimates, got 2."),
            ("x.csv", "1\n\n2\n", "must have a row in every line, got an empty line 2. Remove it, and make sure that"),
            ("x.csv", "1\n" * 99 + ",\n", "must have 1 fields in every line, as in its first, got 2 in line 100."),
            (
                "x.csv",
                "1,2\n" * 99 + "1,\n",
                "x.csv must have a finite number in every field, got '' in line 100, column 1 (1 in all). Leave these "
                "rows out of every file, or fill them in.",
            ),
            *(
                ("x.csv", f"{word},1\n" + "1,2\n" * 99, f"got {word!r} in line 1, column 0 (1 in all).")
                for word in ("NA", "N/A", "null", "None", "nan", "-", "", " na ")
            ),
            ("x.csv", "a,b\n" + "inf,1\n" + "1,NA\n" * 99, "got 'inf' in line 2, column 'a' (100 in all)."),
        ],
    )
    def test_files_that_cannot_be_are_refused(
        self, tmp_path: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_text(content)
        assert main([str(tmp_path / name)] * 2) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert error.startswith("error: ")
        assert message in error

    def test_a_file_that_is_not_there_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]) == 1
        assert "No such file or directory" in capsys.readouterr().err

    def test_categories_and_groups_are_read_as_they_stand(
        self, tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
    ) -> None:
        x = arrays[0][:400, 0]
        np.save(tmp_path / "x.npy", x)
        (tmp_path / "y.csv").write_text("kind\n" + "\n".join("more" if value > 40 else "less" for value in x) + "\n")
        (tmp_path / "groups.csv").write_text("\n".join(f"g{row // 4}" for row in range(400)) + "\n")
        assert read(tmp_path / "y.csv", categories=True).shape == (400, 1)
        assert read(tmp_path / "groups.csv", categories=True).shape == (400, 1)
        options = ["--discrete", "y", "--blocks", str(tmp_path / "groups.csv"), "--json", str(tmp_path / "found.json")]
        assert main([str(tmp_path / "x.npy"), str(tmp_path / "y.csv"), *options]) == 0
        assert json.loads((tmp_path / "found.json").read_text())["value"] == pytest.approx(np.log(2), abs=0.15)

    @pytest.mark.parametrize(
        ("content", "line", "column"),
        [("kind,place\na,b\na, \n", 3, "'place'"), ('a\na\n""\n', 3, "0"), ('""\na\nb\n', 1, "0")],
    )
    def test_a_missing_category_is_refused(self, tmp_path: Path, content: str, line: int, column: str) -> None:
        (tmp_path / "y.csv").write_text(content)
        with pytest.raises(ArraysError, match=f"a category in every field, got .* in line {line}, column {column}[.]"):
            read(tmp_path / "y.csv", categories=True)

    def test_a_category_of_missing_values_is_no_header(self, tmp_path: Path) -> None:
        (tmp_path / "y.csv").write_text("NA\na\nb\na\n")
        assert read(tmp_path / "y.csv", categories=True).ravel().tolist() == ["NA", "a", "b", "a"]

    @pytest.mark.parametrize("blocks", ["--5", "5.5", "groups"])
    def test_blocks_that_cannot_be_are_refused(
        self, tmp_path: Path, blocks: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.save(tmp_path / "x.npy", np.zeros(3))
        assert main([*[str(tmp_path / "x.npy")] * 2, f"--blocks={blocks}"]) == 1
        message = (
            f"between: --blocks must be a number of rows, or a .npy, .csv or .tsv file of labels, got {blocks}. Give"
        )
        assert message in " ".join(capsys.readouterr().err.split())

    def test_an_output_that_cannot_be_written_is_refused_before_the_work(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["x.npy", "y.npy", "--json", str(tmp_path)]) == 1
        assert "files must be readable and outputs writable" in " ".join(capsys.readouterr().err.split())
        assert main(["x.npy", "y.npy", "--json", str(tmp_path / "new" / "found.json")]) == 1
        assert "x.npy" in capsys.readouterr().err
        assert (tmp_path / "new").is_dir()

    def test_archives_and_headers_that_promise_too_much_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
        (tmp_path / "two.npz").rename(tmp_path / "x.npy")
        assert main([str(tmp_path / "x.npy")] * 2) == 1
        assert "must contain one array, got an archive of 2." in " ".join(capsys.readouterr().err.split())
        with (tmp_path / "y.npy").open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(file, header)
        assert main([str(tmp_path / "y.npy")] * 2) == 1
        assert "got a file that does not load" in " ".join(capsys.readouterr().err.split())

    def test_an_array_of_objects_is_never_unpickled(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object))
        assert main([str(tmp_path / "x.npy")] * 2) == 1
        assert "Save numbers, for example by numpy.save(path, array.astype(float))." in " ".join(
            capsys.readouterr().err.split()
        )
        assert main([*[str(tmp_path / "x.npy")] * 2, "--discrete", "both"]) == 1
        assert "Save categories, for example by numpy.save(path, array.astype(str))." in " ".join(
            capsys.readouterr().err.split()
        )


class TestRepeating:
    def test_what_was_measured_is_not_measured_again(self, tmp_path: Path) -> None:
        results, text = tmp_path / "repeated.json", tmp_path / "repeated.md"
        options = ["--tasks", "outlier", "--workers", "1", "--results", str(results), "--page", str(text)]
        assert repeat([*options, "--repetitions", "1"]) == 0
        (first,) = json.loads(results.read_text())
        assert repeat([*options, "--repetitions", "2"]) == 0
        again = json.loads(results.read_text())
        assert again[0] == first
        assert [result["seed"] for result in again] == [0, 1]
        assert "| 1x1 Gaussians, one value of 1e8 | 1,000 | 0.511 | 2 |" in text.read_text()
        assert first["value"] == measure(Case("outlier", 0))["value"]

    def test_an_interruption_keeps_what_was_measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stubbed(case: Case) -> dict[str, Any]:
            if case.seed == 2:
                raise KeyboardInterrupt
            return {**MEASURED, "seed": case.seed}

        monkeypatch.setattr("mutual_information.repeated.measure", stubbed)
        results, text = tmp_path / "repeated.json", tmp_path / "repeated.md"
        options = ["--tasks", "band", "--workers", "1", "--results", str(results), "--page", str(text)]
        assert repeat(options) == 130
        assert [result["seed"] for result in json.loads(results.read_text())] == [0, 1]
        assert "; 2 measurements on one thread each" in text.read_text()

    @pytest.mark.parametrize("page_before", [None, "", HEADING + "\n\nold\n"])
    def test_the_page_is_written_with_nothing_left_to_measure(self, tmp_path: Path, page_before: str | None) -> None:
        results, text = tmp_path / "repeated.json", tmp_path / "repeated.md"
        results.write_text(json.dumps([MEASURED]))
        if page_before is not None:
            text.write_text(page_before)
        options = ["--tasks", "band", "--repetitions", "1", "--results", str(results), "--page", str(text)]
        assert repeat(options) == 0
        assert text.read_text() == page([MEASURED])

    @pytest.mark.parametrize("content", ["{}", "[1]", "7", "[" + json.dumps({"task": "band", "seed": 0}) + "]"])
    def test_results_that_it_did_not_write_are_refused(
        self, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        results, text = tmp_path / "repeated.json", tmp_path / "repeated.md"
        results.write_text(content)
        assert repeat(["--seconds", "0", "--results", str(results), "--page", str(text)]) == 1
        assert "--results must name a file that this program wrote" in " ".join(capsys.readouterr().err.split())
        assert not text.exists()

    def test_a_page_that_would_replace_another_file_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "link.json").symlink_to(tmp_path / "new.json")
        thesis = tmp_path / "thesis.txt"
        thesis.write_text("years of work")
        for page_name, message in (
            ("link.json", "--page must not be the file of --results, got"),
            ("thesis.txt", "--page must name a page that this program wrote, or a new one, got"),
        ):
            options = ["--results", str(tmp_path / "new.json"), "--page", str(tmp_path / page_name)]
            assert repeat([*options, "--seconds", "0"]) == 1
            assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "new.json").exists()
        assert thesis.read_text() == "years of work"

    def test_a_full_disk_leaves_the_old_page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        results, text = tmp_path / "repeated.json", tmp_path / "repeated.md"
        results.write_text(json.dumps([MEASURED]))
        text.write_text(HEADING + " old")
        written: list[str] = []

        def full(source: Path, target: Path) -> None:
            written.append(target.name)
            if target == text:
                raise OSError(28, "No space left on device")
            Path(source).rename(target)

        monkeypatch.setattr("shared.files.os.replace", full)
        options = ["--tasks", "band", "--repetitions", "1", "--results", str(results), "--page", str(text)]
        assert repeat(options) == 1
        assert written == ["repeated.json", "repeated.md"]
        assert text.read_text() == HEADING + " old"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--tasks", "nosuch"], "--tasks must be among independent, "),
            (["--tasks", "band", "band"], "--tasks must name at least one value, each once, got band band."),
            (["--workers", "0"], "--workers must be at least 1, got 0. Raise it."),
            (["--first-seed", "-1"], "--first-seed must be at least 0 and below 2**63, got -1. Give another."),
            (["--first-seed", str(2**63 - 1)], f"--first-seed must be at least 0 and below 2**63, got {2**63 + 18}. "),
            (["--seconds", "nan"], "--seconds must be at least 0, got nan. Raise it."),
            (["--results", "RESULTS"], "--results must name a file that this program wrote, or a new one, got"),
            (["--page", "missing/.."], "outputs writable, got"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(
        self, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "results.json").write_text('[{"task": "nosuch", "seed": 0}]')
        name, *values = options
        values = [str(tmp_path / "results.json") if value == "RESULTS" else value for value in values]
        outputs = {"--results": str(tmp_path / "r.json"), "--page": str(tmp_path / "p.md")}
        others = [part for pair in outputs.items() if pair[0] != name for part in pair]
        assert repeat([name, *values, *others]) == 1
        assert message in " ".join(capsys.readouterr().err.split())

    def test_a_line_says_bias_spread_and_coverage(self) -> None:
        result = {"task": "band", "p_value": 0.005, "saturated": False, "seconds": 2.0}
        truth = TASKS["band"].information
        results = [
            {**result, "value": truth + error, "low": truth - 0.1, "high": truth + high, "others": others}
            for error, high in ((-0.3, -0.05), (0.1, 0.2))
            for others in ({"neighbours": truth + 0.5, "gaussian": None},)
        ]
        line = next(line for line in page(results).splitlines() if line.startswith("| x uniform"))
        expected = "2 | -0.100 | 0.283 | 1.409 | 1 of 2 | 2 of 2 | 0 of 2 | 0.224 | 0.500 | nan | 2.0 |"
        assert line.endswith(expected)


def test_results_to_which_another_run_writes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def held(path: Path) -> nullcontext[bool]:
        asked.append(path.name)
        return nullcontext(False)

    monkeypatch.setattr("mutual_information.repeated.locked", held)
    assert repeat(["--results", str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md")]) == 1
    assert "repeated: --results must be free, got " in capsys.readouterr().err
    assert asked == [".found.json.lock"]
