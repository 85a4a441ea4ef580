"""Faces of a CSV table: what is read, what is refused by line and column, and a run whose labels are partly unknown."""

import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blan_facial.data.columns import Unknown
from blan_facial.data.faces import UNKNOWN, CorruptImageError, DataError, FaceDataset, NoSplitError
from blan_facial.data.table import load_csv, read_table
from blan_facial.train import main

TABLE = """\
image,Smiling,split,Wears a hat
a/1.png,1,train,-1
a/2.png,0,train,yes
b/1.png,,validation,1.0
b/2.png,TRUE,test,No
b/3.png,-1.0,test,0.0
b/4.png,false,test,1
"""
LABELS = [[1, 0], [UNKNOWN, 1], [UNKNOWN, 1], [1, 0], [0, UNKNOWN], [0, 1]]
FILES = ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png", "b/4.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder whose images differ in colour; the table is beside it."""
    for index, file in enumerate(FILES):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 11), (40 * index, 90, 250)).save(path)
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "images"


def load(root: Path, split: str = "train") -> FaceDataset:
    return load_csv(read_table(root.parent / "table.csv", unknown="zero"), str(root), split, image_size=8)


def write(root: Path, text: str) -> Path:
    path = root.parent / "table.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("split", "rows"), [("train", [0, 1]), ("validation", [2]), ("test", [3, 4, 5])])
def test_a_split_has_the_labels_and_images_of_its_rows(root: Path, split: str, rows: list[int]) -> None:
    faces = load(root, split)
    assert (faces.name, faces.split, faces.image_size, faces.notes) == ("csv", split, 8, ())
    assert faces.attributes == ("Smiling", "Wears a hat")
    assert faces.labels.dtype == np.int8
    assert faces.labels.tolist() == [LABELS[row] for row in rows]
    assert [faces.image(place)[0, 0].tolist() for place in range(len(rows))] == [[40 * row, 90, 250] for row in rows]


def test_a_column_may_name_the_people(root: Path) -> None:
    assert load(root).groups is None
    people = ("person", "Ann", "Ben", "Ann", "", "Ben", "")
    write(root, "\n".join(f"{line},{person}" for line, person in zip(TABLE.splitlines(), people, strict=True)))
    assert load(root).attributes == ("Smiling", "Wears a hat")
    groups = [load(root, split).groups for split in ("train", "validation", "test")]
    assert [None if numbers is None else numbers.tolist() for numbers in groups] == [[0, 1], [0], [2, 1, 3]]


def test_a_split_without_rows_is_none_of_the_table_s(root: Path) -> None:
    write(root, TABLE.replace("validation", "train"))
    with pytest.raises(NoSplitError, match="split 'validation' must have images, got none of 6"):
        load(root, "validation")


def test_what_spreadsheets_add_is_no_hindrance(root: Path) -> None:
    lines = TABLE.replace("a/1.png", r'"a\1.png"').replace("a/2.png", "./a//2.png").replace(",", " , ").splitlines()
    text = "\r\n".join([*lines[:3], "", " , , , ", *lines[3:], ""]).replace('"', "").replace("Wears", '"Wears')
    (root.parent / "table.csv").write_text("\ufeff" + text.replace("a hat", 'a hat"').replace(' "', '"'), newline="")
    faces = load(root)
    assert faces.attributes == ("Smiling", "Wears a hat")
    assert faces.labels.tolist() == LABELS[:2]
    assert faces.image(0)[0, 0].tolist() == [0, 90, 250]


def test_missing_images_are_left_out_and_counted(root: Path) -> None:
    (root / "b" / "2.png").unlink()
    (root / "b" / "3.png").unlink()
    (root / "b" / "3.png").mkdir()  # a folder is no image
    faces = load(root, "test")
    assert faces.labels.tolist() == LABELS[5:]
    assert faces.image(0)[0, 0].tolist() == [200, 90, 250]
    assert faces.notes == ("2 of 3 images of the test split are missing and were left out.",)


@pytest.mark.parametrize("folder", ["", "photos/"])
def test_images_may_be_in_an_archive(root: Path, folder: str) -> None:
    path = root.parent / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in FILES[:-1]:
            archive.write(root / file, folder + file)
    faces = load_csv(read_table(root.parent / "table.csv", unknown="zero"), path, "test", image_size=8)
    assert faces.labels.tolist() == LABELS[3:5]
    assert faces.image(1)[0, 0].tolist() == [160, 90, 250]
    assert faces.notes == ("1 of 3 images of the test split are missing and were left out.",)


def test_a_file_that_is_no_image_is_named_when_it_is_read(root: Path) -> None:
    (root / "a" / "1.png").write_text("not a picture")
    text = f"{root}/a/1.png: image 0 must decode completely, got no known image format. Replace the file, or"
    with pytest.raises(CorruptImageError, match=re.escape(text)):
        load(root).image(0)


def test_a_link_within_the_folder_is_followed(root: Path) -> None:
    (root / "a" / "1.png").rename(root / "b" / "moved.png")
    (root / "a" / "1.png").symlink_to(root / "b" / "moved.png")
    assert load(root).image(0)[0, 0].tolist() == [0, 90, 250]


def test_a_loop_of_links_is_nothing(root: Path) -> None:
    (root / "b" / "4.png").unlink()
    for loop in (root / "b" / "4.png", root / "b" / "in no row.png"):
        loop.symlink_to(loop)
    assert load(root, "test").notes == ("1 of 3 images of the test split are missing and were left out.",)
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(root / "a")
    with pytest.raises(DataError, match="load_csv: split 'train' must have images, got none of 2"):
        load(root)


ROW = "a/1.png,1,train,-1"
HEADER = "image,Smiling,split,Wears a hat"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TABLE, "", ": needs a first line that names the columns, got an empty file. Name them image, split and"),
        (TABLE, HEADER, ": needs one row per image, got none. Add rows below the first line."),
        ("image,", "face,", ", line 1: needs the column image, got face, Smiling, split, Wears a hat. Rename the"),
        (",split,", ",fold,", ", line 1: needs the column split, got image, Smiling, fold, Wears a hat. Add it, with"),
        (
            TABLE,
            TABLE.replace(",", "!"),
            ": 2 mistakes must be corrected:\n  line 1: needs the column image, got image!Smi",
        ),
        ("Wears a hat", "Smiling", ", line 1: a column must be named once, got Smiling twice. Remove one of the two."),
        ("Wears a hat", "", ", line 1: every column must have a name, got none for column 4. Name it."),
        (TABLE, "image,split\na,test", ", line 1: needs a column for each attribute, got only image and split. Add"),
        (ROW, f"{ROW},1", ", line 2: a row must have 4 columns, as many as the first line, got 5. Put text"),
        (ROW, "a/1.png,1,train", ", line 2: a row must have 4 columns, as many as the first line, got 3. Put"),
        (ROW, ",1,train,-1", ", line 2: image must be the path of an image, got nothing. Fill it in, or remove the"),
        ("a/2.png", "./a//1.png", ", line 3: an image must have one row, got a/1.png again. Remove one of the two."),
        ("a/1.png", "../secret.png", ", line 2: images must be in the data folder, got the name '../secret.png'."),
        ("a/1.png", r"a\..\..\s.png", r", line 2: images must be in the data folder, got the name 'a\\..\\..\\s.png'"),
        ("a/1.png", "/etc/s.png", ", line 2: images must be in the data folder, got the name '/etc/s.png'. Write its"),
        ("a/1.png", r"C:\s.png", r", line 2: images must be in the data folder, got the name 'C:\\s.png'. Write its"),
        ("train", "fold 1", ", line 2: split must be train, validation or test, got 'fold 1'. Correct the value, or"),
        (
            "yes",
            "maybe",
            ", line 3: Wears a hat must be 1, true or yes (present), 0, -1, false or no (absent), or empty "
            "(unknown), got 'maybe'. Correct the value, or select the attribute columns with",
        ),
        (
            "TRUE",
            "2",
            ", line 5: Smiling must be 1, true or yes (present), 0, -1, false or no (absent), or",
        ),
        (ROW, 'a/1.png,"1,train,-1', ", line 7: must be CSV, got unexpected end of data. Correct the line."),
    ],
)
def test_a_table_that_breaks_its_format_is_refused_by_its_line(root: Path, old: str, new: str, message: str) -> None:
    assert old in TABLE
    path = write(root, TABLE.replace(old, new, 1))
    with pytest.raises(DataError, match=re.escape(f"{path}{message}")):
        read_table(path, unknown="zero")


CHEXPERT = "image,split,Edema,Fracture\na,train,1.0,0.0\nb,train,-1.0,\nc,train,0.0,1.0\nd,test,1.0,-1.0\n"


@pytest.mark.attack("15.13", "a table with both 0 and -1")
def test_which_of_0_and_minus_1_means_unknown_must_be_said_where_both_occur(root: Path) -> None:
    path = write(root, CHEXPERT)
    text = f"{path}: must say which of 0 and -1 means unknown, got 0 in Edema and -1 in Edema. Give --unknown zero or"
    with pytest.raises(DataError, match=re.escape(text)):
        read_table(path)
    assert read_table(path, unknown="minus-one").labels.tolist() == [[1, 0], [UNKNOWN, UNKNOWN], [0, 1], [1, UNKNOWN]]
    assert read_table(path, unknown="zero").labels.tolist() == [[1, UNKNOWN], [0, UNKNOWN], [UNKNOWN, 1], [1, 0]]


@pytest.mark.parametrize(("unknown", "number", "other"), [("zero", "0", "-1"), ("minus-one", "-1", "0")])
def test_unknown_without_effect_is_noted(root: Path, unknown: Unknown, number: str, other: str) -> None:
    path = write(root, f"image,split,A\na/1.png,train,1\na/2.png,train,{other}\n")
    faces = load_csv(read_table(path, unknown=unknown), root, "train", image_size=8)
    assert faces.notes == (f"No label is {number}, so --unknown {unknown} has no effect.",)


@pytest.mark.parametrize("no", ["0", "-1", "0.0", "no", "False"])
def test_one_of_0_and_minus_1_alone_means_no(root: Path, no: str) -> None:
    path = write(root, f"image,split,Smiling\na,train,1\nb,train,{no}\nc,train,nan\nd,train,N/A\n")
    assert read_table(path).labels.tolist() == [[1], [0], [UNKNOWN], [UNKNOWN]]


@pytest.mark.attack("15.13", "semicolons, tabs, UTF-16 and pandas' index")
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_what_programs_write_is_read(root: Path, delimiter: str, encoding: str, index: str) -> None:
    lines = ["Image_ID,Split,Celeb_ID,M\u00fcde", "a.png,Train,7,1", "b.png,val,7,NaN", "c.png,TESTING,8,0"]
    lines = [f"{(index, 0, 1, 2)[place]},{line}".replace(",", delimiter) for place, line in enumerate(lines)]
    path = root.parent / "table.csv"
    path.write_text("\n".join(lines), encoding=encoding)
    table = read_table(path)
    assert table.attributes == ("M\u00fcde",)
    assert table.files.tolist() == ["a.png", "b.png", "c.png"]
    assert table.splits.tolist() == ["train", "validation", "test"]
    assert table.labels.tolist() == [[1], [UNKNOWN], [0]]
    assert table.groups is not None
    assert table.groups.tolist() == [0, 0, 1]


@pytest.mark.attack("15.13", "a table with several mistakes")
def test_all_that_is_wrong_with_a_table_is_said_at_once(root: Path) -> None:
    text = TABLE.replace("yes", "maybe").replace("a/1.png,1,train", "a/1.png,3,fold 1").replace(",,valid", ",3,valid")
    path = write(root, text)
    with pytest.raises(DataError) as raised:
        read_table(path, unknown="zero")
    first, *others = str(raised.value).splitlines()
    assert first == f"{path}: 3 mistakes must be corrected:"
    assert [line[:60] for line in others] == [
        "  line 2: split must be train, validation or test, got 'fold",
        "  line 2 and 1 other: Smiling must be 1, true or yes (presen",
        "  line 3: Wears a hat must be 1, true or yes (present), 0, -",
    ]


def test_columns_that_are_not_asked_for_are_not_read(root: Path) -> None:
    path = write(root, TABLE.replace("yes", "maybe"))
    table = read_table(path, unknown="zero", attributes=["Smiling,Freckles"])
    assert table.attributes == ("Smiling",)


def test_two_columns_that_may_be_the_images_are_refused(root: Path) -> None:
    path = write(root, "File,Filename,split,A\na,b,train,1\n")
    text = f"{path}, line 1: must have one column image, got File and Filename. Choose one with --columns."
    with pytest.raises(DataError, match=re.escape(text)):
        read_table(path)


def test_a_file_that_is_no_utf_8_text_is_refused(root: Path) -> None:
    path = root.parent / "table.csv"
    path.write_bytes(TABLE.replace("Smiling", "L\u00e4cheln").encode("latin-1"))
    text = f"{path}: must be UTF-8 text, got 'utf-8' codec can't decode byte 0xe4 in position 7: invalid continuation"
    with pytest.raises(DataError, match=re.escape(text)):
        read_table(path)


@pytest.mark.parametrize("name", ["gone.csv", "images"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    path = root.parent / name
    text = f"{path}: must be a readable CSV file, got none. Name it with --labels."
    with pytest.raises(DataError, match=re.escape(text)):
        read_table(path)


@pytest.mark.parametrize("link", ["a/1.png", "a"])
def test_a_link_that_leaves_the_folder_is_refused(root: Path, link: str) -> None:
    outside = root.parent / "outside"
    (root / link).rename(outside)
    (root / link).symlink_to(outside)
    text = f"load_csv: images must be in the data folder {root}, got {link}, a link to {outside}. Copy the"
    with pytest.raises(DataError, match=re.escape(text)):
        load(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,split,A\na/1.png,test,1",
            "table.csv: split 'train' must have images, got none of 1. Write train into the column split of some rows, "
            "or raise its share in --columns.",
        ),
        (
            "image,split,A\nc.png,train,1",
            "load_csv: split 'train' must have images, got none of 1 in {root} (first: ",
        ),
        ("image,split,A\na/1.png,train,", "table.csv: split 'train' must have known labels, got none in 1 rows. Label"),
    ],
)
def test_a_split_without_images_or_labels_is_refused(root: Path, text: str, message: str) -> None:
    write(root, text)
    with pytest.raises(DataError, match=re.escape(message.format(root=root))):
        load(root)


def test_another_folder_or_split_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"load_csv: the data folder must exist, got {root / 'gone'}")):
        load_csv(read_table(root.parent / "table.csv", unknown="zero"), root / "gone", "train", image_size=8)
    with pytest.raises(
        ValueError, match=re.escape("load_csv: split must be one of train, validation, test, got 'val'.")
    ):
        load(root, "val")


@pytest.mark.parametrize("model", ["blan", "moon"])
def test_a_model_trains_and_is_tested_where_labels_are_unknown(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    lines = ["image,split,Smiling,Freckles,Nobody knows"]
    for index in range(30):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"{index}.png")
        smiling, freckles = random.choice(["1", "-1", ""], 2)
        lines.append(f"{index}.png,{('train', 'train', 'test')[index % 3]},{smiling},{freckles},{'1' * (index == 0)}")
    table = write(root, "\n".join(lines))
    options = ["--data", "csv", "--data-root", str(root), "--labels", str(table), "--output", str(root / "run")]
    options += ["--image-size", "32", "--width", "4", "--batch-size", "10", "--epochs", "2", "--accelerator", "cpu"]
    assert main([*options, "--model", model]) == 0
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    assert (metrics["data"], metrics["images"]) == ("csv", 10)
    known = [metrics["per_attribute"][name]["accuracy"] for name in ("Smiling", "Freckles")]
    assert metrics["accuracy"] == pytest.approx(sum(known) / 2)
    assert set(metrics["per_attribute"]["Nobody knows"].values()) == {None}
    assert metrics["statistics"]["per_attribute"]["Nobody knows"]["winner"] is None
    assert metrics["labels"]["train"]["Nobody knows"] == {"yes": 1, "no": 0, "unknown": 19}
    told = capsys.readouterr().out
    assert "Labels: yes / no / unknown" in told
    assert "cannot be learnt: Nobody knows (all yes). Leave" in " ".join(told.split())
    assert metrics["scaling"] is metrics["scaled_nll"] is None  # there is no validation split
    assert (root / "run" / "accuracy.png").exists() == (model == "blan")  # the others have no levels


def test_a_run_of_which_nothing_can_be_learnt_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("image,split,A,B,C", "a/1.png,train,-1,,1", "a/2.png,train,-1,,1", "b/1.png,test,1,1,-1")
    table = write(root, "\n".join(lines))
    options = ["--data", "csv", "--data-root", str(root), "--labels", str(table), "--output", str(root / "run")]
    assert main([*options, "--accelerator", "cpu"]) == 1
    message = (
        "train: some attribute must have both yes and no among its training labels, got A (all no), B (all unknown), "
        "C (all yes)"
    )
    assert message in capsys.readouterr().err
    assert not (root / "run").exists()


def test_validation_labels_are_checked_before_training_and_identify_the_data(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(validation: str, *more: str, second: str = "a/2.png") -> str:
        rows = ["image,split,A,B", "a/1.png,train,1,-1", f"{second},train,-1,1", "b/1.png,test,1,1"]
        rows += [f"c/1.png,val,{validation}", f"c/2.png,val,{validation}", "c/3.png,val,1,1"]
        for place in ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "c/1.png", "c/2.png", "c/3.png"):
            (root / place).parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32)).save(root / place)
        table = write(root, "\n".join(rows))
        options = ["--data", "csv", "--data-root", str(root), "--labels", str(table), "--images", "2"]
        options += ["--image-size", "32", "--width", "4", "--batch-size", "2", "--epochs", "2", "--accelerator", "cpu"]
        main([*options, "--model", "resnet", "--keep", "best", "--output", str(root / "run"), *more])
        return " ".join(capsys.readouterr().err.split())

    assert "train: --keep best needs at least one positive validation label, got none" in told("-1,-1")
    assert "train: some of the 2 validation images must have a known label, got none" in told(",")
    assert not (root / "run").exists()
    assert not told("1,-1", "--max-steps", "1")
    assert "--resume needs the data that the checkpoint" in told("1,1", "--resume")
    assert "--resume needs the data that the checkpoint" in told("1,-1", "--resume", second="a/3.png")
    assert not told("1,-1", "--resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "csv"], "train: --data csv needs --data-root, got none. Name the folder of the images."),
        (["--data", "csv", "--data-root", "x"], "train: --data csv needs --labels, got none. Name the CSV file."),
        (
            ["--data", "celeba", "--data-root", "x", "--labels", "y"],
            "train: --data celeba has its own labels, got --labels y. Leave --labels out.",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_mcnn_refuses_attributes_that_it_cannot_group(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "csv", "--data-root", str(root), "--labels", str(root.parent / "table.csv")]
    assert main([*options, "--unknown", "zero", "--model", "mcnn", "--accelerator", "cpu"]) == 1
    message = "MCNN: attributes must be in the paper's groups, which contain those of CelebA, got 'Wears a hat'. Rename"
    assert message in capsys.readouterr().err


def test_some_attributes_are_read_however_they_are_written(root: Path) -> None:
    path = write(root, "image,split,Smiling,Wears a hat,Age\na/1.png,train,1,0,31\n")
    for asked in (["smiling, wears_a_hat"], ["Wears_A_Hat", " smiling"], ["Smiling,Wears a hat,"]):
        assert read_table(path, attributes=asked).attributes == ("Smiling", "Wears a hat")


@pytest.mark.parametrize(
    ("content", "attributes"),
    [
        (b'image,split,"a;b;c;d;e"\na/1.png,train,1\n', ("a;b;c;d;e",)),
        (b'split,image,"a;b;c\nd;e;f"\ntrain,a/1.png,1\n', ("a;b;c\nd;e;f",)),
        (b"Unnamed: 0.1,Unnamed: 0,image,split,A\n0,0,a/1.png,train,1\n", ("A",)),
        ("image\tsplit\tA\na/1.png\ttrain\t1\n".encode("utf-16"), ("A",)),
    ],
    ids=["semicolons in a name", "lines in a name", "two indices", "Excel"],
)
def test_the_first_line_says_how_a_table_is_written(root: Path, content: bytes, attributes: tuple[str, ...]) -> None:
    (root.parent / "table.csv").write_bytes(content)
    assert read_table(root.parent / "table.csv").attributes == attributes


@pytest.mark.parametrize(
    ("encoding", "got"), [("utf-16-le", "NUL bytes"), ("utf-32", "UTF-32"), ("latin-1", "'utf-8' codec")]
)
def test_text_of_other_encodings_is_named(root: Path, encoding: str, got: str) -> None:
    (root.parent / "table.csv").write_bytes(TABLE.replace("Smiling", "Fröhlich").encode(encoding))
    with pytest.raises(DataError, match=f"table.csv: must be UTF-8 text, got {got}.*Save the table as CSV in UTF-8"):
        load(root)


def test_a_pipe_is_no_table(root: Path) -> None:
    os.mkfifo(root.parent / "pipe")
    with pytest.raises(DataError, match="pipe: must be a readable CSV file, got none"):
        read_table(root.parent / "pipe")


def test_a_column_of_wrong_values_leaves_room_for_other_mistakes(root: Path) -> None:
    rows = "".join(f"{row}.png,train,{row + 5},0\n" for row in range(200))
    with pytest.raises(DataError) as caught:
        read_table(write(root, f"image,split,Age,A\n{rows}x.png,nowhere,0,0\n"))
    said = str(caught.value)
    assert "line 5 and 196 others: Age must be" in said
    assert "got other values too" in said
    assert "split must be train, validation or test, got 'nowhere'" in said


def test_unknown_must_leave_a_label_that_means_no(root: Path) -> None:
    path = write(root, "image,split,A\na/1.png,train,1\na/2.png,test,0\n")
    message = "must have labels that mean no, got none, since 0 means unknown. Leave --unknown out."
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(path, unknown="zero")


@pytest.mark.parametrize("folder", ["", "faces/", "a/b/", "./", "/"])
def test_images_may_lie_anywhere_in_an_archive(root: Path, folder: str) -> None:
    path = root.parent / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in FILES:
            archive.write(root / file, f"{folder}{file}")
        archive.writestr(".DS_Store", "x")
    faces = load_csv(read_table(root.parent / "table.csv", unknown="zero"), path, "test", image_size=8)
    assert [faces.image(place)[0, 0, 0] for place in range(3)] == [120, 160, 200]
    assert str(faces.images.place(0)).startswith(f"{path}/")  # type: ignore[union-attr]  # files or an archive, which both say it


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("workers", [0, 1])
def test_warnings_of_image_libraries_are_counted_wherever_images_are_decoded(
    root: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        stream = io.BytesIO()
        Image.new("RGB", (40, 30)).save(stream, "JPEG")
        data, directory = stream.getvalue(), b"MPF\0garbage!"
        segment = b"\xff\xe2" + (2 + len(directory)).to_bytes(2, "big") + directory
        (root / f"{number}.jpg").write_bytes(data[:2] + segment + data[2:])
    rows = "".join(f"{number}.jpg,{'train' if number < 4 else 'test'},{number % 2}\n" for number in range(8))
    table = write(root, f"image,split,A\n{rows}")
    options = ["--data", "csv", "--data-root", str(root), "--labels", str(table), "--output", str(root / "run")]
    small = ["--image-size", "32", "--width", "16", "--batch-size", "4", "--max-steps", "1", "--no-lmim"]
    assert main([*options, *small, "--workers", str(workers), "--accelerator", "cpu"]) == 0
    said = capfd.readouterr()
    (line,) = (line for line in said.out.splitlines() if line.startswith("Image libraries gave"))
    assert int(line.split()[3]) >= 8
    assert "MPO" not in said.out.replace(line, "") + said.err
    assert "malformed" not in said.err


@pytest.mark.attack("15.12", "a line of 100 MB, a heading of a million columns")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,split,Smiling" + "x" * 10**8, "line 1: must have at most 4,194,304 characters, got more."),
        ("image,split,Smiling\n" + "x" * 10**8, "line 2: must have at most 4,194,304 characters, got more."),
        (",".join(map(str, range(20_000))), "line 1: must have at most 10,000 columns, got 20,000. Correct the line."),
    ],
    ids=["heading", "row", "columns"],
)
def test_a_table_without_bounds_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(told)):
        read_table(tmp_path / "faces.csv")
