"""Runs that go on longer than they were to, and runs that start from a finished one."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blan_facial.config import ConfigError, parse
from blan_facial.network.builder import build
from blan_facial.results.finished import load_run
from blan_facial.results.starting import start_from
from blan_facial.train import main
from blan_facial.training.checkpoint import RunError
from tests.examples.conftest import TINY
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

pytestmark = pytest.mark.usefixtures("_without_report")


def rates(folder: Path) -> list[float]:
    """Return the learning rates that were logged, from the first to the last sitting."""
    paths = sorted((folder / "logs").glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    return [float(row["lr"]) for path in paths for row in csv.DictReader(path.read_text().splitlines()) if row["lr"]]


@pytest.mark.attack("15.13", "a finished run is to go on longer")
def test_a_finished_run_is_extended_at_its_last_rate_and_resumes_exactly(run_copy: Path, tmp_path: Path) -> None:
    assert main([*TINY, "--output", str(run_copy), "--resume", "--extend", "2"]) == 0
    logged = rates(run_copy)
    assert len(logged) == 12
    assert logged[6:] == [pytest.approx(8e-4)] * 6
    assert logged[5] > 8e-4
    parts = tmp_path / "parts"
    assert main([*TINY, "--output", str(parts), "--extend", "2", "--max-steps", "8"]) == 0
    assert main([*TINY, "--output", str(parts), "--extend", "2", "--resume"]) == 0
    once, twice = (load_file(folder / "model.safetensors") for folder in (run_copy, parts))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert json.loads((run_copy / "config.json").read_text())["extend"] == 2


@pytest.mark.attack("15.13", "--resume with more epochs")
def test_more_epochs_are_refused_with_a_way_to_go_on(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--output", str(run_copy), "--resume", "--epochs", "5"]) == 1
    text = "epochs 2 (now 5). To train longer, give --epochs 2 --extend 3, at the last learning rate."
    assert text in capsys.readouterr().err
    assert main([*TINY, "--output", str(run_copy), "--resume", "--extend", "2", "--max-steps", "10"]) == 0
    assert main([*TINY, "--output", str(run_copy), "--resume", "--extend", "1"]) == 1
    assert "got step 10. Give --extend 2 if it was extended, or start over with --overwrite." in capsys.readouterr().err


def test_fewer_steps_than_were_trained_are_refused(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in run_copy.glob("*.*")}
    assert main([*TINY, "--output", str(run_copy), "--resume", "--max-steps", "5"]) == 1
    text = (
        f"--max-steps must not be less than the steps already trained, got 5 and step 6 in {run_copy}/last.ckpt. Raise"
    )
    assert text in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run_copy.glob("*.*")} == before


def test_attributes_may_be_spelled_otherwise_when_a_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "--output", str(tmp_path), "--epochs", "1"]
    assert main([*options, "--attributes", "Smiling,Bangs", "--max-steps", "1"]) == 0
    assert main([*options, "--attributes", "bangs", "Smiling", "--resume"]) == 1
    assert "--resume needs the data that the checkpoint in" in capsys.readouterr().err
    assert main([*options, "--attributes", "smiling", "Bangs", "--resume"]) == 0


@pytest.mark.attack("15.13", "a run starts from a finished one")
def test_a_run_starts_from_a_finished_one(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Smiling", "Eyeglasses"]
    options = [*TINY, "--init-from", str(tiny_run), "--attributes", *names, "--lr", "1e-9", "--no-os"]
    assert main([*options, "--output", str(tmp_path / "new"), "--max-steps", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    count = len(load_run(tiny_run).attributes)
    assert f"from the weights of {tiny_run}, including the scores of 2 of its {count} attributes. Critics," in said
    new, old = load_run(tmp_path / "new"), load_run(tiny_run)
    assert new.attributes == tuple(names)
    places = [old.attributes.index(name) for name in names]
    images = torch.randn(2, 3, 32, 32)
    fc2 = old.model.state_dict()["classifiers.2.fc2.weight"].unflatten(0, (-1, 2))[places].flatten(0, 1)
    torch.testing.assert_close(new.model.state_dict()["classifiers.2.fc2.weight"], fc2, atol=1e-6, rtol=0)
    assert new.model(images).logits.shape == (2, 2, 2)


@pytest.mark.parametrize("model", ["blan", "resnet", "moon"])
def test_some_attributes_have_the_scores_that_they_had(model: str, tmp_path: Path) -> None:
    options = [*("--model", model, "--image-size", "32", "--width", "4"), *(SMALL[4:] if model == "blan" else ())]
    old = write_run(tmp_path, *options).eval()
    names = (ATTRIBUTES[2], ATTRIBUTES[0])
    config = parse(options)
    new, _ = build(config, names)
    start_from(load_run(tmp_path), new, names, config)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(new.eval()(images).logits, old(images).logits[:, [2, 0]])


def test_an_unfit_run_to_start_from_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL)
    config = parse([*SMALL, "--width", "8", "--no-fusion"])
    text = f"network, got another in {tmp_path}: width 4 (here 8), fusion True (here False). Repeat that run's options."
    with pytest.raises(RunError, match=re.escape(text)):
        start_from(load_run(tmp_path), build(config, ATTRIBUTES)[0], ATTRIBUTES, config)
    config = parse(SMALL)
    text = "train: --init-from needs a run with the same attributes, got none called Bald in"
    with pytest.raises(RunError, match=re.escape(text)):
        start_from(load_run(tmp_path), build(config, ["Bald"])[0], ["Bald"], config)
    for options in (["--encoder-weights", "imagenet"], ["--zero-scores"]):
        with pytest.raises(ConfigError, match=f"{options[0]} has no effect with --init-from, got both"):
            parse(["--init-from", str(tmp_path), *options])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--decoder-order", "stage-upsample"), "decoder_order upsample-stage (here stage-upsample)"),
        (("--arrangement", "parallel"), "arrangement channel-spatial (here parallel)"),
    ],
)
def test_a_network_that_makes_something_else_of_the_weights_is_another(
    options: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    write_run(tmp_path, *SMALL)
    config = parse([*SMALL, *options])
    with pytest.raises(RunError, match=re.escape(f"network, got another in {tmp_path}: {text}. Repeat that run's")):
        start_from(load_run(tmp_path), build(config, ATTRIBUTES)[0], ATTRIBUTES, config)
