"""Prediction from the command line: answers, formats, what is found, and what is refused."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blan_facial.data.faces import decode_face
from blan_facial.data.loading import normalize
from blan_facial.predict import main
from blan_facial.prediction.predictor import Predictor
from blan_facial.prediction.sources import LIST, Problem, Source, Sources
from blan_facial.results.finished import load_run
from blan_facial.results.run_folder import save_results
from blan_facial.training.scaling import Scaling
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

# What training, testing and drawing need and a prediction does not.
HEAVY = {"lightning", "torchmetrics", "tensorboard", "matplotlib", "jinja2", "h5py", "torchvision", "pandas", "scipy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "blan"
    write_run(folder, *SMALL)
    log = folder / "logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("step\n0\n")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, two of them in subfolders, and three files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("b.png", "a.JPG", "c.webp", "x/2.png", "x/y/1.bmp"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / name)
    for name in ("notes.txt", "x/list.csv", "x/._2.png"):
        (folder / name).write_text("no image")
    return folder


def images(folder: Path) -> list[Path]:
    return [folder / name for name in ("a.JPG", "b.png", "c.webp", "x/2.png", "x/y/1.bmp")]


def logits(run: Path, *paths: Path) -> np.ndarray:
    """The model's own scores of a batch of images, (B, N, 2)."""
    faces = np.stack([decode_face(path.read_bytes(), 32) for path in paths])
    with torch.no_grad():
        return load_run(run).model(normalize(torch.from_numpy(faces).movedim(-1, 1))).logits.numpy()


class TestAnswers:
    def test_csv_says_what_the_model_says(self, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(run), str(photos), "--format", "csv", "--batch-size", "2"]) == 0
        captured = capsys.readouterr()
        rows = list(csv.DictReader(io.StringIO(captured.out)))
        assert [(row["image"], row["attribute"]) for row in rows] == [
            (str(path), attribute) for path in images(photos) for attribute in ATTRIBUTES
        ]
        one, two, three, four, five = images(photos)
        scores = np.concatenate([logits(run, one, two), logits(run, three, four), logits(run, five)]).reshape(-1, 2)
        expected = torch.from_numpy(scores).double().softmax(-1)[:, 1].numpy()
        np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=5.1e-7)  # six digits
        assert [row["predicted"] == "true" for row in rows] == list(scores.argmax(-1) == 1)
        assert {row["predicted"] for row in rows} == {"true", "false"}
        assert captured.err == "5 images answered, 3 other files in folders skipped.\n"

    def test_json_says_what_each_level_adds(self, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = photos / "b.png"
        assert main([str(run), str(path), "--format", "jsonl"]) == 0
        captured = capsys.readouterr()
        (line,) = captured.out.splitlines()
        content = json.loads(line)
        assert content["image"] == str(path)
        assert list(content["attributes"]) == list(ATTRIBUTES)
        for answer, (no, yes) in zip(content["attributes"].values(), logits(run, path)[0], strict=True):
            terms = answer["contributions"]
            assert list(terms) == ["AC1", "AC2", "AC3", "AC4"]
            assert sum(terms.values()) == pytest.approx(yes - no, abs=1e-4)
            assert answer["level"] == (max if answer["predicted"] else min)(terms, key=terms.get)
        assert not captured.err

    def test_a_scaling_moves_probabilities_and_the_answers_with_them(
        self, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calibrated = Path(shutil.copytree(run, tmp_path / "run"))
        finished = load_run(run)
        assert finished.scaling is None
        scales, shifts = [0.4, 2.5, 1.0, 1.5], [30.0, -30.0, 0.5, 0.0]
        scaling = Scaling(tuple(scales), tuple(shifts), 80)
        save_results(calibrated, finished.model, {}, scaling)
        assert load_run(calibrated).scaling == scaling

        def answers(folder: Path, kind: str) -> str:
            assert main([str(folder), str(photos / "b.png"), "--format", kind]) == 0
            return capsys.readouterr().out

        raw, scaled = (json.loads(answers(folder, "jsonl")) for folder in (run, calibrated))
        assert (raw["scaled"], scaled["scaled"]) == (False, True)
        pairs = zip(scaled["attributes"].values(), raw["attributes"].values(), scales, shifts, strict=True)
        for ours, theirs, scale, shift in pairs:
            odds = scale * sum(theirs["contributions"].values()) + shift
            assert ours["probability"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
            assert ours["predicted"] == (ours["probability"] > 0.5)
            assert sum(ours["contributions"].values()) + ours["shift"] == pytest.approx(odds, abs=1e-4)
            assert "shift" not in theirs
        yes, no, *_ = scaled["attributes"].values()
        assert (yes["predicted"], no["predicted"]) == (True, False)
        assert "Probabilities scaled for each attribute." in answers(calibrated, "table")
        assert "Probabilities not scaled." in answers(run, "table")
        assert {row["scaled"] for row in csv.DictReader(io.StringIO(answers(calibrated, "csv")))} == {"true"}

    def test_a_table_is_for_people(self, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--attributes", "black hair", "smiling"]
        assert main([str(run), str(photos / "b.png"), *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= 80 for line in lines)
        words = " ".join(lines)
        assert all(word in words for word in ("b.png", "attribute", "probability", "predicted", "level"))
        assert sum("Black_Hair" in line for line in lines) == sum("Smiling" in line for line in lines) == 1
        assert "Eyeglasses" not in words

    def test_the_threshold_moves_the_answer_and_the_level_with_it(self, run: Path) -> None:
        finished = load_run(run)
        faces = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        low, high = (
            [
                answer
                for answers in Predictor(finished.model, finished.attributes, threshold=threshold)(faces)
                for answer in answers
            ]
            for threshold in (0.5, 0.999999)
        )
        assert [answer.probability for answer in low] == [answer.probability for answer in high]
        moved = [(a, b) for a, b in zip(low, high, strict=True) if a.predicted != b.predicted]
        assert moved
        for yes, no in moved:
            assert yes.predicted
            assert yes.level == max(yes.contributions, key=yes.contributions.__getitem__)
            assert no.level == min(no.contributions, key=no.contributions.__getitem__)

    @pytest.mark.parametrize("options", [("--no-fusion",), ("--model", "resnet")], ids=" ".join)
    def test_models_without_fusion_or_levels(self, options: tuple[str, ...], tmp_path: Path) -> None:
        write_run(tmp_path, *(SMALL if options[0] == "--no-fusion" else SMALL[:4]), *options)
        finished = load_run(tmp_path)
        faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        answers = Predictor(finished.model, finished.attributes)(faces)[1]
        with torch.no_grad():
            scores = finished.model(normalize(torch.from_numpy(faces).movedim(-1, 1))).logits[1].double()
        np.testing.assert_allclose([answer.probability for answer in answers], scores.softmax(-1)[:, 1], rtol=1e-6)
        if options[0] == "--model":
            assert {answer.level for answer in answers} == {None}
            assert answers[0].contributions == {}
        else:
            sums = [sum(answer.contributions.values()) for answer in answers]
            np.testing.assert_allclose(sums, scores.diff(dim=-1)[:, 0], rtol=1e-4)


class TestOutput:
    def test_a_file_is_written_whole_or_not_at_all(
        self, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        output = tmp_path / "new" / "answers.jsonl"
        arguments = [str(run), str(photos), "--format", "jsonl", "--output", str(output), "--batch-size", "2"]
        assert main(arguments) == 0
        before = output.read_bytes()
        assert len(before.splitlines()) == 5
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "5 images answered, 3 other files in folders skipped.\n")

        batches = iter([Predictor.__call__])

        def interrupted(self: Predictor, faces: np.ndarray) -> Any:
            answer = next(batches, None)
            if answer is None:
                raise KeyboardInterrupt
            return answer(self, faces)

        monkeypatch.setattr(Predictor, "__call__", interrupted)
        assert main(arguments) == 130
        assert capsys.readouterr().err.strip() == "Stopped."
        assert output.read_bytes() == before
        assert [path.name for path in output.parent.iterdir()] == ["answers.jsonl"]

    def test_names_that_are_no_text_pass_through(self, run: Path, photos: Path, tmp_path: Path) -> None:
        name = os.fsencode(tmp_path) + b"/\xff[bold].png"
        try:
            Path(os.fsdecode(name)).write_bytes((photos / "b.png").read_bytes())
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
        for kind in ("csv", "jsonl", "table"):
            output = tmp_path / kind
            assert main([str(run), os.fsdecode(name), "--format", kind, "--output", str(output)]) == 0
        assert name in (tmp_path / "csv").read_bytes()
        assert os.fsencode(json.loads((tmp_path / "jsonl").read_text())["image"]) == name
        assert "\N{REPLACEMENT CHARACTER}[bold].png" in (tmp_path / "table").read_text()

    def test_an_image_of_a_list_is_not_overwritten(
        self, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        image, stream = tmp_path / "b.png", io.TextIOWrapper(io.BytesIO(os.fsencode(tmp_path / "b.png")))
        image.write_bytes((photos / "b.png").read_bytes())
        monkeypatch.setattr("sys.stdin", stream)
        assert main([str(run), "-", "--output", str(image)]) == 1
        assert capsys.readouterr().err.startswith("error: predict: --output must not be an input file, got ")
        assert image.read_bytes() == (photos / "b.png").read_bytes()

    def test_annotated_pictures(self, run: Path, photos: Path, tmp_path: Path) -> None:
        pictures, output = tmp_path / "pictures", tmp_path / "answers"
        paths = [str(photos), str(photos / "x" / "2.png"), str(photos / "b.png")]
        options = ["--annotate", str(pictures), "--format", "jsonl", "--output", str(output)]
        assert main([str(run), *paths, *options]) == 0
        named = [Path(json.loads(line)["picture"]).relative_to(pictures) for line in output.read_text().splitlines()]
        names = ["a.JPG.png", "b.png.png", "c.webp.png", "x/2.png.png", "x/y/1.bmp.png", "2.png.png", "b.png-2.png"]
        assert [path.as_posix() for path in named] == names
        for path in named:
            with Image.open(pictures / path) as picture:
                assert picture.format == "PNG"
                assert min(picture.size) > 300
        before = {path: path.read_bytes() for path in pictures.rglob("*.png")}
        inputs = [str(pictures / "b.png"), str(pictures / "b.png.png")]
        (pictures / "b.png").write_bytes((photos / "b.png").read_bytes())  # whose picture is named as the other image
        assert main([str(run), *inputs, "--annotate", str(pictures)]) == 0
        assert all(path.read_bytes() == content for path, content in before.items())
        assert (pictures / "b.png-3.png").is_file()
        one = np.asarray(Image.open(pictures / "b.png.png").convert("RGB")).astype(int)
        other = np.asarray(Image.open(pictures / "c.webp.png").convert("RGB")).astype(int)
        assert np.abs(one - other).mean() > 5

    def test_the_script_stops_quietly_where_nobody_reads_on(self, run: Path, photos: Path, repository: Path) -> None:
        script = repository / "examples" / "blan_facial" / "predict.py"
        command = [sys.executable, str(script), str(run), *[str(photos)] * 300, "--format", "jsonl"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith(b'{"image": ')
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=60) == 1


def test_a_list_is_answered_as_it_comes_and_no_training_library_is_imported(
    run: Path, photos: Path, repository: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from blan_facial.predict import main; status = main(sys.argv[1:]); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(status)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(repository / "examples"), str(repository)))}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run), "-", "--format", "jsonl"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=photos,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for lines, answered in (
        (b"b.png\n", ["b.png"]),
        (b"\n  \nnone.png\r\nx\na.J", ["x/2.png", "x/y/1.bmp"]),
        (b"PG\n", ["a.JPG"]),
    ):
        process.stdin.write(lines)
        process.stdin.flush()
        for image in answered:  # would wait for ever if the answer waited for the next line
            assert json.loads(process.stdout.readline())["image"] == image
    rest, errors = process.communicate(b"c.webp", timeout=60)
    assert json.loads(rest)["image"] == "c.webp"
    *messages, modules = errors.decode().splitlines()
    assert messages == [
        "error: none.png: must be an image file or a folder, got nothing there. Correct the path.",
        "5 images answered, 2 other files in folders skipped, 1 refused.",
    ]
    assert process.returncode == 1
    assert not HEAVY & set(modules.split())
    assert {"torch", "tyro", "rich", "PIL", "blan_facial"} <= set(modules.split())


class TestSources:
    def test_batches_are_full_but_before_a_line_is_waited_for(self, photos: Path) -> None:
        def sizes(paths: list[Path], names: bytes, size: int) -> list[int]:
            return [len(batch) for batch in Sources(paths, io.BytesIO(names)).batches(size)]

        assert sizes([photos, photos], b"", 4) == [4, 4, 2]
        listed = b"".join(os.fsencode(path) + b"\n" for path in images(photos))
        assert sizes([photos / "b.png", LIST, photos], listed, 4) == [4, 2, 4, 1]
        assert sizes([LIST], b"", 4) == []

    def test_what_is_found_keeps_its_place_in_its_folder(self, photos: Path) -> None:
        sources = Sources([photos / "x", photos / "a.JPG"], io.BytesIO())
        (batch,) = sources.batches(10)
        assert batch == [
            Source(photos / "x" / "2.png", "2.png"),
            Source(photos / "x" / "y" / "1.bmp", "y/1.bmp"),
            Source(photos / "a.JPG", "a.JPG"),
        ]
        assert sources.skipped == 2

    def test_nothing_outside_the_root_is_read(self, photos: Path, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (root / "own.png").write_bytes((photos / "b.png").read_bytes())
        (root / "link.png").symlink_to(photos / "b.png")
        (root / "folder").symlink_to(photos)
        (root / "inside.png").symlink_to(root / "own.png")
        paths = [Path(name) for name in (".", "own.png", "../secret.png", str(photos / "b.png"), "folder")]
        (batch,) = Sources(paths, io.BytesIO(), root=root).batches(20)
        found = [item if isinstance(item, Source) else item.message for item in batch]
        outside = f"must be in --root {root}, got a path outside it. Leave it out."
        assert found == [
            Source(root / "inside.png", "inside.png"),
            f"{root}/link.png: {outside}",
            Source(root / "own.png", "own.png"),
            Source(root / "own.png", "own.png"),
            f"{root}/../secret.png: {outside}",
            f"{photos}/b.png: {outside}",
            f"{root}/folder: {outside}",
        ]

    def test_paths_that_the_system_refuses_are_problems(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "folder").mkdir()
        paths = [tmp_path / name for name in ("x" * 300, "a\0b", "loop", "folder")]
        for root in (None, tmp_path):
            (batch,) = Sources(paths, io.BytesIO(), root=root).batches(9)
            assert len(batch) == 4
            assert all(isinstance(item, Problem) for item in batch)
        assert isinstance(batch[-1], Problem)
        assert batch[-1].message.startswith(f"{tmp_path}/folder: must contain images (.avif, .bmp, .gif, ")
        assert batch[-1].message.endswith("got 0 other files. Name another.")


def write_header_of_a_bomb(path: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    path.write_bytes(stream.getvalue()[:200])


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut.jpg", lambda path: path.write_bytes(path.with_name("good.jpg").read_bytes()[:300]),
     "must be an image that decodes completely, got "),
    ("page.png", lambda path: path.write_text("<html>"),
     "must be an image that decodes completely, got no known image format. Replace the file, or leave it "),
    ("empty.png", lambda path: path.write_bytes(b""), "got no known image format."),
    ("bomb.png", write_header_of_a_bomb,
     "must be small enough to decode, got more than 89,478,485 pixels, perhaps a decompression bomb. "
     "Raise --max-pixels if you trust it."),
    ("pipe.png", os.mkfifo, "must be an image file or a folder, got something else. Correct the path."),
    ("gone.png", lambda path: path.symlink_to(path.with_name("nowhere")),
     "must be an image file or a folder, got nothing there. Correct the path."),
    ("loop.png", lambda path: path.symlink_to(path),
     "must be an image file or a folder, got nothing there. Correct the path."),
]  # fmt: skip


@pytest.mark.parametrize("named", [True, False], ids=["named", "in a folder"])
def test_bad_files_are_named_and_the_others_answered(
    named: bool, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.jpg")
    for name, write, _ in BAD:
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name, _, _ in BAD] + [str(tmp_path / "good.jpg")]
    assert main([str(run), *(paths if named else [str(tmp_path)]), "--format", "csv"]) == 1
    captured = capsys.readouterr()
    assert {row["image"] for row in csv.DictReader(io.StringIO(captured.out))} == {str(tmp_path / "good.jpg")}
    *errors, summary = captured.err.splitlines()
    assert summary == f"1 image answered, {len(BAD)} refused."
    assert len(errors) == len(BAD)
    for name, _, text in BAD:
        (error,) = [error for error in errors if error.startswith(f"error: {tmp_path}/{name}: ")]
        assert text in error


def test_the_limit_on_pixels_is_the_user_s(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # so that it is put back
    path = str(photos / "b.png")
    assert main([str(run), path, "--max-pixels", str(40 * 30)]) == 0
    assert main([str(run), path, "--max-pixels", str(40 * 30 - 1)]) == 1
    assert f"error: {path}: must be small enough to decode, got more than 1,199 pixels" in capsys.readouterr().err


@pytest.mark.attack("15.10", "cells of a CSV file that begin as formulas do")
def test_a_spreadsheet_computes_nothing(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("=1+1.png").write_bytes((photos / "b.png").read_bytes())
    assert main([str(run), "=1+1.png", "--format", "csv", "--output", "answers.csv"]) == 0
    with Path("answers.csv").open() as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"'=1+1.png"}


MISTAKES: list[tuple[list[str], str]] = [
    ([], "predict: needs images, got no path. Name files, folders or - for a list."),
    (
        ["--attributes", "Smiling", "a.jpg"],
        "predict: needs images, got no path. Name files, folders or - for a list before --attributes, which takes all "
        "words after it.",
    ),
    (["-", "-"], "predict: - stands for standard input, which is one list, got it more than once. Give it once."),
    (["{photos}", "--threshold", "1"], "predict: --threshold must be in (0, 1), got 1.0. Use 0.5, for example."),
    (["{photos}", "--max-pixels", "0"], "predict: --max-pixels must be at least 1, got 0. Raise it."),
    (["{photos}", "--batch-size", "0"], "predict: --batch-size must be at least 1, got 0. Raise it."),
    (["a.png", "--root", "nowhere"], "predict: --root must be a folder, got nowhere. Name one, or leave it out."),
    (
        ["{photos}", "--annotate", "{photos}/x/new"],
        "predict: --annotate must lie outside the folders that are read, got {photos}/x/new in {photos}. Name another.",
    ),
    (
        ["{photos}", "--attributes", "Bald"],
        "predict: --attributes must be attributes of the model, got 'Bald'. It has Smiling, Eyeglasses, Black_Hair, "
        "Big_Nose.",
    ),
    (
        ["{photos}", "--accelerator", "cuda"],
        "predict: --accelerator cuda is not available here, got no such device. Leave the option out.",
    ),
    (
        ["{photos}", "--output", "{photos}/b.png"],
        "predict: --output must not be an input file, got {photos}/b.png, which is {photos}/b.png. Name another.",
    ),
    (
        ["{photos}", "--output", "{run}/model.safetensors"],
        "predict: --output must not be an input file, got {run}/model.safetensors, which is ",
    ),
    (
        ["{photos}", "--output", "{run}/logs/version_0/metrics.csv"],
        "predict: --output must not be an input file, got {run}/logs/version_0/metrics.csv, which is ",
    ),
    (["{photos}", "--output", "{photos}/b.png/x"], "predict: files must be readable and outputs writable, got "),
    (["{photos}", "--annotate", "{run}/config.json/x"], "predict: files must be readable and outputs writable, got "),
]


@pytest.mark.parametrize(
    ("options", "text"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_one_clear_error(
    options: list[str], text: str, run: Path, photos: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main([str(run), *(option.format(photos=photos, run=run) for option in options), "--format", "jsonl"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {text.format(photos=photos, run=run)}")
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize("name", ["a.jfif", "a.avif", "a.JPE"])
def test_a_folder_s_images_are_those_that_are_read_when_named(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / name, format="AVIF" if name.endswith("avif") else "JPEG")
    for path in (tmp_path, tmp_path / name):
        assert main([str(run), str(path), "--format", "jsonl"]) == 0
        assert json.loads(capsys.readouterr().out)["image"] == str(tmp_path / name)


@pytest.mark.attack("15.13", "an image in HEIC, named or in a folder")
def test_an_image_in_heic_is_refused_by_name_whether_named_or_found(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for path in (tmp_path, tmp_path / "a.heic"):
        assert main([str(run), str(path), "--format", "jsonl"]) == 1
        text = "got an HEIC image, which is not supported; convert it to JPEG. Replace the file, or leave it out."
        assert text in capsys.readouterr().err


@pytest.mark.attack("15.13", "warnings of image libraries")
@pytest.mark.filterwarnings("default")
def test_warnings_of_image_libraries_are_counted_and_shown_when_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    directory = b"MPF\0garbage!"
    (tmp_path / "a.jpg").write_bytes(
        data[:2] + b"\xff\xe2" + (2 + len(directory)).to_bytes(2, "big") + directory + data[2:]
    )
    assert main([str(run), str(tmp_path), "--format", "jsonl"]) == 0
    assert re.fullmatch(r"Image libraries gave \d warnings; --verbose shows them\.\n", capsys.readouterr().err)
    assert main([str(run), str(tmp_path), "--format", "jsonl", "--verbose"]) == 0
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "a.png"]) == 1
    assert f"error: {tmp_path}: must be the output folder of a run" in capsys.readouterr().err
