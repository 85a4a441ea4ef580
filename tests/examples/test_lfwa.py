import hashlib
import json
import os
import re

import h5py
import numpy as np
import pytest
from PIL import Image

from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.faces import DataError, NoSplitError
from blan_facial.data.lfwa import load_lfwa
from blan_facial.train import main

NAMES = [f"Some_Person\\Some_Person_{index:04d}.jpg" for index in range(1, 7)]
ATTRIBUTES = ["5 o Clock Shadow", "Bald ", "Wearing_Hat"]
LABELS = np.random.default_rng(0).integers(0, 2, (6, 3))
COLOURS = [(40 * index, 90, 250 - 40 * index) for index in range(6)]


def write_cells(file, key, strings):
    """Write a cell array of strings as MATLAB v7.3 does: 1 x n references to UTF-16 code units."""
    cells = [
        file.create_dataset(f"#refs#/{key}{place}", data=np.frombuffer(string.encode("utf-16-le"), "<u2")[:, None])
        for place, string in enumerate(strings)
    ]
    file[key] = np.array([[cell.ref for cell in cells]], dtype=h5py.ref_dtype)


@pytest.fixture
def root(tmp_path):
    write_attributes(tmp_path)
    with h5py.File(tmp_path / "indices_train_test.mat", "w", userblock_size=512) as file:
        file["indices_img_train"] = np.array([[5.0, 1.0, 3.0]])
        file["indices_img_test"] = np.array([[2.0], [4.0], [6.0]])
    write_images(tmp_path / "lfw")
    return tmp_path


def write_attributes(root, *, names=NAMES, attributes=ATTRIBUTES, labels=LABELS.T):
    with h5py.File(root / "lfw_att_40.mat", "w", userblock_size=512) as file:
        file["label"] = np.asarray(labels, dtype=np.float64)
        write_cells(file, "AttrName", attributes)
        write_cells(file, "name", names)


def write_images(folder):
    (folder / "Some_Person").mkdir(parents=True)
    for name, colour in zip(NAMES, COLOURS, strict=True):
        Image.new("RGB", (25, 25), colour).save(folder / name.replace("\\", "/"), quality=95)


@pytest.mark.parametrize(("split", "rows"), [("train", [4, 0, 2]), ("test", [1, 3, 5])])
def test_the_official_folder_is_read(root, split, rows):
    faces = load_lfwa(str(root), split, image_size=32)
    assert (faces.name, faces.split, faces.image_size, faces.notes) == ("lfwa", split, 32, ())
    assert faces.attributes == ("5_o_Clock_Shadow", "Bald", "Wearing_Hat")
    assert faces.labels.dtype == np.int8
    np.testing.assert_array_equal(faces.labels, LABELS[rows])
    for index, row in enumerate(rows):
        np.testing.assert_allclose(faces.image(index), np.broadcast_to(COLOURS[row], (32, 32, 3)), atol=3)


@pytest.mark.parametrize("labels", [LABELS, 2 * LABELS.T - 1], ids=["a row per image", "signs"])
def test_labels_may_be_transposed_or_signs(root, labels):
    write_attributes(root, labels=labels)
    np.testing.assert_array_equal(load_lfwa(root, "test", image_size=32).labels, LABELS[[1, 3, 5]])


def test_all_forty_attributes_are_read(root):
    labels = np.random.default_rng(1).integers(0, 2, (6, 40))
    write_attributes(root, attributes=[name.replace("_", " ") for name in CELEBA_ATTRIBUTES], labels=labels.T)
    faces = load_lfwa(root, "test", image_size=32)
    assert faces.attributes == CELEBA_ATTRIBUTES
    np.testing.assert_array_equal(faces.labels, labels[[1, 3, 5]])


@pytest.mark.parametrize("place", ["lfw-deepfunneled", "."])
def test_the_images_may_lie_elsewhere(root, place):
    (root / "lfw" / "Some_Person").rename(root / "Some_Person")
    (root / "lfw").rmdir()
    (root / place).mkdir(exist_ok=True)
    (root / "Some_Person").rename(root / place / "Some_Person")
    np.testing.assert_allclose(load_lfwa(root, "test", image_size=8).image(0)[0, 0], COLOURS[1], atol=3)


def test_the_images_may_lie_in_a_folder_of_the_user_s(root, tmp_path_factory):
    elsewhere = (root / "lfw").rename(tmp_path_factory.mktemp("faces") / "any name")
    faces = load_lfwa(root, "test", image_size=8, image_folder=elsewhere)
    np.testing.assert_allclose(faces.image(0)[0, 0], COLOURS[1], atol=3)
    with pytest.raises(DataError, match=re.escape("(nothing there). Name it with --image-folder.")):
        load_lfwa(root, "test", image_size=8, image_folder=root / "gone")


@pytest.fixture
def people(tmp_path):
    """300 images of 60 people, 1 to 9 each."""
    counts = np.random.default_rng(0).permutation([1, 2, 3, 4, 5, 6, 7, 8, 9, 5] * 6)
    names = [f"Person_{person:02d}\\{place}.jpg" for person, count in enumerate(counts) for place in range(count)]
    labels = np.arange(len(names)) % 2
    write_attributes(tmp_path, names=names, attributes=["Bald"], labels=labels[None])
    for name in names:
        path = tmp_path / "lfw" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def files_of(root, split, partition):
    return load_lfwa(root, split, image_size=8, partition=partition).images.names.tolist()


def test_80_to_10_parts_people_and_needs_no_indices(people):
    splits = [files_of(people, split, "80:10") for split in ("train", "validation", "test")]
    assert sorted(file for files in splits for file in files) == sorted(
        path.relative_to(people / "lfw").as_posix() for path in people.rglob("*.jpg")
    )
    for files, share in zip(splits, (0.8, 0.1, 0.1), strict=True):
        assert len(files) / 300 == pytest.approx(share, abs=0.03)
    persons = [{file.split("/")[0] for file in files} for files in splits]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 60  # nobody is in two of them
    order = sorted(set.union(*persons), key=lambda name: hashlib.sha256(name.encode()).digest())
    assert order == [name for people in persons for name in order if name in people]  # for good, on every machine


def test_the_people_are_the_folders(people):
    faces = load_lfwa(people, "test", image_size=8, partition="80:10")
    persons = [name.split("/")[0] for name in faces.images.names.tolist()]
    assert len(set(zip(persons, faces.groups.tolist(), strict=True))) == len(set(persons)) == len(set(faces.groups))


def test_what_is_no_file_of_the_folder_is_no_image(root, tmp_path_factory):
    first = root / "lfw" / "Some_Person" / "Some_Person_0001.jpg"
    first.unlink()
    os.mkfifo(first)
    assert load_lfwa(root, "train", image_size=8).notes == (
        "1 of 3 images of the train split are missing and were left out.",
    )
    first.unlink()
    outside = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    outside.touch()
    first.symlink_to(outside)
    refused(root, f"load_lfwa: images must be in the data folder {root / 'lfw'}, got Some_Person/Some_Person_0001.jpg")


def test_all_trains_on_every_image_and_says_what_its_test_is_worth(root):
    note = "The test images are also training images: their metrics say nothing about new faces."
    train, test = (load_lfwa(root, split, image_size=8, partition="all") for split in ("train", "test"))
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(test.labels, LABELS[[1, 3, 5]])
    assert train.notes == test.notes == (note,)


def test_another_partition_is_refused(root):
    with pytest.raises(ValueError, match=r"load_lfwa: partition must be one of 50:50, 80:10, all, got '90:10'\."):
        load_lfwa(root, "test", image_size=8, partition="90:10")


def test_missing_images_are_left_out_and_counted(root):
    (root / "lfw" / "Some_Person" / "Some_Person_0001.jpg").unlink()
    faces = load_lfwa(root, "train", image_size=32)
    np.testing.assert_array_equal(faces.labels, LABELS[[4, 2]])
    np.testing.assert_allclose(faces.image(1)[0, 0], COLOURS[2], atol=3)
    assert faces.notes == ("1 of 3 images of the train split are missing and were left out.",)


def refused(root, text, split="train"):
    with pytest.raises(DataError, match=re.escape(text)):
        load_lfwa(root, split, image_size=32)


def test_no_image_at_all_is_refused(root):
    (root / "lfw" / "Some_Person").rename(root / "elsewhere")
    refused(
        root,
        f"load_lfwa: split 'train' must have images, got none of 3 in {root / 'lfw'} (first: "
        f"Some_Person/Some_Person_0005.jpg). Unpack LFW's images into {root / 'lfw'}, or name their folder with --im",
    )


def test_validation_is_refused(root):
    text = (
        "load_lfwa: split must be 'train' or 'test' for the partition 50:50, got 'validation'. "
        "Use the partition 80:10, or hold out a part of 'train'."
    )
    with pytest.raises(NoSplitError, match=re.escape(text)):
        load_lfwa(root, "validation", image_size=32)


@pytest.mark.parametrize("name", ["lfw_att_40.mat", "indices_train_test.mat"])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    refused(root, f"load_lfwa: needs {name}, got nothing at {root / name}. Copy it from LFWA's")


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "gone", f"load_lfwa: the data folder must exist, got {tmp_path / 'gone'} (nothing there).")


@pytest.mark.parametrize(
    ("name", "key", "others"),
    [
        ("lfw_att_40.mat", "label", "AttrName, name"),
        ("lfw_att_40.mat", "AttrName", "label, name"),
        ("lfw_att_40.mat", "name", "AttrName, label"),
        ("indices_train_test.mat", "indices_img_train", "indices_img_test"),
    ],
)
def test_a_missing_variable_is_named_beside_those_that_exist(root, name, key, others):
    with h5py.File(root / name, "a") as file:
        del file[key]
    refused(root, f"{root / name}: needs the variable {key}, got {others}. Use the official file.")


@pytest.mark.parametrize(
    ("data", "kind"), [(b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB v5 file"), (b"", "something else")]
)
def test_a_file_of_another_format_is_refused(root, data, kind):
    path = root / "lfw_att_40.mat"
    path.write_bytes(data)
    refused(
        root,
        f"{path}: must be a MATLAB v7.3 (HDF5) file, got {kind}. "
        "Use the official file, or load it in MATLAB and save it with '-v7.3'.",
    )


def test_a_folder_in_its_place_is_refused(root):
    (root / "lfw_att_40.mat").unlink()
    (root / "lfw_att_40.mat").mkdir()
    refused(root, "lfw_att_40.mat: must be a file, got a folder or a device. Use the official file.")


def test_a_truncated_file_is_refused(root):
    path = root / "indices_train_test.mat"
    path.write_bytes(path.read_bytes()[:700])
    refused(root, f"{path}: must be a whole HDF5 file, got ")


def test_names_that_are_no_cells_are_refused(root):
    path = root / "lfw_att_40.mat"
    with h5py.File(path, "a") as file:
        del file["name"]
        file["name"] = np.zeros(6)
    refused(root, f"{path}: name must be a cell array of strings, got float64. Use the official file.")


def as_group(file, key):
    file.create_group(key)


def as_null_reference(file, key):
    file.create_dataset(key, (1, 2), dtype=h5py.ref_dtype)


def as_region(file, key):
    file.create_dataset(key, (1, 2), dtype=h5py.regionref_dtype)


def as_group_in_a_cell(file, key):
    file[key] = np.array([[file.create_group("inner").ref]], dtype=h5py.ref_dtype)


def as_numbers_in_a_cell(file, key):
    file["inner"] = np.zeros((2, 2))
    file[key] = np.array([[file["inner"].ref]], dtype=h5py.ref_dtype)


def as_half_a_character(file, key):
    file["inner"] = np.array([[0xD800]], dtype="<u2")
    file[key] = np.array([[file["inner"].ref]], dtype=h5py.ref_dtype)


def as_link(link):
    def craft(file, key):
        file[key] = link

    return craft


def as_nothing(file, key):
    file[key] = h5py.Empty("f8")


def as_terabytes(file, key):
    file.create_dataset(key, (2**21, 2**20), dtype="f8", chunks=(1024, 1024), compression="gzip")


def as_a_large_chunk(file, key):
    file.create_dataset(key, (6, 3), maxshape=(None, None), dtype="f8", chunks=(2**14, 2**12), compression="gzip")


def as_text(file, key):
    file[key] = ["yes", "no"]


def as_external(file, key):
    file.create_dataset(key, (4, 2), dtype="f8", external="/etc/hostname")


@pytest.mark.attack("15.12", "a crafted .mat file is read")
@pytest.mark.parametrize(
    ("key", "craft", "text"),
    [
        ("label", as_group, "label must be an array, got a group"),
        ("name", as_group, "name must be an array, got a group"),
        ("label", as_nothing, "label must be an array, got nothing in it"),
        ("label", as_text, "label must be an array of numbers, got object"),
        ("label", as_terabytes, "label must have at most 268,435,456 bytes, got 2097152 x 1048576"),
        ("label", as_a_large_chunk, "label must have at most 268,435,456 bytes, got 16384 x 4096, 536,870,912 bytes"),
        ("label", as_external, "label must be in the file itself, got values in other files"),
        ("label", as_link(h5py.SoftLink("/nowhere")), "label must be in the file itself, got a link"),
        ("label", as_link(h5py.ExternalLink("/etc/hostname", "/x")), "label must be in the file itself, got a link"),
        ("name", as_null_reference, "name must be a cell array of strings, got an empty reference"),
        ("name", as_region, "name must be a cell array of strings, got object"),
        ("name", as_group_in_a_cell, "name must be a cell array of strings, got a cell that is not an array"),
        ("AttrName", as_numbers_in_a_cell, "AttrName must be a cell array of strings, got a cell of float64"),
        ("name", as_half_a_character, "name must be readable, got utf-16-le"),
    ],
)
def test_a_crafted_variable_is_refused(root, key, craft, text):
    with h5py.File(root / "lfw_att_40.mat", "a") as file:
        del file[key]
        craft(file, key)
    refused(root, text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": LABELS.T[:, :4]}, "label must be 6 x 3, a row per name and a column per AttrName, got 3 x 4."),
        ({"labels": LABELS.T - [[0, 1, 0, 0, 0, 0]]}, "label must contain 0 and 1, or -1 and 1, got 0 and -1. Use the"),
        ({"labels": LABELS.T + 1}, "label must contain 0 or 1, got 2.0. Use the official file."),
        ({"labels": np.where(LABELS.T, np.nan, 0)}, "label must contain 0 or 1, got nan. Use the official file."),
        (
            {"attributes": ["Bald", "Wearing Het", "Male"]},
            "AttrName: attributes must be those of CelebA, got 'Wearing Het'.",
        ),
    ],
)
def test_attributes_that_break_their_format_are_refused(root, change, text):
    write_attributes(root, **change)
    refused(root, f"{root / 'lfw_att_40.mat'}: {text}")


@pytest.mark.parametrize("name", [r"..\secret.jpg", "lfw/../../secret.jpg", "/etc/secret.jpg", r"C:\secret.jpg"])
def test_a_name_that_leaves_the_folder_is_refused(root, name):
    write_attributes(root, names=[name, *NAMES[1:]])
    text = f"images must be in the data folder, got the name {name!r}. Use the official file."
    refused(root, f"{root / 'lfw_att_40.mat'}: {text}")


@pytest.mark.parametrize("value", [0.0, 7.0, 1.5, np.nan])
def test_an_index_out_of_range_is_refused(root, value):
    path = root / "indices_train_test.mat"
    with h5py.File(path, "a") as file:
        file["indices_img_train"][0, 1] = value
    refused(
        root,
        f"{path}: indices_img_train must contain whole numbers from 1 to 6, the number of names, got {value}. "
        "Take both .mat files from the same download.",
    )


def test_a_model_trains_on_it_without_a_validation_split(root, capsys):
    options = ["--preset", "lfwa", "--data-root", str(root), "--output", str(root / "run"), "--encoder-weights", "None"]
    options += ["--image-size", "32", "--width", "4", "--blocks", "1", "1", "1", "1", "--summary-channels", "8"]
    assert main([*options, "--epochs", "2", "--batch-size", "3", "--workers", "0", "--accelerator", "cpu"]) == 0
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    assert (metrics["data"], metrics["images"]) == ("lfwa", 3)
    assert "epoch 2/2" in capsys.readouterr().out
