"""Files that are no images, or are images of an odd kind: each has its own error, and the others are answered."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blan_facial.data.faces import CorruptImageError, decode_face
from blan_facial.data.image_file import LARGE, FileKindError, limit_bytes, read_image_file
from blan_facial.predict import main
from blan_facial.prediction.sources import Source, Sources
from blan_facial.train import main as train
from tests.examples.conftest import TINY
from tests.examples.run_folder import SMALL, write_run
from tests.examples.test_faces import face_files

GOOD = (b"good.jpg", rb"$\foo$.jpg", b"[bold]x[nope].jpg", b"n" * 246 + b".jpg", b"\xff.jpg", b"a\nb.jpg", b"c\rd.jpg",
        b"=1+1.jpg", b"\x1b[31mred.jpg", "é.jpg".encode(), b'"quoted", so.jpg', b"-.jpg")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, *SMALL, attributes=("Smiling", r"$\foo$", "[/nope]", "=1+1", "é", "a\rb"))
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(picture, "JPEG")
    for name in GOOD:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture.getvalue())
    (folder / "empty.jpg").touch()
    (folder / "huge.jpg").touch()
    os.truncate(folder / "huge.jpg", 64 * 2**30)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "socket.jpg"))
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "memory.jpg").symlink_to("/proc/self/mem")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    outside = folder.parent / "outside.jpg"
    outside.write_bytes(picture.getvalue())
    (folder / "outside.jpg").symlink_to(outside)
    return folder


BAD = ("empty", "huge", "pipe", "socket", "device", "memory", "gone", "outside")


@pytest.mark.attack("15.7", "predict.py over a folder of files with odd names, kinds and sizes")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("answers", ["csv", "jsonl", "table"])
def test_the_others_are_answered(
    answers: str, encoding: str, model: Path, odd: Path, repository: Path, tmp_path: Path
) -> None:
    script = str(repository / "examples" / "blan_facial" / "predict.py")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    command = [sys.executable, script, str(model), str(odd), "--format", answers, "--annotate", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    errors = done.stderr.decode(encoding).splitlines()
    assert done.returncode == 1
    assert f"{len(GOOD)} images answered, {len(BAD)} refused." in errors
    assert sum(line.startswith("error: ") for line in errors) == len(BAD)
    assert not any("Traceback" in line for line in errors)
    for name in BAD:
        assert sum(line.startswith("error: ") and f"{name}.jpg: " in line for line in errors) == 1
    assert b"\x1b" not in done.stdout + done.stderr or answers != "table"
    assert len(list(tmp_path.iterdir())) == len(GOOD)
    if answers == "jsonl":
        names = {os.fsencode(json.loads(line)["image"]) for line in done.stdout.splitlines()}
        assert names == {os.fsencode(odd) + b"/" + name for name in GOOD}
    elif answers == "csv":
        text = done.stdout.decode(encoding, errors="surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert len(rows) == 6 * len(GOOD)
        assert {row["probability"] for row in rows if not 0 <= float(row["probability"]) <= 1} == set()


@pytest.mark.attack("15.7", "predict.py is given a file without read permission, and one that vanishes")
def test_files_that_cannot_be_read(
    model: Path, odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blan_facial import predict

    def refusing(path: Path) -> bytes:
        if path.name == "-.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        if path.name == "=1+1.jpg":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read_image_file(path)

    monkeypatch.setattr(predict, "read_image_file", refusing)
    names = [str(odd / name) for name in ("-.jpg", "good.jpg", "=1+1.jpg")]
    assert main([str(model), *names, "--format", "jsonl"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["image"] == names[1]
    assert "-.jpg: must be readable, got Permission denied." in captured.err
    assert "=1+1.jpg: must be readable, got No such file or directory." in captured.err


@pytest.mark.attack("15.7", "a list with a line of 100 MB")
def test_a_line_without_end_is_cut() -> None:
    class Endless(io.RawIOBase):
        left = 100 * 2**20

        def read1(self, size: int) -> bytes:
            self.left -= size
            return b"x" * size if self.left > 0 else b""

    ((problem,),) = Sources([Path("-")], Endless()).batches(9)  # type: ignore[arg-type]  # reads as a stream does
    assert "File name too long" in problem.message  # type: ignore[union-attr]  # a problem
    assert len(problem.message) < 300  # type: ignore[union-attr]  # as above


@pytest.mark.attack("15.7", "attributes called $\\foo$ and [/nope], and of 300 characters, are trained and reported")
def test_odd_attributes_keep_their_report(tmp_path: Path) -> None:
    names = [r"$\foo$", "[/nope]", "x" * 300, "\x1b[31mred", "=1+1"]
    rows = [["image", "split", *names]]
    random = np.random.default_rng(0)
    for place in range(48):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{place}.png")
        split = ("train", "train", "train", "validation", "test")[place % 5]
        rows.append([f"{place}.png", split, *(str(1 - 2 * (place * n % 3 == 0)) for n in range(1, 6))])
    with (tmp_path / "faces.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    options = ["--data", "csv", "--data-root", str(tmp_path), "--labels", str(tmp_path / "faces.csv")]
    assert train([*TINY, *options, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


class TestOneRule:
    @pytest.mark.attack("15.8", "pipes, sockets, devices and huge files are read as images")
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("pipe.jpg", "not a regular file"),
            ("device.jpg", "not a regular file"),
            ("huge.jpg", "bytes that an image may have"),
        ],
    )
    def test_what_is_no_image_file_is_refused_at_once(self, name: str, text: str, odd: Path) -> None:
        with pytest.raises(FileKindError, match=text):
            read_image_file(odd / name)
        faces = face_files(odd, name)
        with pytest.raises(CorruptImageError, match=text):
            faces.image(0)

    def test_the_limit_on_bytes_follows_that_on_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert limit_bytes() == 300 + 2**20

    @pytest.mark.attack("15.8", "a folder that predict.py reads has a link that leads out of it")
    def test_a_link_out_of_a_folder_is_refused_and_may_be_named(self, odd: Path) -> None:
        (batch,) = Sources([odd], io.BytesIO()).batches(99)
        assert next(item for item in batch if "outside.jpg" in str(item))[0].endswith(  # type: ignore[union-attr]  # a problem
            f"outside.jpg: must be in the folder {odd}, got a link out of it. Name the file itself."
        )
        ((named,),) = Sources([odd / "outside.jpg"], io.BytesIO()).batches(9)
        assert isinstance(named, Source)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "CMYK", "1", "LA"])
def test_a_large_image_shrinks_strip_by_strip_to_the_same_picture(mode: str) -> None:
    assert LARGE < 4 * 3001 * 2003
    across, down = np.linspace(0, 255, 3001), np.linspace(0, 255, 2003)[:, None]
    grey = ((across + down) / 2).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], -1)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    whole = image.point(lambda value: value / 256).convert("L") if mode == "I;16" else image
    whole = whole.convert("RGBA").convert("RGB") if mode == "P" else whole.convert("RGB")
    expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    found = decode_face(stream.getvalue(), 64).astype(int)
    assert np.abs(found - expected).max() <= 3


MEASURE = """
import resource, sys
from blan_facial.predict import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(sys.argv[1:]) == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10, file=sys.stderr)
"""


@pytest.mark.attack("15.8", "six PNGs of 88 million pixels in one batch")
def test_the_memory_of_a_batch_is_that_of_one_large_image(model: Path, tmp_path: Path, repository: Path) -> None:
    paths = [str(tmp_path / f"{place}.png") for place in range(6)]
    for path in paths:
        Image.new("P", (9_400, 9_400)).save(path)
    command = [sys.executable, "-c", MEASURE, str(model), *paths]
    done = subprocess.run(command, cwd=repository / "examples", capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("Smiling") == 6
    assert float(done.stderr) < 300  # MiB, of which the model takes about 100
