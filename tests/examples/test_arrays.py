"""A finished run in a program, and faces cut out of pictures before it answers."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from blan_facial.predict import main
from blan_facial.prediction import cropping
from blan_facial.prediction.arrays import BLANPredictor
from blan_facial.prediction.cropping import FaceCropper
from blan_facial.training.checkpoint import RunError
from shared.program import UserError
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

RANDOM = np.random.default_rng(0)
PICTURES = [RANDOM.integers(0, 256, (height, 30, 3), dtype=np.uint8) for height in (40, 20, 33)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def portrait() -> Path:
    """A photograph of Grace Hopper, which Matplotlib brings along."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")


def test_arrays_are_answered_as_files_are(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict = BLANPredictor.from_run(run, attributes=["big nose", "Smiling"])
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    options = ["--format", "csv", "--attributes", "Big_Nose", "Smiling"]
    assert main([str(run), str(tmp_path), *options]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    answers = [answer for answers in predict(PICTURES) for answer in answers]
    assert [row["attribute"] for row in rows] == [answer.attribute for answer in answers]
    assert [float(row["probability"]) for row in rows] == pytest.approx([a.probability for a in answers], abs=1e-6)


@pytest.mark.parametrize("kind", ["16 bits", "turned", "palette", "grey"])
def test_images_of_pillow_s_are_answered_as_their_files_are(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    image = Image.fromarray(PICTURES[0])
    if kind == "16 bits":
        image = Image.fromarray(RANDOM.integers(0, 65536, (40, 30), dtype=np.uint16))
    elif kind == "turned":
        exif[ExifTags.Base.Orientation] = 6
    else:
        image = image.quantize(16) if kind == "palette" else image.convert("LA")
    image.save(path, exif=exif, transparency=3 if kind == "palette" else None)
    assert main([str(run), str(path), "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    with Image.open(path) as opened:
        (answers,) = BLANPredictor.from_run(run)(opened)
    assert [float(row["probability"]) for row in rows] == pytest.approx([a.probability for a in answers], abs=1e-3)


def test_one_picture_many_and_frames_are_answered_alike(run: Path) -> None:
    predict = BLANPredictor.from_run(str(run), batch_size=2)
    several = predict(PICTURES)
    assert [len(answers) for answers in several] == [len(ATTRIBUTES)] * 3
    (one,) = predict(PICTURES[0])
    assert [a.probability for a in one] == pytest.approx([a.probability for a in several[0]], abs=1e-6)
    assert predict(Image.fromarray(PICTURES[0])) == predict([PICTURES[0]])
    assert predict(np.stack([PICTURES[0]] * 2))[1] == predict([PICTURES[0]] * 2)[1]
    frames = predict.frames(picture for picture in PICTURES)
    assert next(frames) == several[0]
    assert [*frames] == several[1:]
    assert predict([]) == []


def closed() -> Image.Image:
    image = Image.new("RGB", (4, 4))
    image.close()
    return image


def cut() -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(stream, "JPEG")
    return Image.open(io.BytesIO(stream.getvalue()[:-200]))


@pytest.mark.parametrize(
    ("picture", "error", "text"),
    [
        (PICTURES[0] / 255, TypeError, "must be a Pillow image or a uint8 array, got float64. Convert it"),
        ("a.png", TypeError, "must be a Pillow image or a uint8 array, got str. Convert it"),
        (PICTURES[0][:, :, 0], ValueError, r"must have the shape \(height, width, 3\), got \(40, 30\)\. Put the"),
        (Image.new("F", (4, 4)), ValueError, "must decode completely, got 32-bit pixels, whose black and white"),
        (closed(), ValueError, "must decode completely, got Operation on closed image. Open it again, or replace it."),
        (cut(), ValueError, "must decode completely, got image file is truncated .*. Open it again, or replace it."),
        (Image.new("RGB", (0, 4)), ValueError, r"must have the shape \(height, width, 3\), got \(4, 0, 3\)\. Put the"),
        (PICTURES[0][:0], ValueError, r"must have the shape \(height, width, 3\), got \(0, 30, 3\)\. Put the"),
    ],
)
def test_what_is_no_picture_is_refused(picture: object, error: type[Exception], text: str, run: Path) -> None:
    with pytest.raises(error, match=text):
        BLANPredictor.from_run(run)([picture])  # type: ignore[list-item]  # what is refused
    if not isinstance(picture, str):  # whose letters would be the pictures
        with pytest.raises(error, match=text):
            BLANPredictor.from_run(run)(picture)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"attributes": ["Hat"]}, "attributes must be attributes of the model, got 'Hat'. It has Smiling, "),
        ({"attributes": "Smiling"}, "attributes must be a list of names, got 'Smiling'. Write ['Smiling']."),
        ({"threshold": 1}, "threshold must be a number in (0, 1), got 1. Use 0.5, for example."),
        ({"threshold": [0.1, 0.2]}, "threshold must be a number in (0, 1), got [0.1, 0.2]. Use 0.5, for example."),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0. Use 32, for example."),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5. Use 32, for example."),
        ({"device": "nowhere"}, "device must be available here, got 'nowhere'. Use \"cpu\"."),
        pytest.param(
            {"device": "cuda"},
            "device must be available here, got 'cuda'. Use \"cpu\".",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it is available"),
        ),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], text: str, run: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"BLANPredictor: {text}")):
        BLANPredictor.from_run(run, **options)


def test_a_file_is_no_run(run: Path) -> None:
    with pytest.raises(RunError, match=r"config\.json: must be the output folder of a run, got no such folder\. Name"):
        BLANPredictor.from_run(run / "config.json")


def test_the_face_in_a_photograph_is_cut_out(
    portrait: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    pixels = np.array(Image.open(portrait).convert("RGB"))
    wide = np.concatenate([np.full_like(pixels, 90), pixels], axis=1)
    face, count = FaceCropper()(wide)
    assert count >= 1
    assert face is not None
    assert 100 < face.shape[0] < 500
    answers = BLANPredictor.from_run(run, crop=True)([wide, np.zeros((50, 50, 3), np.uint8)])
    assert [len(of_image) for of_image in answers] == [len(ATTRIBUTES), 0]
    (tmp_path / "in").mkdir()
    Image.fromarray(wide).save(tmp_path / "in" / "a.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "in" / "b.png")
    assert main([str(run), str(tmp_path / "in"), "--crop", "faces", "--format", "jsonl"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)["attributes"]
    assert [found[name]["probability"] for name in ATTRIBUTES] == pytest.approx(
        [answer.probability for answer in answers[0]], abs=1e-5
    )
    assert "b.png: must show a face for --crop faces, got none. Leave out this image, or --crop." in captured.err


def test_a_box_gets_its_margin_within_the_picture() -> None:
    assert cropping._with_margin((100, 100, 50, 50), 500, 160) == (80, 80, 170, 160)


@pytest.mark.parametrize("got", ["none", "5.0.0"])
def test_a_machine_without_the_detector_is_told_so(
    got: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class WithoutCascades:
        __version__ = "5.0.0"
        error = RuntimeError

    monkeypatch.setitem(__import__("sys").modules, "cv2", None if got == "none" else WithoutCascades)
    text = f"predict: --crop faces needs OpenCV 4, which includes a face detector, got {got}. Install it with pip"
    with pytest.raises(UserError, match=text):
        FaceCropper()
    assert main([str(run), "a.png", "--crop", "faces"]) == 1
    assert text in capsys.readouterr().err
