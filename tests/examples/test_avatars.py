import errno
import hashlib
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.avatars import ATTRIBUTES, COUNTS, drawing, load_avatars
from blan_facial.data.avatars import cache as disk
from blan_facial.data.avatars.design import EYES, HAIR_COLORS, PALE_SKINS, Face, draw_face
from blan_facial.data.avatars.hard import draw_hard_face
from blan_facial.data.avatars.render import pixels
from blan_facial.data.faces import SPLITS, FaceDataset

SIZE = 32
EXAMPLES = Path(drawing.__file__).parents[3]


def load(folder, split="train", **options):
    return load_avatars(split, cache=folder, **({"image_size": SIZE, "count": 4, "workers": 1} | options))


def draw(folder, **options):
    """Load, and count the faces that were drawn for it."""
    drawn = []
    data = load(folder, progress=lambda done, total: drawn.append((done, total)), **options)
    return data, drawn


def has(face: Face) -> dict[str, bool]:
    return dict(zip(ATTRIBUTES, face.labels().astype(bool), strict=True))


@pytest.fixture(scope="module")
def faces():
    return [draw_face(np.random.default_rng([7, index])) for index in range(3000)]


@pytest.fixture
def plain():
    """A face with none of the pieces that may be left out, in a fixed pose."""
    return replace(
        draw_face(np.random.default_rng(0)),
        skin="#EDB98A",
        hair="SHORT_FLAT",
        hair_color=HAIR_COLORS["Brown_Hair"][0],
        bangs=False,
        beard=None,
        mustache=None,
        eyes=EYES[0],
        narrow_eyes=False,
        bags_under_eyes=False,
        arched_eyebrows=False,
        bushy_eyebrows=False,
        big_nose=False,
        mouth="SERIOUS",
        lipstick=None,
        rosy_cheeks=False,
        glasses=None,
        earrings=None,
        rotation=0.0,
        scale=1.0,
        shift=(0.0, 0.0),
        turn=(0.0, 0.0),
    )


# The data set


def test_is_a_face_dataset(tmp_path):
    data = load(tmp_path, "validation")
    assert isinstance(data, FaceDataset)
    assert (data.name, data.split, data.image_size, data.notes, len(data)) == ("avatars", "validation", SIZE, (), 4)
    assert data.attributes == ATTRIBUTES
    assert data.images.shape == (4, SIZE, SIZE, 3)
    assert data.images.flags.c_contiguous
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int8)
    assert all(np.array_equal(data.image(index), data.images[index]) for index in range(4))


def test_survives_pickling(tmp_path):
    data = load(tmp_path)
    copy = pickle.loads(pickle.dumps(data))
    assert isinstance(copy, FaceDataset)
    assert np.array_equal(copy.images, data.images)
    assert np.array_equal(copy.labels, data.labels)
    assert copy.split == data.split


def test_attributes_are_celebas_in_celebas_order():
    assert tuple(name for name in CELEBA_ATTRIBUTES if name in ATTRIBUTES) == ATTRIBUTES


def test_every_split_has_a_default_count(tmp_path, monkeypatch):
    monkeypatch.setitem(COUNTS, "test", 3)
    assert len(load_avatars("test", image_size=SIZE, workers=1, cache=tmp_path)) == 3
    assert set(COUNTS) == set(SPLITS)


# Determinism


def test_faces_do_not_depend_on_the_number_of_workers(tmp_path):
    count = 2 * drawing.FACES_PER_WORKER + 1
    alone = load(tmp_path / "alone", count=count)
    shared = load(tmp_path / "shared", count=count, workers=2)
    assert np.array_equal(alone.images, shared.images)
    assert np.array_equal(alone.labels, shared.labels)


def test_fewer_faces_are_the_first_of_more(tmp_path):
    few, many = load(tmp_path, count=3), load(tmp_path, count=6)
    assert np.array_equal(few.images, many.images[:3])
    assert np.array_equal(few.labels, many.labels[:3])


def test_a_larger_image_shows_the_same_face(tmp_path):
    small, large = load(tmp_path, count=20), load(tmp_path, count=20, image_size=2 * SIZE)
    assert np.array_equal(small.labels, large.labels)
    blocks = large.images.reshape(20, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    assert np.abs(blocks - small.images).mean() < 15  # noise, and edges drawn at another grid
    assert np.abs(blocks[1:] - small.images[:-1]).mean() > 40  # another face


def test_seeds_and_splits_share_no_face(tmp_path):
    data = [load(tmp_path, split, count=40, seed=seed) for split in SPLITS for seed in (0, 1)]
    images = np.concatenate([part.images for part in data])
    assert len({image.tobytes() for image in images}) == 6 * 40


# Labels


def test_positive_rates_leave_room_above_the_majority(faces):
    rates = dict(zip(ATTRIBUTES, np.mean([face.labels() for face in faces], axis=0), strict=True))
    assert all(0.05 < rate < 0.6 for rate in rates.values()), rates
    assert sum(0.25 < rate < 0.55 for rate in rates.values()) > len(ATTRIBUTES) / 2


def test_labels_are_correlated_mildly_but_where_they_exclude_each_other(faces):
    correlation = np.corrcoef(np.array([face.labels() for face in faces]).T)
    exclusive = [
        {"Bald", "Bangs", "Straight_Hair", "Wavy_Hair", *HAIR_COLORS},
        {"Goatee", "No_Beard"},
    ]
    for i, first in enumerate(ATTRIBUTES):
        for j, second in enumerate(ATTRIBUTES[:i]):
            if not any({first, second} <= group for group in exclusive):
                assert abs(correlation[i, j]) < 0.25, (first, second)


def test_labels_do_not_contradict_one_another(faces):
    hair = {*HAIR_COLORS, "Straight_Hair", "Wavy_Hair", "Bangs"}
    for face in faces:
        true = {name for name, value in has(face).items() if value}
        assert len(true & set(HAIR_COLORS)) <= 1
        assert not {"Straight_Hair", "Wavy_Hair"} <= true
        assert not {"Goatee", "No_Beard"} <= true
        if "Bald" in true:
            assert not true & hair


CHANGES = {
    "Arched_Eyebrows": {"arched_eyebrows": True},
    "Bags_Under_Eyes": {"bags_under_eyes": True},
    "Bald": {"hair": None},
    "Bangs": {"bangs": True},
    "Big_Nose": {"big_nose": True},
    "Black_Hair": {"hair_color": HAIR_COLORS["Black_Hair"][0]},
    "Blond_Hair": {"hair_color": HAIR_COLORS["Blond_Hair"][0]},
    "Brown_Hair": {"hair_color": "#C93305"},
    "Bushy_Eyebrows": {"bushy_eyebrows": True},
    "Eyeglasses": {"glasses": "ROUND"},
    "Goatee": {"beard": "goatee"},
    "Gray_Hair": {"hair_color": HAIR_COLORS["Gray_Hair"][0]},
    "Mouth_Slightly_Open": {"mouth": "CONCERNED"},
    "Mustache": {"mustache": "MOUSTACHE_MAGNUM"},
    "Narrow_Eyes": {"narrow_eyes": True},
    "No_Beard": {"beard": "full"},
    "Pale_Skin": {"skin": PALE_SKINS[0]},
    "Rosy_Cheeks": {"rosy_cheeks": True},
    "Smiling": {"mouth": "TWINKLE"},
    "Straight_Hair": {"hair": "STRAIGHT_1"},
    "Wavy_Hair": {"hair": "SHORT_CURLY"},
    "Wearing_Earrings": {"earrings": "#E8C33A"},
    "Wearing_Lipstick": {"lipstick": "#D1123F"},
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_changes_the_picture_and_its_label(plain, name):
    other = replace(plain, **CHANGES[name])
    assert has(plain)[name] != has(other)[name]
    difference = np.abs(pixels(plain, 64).astype(int) - pixels(other, 64)).max(2)
    assert (difference > 40).sum() >= 20


def test_an_attribute_of_the_face_leaves_the_rest_of_the_picture_alone(plain):
    difference = np.abs(pixels(plain, 64).astype(int) - pixels(replace(plain, mouth="TWINKLE"), 64)).max(2)
    rows, columns = np.nonzero(difference)
    assert rows.min() > 40
    assert columns.min() > 16
    assert columns.max() < 48


def test_a_bald_head_takes_no_hair_color(plain):
    assert {name for name in HAIR_COLORS if has(replace(plain, hair=None))[name]} == set()
    bald = [pixels(replace(plain, hair=None, hair_color=color), 64) for color in ("#000000", "#FFFFFF")]
    assert np.array_equal(*bald)


# The harder faces


@pytest.fixture(scope="module")
def hard_labels():
    return np.array([draw_hard_face(np.random.default_rng([7, index])).labels() for index in range(3000)])


def test_harder_faces_are_another_set_and_leave_the_first_as_it_is(tmp_path):
    plain, hard = load(tmp_path), load(tmp_path, drawn_as="avatars-hard")
    assert (plain.name, hard.name) == ("avatars", "avatars-hard")
    assert (hard.attributes, hard.images.shape, hard.labels.shape) == (
        ATTRIBUTES,
        plain.images.shape,
        plain.labels.shape,
    )
    assert not np.array_equal(plain.images, hard.images)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.startswith("avatars-hard-train-32px-4-seed0-") for name in names] == [True, False]
    assert disk.fingerprint() != disk.fingerprint("avatars-hard")
    assert np.array_equal(load(tmp_path, drawn_as="avatars-hard").images, hard.images)  # read


def test_the_fingerprint_of_the_first_set_is_of_what_draws_it_alone():
    digest = hashlib.sha256()
    for module in ("design", "parts", "render"):
        digest.update(Path(disk.__file__).with_name(f"{module}.py").read_bytes())
    for library in ("numpy", "python-avatars", "resvg-py"):
        digest.update(f"{library} {version(library)}".encode())
    assert disk.fingerprint() == digest.hexdigest()[:12]


def test_harder_faces_do_not_depend_on_the_number_of_workers(tmp_path):
    count = 2 * drawing.FACES_PER_WORKER + 1
    alone = load(tmp_path / "alone", count=count, drawn_as="avatars-hard")
    shared = load(tmp_path / "shared", count=count, workers=2, drawn_as="avatars-hard")
    assert np.array_equal(alone.images, shared.images)
    assert np.array_equal(alone.labels, shared.labels)


def test_the_more_frequent_label_of_harder_faces_is_right_four_times_in_five(hard_labels):
    rates = hard_labels.mean(0)
    assert 0.77 < np.maximum(rates, 1 - rates).mean() < 0.83
    assert rates.min() > 0.03
    assert len(np.unique(hard_labels, axis=0)) > 1000


def test_attributes_of_harder_faces_follow_one_another(hard_labels):
    correlation = np.corrcoef(hard_labels.T)
    for first, second, least in (
        ("Smiling", "Mouth_Slightly_Open", 0.4),
        ("No_Beard", "Wearing_Lipstick", 0.3),
        ("Arched_Eyebrows", "Wearing_Lipstick", 0.2),
        ("Wearing_Earrings", "Wearing_Lipstick", 0.2),
    ):
        assert correlation[ATTRIBUTES.index(first), ATTRIBUTES.index(second)] > least


def test_a_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="drawn_as must be one of avatars, avatars-hard, got 'cartoons'"):
        load(tmp_path, drawn_as="cartoons")


# The cache


def test_drawn_once_and_read_thereafter(tmp_path):
    first, drawn = draw(tmp_path)
    assert drawn == [(1, 4), (2, 4), (3, 4), (4, 4)]
    second, drawn = draw(tmp_path)
    assert drawn == []
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]


@pytest.mark.parametrize("change", [{"split": "test"}, {"count": 5}, {"seed": 1}, {"image_size": 48}])
def test_other_faces_have_another_file(tmp_path, change):
    draw(tmp_path)
    _, drawn = draw(tmp_path, **change)
    assert drawn


def test_another_drawing_has_another_file(tmp_path, monkeypatch):
    draw(tmp_path)
    monkeypatch.setattr(disk, "fingerprint", lambda _: "another")
    _, drawn = draw(tmp_path)
    assert drawn


def test_the_fingerprint_covers_the_code_that_draws(tmp_path, monkeypatch):
    sources = Path(disk.__file__).parent
    for name in ("design.py", "parts.py", "render.py"):
        (tmp_path / name).write_bytes((sources / name).read_bytes())
    monkeypatch.setattr(disk, "__file__", str(tmp_path / "cache.py"))
    prints = [disk.fingerprint.__wrapped__()]
    for name in ("design.py", "parts.py", "render.py"):
        (tmp_path / name).write_text("changed")
        prints.append(disk.fingerprint.__wrapped__())
    assert prints[0] == disk.fingerprint()
    assert len(set(prints)) == 4


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def one_bit_off(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def not_an_archive(data: bytes) -> bytes:
    return b"faces" * 100


@pytest.mark.parametrize("damage", [truncated, one_bit_off, empty, not_an_archive])
def test_a_broken_file_is_drawn_anew(tmp_path, caplog, damage):
    intact, _ = draw(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again, drawn = draw(tmp_path)
    assert re.search(rf"The cache {re.escape(str(file))} is broken \(.*\); its faces are drawn again\.", caplog.text)
    assert len(drawn) == 4
    assert np.array_equal(again.images, intact.images)
    assert draw(tmp_path)[1] == []


@settings(max_examples=300, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_reaches_the_faces(tmp_path_factory, position, bit):
    folder = tmp_path_factory.getbasetemp()
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    labels = np.eye(2, 3, dtype=np.uint8)
    file = folder / "flipped.npz"
    disk.write(file, images, labels)
    data = bytearray(file.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    file.write_bytes(data)
    kept = disk.read(file, images.shape, labels.shape)
    assert kept is None or (np.array_equal(kept[0], images) and np.array_equal(kept[1], labels))


@pytest.mark.parametrize(
    "content", [{"images": np.zeros((2, 2, 2, 3), np.uint8)}, {"labels": np.ones((4, len(ATTRIBUTES)), np.int64)}]
)
def test_a_file_of_other_faces_is_drawn_anew(tmp_path, caplog, content):
    data, _ = draw(tmp_path)
    (file,) = tmp_path.iterdir()
    np.savez(file, **({"images": data.images, "labels": data.labels} | content))
    with caplog.at_level(logging.WARNING):
        assert len(draw(tmp_path)[1]) == 4
    assert "does not contain the faces that its name says; they are drawn again." in caplog.text


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    folder = tmp_path / "file" / "avatars"
    folder.parent.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        data, drawn = draw(folder)
    assert len(data) == len(drawn) == 4
    assert f"Drawn faces cannot be cached in {folder} (" in caplog.text
    assert "the next run draws them again." in caplog.text


def test_a_disk_that_fails_leaves_nothing_behind(tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        data, _ = draw(tmp_path)
    assert len(data) == 4
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_both_succeed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from blan_facial.data.avatars import load_avatars\n"
        f"data = load_avatars('train', image_size={SIZE}, count=60, workers=1, cache=Path(sys.argv[1]))\n"
        "sys.stdout.buffer.write(data.images.tobytes())"
    )
    outputs = []
    threads = [
        threading.Thread(
            target=lambda: outputs.append(
                subprocess.run(
                    [sys.executable, "-c", program, str(tmp_path)], cwd=EXAMPLES, check=True, capture_output=True
                ).stdout
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data, drawn = draw(tmp_path, count=60)
    assert outputs == 2 * [data.images.tobytes()]
    assert drawn == []


def test_the_default_folder_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk.default_folder() == tmp_path / "blan-layers" / "avatars"
    load(None)
    assert len(list((tmp_path / "blan-layers" / "avatars").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert disk.default_folder() == tmp_path / "home" / ".cache" / "blan-layers" / "avatars"


# The workers


def test_a_worker_needs_no_torch():
    program = "import sys, blan_facial.data.avatars.__main__; sys.exit(bool({'torch', 'lightning'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], cwd=EXAMPLES, check=True)


SCRIPT = f"""
import os, signal, sys
from pathlib import Path
from blan_facial.data.avatars import load_avatars

def interrupt(done, count):
    if done == 51:  # as a terminal does
        os.killpg(0, signal.SIGINT)

print("started", flush=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
load_avatars("train", image_size={SIZE}, count=1000, workers=2, cache=Path(sys.argv[1]), progress=interrupt)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_a_script_without_a_guard_runs_once_and_an_interrupt_ends_it_without_noise(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "cache")],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES)},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == -signal.SIGINT
    assert run.stdout == "started\n"
    assert run.stderr.count("Traceback") == run.stderr.count("KeyboardInterrupt") == 1
    assert not (tmp_path / "cache").exists()


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(drawing, "__package__", "blan_facial.missing")
    size = SIZE * SIZE * 3 + len(ATTRIBUTES)
    message = re.escape(
        f"load_avatars: a drawing process must send {size} bytes per face, got 0 before it ended. "
        "Its own error is above; workers=1 draws without processes."
    )
    with pytest.raises(RuntimeError, match=message):
        load(tmp_path, count=2 * drawing.FACES_PER_WORKER, workers=2)
    assert "No module named blan_facial.missing" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The user's mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "load_avatars: split must be one of train, validation, test, got 'val'."),
        ({"image_size": 15}, "load_avatars: image_size must be at least 16, got 15."),
        ({"count": 0}, "load_avatars: count must be at least 1, got 0."),
        ({"seed": -1}, "load_avatars: seed must be at least 0, got -1."),
        ({"workers": 0}, "load_avatars: workers must be at least 1, got 0."),
    ],
)
def test_a_wrong_argument_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path, **options)


def test_without_a_home_faces_are_kept_in_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert disk.default_folder() == Path(tempfile.gettempdir()) / "blan-layers" / "avatars"
