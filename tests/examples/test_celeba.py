import os
import pickle
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.celeba import load_celeba
from blan_facial.data.faces import SPLITS, CorruptImageError, DataError
from blan_facial.data.loading import EpochBatches, make_loader
from tests.examples.celeba_folder import write_celeba_folder

ATTRIBUTES = ("Smiling", "Bald", "Eyeglasses")
LABELS = np.random.default_rng(0).integers(0, 2, (16, 3), dtype=np.uint8)
IMAGES = [np.full((11, 9, 3), (10 * index, 90, 250 - 10 * index), dtype=np.uint8) for index in range(16)]


@pytest.fixture
def root(tmp_path):
    return write_celeba_folder(tmp_path / "celeba", IMAGES, LABELS, ATTRIBUTES)


def colour_of(index):
    return np.broadcast_to(IMAGES[index][0, 0], (32, 32, 3))


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_the_official_folder_is_read(tmp_path, newline, nested):
    root = write_celeba_folder(tmp_path, IMAGES, LABELS, ATTRIBUTES, newline=newline, nested=nested)
    expected = {"train": [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13], "validation": [6, 14], "test": [7, 15]}
    for split, indices in expected.items():
        faces = load_celeba(str(root), split, image_size=32)
        assert (faces.name, faces.split, faces.image_size, faces.notes) == ("celeba", split, 32, ())
        assert faces.attributes == ATTRIBUTES
        assert faces.labels.dtype == np.int8
        np.testing.assert_array_equal(faces.labels, LABELS[indices])
        for index, original in enumerate(indices):
            np.testing.assert_allclose(faces.image(index), colour_of(original), atol=3)


def test_blanks_a_byte_order_mark_and_empty_lines_are_no_hindrance(root):
    path = root / "list_attr_celeba.txt"
    count, names, *rows = path.read_text().splitlines()
    messy = [count, "\t" + names.replace(" ", "   "), *(f" {row}  \t" for row in rows), "", "  ", ""]
    path.write_text("\ufeff" + "\n".join(messy).replace(" -1", "\t-1"), encoding="utf-8")
    (root / "list_eval_partition.txt").write_text("\ufeff000001.jpg\t 2 \n\n", encoding="utf-8")
    faces = load_celeba(root, "test", image_size=32)
    np.testing.assert_array_equal(faces.labels, LABELS[:1])


def test_the_images_may_lie_elsewhere(root, tmp_path):
    elsewhere = (root / "img_align_celeba").rename(tmp_path / "elsewhere")
    faces = load_celeba(root, "test", image_size=32, image_folder=elsewhere)
    np.testing.assert_allclose(faces.image(0), colour_of(7), atol=3)
    text = f"load_celeba: the data folder must exist, got {root / 'gone'} (nothing there). Name it with --image-folder."
    with pytest.raises(DataError, match=re.escape(text)):
        load_celeba(root, "test", image_size=32, image_folder=root / "gone")


def test_images_keep_their_labels_in_whatever_order_the_rows_stand(root):
    path = root / "list_attr_celeba.txt"
    count, names, *rows = path.read_text().splitlines()
    path.write_text("\n".join([count, names, *reversed(rows)]))
    faces = load_celeba(root, "test", image_size=32)
    np.testing.assert_array_equal(faces.labels, LABELS[[15, 7]])
    np.testing.assert_allclose(faces.image(0), colour_of(15), atol=3)
    np.testing.assert_allclose(faces.image(1), colour_of(7), atol=3)


def test_all_forty_attributes_are_read_in_any_order(tmp_path):
    order = np.random.default_rng(1).permutation(40)
    labels = np.random.default_rng(2).integers(0, 2, (8, 40), dtype=np.uint8)
    root = write_celeba_folder(tmp_path, IMAGES[:8], labels[:, order], [CELEBA_ATTRIBUTES[place] for place in order])
    faces = load_celeba(root, "train", image_size=32)
    columns = [faces.attributes.index(name) for name in CELEBA_ATTRIBUTES]
    np.testing.assert_array_equal(faces.labels[:, columns], labels[:6])


def remove_rows(path, *names):
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith(names)))


def test_a_partial_copy_uses_what_all_three_have_and_says_what_was_left_out(tmp_path):
    root = write_celeba_folder(tmp_path, IMAGES, LABELS, ATTRIBUTES, newline="\r\n", missing=(0, 1, 7))
    remove_rows(root / "list_attr_celeba.txt", "000003")
    remove_rows(root / "list_eval_partition.txt", "000004", "000005")
    (root / "img_align_celeba" / "Thumbs.db").touch()
    faces = load_celeba(root, "train", image_size=32)
    np.testing.assert_array_equal(faces.labels, LABELS[[5, 8, 9, 10, 11, 12, 13]])
    assert faces.notes == (
        "list_attr_celeba.txt announces 16 rows but contains 15.",
        "5 of 15 label rows have no image or no partition row and were left out.",
        "4 of 14 partition rows have no image or no label row and were left out.",
        "3 of 13 images have no label row or no partition row and were left out.",
    )


def write_identities(root, people):
    lines = [f"{index + 1:06d}.jpg {person}\n" for index, person in people.items()]
    (root / "identity_CelebA.txt").write_text("".join(lines))


def test_the_people_are_those_of_the_file_of_identities(root):
    assert load_celeba(root, "test", image_size=8).groups is None
    write_identities(root, {index: (70, 8, 512)[index % 3] for index in range(12)})
    faces = load_celeba(root, "train", image_size=8)
    assert faces.groups.tolist() == [0, 1, 2, 0, 1, 2, 2, 0, 1, 2, 3, 4]  # of the images 0 to 5 and 8 to 13
    assert faces.notes == ("2 of 12 train images have no identity row and are treated as images of different people.",)
    assert faces.first(4).groups.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            "000001.jpg\n",
            "1: an identity row must have 2 columns (the image and the number of its person), got 1. Rest",
        ),
        ("000001.jpg 1\n000002.jpg Ann\n", "2: a person must be a whole number, got 'Ann'. Correct the value, or rem"),
        ("000001.jpg 1\n000001.jpg 2\n", "2: an image must have one row, got 000001.jpg again. Remove one of the two"),
    ],
)
def test_a_file_of_identities_that_breaks_its_format_is_refused_by_line(root, rows, text):
    (root / "identity_CelebA.txt").write_text(rows)
    refused(root, f"{root / 'identity_CelebA.txt'}, line {text}")


def test_what_is_no_file_of_the_folder_is_no_image(root, tmp_path):
    images = root / "img_align_celeba"
    (images / "000001.jpg").unlink()
    os.mkfifo(images / "000001.jpg")
    faces = load_celeba(root, "train", image_size=8)
    assert len(faces) == 11
    assert faces.notes[0] == "1 of 16 label rows have no image or no partition row and were left out."
    outside = (images / "000002.jpg").rename(tmp_path / "secret.jpg")
    (images / "000002.jpg").symlink_to(outside)
    refused(root, f"load_celeba: images must be in the data folder {images}, got 000002.jpg, a link to ")


@settings(max_examples=25, deadline=None)
@given(
    images=st.sets(st.integers(0, 9)),
    labels=st.permutations(range(10)).flatmap(lambda order: st.integers(0, 10).map(lambda count: order[:count])),
    partition=st.dictionaries(st.integers(0, 9), st.integers(0, 2)),
)
def test_a_split_is_the_intersection_in_the_order_of_the_label_file(images, labels, partition):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "img_align_celeba").mkdir()
        for index in images:
            (root / "img_align_celeba" / f"{index}.jpg").touch()
        # The label of image i holds the binary digits of i.
        rows = [
            " ".join([f"{index}.jpg", *("1" if index >> bit & 1 else "-1" for bit in range(4))]) for index in labels
        ]
        (root / "list_attr_celeba.txt").write_text("\n".join(["10", " ".join(CELEBA_ATTRIBUTES[:4]), *rows]))
        parts = "\n".join(f"{index}.jpg {part}" for index, part in partition.items())
        (root / "list_eval_partition.txt").write_text(parts)
        for part, split in enumerate(SPLITS):
            expected = [index for index in labels if index in images and partition.get(index) == part]
            if expected:
                faces = load_celeba(root, split, image_size=8)
                assert (faces.labels @ [1, 2, 4, 8]).tolist() == expected
            else:
                with pytest.raises(DataError, match="must have"):
                    load_celeba(root, split, image_size=8)


def test_a_corrupt_image_is_named(root):
    path = root / "img_align_celeba" / "000007.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptImageError, match=re.escape(f"{path}: image 0 must decode completely, got")):
        load_celeba(root, "validation", image_size=32).image(0)


def refused(root, text, split="train"):
    with pytest.raises(DataError, match=re.escape(text)):
        load_celeba(root, split, image_size=32)


def test_a_missing_folder_is_named(tmp_path):
    gone = tmp_path / "gone"
    refused(gone, f"load_celeba: the data folder must exist, got {gone} (nothing there). Name it with --data-root.")
    gone.touch()
    refused(gone, f"load_celeba: the data folder must exist, got {gone} (a file).")


@pytest.mark.parametrize(
    ("name", "subfolder", "remedy"),
    [
        ("list_attr_celeba.txt", "Anno", "Copy it from CelebA's Anno folder."),
        ("list_eval_partition.txt", "Eval", "Copy it from CelebA's Eval folder."),
        (
            "img_align_celeba",
            "Img",
            "Copy img_align_celeba.zip there, or name the images' folder or archive with --image-folder.",
        ),
    ],
)
def test_a_missing_part_is_named(root, name, subfolder, remedy):
    (root / name).rename(root / "elsewhere")
    refused(root, f"load_celeba: needs {name}, got nothing at {root / name} or {root / subfolder / name}. {remedy}")


def edit(path, line, old, new):
    """Replace text in one line, counted from 1."""
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "old", "new", "text"),
    [
        (
            1,
            "16",
            "many",
            "line 1: must contain only the number of label rows, got 'many'. Restore the official file's",
        ),
        (1, "16", "16 Bald", "line 1: must contain only the number of label rows, got '16 Bald'."),
        (2, "Bald", "Bold", "line 2: attributes must be those of CelebA, got 'Bold'. Did you mean Bald?"),
        (2, "Bald", "Smiling", "line 2: an attribute must be named once, got Smiling twice."),
        (
            5,
            "000003.jpg",
            "000003.jpg 1",
            "line 5: a label row must have 4 columns (the image and 3 attributes), got 5.",
        ),
        (
            5,
            "000003.jpg",
            "",
            "line 5: a label row must have 4 columns (the image and 3 attributes), got 3. Restore or",
        ),
        (
            5,
            "000003.jpg",
            "000001.jpg",
            "line 5: an image must have one row, got 000001.jpg again. Remove one of the two.",
        ),
    ],
)
def test_a_label_file_that_breaks_its_format_is_refused_by_line(root, line, old, new, text):
    path = edit(root / "list_attr_celeba.txt", line, old, new)
    refused(root, f"{path}, {text}")


@pytest.mark.parametrize("value", ["0", "2", "yes", "11", "-"])
def test_a_label_other_than_1_or_minus_1_is_refused_by_attribute(root, value):
    path = root / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    lines[5] = f"000004.jpg 1 {value} -1"
    path.write_text("\n".join(lines))
    before = ", as in the previous lines, or 1 or 0 in all of them" if value == "0" else ""
    refused(root, f"{path}, line 6: Bald must be 1 or -1{before}, got '{value}'. Correct the value.")


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (
            "000003.jpg 3",
            "line 3: the partition must be 0 (train), 1 (validation) or 2 (test), got '3'. Correct the value.",
        ),
        (
            "000003.jpg",
            "line 3: a partition row must have 2 columns (the image and 0, 1 or 2), got 1. Restore or remove",
        ),
        ("000001.jpg 0", "line 3: an image must have one row, got 000001.jpg again. Remove one of the two."),
    ],
)
def test_a_partition_file_that_breaks_its_format_is_refused_by_line(root, new, text):
    path = edit(root / "list_eval_partition.txt", 3, "000003.jpg 0", new)
    refused(root, f"{path}, {text}")


def test_a_partition_may_have_a_count_alone(root):
    path = root / "list_eval_partition.txt"
    path.write_text(f"16\n{path.read_text()}")
    assert read(root).notes == ()


def test_a_file_that_is_no_text_is_refused(root):
    path = root / "list_attr_celeba.txt"
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    refused(root, f"{path}: must be UTF-8 text, got 'utf-8' codec can't decode byte 0xff")


def test_an_empty_label_file_is_refused(root):
    path = root / "list_attr_celeba.txt"
    path.write_text("")
    refused(root, f"{path}, line 1: must contain only the number of label rows, got ''.")
    path.write_text("16\n")
    refused(root, f"{path}, line 2: needs the attribute names, got none.")


def test_a_folder_where_nothing_agrees_is_refused_with_the_counts(root):
    path = root / "list_attr_celeba.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    folder = root / "img_align_celeba"
    refused(
        root,
        "load_celeba: some images must have both a label row and a partition row, got none among 16 images in "
        f"{folder}, 0 label rows and 16 partition rows. Check that all three come from the same copy of CelebA.",
    )


def test_an_empty_split_is_refused(tmp_path):
    root = write_celeba_folder(tmp_path, IMAGES, LABELS, ATTRIBUTES, partition=[0] * 16)
    text = f"load_celeba: split 'test' must have images, got none of the 16 complete ones in {root}. Add images of this"
    refused(root, text, split="test")


def test_an_unknown_split_is_refused(root):
    with pytest.raises(ValueError, match=r"load_celeba: split must be one of train, validation, test, got 'val'\."):
        load_celeba(root, "val", image_size=32)


def as_csv(path, names=None):
    """Replace a text file by what Kaggle's copy has."""
    lines = path.read_text().splitlines()
    if names is None:
        names, lines = ["image_id", *lines[1].split()], lines[2:]
    rows = [",".join(names), *(",".join(line.split()) for line in lines)]
    path.unlink()
    path.with_suffix(".csv").write_text("\n".join(rows))
    return path.with_suffix(".csv")


def read(root, split="test", **options):
    faces = load_celeba(root, split, image_size=32, **options)
    indices = {"train": [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13], "validation": [6, 14], "test": [7, 15]}[split]
    np.testing.assert_array_equal(faces.labels, LABELS[indices])
    for index, original in enumerate(indices):
        np.testing.assert_allclose(faces.image(index), colour_of(original), atol=3)
    return faces


@pytest.mark.attack("15.13", "Kaggle's copy of CelebA")
@pytest.mark.parametrize("text", [False, True], ids=["csv", "called-txt"])
def test_kaggle_s_copy_is_read(root, text):
    paths = as_csv(root / "list_attr_celeba.txt"), as_csv(root / "list_eval_partition.txt", ["image_id", "partition"])
    if text:
        for path in paths:
            path.rename(path.with_suffix(".txt"))
    folder = root / "img_align_celeba"
    folder.rename(root / "inner")
    folder.mkdir()
    (root / "inner").rename(folder / "img_align_celeba")
    assert read(root).notes == ()


@pytest.mark.attack("15.13", "images under other endings than in the list")
@pytest.mark.parametrize("ending", [".png", ".JPG", ".jpeg"])
def test_images_are_matched_without_their_endings(root, ending):
    for path in (root / "img_align_celeba").iterdir():
        path.rename(path.with_suffix(ending))
    assert read(root, "train").notes == ()


def test_an_image_that_is_there_twice_is_taken_once_and_said(root):
    Image.new("RGB", (9, 11)).save(root / "img_align_celeba" / "000008.png")
    text = "1 of 17 images have the name of another, apart from folder and extension, and were left out."
    assert read(root).notes == (text,)


@pytest.mark.attack("15.13", "everything a folder deeper")
def test_everything_may_lie_a_folder_deeper_and_the_partition_beside_the_labels(tmp_path):
    root = write_celeba_folder(tmp_path / "data" / "celeba", IMAGES, LABELS, ATTRIBUTES, nested=True)
    (root / "Eval" / "list_eval_partition.txt").rename(root / "Anno" / "list_eval_partition.txt")
    assert read(tmp_path / "data").notes == ()


@pytest.mark.attack("15.13", "images in their archive")
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_images_are_read_from_their_archive(root, tmp_path, compression, named):
    folder = root / "img_align_celeba"
    path = (tmp_path if named else root) / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.iterdir(), reverse=True):
            archive.write(file, f"img_align_celeba/{file.name}")
            archive.writestr(f"__MACOSX/img_align_celeba/._{file.name}", b"")
    shutil.rmtree(folder)
    faces = read(root, image_folder=path if named else None)
    assert faces.notes == ()
    np.testing.assert_allclose(pickle.loads(pickle.dumps(faces)).image(1), colour_of(15), atol=3)
    assert faces.images.place(0) == path / "img_align_celeba" / "000008.jpg"
    batches = EpochBatches(len(faces), 2, seed=0, shuffle=False, drop_last=False)
    loader = make_loader(faces, batches, mirror=0, workers=2, skip_corrupt=False)
    assert [batch.indices.tolist() for batch in loader] == [[0, 1]]


def test_a_broken_archive_is_named(root):
    folder, path = root / "img_align_celeba", root / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    shutil.rmtree(folder)
    data = bytearray(path.read_bytes())
    place = data.index(b"000008.jpg") + 200
    data[place] ^= 255
    path.write_bytes(data)
    text = f"{path / '000008.jpg'}: image 0 must decode completely, got data that fails its checksum. Replace"
    with pytest.raises(CorruptImageError, match=re.escape(text)):
        load_celeba(root, "test", image_size=32).image(0)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=re.escape(f"{path}: must be a whole ZIP archive, got")):
        load_celeba(root, "test", image_size=32)


@pytest.mark.attack("15.13", "uncropped images of CelebA")
@pytest.mark.parametrize("called", ["img_celeba", "wild"])
def test_images_in_the_wild_are_cropped_by_their_boxes_or_warned_of(root, tmp_path, called):
    folder = tmp_path / called
    folder.mkdir()
    rows = ["16", "image_id x_1 y_1 width height"]
    for index, image in enumerate(IMAGES):
        wild = Image.new("RGB", (60 + index, 80), (0, 255, 0))
        wild.paste(Image.fromarray(image).resize((40, 40)), (10, 20))
        name = f"{index + 1:06d}.png"
        wild.save(folder / name)
        rows.append(f"{name} 12 22 36 36")
    faces = load_celeba(root, "test", image_size=32, image_folder=folder)
    assert f"The images in {folder} are not aligned, and faces in them may be small. Copy list_bbox_celeba.txt" in str(
        faces.notes
    )
    (root / "list_bbox_celeba.txt").write_text("\n".join(rows[:-1]))
    note = (
        f"The images in {folder} are not aligned and were cropped with list_bbox_celeba.txt, except 1 of 2, which "
        f"have no"
    )
    assert note in load_celeba(root, "test", image_size=32, image_folder=folder).notes[-1]
    (root / "list_bbox_celeba.txt").write_text("\n".join(rows))
    assert read(root, image_folder=folder).notes[-1].endswith("cropped with list_bbox_celeba.txt.")
    (root / "list_bbox_celeba.txt").write_text("\n".join(row.replace(" 36 36", " 90 90") for row in rows))
    text = r"boxes must lie in their images, got \(12, 22, 102, 112\) for 000001\.png of 60 x 80 pixels in .* remove"
    with pytest.raises(DataError, match=text):
        load_celeba(root, "test", image_size=32, image_folder=folder)


@pytest.mark.parametrize("folder", ["img_celeba", "data"])
def test_aligned_images_are_not_cropped_whatever_folders_are_called(tmp_path, folder):
    images = [*IMAGES[:3], IMAGES[3][:-2], *IMAGES[4:]]  # one of another size
    root = write_celeba_folder(tmp_path / folder, images, LABELS, ATTRIBUTES)
    rows = ["16", "image_id x_1 y_1 width height", *(f"{index + 1:06d}.jpg 1 2 3 4" for index in range(16))]
    (root / "list_bbox_celeba.txt").write_text("\n".join(rows))
    for split in SPLITS:
        faces = load_celeba(root, split, image_size=32)
        assert (faces.boxes, faces.notes) == (None, ())


def test_labels_of_0_and_1_are_read_and_of_three_values_refused(root):
    path = root / "list_attr_celeba.txt"
    text = path.read_text()
    path.write_text(text.replace("-1", " 0"))
    read(root)
    path.write_text(text.replace("-1", " 0", 3))
    rule = r"must be 1 or 0, as in the previous lines, or 1 or -1 in all of them, got '-1'\. Correct the value\."
    with pytest.raises(DataError, match=rule):
        load_celeba(root, "test", image_size=32)


def as_tables(root, *, separator=",", encoding="utf-8", index=False):
    """Write labels and partition as CSV in place of the official text."""
    for name, heading in (("list_attr_celeba", None), ("list_eval_partition", ["image_id", "partition"])):
        path = root / f"{name}.txt"
        rows = [line.split() for line in path.read_text().splitlines()]
        rows = [heading, *rows] if heading else [["image_id", *rows[1]], *rows[2:]]
        if index:
            rows = [["" if number < 0 else str(number), *row] for number, row in enumerate(rows, start=-1)]
        path.with_suffix(".csv").write_bytes("\n".join(separator.join(row) for row in rows).encode(encoding))
        path.unlink()


@pytest.mark.parametrize(
    "form",
    [{"separator": "\t", "index": True}, {"encoding": "utf-16"}, {"separator": "\t", "encoding": "utf-16"}],
    ids=str,
)
def test_csv_is_read_as_spreadsheets_and_pandas_write_it(root, form):
    as_tables(root, **form)
    np.testing.assert_array_equal(load_celeba(root, "test", image_size=32).labels, LABELS[[7, 15]])


def test_labels_and_parts_may_be_numbers_with_decimals_or_names(root):
    as_tables(root)
    labels, parts = root / "list_attr_celeba.csv", root / "list_eval_partition.csv"
    labels.write_text(labels.read_text().replace("1,", "1.0,").replace("1\n", "1.0\n"))
    official = parts.read_text()
    for written in (("0.0", "1.0", "2.0"), ("train", "val", "test")):
        text = official
        for number, name in zip("012", written, strict=True):
            text = text.replace(f",{number}", f",{name}")
        parts.write_text(text)
        np.testing.assert_array_equal(load_celeba(root, "test", image_size=32).labels, LABELS[[7, 15]])


def test_several_copies_side_by_side_are_not_chosen_from(root, tmp_path):
    shutil.copytree(root, tmp_path / "celeba_small")
    text = f"must contain one copy, got celeba and celeba_small in {tmp_path}. Name one of them with --data-root."
    refused(tmp_path, text)


@pytest.mark.attack("15.12", "an absurd count of rows in a text file of CelebA")
def test_a_number_too_long_for_a_count_is_refused(root):
    path = root / "list_attr_celeba.txt"
    path.write_text("9" * 5000 + "\n" + path.read_text().partition("\n")[2])
    refused(root, "line 1: must contain only the number of label rows, got '999")


@pytest.mark.parametrize("other", ["__MACOSX", ".ipynb_checkpoints"])
def test_what_systems_leave_beside_the_images_folder_is_passed_over(root, other):
    images = (root / "img_align_celeba").rename(root / "images")
    (root / "img_align_celeba" / other).mkdir(parents=True)
    images.rename(root / "img_align_celeba" / "img_align_celeba")
    assert len(load_celeba(root, "test", image_size=32)) == 2


@pytest.mark.parametrize("kind", ["parts", "loop"])
def test_a_folder_without_images_is_named(root, kind):
    folder = root / "img_align_celeba"
    if kind == "parts":
        for number, path in enumerate(sorted(folder.iterdir())):
            (folder / str(number % 2)).mkdir(exist_ok=True)
            path.rename(folder / str(number % 2) / path.name)
    else:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "again").symlink_to(folder)
    refused(root, f"{folder} must have images, got none in it or in its only subfolder. Name the")


def packed(root, names, *, flag=0):
    """Pack the images under the names that a function gives them, and delete their folder."""
    path = root / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in sorted((root / "img_align_celeba").iterdir()):
            for name in names(image.name):
                archive.write(image, name)
        archive.writestr("readme.txt", "read me")
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= flag
    path.write_bytes(content)
    shutil.rmtree(root / "img_align_celeba")
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_has_a_file_twice_is_refused(root):
    path = packed(root, lambda name: ["000003.jpg", "./000003.jpg"] if name == "000003.jpg" else [name])
    refused(root, f"{path}: must contain each file once, got 000003.jpg twice. Unpack it, and keep one of the two.")


def test_other_files_of_an_archive_may_be_encrypted_and_its_empty_folder_may_be_there(root):
    packed(root, lambda name: [f"a\\b\\{name}"], flag=1)
    (root / "img_align_celeba").mkdir()
    np.testing.assert_allclose(load_celeba(root, "test", image_size=32).image(0), colour_of(7), atol=3)
