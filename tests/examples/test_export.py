"""Finished runs as ONNX files, which give what the runs do."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from blan_facial.export import main
from blan_facial.prediction.arrays import BLANPredictor
from blan_facial.results.run_folder import save_results
from blan_facial.training.scaling import Scaling
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
MODELS = [
    SMALL,
    (*SMALL, "--no-fusion", "--join", "rar"),
    ("--model", "moon", *SMALL[:4]),
    ("--model", "mcnn", *SMALL[:4]),
]


@pytest.mark.parametrize("options", MODELS, ids=" ".join)
def test_the_file_gives_the_run_s_probabilities(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = write_run(tmp_path, *options)
    save_results(tmp_path, model, {}, Scaling((0.4, 2.5, 1.0, 1.0), (0.3, -2.0, 0.0, 1.0), 80), (0.5, 0.0, -1.0, 0.0))
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model\.onnx reproduces the run's probabilities of 4 attributes to \S+\.", " ".join(said.split()))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": np.ascontiguousarray(PICTURES.transpose(0, 3, 1, 2))})
    answers = BLANPredictor.from_run(tmp_path)(PICTURES)
    np.testing.assert_allclose(found, [[a.probability for a in of_image] for of_image in answers], atol=1e-4)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["attributes"]) == list(ATTRIBUTES)
    assert json.loads(properties["thresholds"]) == pytest.approx([a.threshold for a in answers[0]])


def test_a_file_that_gives_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, *MODELS[-2])
    monkeypatch.setattr("blan_facial.export._difference", lambda *_: float("nan"))
    assert main([str(tmp_path)]) == 1
    assert (
        "export: the file must reproduce the run's probabilities to 0.0001, got a difference of nan."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_of_the_run_at_any_depth_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    write_run(tmp_path, *MODELS[-2])
    log = tmp_path / "logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("step\n0\n")
    for path in (log, tmp_path / "config.json"):
        assert main([str(tmp_path), "--output", str(path)]) == 1
        assert capsys.readouterr().err.startswith(f"error: export: --output must not be an input file, got {path}")
    assert log.read_text() == "step\n0\n"


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main([str(tmp_path)]) == 1
    assert "got no onnxscript. Install them with pip install 'blan-layers[onnx]'." in capsys.readouterr().err
