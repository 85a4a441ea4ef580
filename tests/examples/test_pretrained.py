"""A finished run is a folder that others load."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blan_facial import share
from blan_facial.results import pretrained
from blan_facial.results.finished import load_run
from blan_facial.results.pretrained import from_pretrained, save_pretrained
from blan_facial.training.checkpoint import RunError
from blan_facial.training.scaling import Scaling
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

SCALING = Scaling((1.5,) * 4, (-0.5,) * 4, 90)
FOUND = {"accuracy": 0.9, "majority": 0.75, "balanced": None}
METRICS = {
    "data": "celeba",
    "split": "test",
    "images": 1200,
    "accuracy": 0.9125,
    "balanced_accuracy": 0.85,
    "per_attribute": dict.fromkeys(ATTRIBUTES, FOUND) | {"A|B <i>[x](y)\n": FOUND},
    "kept": {"epoch": 7.0, "seconds": 60.0},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    secret = tmp_path / "home" / "anna"
    options = ("--preset", "celeba", "--data-root", str(secret / "faces"), "--encoder-weights", str(secret / "w.pt"))
    write_run(folder, *options, "--output", str(folder), *SMALL, scaling=SCALING)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_what_was_saved_is_what_is_loaded(run: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    assert share.main([str(run), str(shared)]) == 0
    before, after = load_run(run), from_pretrained(shared)
    assert after.attributes == before.attributes
    assert after.scaling == before.scaling == SCALING
    assert after.thresholds == before.thresholds
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(before.model(images).logits, after.model(images).logits)


def test_the_folder_tells_nothing_of_the_machine(run: Path, tmp_path: Path) -> None:
    save_pretrained(load_run(run), str(tmp_path / "shared"))
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
    }
    for path in (tmp_path / "shared").iterdir():
        assert b"anna" not in path.read_bytes(), path.name


def test_the_card_is_filled_from_the_metrics(run: Path, tmp_path: Path) -> None:
    save_pretrained(load_run(run), tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: blan-layers\n")
    assert "1,200 images of the split test of celeba." in card
    assert "| accuracy | 0.912 |" in card
    assert "| Smiling | 0.900 | 0.750 |  |" in card
    assert r"| A\|B \<i\>\[x\](y)␊ | 0.900 | 0.750 |  |" in card
    assert "32 x 32 pixels, 7 of 20 epochs, seed 0." in card
    for word in ("No surveillance", "Bias", "Consent"):
        assert word in card
    assert "drawings" not in card


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ([], "on drawn faces, 32 x"),
        (
            ["--data", "avatars-hard", "--labelled", "1000", "--unlabelled"],
            "on harder drawn faces with the labels of 1,000 training images, the others without labels, 32 x",
        ),
    ],
)
def test_a_run_on_drawn_faces_that_was_not_tested_says_so(options: list[str], trained: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", *SMALL, *options)
    (tmp_path / "run" / "metrics.json").unlink()
    save_pretrained(load_run(tmp_path / "run"), tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert f"Trained with blan-layers {trained}" in card
    assert "It was not tested." in card
    assert "No person was" in card


def test_a_folder_that_cannot_be_written_is_left_empty(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "write_json", full)
        assert share.main([str(run), str(tmp_path / "shared")]) == 1
        patched.undo()
        patched.setattr(pretrained, "replacing", full)
        assert share.main([str(run), str(tmp_path / "shared")]) == 1
    assert share.main([str(run), str(tmp_path / "shared")]) == 0


@pytest.mark.parametrize("metrics", [{"accuracy": 0.5}, METRICS | {"per_attribute": [1]}, METRICS | {"images": "x"}])
def test_metrics_that_no_run_wrote_are_refused(metrics: dict[str, Any], run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match=r"metrics\.json must contain what train\.py writes, got .*Error"):
        save_pretrained(load_run(run), tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_folder_that_holds_something_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "note").touch()
    with pytest.raises(RunError, match=r"^save_pretrained: folder must be new or empty, got"):
        save_pretrained(load_run(run), tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["note"]


def test_a_model_comes_from_the_hub_without_its_pickles(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: Any) -> str:
        assert name == "anna/faces"
        assert options["allow_patterns"] == ["config.json", "model.safetensors", "metrics.json"]
        assert options["local_files_only"]
        return str(run)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert from_pretrained("anna/faces", local_files_only=True).attributes == ATTRIBUTES


def test_a_model_that_is_nowhere_is_refused_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RunError, match=r"^from_pretrained: source must be a folder or a model on the hub, got"):
        from_pretrained("nobody/nothing", local_files_only=True)


@pytest.mark.parametrize("source", ["./runs/missing", "no/such/folder", Path("nobody/nothing")])
def test_a_folder_that_is_not_there_is_not_on_the_hub(source: Path | str) -> None:
    with pytest.raises(RunError, match=r": must be the output folder of a run, got no such folder\. Name another\."):
        from_pretrained(source)


def test_a_file_is_not_on_the_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(RunError, match=r"^config\.json: must be the output folder of a run, got no such folder"):
        from_pretrained("config.json")
