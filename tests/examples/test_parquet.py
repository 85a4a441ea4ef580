"""Faces in Parquet files: what is read, what is refused, and a run that equals that on the folder they were made of."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from blan_facial.data.celeba import load_celeba
from blan_facial.data.faces import SPLITS, UNKNOWN, CorruptImageError, DataError, FaceDataset, NoSplitError
from blan_facial.data.parquet import load_parquet
from blan_facial.train import main as train
from tests.examples.celeba_folder import write_celeba_folder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and no network."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 11), (colour, 90, 250)).save(stream, "PNG")
    return stream.getvalue()


def cells(*colours: int) -> list[dict[str, Any]]:
    return [{"bytes": png(colour), "path": f"{colour}.png"} for colour in colours]


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def load(root: Path, split: str = "train") -> FaceDataset:
    return load_parquet(root, split, image_size=8)


def colours(faces: FaceDataset) -> list[int]:
    return [int(faces.image(index)[0, 0, 0]) for index in range(len(faces))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CelebA folder of 24 images to train on, 4 for validation and 4 to test."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (32, 40, 36, 3), dtype=np.uint8)
    return write_celeba_folder(tmp_path / "celeba", list(images), random.integers(0, 2, (32, 2)), ("Smiling", "Bald"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its copy, written by the lines of the README."""
    text = (REPOSITORY / "examples" / "blan_facial" / "README.md").read_text(encoding="utf-8")
    (program,) = (part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "to_parquet" in part)
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    exec(program.replace("DIR", str(folder)), {})
    return tmp_path / "copy"


def test_the_lines_of_the_readme_copy_a_folder(folder: Path, copy: Path) -> None:
    for split in SPLITS:
        ours, theirs = (
            read(root, split, image_size=16) for read, root in ((load_celeba, folder), (load_parquet, copy))
        )
        assert (theirs.name, theirs.split, theirs.notes, theirs.groups) == ("parquet", split, (), None)
        assert theirs.attributes == ours.attributes
        assert theirs.labels.dtype == np.int8
        np.testing.assert_array_equal(theirs.labels, ours.labels)
        for index in range(len(ours)):
            np.testing.assert_array_equal(theirs.image(index), ours.image(index))


@pytest.mark.attack("15.13", "a Parquet copy of CelebA")
@pytest.mark.usefixtures("_without_report")
def test_a_run_on_the_copy_equals_one_on_the_folder(folder: Path, copy: Path) -> None:
    options = ["--image-size", "32", "--width", "4", "--batch-size", "8", "--epochs", "2", "--model", "resnet"]
    options += ["--accelerator", "cpu", "--warmup-steps", "0"]
    runs = copy / "folder", copy / "copy"
    for run, data, root, workers in zip(runs, ("celeba", "parquet"), (folder, copy), ("0", "1"), strict=True):
        given = ["--data", data, "--data-root", str(root), "--workers", workers, "--output", str(run)]
        assert train([*options, *given]) == 0
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [given["data"] for given in metrics] == ["celeba", "parquet"]
    assert metrics[0]["per_attribute"] == metrics[1]["per_attribute"]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "valid-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train.parquet", "data/validation.parquet", "data/test.parquet"),
        ("[x] *{a}+b/train/0000.parquet", "[x] *{a}+b/val/0000.parquet", "[x] *{a}+b/test/0000.parquet"),
    ],
)
def test_the_names_of_files_and_folders_part_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / "data set" / name, image=cells(number, 10 + number), Bald=[True, False])
    write(tmp_path / "data set" / "more.parquet", image=cells(7), Bald=[True])
    for number, split in enumerate(SPLITS):
        faces = load(tmp_path / "data set", split)
        assert colours(faces) == [number, 10 + number]
        assert faces.labels.tolist() == [[1], [0]]
        assert faces.notes == ("1 of 4 Parquet files do not have the name of a split and were left out.",)


def test_the_files_of_a_split_follow_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write(tmp_path / f"train-{number}.parquet", image=cells(number), Bald=[number > 0])
    faces = load(tmp_path)
    assert (colours(faces), faces.labels.ravel().tolist()) == ([0, 1, 2], [0, 1, 1])


def test_a_column_of_splits_goes_before_names(tmp_path: Path) -> None:
    splits = ["test", "train", "valid", "test"]
    path = write(tmp_path / "train.parquet", image=cells(1, 2, 3, 4), split=splits, Bald=[0, 1, 1, 1])
    faces = {split: load(path, split) for split in SPLITS}
    assert {split: colours(given) for split, given in faces.items()} == {
        "train": [2],
        "validation": [3],
        "test": [1, 4],
    }
    assert faces["test"].labels.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ([True, False, None], [1, 0, UNKNOWN]),
        (pa.array([1, 0, None], pa.uint8()), [1, 0, UNKNOWN]),
        ([-1, 1, None], [0, 1, UNKNOWN]),
        ([0.0, 1.0, float("nan")], [0, 1, UNKNOWN]),
    ],
)
def test_labels_are_truth_values_or_numbers(tmp_path: Path, column: Any, labels: list[int]) -> None:
    write(tmp_path / "train.parquet", image=cells(1, 2, 3), Bald=column, caption=["a", "b", "c"])
    faces = load(tmp_path)
    assert (faces.attributes, faces.labels.ravel().tolist()) == (("Bald",), labels)
    assert faces.notes == ("Columns without truth values or numbers were left out: caption.",)


@pytest.mark.parametrize("name", ["person", "identity", "celeb_id"])
@pytest.mark.parametrize("people", [["Ann", "Ben", "Ann", None], [10**17, 10**17 + 1, 10**17, None]])
def test_a_column_may_name_the_people(tmp_path: Path, name: str, people: list[Any]) -> None:
    write(tmp_path / "train.parquet", image=cells(1, 2, 3, 4), Bald=[0, 1, 1, 0], **{name: people})
    faces = load(tmp_path)
    assert faces.attributes == ("Bald",)
    assert faces.groups is not None
    assert faces.groups.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("encode", [lambda cell: cell, lambda cell: cell["bytes"]], ids=["struct", "bytes"])
def test_rows_without_an_image_are_left_out(tmp_path: Path, encode: Callable[[dict[str, Any]], Any]) -> None:
    images = [encode(cell) for cell in cells(1, 2, 3)]
    images[1] = {"bytes": None, "path": "2.png"} if isinstance(images[0], dict) else None
    write(tmp_path / "train.parquet", image=images, Bald=[0, 1, 1], person=["Ann", "Ben", "Cid"])
    faces = load(tmp_path)
    assert (colours(faces), faces.labels.ravel().tolist()) == ([1, 3], [0, 1])
    assert faces.groups is not None
    assert len(faces.groups) == 2
    assert faces.notes == ("1 of 3 images of the train split are missing and were left out.",)


def test_an_image_that_does_not_decode_is_named_by_its_row(tmp_path: Path) -> None:
    images = cells(1, 2)
    images[1]["bytes"] = b"not a picture"
    write(tmp_path / "train.parquet", image=images, Bald=[0, 1])
    text = f"{tmp_path}, train, row 1 (2.png): image 1 must decode completely, got no known image format. Repl"
    with pytest.raises(CorruptImageError, match=re.escape(text)):
        load(tmp_path).image(1)


def test_a_moved_folder_has_the_same_checksum(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.parquet", image=cells(1, 2), Bald=BALD)
    before = load(tmp_path / "a").digest()
    (tmp_path / "a").rename(tmp_path / "b")
    assert load(tmp_path / "b").digest() == before
    write(tmp_path / "b" / "train.parquet", image=cells(1, 3), Bald=BALD)
    assert load(tmp_path / "b").digest() != before


def test_files_without_rows_are_passed_over(tmp_path: Path) -> None:
    table = pa.table({"image": cells(1, 2), "Bald": BALD})
    for name, rows in (("train-0", 0), ("train-1", 2), ("test", 0)):
        pq.write_table(table.slice(0, rows), tmp_path / f"{name}.parquet")
    assert colours(load(tmp_path)) == [1, 2]
    with pytest.raises(NoSplitError, match=r"split 'test' must have rows, got none in its files\. Add some\."):
        load(tmp_path, "test")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([cells(1), [1], [0]], ["image", "Bald", "Bald"]), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: a column must be named once, got Bald again\. Rename one"):
        load(tmp_path)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    for count in (2, 3):
        write(tmp_path / "train.parquet", image=cells(*range(count)), Bald=[0, 1, 0][:count])
        assert colours(load(tmp_path)) == list(range(count))


IMAGES, BALD = cells(1, 2), [True, False]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"face": IMAGES, "Bald": BALD},
            "/train.parquet: needs the column image, got face, Bald. Rename the column of",
        ),
        (
            {"image": ["a", "b"], "Bald": BALD},
            "/train.parquet: the column image must contain image files, as bytes or as a",
        ),
        (
            {"image": [{"path": "1.png"}, {"path": "2.png"}], "Bald": BALD},
            "/train.parquet: the column image must contain image files, as bytes or as a struct of bytes and path, got",
        ),
        (
            {"image": pa.array([{"bytes": None}] * 2, pa.struct({"bytes": pa.binary()})), "Bald": BALD},
            ", train: the column image must contain the bytes of images, got none in 2 rows, perhaps only paths. Write",
        ),
        (
            {"image": IMAGES, "caption": ["a", "b"]},
            "/train.parquet: needs a column of truth values for each attribute,",
        ),
        (
            {"image": IMAGES, "Bald": BALD, "Age": [30, 1]},
            ", train: Age must be 0 or 1, or -1 or 1, got 30. Correct the value, or name the attribute",
        ),
        (
            {"image": IMAGES, "Bald": [0, 1], "Male": [-1, 1]},
            ": must say which of 0 and -1 means unknown, got 0 in Bald and -1 in Male. Give --unknown zero or",
        ),
        (
            {"image": IMAGES, "Bald": pa.array([None, None], pa.bool_())},
            ", train: some labels must be known, got none in 2 rows. Label some of the images.",
        ),
        (
            {"image": IMAGES, "Bald": BALD, "split": ["train", "fold"]},
            ": split must be train, validation or test, got 'fold'. Correct the value.",
        ),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write(tmp_path / "train.parquet", **columns)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}{message}")):
        load(tmp_path)


@pytest.mark.parametrize(("unknown", "labels"), [("zero", [[-1, 0], [1, 1]]), ("minus-one", [[0, -1], [1, 1]])])
def test_what_0_and_minus_1_mean_may_be_said(tmp_path: Path, unknown: Any, labels: list[list[int]]) -> None:
    write(tmp_path / "train.parquet", image=IMAGES, Bald=[0, 1], Male=[-1, 1])
    faces = load_parquet(tmp_path, "train", image_size=8, unknown=unknown)
    assert (faces.labels.tolist(), faces.notes) == (labels, ())
    name, number = ("Male", "0") if unknown == "zero" else ("Bald", "-1")  # the other number alone
    notes = load_parquet(tmp_path, "train", image_size=8, unknown=unknown, attributes=[name]).notes
    assert f"No label is {number}, so --unknown {unknown} has no effect." in notes


@pytest.mark.parametrize("column", [False, True])
def test_0_and_minus_1_are_looked_at_in_all_splits(tmp_path: Path, column: bool) -> None:
    bald = {"train": [0, 1], "test": [-1, 1]}
    for split, values in bald.items():
        name = "data" if column else split
        write(
            tmp_path / name / f"{split}.parquet",
            image=IMAGES,
            Bald=values,
            **({"split": [split] * 2} if column else {}),
        )
    for split in bald:
        with pytest.raises(DataError, match="must say which of 0 and -1 means unknown, got 0 in Bald and -1 in Bald"):
            load(tmp_path, split)
    labels = [load_parquet(tmp_path, split, image_size=8, unknown="minus-one").labels.tolist() for split in bald]
    assert labels == [[[0], [1]], [[UNKNOWN], [1]]]


def test_truth_values_are_never_unknown(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=IMAGES, Bald=[False, True], Male=[0, 1])
    assert load_parquet(tmp_path, "train", image_size=8, unknown="zero").labels.tolist() == [[0, UNKNOWN], [1, 1]]
    write(tmp_path / "train.parquet", image=IMAGES, Male=[0, 1])
    with pytest.raises(DataError, match=re.escape("got none, since 0 means unknown. Leave --unknown out.")):
        load_parquet(tmp_path, "train", image_size=8, unknown="zero")


def test_some_attributes_are_read_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=IMAGES, Bald=BALD, Wears_a_Hat=[1, 0], Age=[31, 7], Male=[-1, 1])
    faces = load_parquet(tmp_path, "train", image_size=8, attributes=["wears a hat,bald"])
    assert faces.attributes == ("Wears_a_Hat", "Bald")


def test_people_without_a_name_are_each_one_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=cells(1, 2, 3, 4), Bald=[0, 1, 1, 0], person=["nan", "", "nan", "Ann"])
    groups = load(tmp_path).groups
    assert groups is not None
    assert len(set(groups.tolist())) == 4


def test_splits_may_be_called_as_in_tables(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=IMAGES, Bald=[0, 1], split=["Train", "dev"])
    assert [len(load(tmp_path, split)) for split in ("train", "validation")] == [1, 1]


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", image=IMAGES, Bald=BALD)
    text = f"{tmp_path}: split 'test' must have files, got only train. Name some test-*.parquet."
    with pytest.raises(NoSplitError, match=re.escape(text)):
        load(tmp_path, "test")
    write(path, image=IMAGES, Bald=BALD, split=["train"] * 2)
    with pytest.raises(NoSplitError, match=re.escape(f"{tmp_path}: split 'test' must have rows, got none of 2. Add")):
        load(tmp_path, "test")


def test_files_of_no_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "faces.parquet", image=IMAGES, Bald=BALD)
    text = (
        f"{tmp_path}: needs file names that begin with a split, or a column split, got faces.parquet. Name the "
        f"files train"
    )
    with pytest.raises(DataError, match=re.escape(text)):
        load(tmp_path)


def test_files_of_different_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", image=IMAGES, Bald=BALD)
    write(tmp_path / "train-1.parquet", image=IMAGES, Male=BALD)
    text = f"{tmp_path}/train-1.parquet: must have the same columns and types as {tmp_path}/train-0.parquet, got"
    with pytest.raises(DataError, match=re.escape(text)):
        load(tmp_path)


@pytest.mark.parametrize(("name", "state"), [("gone", "nothing there"), (".", "a folder without Parquet files")])
def test_a_missing_file_is_named(tmp_path: Path, name: str, state: str) -> None:
    text = (
        f"load_parquet: the data must be a Parquet file or a folder of them, got {tmp_path / name} ({state}). Name it"
    )
    with pytest.raises(DataError, match=re.escape(text)):
        load(tmp_path / name)


@pytest.mark.attack("15.12", "Parquet files that are cut or overwritten")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda data: data[: len(data) // 2],
            "/train.parquet: must be a whole Parquet file, got Parquet magic bytes not",
        ),
        (lambda data: data[:4] + bytes(96) + data[100:], ": must contain whole Parquet files, got "),
    ],
    ids=["truncated", "overwritten"],
)
def test_a_broken_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = write(tmp_path / "train.parquet", image=IMAGES, Bald=BALD)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}{message}")):
        load(tmp_path)


def test_what_reads_them_is_imported_when_it_is_needed() -> None:
    program = "import sys, blan_facial.data.splits; sys.exit(bool({'datasets', 'pyarrow'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
