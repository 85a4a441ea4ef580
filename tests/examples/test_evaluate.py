"""The test of a finished run: its own numbers again, other data sets, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blan_facial.data.avatars import load_avatars
from blan_facial.evaluate import main
from blan_facial.results.finished import load_run
from blan_facial.train import main as train
from blan_facial.training.scaling import Scaling
from tests.examples.celeba_folder import write_celeba_folder
from tests.examples.run_folder import SMALL, write_run

TABLE = ["--data", "csv", "--data-root", "{celeba}", "--labels", "gone.csv", "--columns", "{folder}/given/columns.json"]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in CelebA's formats."""
    faces = load_avatars("train", image_size=40, count=96)
    folder = tmp_path_factory.mktemp("celeba")
    return write_celeba_folder(
        folder, [faces.image(index) for index in range(len(faces))], faces.labels, faces.attributes
    )


@pytest.fixture(scope="module")
def trained(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on them."""
    folder = tmp_path_factory.mktemp("runs") / "celeba"
    options = [*SMALL, "--batch-size", "8", "--epochs", "1", "--warmup-steps", "0", "--lr", "0.02"]
    assert train([*options, "--data", "celeba", "--data-root", str(celeba), "--output", str(folder)]) == 0
    return folder


def test_a_run_s_own_test_gives_its_own_numbers_to_the_last_digit(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "metrics.json"
    assert main([str(trained), "--workers", "2", "--output", str(output)]) == 0
    assert output.read_bytes() == (trained / "metrics.json").read_bytes()
    printed = " ".join(capsys.readouterr().out.split())
    assert "Test split of celeba, 12 images" in printed
    assert f"The metrics are in {output}." in printed


def test_the_scaling_of_a_run_scales_its_probabilities_on_any_data(
    celeba: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = load_run(trained).scaling
    assert kept is not None
    assert list(read(trained / "metrics.json")["scaling"]["scale"].values()) == list(kept.scale)
    write_run(tmp_path, *SMALL, attributes=("Smiling", "Black_Hair"), scaling=Scaling((0.02, 0.02), (0.0, 0.1), 12))
    before = (tmp_path / "model.safetensors").read_bytes()
    given = ["--data", "celeba", "--data-root", str(celeba), "--output", str(tmp_path / "celeba.json")]
    assert main([str(tmp_path), *given]) == 0
    metrics = read(tmp_path / "celeba.json")
    shift = {"Smiling": 0.0, "Black_Hair": 0.1}
    assert metrics["scaling"] == {"images": 12, "scale": dict.fromkeys(shift, 0.02), "shift": shift}
    assert metrics["scaled_nll"] < metrics["nll"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "resampled 12 images" in printed
    assert "Scaled for each attribute, fitted on 12 validation images" in printed
    assert f"log loss {metrics['scaled_nll']:.3f}, accuracy" in printed
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("split", "options", "images"), [("validation", [], 12), ("train", ["--images", "10"], 10)])
def test_other_splits_of_the_folder(split: str, options: list[str], images: int, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    assert main([str(trained), "--split", split, *options, "--output", str(output)]) == 0
    metrics = read(output)
    assert (metrics["split"], metrics["images"]) == (split, images)
    assert ("labels" in metrics) == (not options)  # which count those of all images


def test_attributes_are_matched_by_name(celeba: Path, trained: Path, tmp_path: Path) -> None:
    faces = load_avatars("train", image_size=40, count=96)
    order = np.random.default_rng(0).permutation(len(faces.attributes))
    other = write_celeba_folder(
        tmp_path / "other",
        [np.asarray(Image.open(path)) for path in sorted((celeba / "img_align_celeba").iterdir())],
        faces.labels[:, order],
        [faces.attributes[place] for place in order],
    )
    for path in (other / "img_align_celeba").iterdir():  # the very same bytes
        path.write_bytes((celeba / "img_align_celeba" / path.name).read_bytes())
    assert main([str(trained), "--data-root", str(other), "--output", str(tmp_path / "metrics.json")]) == 0
    assert read(tmp_path / "metrics.json") == read(trained / "metrics.json")


def test_settings_of_the_run_s_own_data_are_left_behind(celeba: Path, tmp_path: Path) -> None:
    options = ["--preset", "lfwa", "--data-root", "gone", "--lfwa-split", "all", "--accelerator", "cpu", *SMALL]
    write_run(tmp_path / "run", *options, "--blocks", "1", "1", "1", "1", attributes=["Bald"])
    output = tmp_path / "metrics.json"
    assert main([str(tmp_path / "run"), "--data", "celeba", "--data-root", str(celeba), "--output", str(output)]) == 0
    metrics = read(output)
    assert (metrics["data"], metrics["images"], list(metrics["per_attribute"])) == ("celeba", 12, ["Bald"])


@pytest.mark.parametrize(
    "trained_with",
    [
        ["--data", "celeba", "--data-root", "gone", "--keep", "best", "--no-os"],
        ["--data", "csv", "--data-root", "gone", "--labels", "gone.csv", "--unknown", "minus-one"],
        ["--data", "csv", "--data-root", "gone", "--labels", "gone.csv", "--columns", "gone.toml"],
        ["--train-images", "8", "--labelled", "4", "--unlabelled"],
    ],
)
@pytest.mark.parametrize("images", [["--images", "3"], ["--images", "3", "--batch-size", "1"]])
def test_rules_of_training_do_not_hold_for_tests(trained_with: list[str], images: list[str], tmp_path: Path) -> None:
    faces = load_avatars("test", image_size=32, count=3)
    rows = [f"{index}.png,test,{index % 2}" for index in range(3)]
    (tmp_path / "table.csv").write_text("\n".join(["image,split,bald", *rows]))
    for index in range(3):
        Image.fromarray(faces.image(index)).save(tmp_path / f"{index}.png")
    write_run(tmp_path / "run", *SMALL, *trained_with, attributes=["Bald"])
    given = ["--data", "csv", "--data-root", str(tmp_path), "--labels", str(tmp_path / "table.csv"), *images]
    assert main([str(tmp_path / "run"), *given, "--output", str(tmp_path / "metrics.json")]) == 0
    metrics = read(tmp_path / "metrics.json")
    assert (metrics["images"], list(metrics["per_attribute"])) == (3, ["Bald"])  # as the model calls it


def test_attributes_of_commas_are_not_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("image,split,Hair,long\na.png,test,1,0\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    write_run(tmp_path / "run", *SMALL, attributes=["Hair, long"])
    given = ["--data", "csv", "--data-root", str(tmp_path), "--labels", str(tmp_path / "table.csv")]
    assert main([str(tmp_path / "run"), *given]) == 1
    assert "csv: must have the attributes of the model, got Hair and long in place of 'Hair, long'." in " ".join(
        capsys.readouterr().err.split()
    )


def test_another_data_set_with_more_attributes(celeba: Path, tmp_path: Path) -> None:
    attributes = ("Smiling", "Black_Hair")
    write_run(tmp_path, *SMALL, "--images", "7", attributes=attributes)
    (tmp_path / "metrics.json").unlink()
    output = tmp_path / "celeba.json"
    assert main([str(tmp_path), "--data", "celeba", "--data-root", str(celeba), "--output", str(output)]) == 0
    metrics = read(output)
    assert (metrics["data"], metrics["images"]) == ("celeba", 12)  # --images was of the run's own data
    assert tuple(metrics["per_attribute"]) == attributes
    assert metrics["parameters"] < metrics["training_parameters"]
    assert metrics["train_seconds"] is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--data", "celeba", "--data-root", "{celeba}"],
            "celeba: must have the 2 requested attributes, got none called Big_Lips. It has Arched_Eyebrows, ",
        ),
        (
            ["--data", "lfwa"],
            "evaluate: --data lfwa needs --data-root, got none. Name the data set's official folder.",
        ),
        (["--images", "0"], "evaluate: --images must be at least 1, got 0. Give a positive number."),
        (
            ["--precision", "16-mixed"],
            "evaluate: --precision 16-mixed needs CUDA, got none. Use bf16-mixed or 32-true.",
        ),
        (
            ["--data", "celeba", "--data-root", "{celeba}/no"],
            "load_celeba: the data folder must exist, got {celeba}/no (nothing there). Name it with --data-root.",
        ),
        (["--output", "{celeba}/img_align_celeba/000001.jpg"], "evaluate: --output must be new or a JSON file, got "),
        (["--output", "{folder}/given/columns.json", *TABLE], "evaluate: --output must not be an input file, got "),
        (["--output", "{folder}/config.json"], "evaluate: --output must not be an input file, got "),
        (["--output", "{folder}/given/columns.json"], "evaluate: --output must not be an input file, got "),
        (["--output", "{folder}/config.json/x"], "evaluate: files must be readable and outputs writable, got "),
        (["--output", "{celeba}"], "evaluate: files must be readable and outputs writable, got "),
    ],
)
def test_a_mistake_gets_one_clear_error(
    options: list[str], text: str, celeba: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, *SMALL, "--images", "2", attributes=("Smiling", "Big_Lips"))
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "columns.json").write_text("{}")
    assert main([str(tmp_path), *(option.format(celeba=celeba, folder=tmp_path) for option in options)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {text.format(celeba=celeba)}")
    assert error.count("\n") == 1


@pytest.mark.attack("15.12", "JSON of a run that is cut, a list, or of thousands of brackets")
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert (
        f"error: {tmp_path}: must be the output folder of a run, got no config.json in it." in capsys.readouterr().err
    )
    write_run(tmp_path, *SMALL, "--images", "8")
    for name in ("metrics.json", "config.json"):
        for text in ("[1]", "[]", "[" * 100_000, "{"):
            (tmp_path / name).write_text(text)
            assert main([str(tmp_path)]) == 1
            assert f"error: {tmp_path}/{name}: must be JSON that a run wrote" in capsys.readouterr().err


def test_some_attributes_are_tested_as_they_are_among_all(trained: Path, tmp_path: Path) -> None:
    output, names = tmp_path / "metrics.json", ["Smiling", "Bangs"]
    assert main([str(trained), "--attributes", "smiling,bangs", "--output", str(output)]) == 0
    every, some = read(trained / "metrics.json"), read(output)
    assert some["per_attribute"] == {name: every["per_attribute"][name] for name in names}
    assert some["accuracy"] == pytest.approx(sum(every["per_attribute"][name]["accuracy"] for name in names) / 2)


def test_an_attribute_that_the_model_lacks_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained), "--attributes", "Smiling", "Hat"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: evaluate: --attributes must be attributes of the model, got 'Hat'. It has "
    )
