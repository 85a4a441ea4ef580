"""Thresholds for each attribute: fitted, kept with the weights, used by what answers."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from blan_facial.data.faces import decode_face
from blan_facial.data.loading import normalize
from blan_facial.evaluate import main as evaluate
from blan_facial.predict import main as predict
from blan_facial.results.finished import load_run
from blan_facial.results.run_folder import save_results
from blan_facial.train import main as train
from blan_facial.training.thresholds import fit_thresholds, rates_at
from tests.examples.conftest import TINY
from tests.examples.run_folder import SMALL, write_run


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_best_threshold_is_found() -> None:
    odds, labels = column(-3, -2, -1, 4), torch.tensor([[0], [1], [1], [1]])
    assert fit_thresholds(odds, labels, "accuracy") == (-2.5,)
    assert fit_thresholds(odds, labels, "balanced") == (-2.5,)
    rare, few = column(*range(-9, 1)), torch.tensor([[0]] * 7 + [[1], [0], [1]])
    assert fit_thresholds(rare, few, "accuracy") == (-0.5,)
    assert fit_thresholds(rare, few, "balanced") == (-2.5,)
    assert fit_thresholds(column(*range(1, 11)), torch.tensor([[1]] + [[0]] * 9), "accuracy") == (11.0,)
    assert fit_thresholds(column(1, 2), torch.tensor([[1], [1]]), "balanced") == (0.0,)
    assert fit_thresholds(column(-1, 9, 2), torch.tensor([[0], [-1], [1]]), "balanced") == (0.0,)


@pytest.mark.parametrize("criterion", ["accuracy", "balanced"])
def test_no_threshold_is_better(criterion: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (60, 3), generator=generator)
    odds = (torch.randn(60, 3, generator=generator) + labels).round(decimals=1).double()
    found = fit_thresholds(odds, labels, criterion)  # type: ignore[arg-type]  # a literal of the cases
    which = ("accuracy", "balanced").index(criterion)
    best = rates_at(odds, labels, found)[which]
    for cut in torch.linspace(-4, 5, 400):
        assert (rates_at(odds, labels, [cut.item()] * 3)[which] <= best + 1e-12).all()


def test_a_run_keeps_its_thresholds_and_everything_uses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train([*TINY, "--output", str(folder), "--thresholds", "balanced", "--attributes", "Smiling,Bangs"]) == 0
    assert "With thresholds for each attribute, fitted on the validation split" in " ".join(
        capsys.readouterr().out.split()
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    found = metrics["at_thresholds"]
    assert list(found["per_attribute"]) == ["Smiling", "Bangs"]
    run = load_run(folder)
    assert run.thresholds is not None
    assert run.scaling is not None
    scaled = zip(run.thresholds, run.scaling.scale, run.scaling.shift, strict=True)
    expected = [1 / (1 + math.exp(-(scale * cut + shift))) for cut, scale, shift in scaled]
    assert [found["per_attribute"][name]["threshold"] for name in run.attributes] == pytest.approx(expected)
    assert evaluate([str(folder), "--output", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == metrics


def test_answers_are_given_at_the_run_s_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "run", tmp_path / "a.png"
    model = write_run(folder, *SMALL)
    Image.new("RGB", (40, 40), "red").save(path)

    def predicted(*options: str) -> list[bool]:
        assert predict([str(folder), str(path), "--format", "csv", *options]) == 0
        return [row["predicted"] == "true" for row in csv.DictReader(capsys.readouterr().out.splitlines())]

    image = normalize(torch.from_numpy(decode_face(path.read_bytes(), 32)).movedim(-1, 0)[None])
    with torch.no_grad():
        logits = load_run(folder).model(image).logits
    save_results(folder, model, {}, None, (-1e9, 1e9, 1e9, -1e9))
    assert predicted() == [True, False, False, True]
    assert predicted("--threshold", "0.5") == (logits.diff(dim=-1)[0, :, 0] > 0).tolist()
    assert predict([str(folder), str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "thresholds for each attribute, fitted on the validation split." in said


def test_thresholds_need_a_validation_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{place}.png,{('train', 'test')[place % 2]},{place // 2 % 2}" for place in range(8)]
    for place in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{place}.png")
    table.write_text("\n".join(["image,split,A", *rows]))
    options = ["--data", "csv", "--data-root", str(tmp_path), "--labels", str(table), "--accelerator", "cpu"]
    assert train([*options, "--output", str(tmp_path / "run"), "--thresholds", "accuracy"]) == 1
    text = "train: --thresholds needs a validation split, got none. Leave it out, or label images for validation."
    assert re.search(re.escape(text), capsys.readouterr().err)
