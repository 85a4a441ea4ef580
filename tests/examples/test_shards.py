"""CelebA in tar files: as in its folder, read where they lie, in an order that keeps to a few of them at a time."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from blan_facial.data.celeba import load_celeba
from blan_facial.data.faces import SPLITS, CorruptImageError, DataError
from blan_facial.data.loading import SHARDS_AT_ONCE, EpochBatches, make_loader
from blan_facial.data.shards import FaceShards
from blan_facial.evaluate import main as evaluate
from blan_facial.shard import main as shard
from blan_facial.train import main as train
from tests.examples.celeba_folder import write_celeba_folder
from tests.examples.run_folder import SMALL, write_run

COUNT = 40
LABELS = np.random.default_rng(0).integers(0, 2, (COUNT, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebA's official folder: 30 images to train on and 5 for each of the other splits, of which 2 are missing."""
    images = np.random.default_rng(1).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    root = tmp_path_factory.mktemp("celeba")
    return write_celeba_folder(root, list(images), LABELS, ("Smiling", "Bald"), missing=(0, 6), nested=True)


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    """The same in tar files of 4."""
    assert shard(["--data-root", str(folder), "--output", str(tmp_path / "s"), "--images-per-shard", "4"]) == 0
    return tmp_path / "s"


def test_they_are_webdataset_s(shards: Path) -> None:
    names = sorted(path.name for path in shards.glob("*.tar"))
    assert names == [
        *(f"celeba-test-{number:06d}.tar" for number in range(2)),
        *(f"celeba-train-{number:06d}.tar" for number in range(8)),
        "celeba-validation-000000.tar",
    ]
    with tarfile.open(shards / names[2]) as tar:
        assert tar.getnames()[:4] == ["000002.jpg", "000002.json", "000003.jpg", "000003.json"]
        described = json.load(tar.extractfile("000002.json") or io.BytesIO())
    signs = dict(zip(("Smiling", "Bald"), (2 * LABELS[1] - 1).tolist(), strict=True))
    assert described == {"split": "train", "labels": signs}


def test_their_indices_name_the_place_of_every_file(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        first, *lines = path.with_suffix(".idx").read_text().splitlines()
        with tarfile.open(path) as tar:
            members = [f"{m.name.split('.')[1]} {m.offset_data} {m.size} {m.name}" for m in tar]
        assert first == f"v1.2 {len(members) // 2}"
        assert lines == [" ".join(pair) for pair in zip(members[::2], members[1::2], strict=True)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("indexed", [True, False])
def test_they_hold_what_the_folder_holds(folder: Path, shards: Path, split: str, indexed: bool) -> None:
    if not indexed:
        for index in shards.glob("*.idx"):
            index.unlink()
    alone, sharded = (load_celeba(root, split, image_size=16) for root in (folder, shards))
    assert isinstance(sharded, FaceShards)
    np.testing.assert_array_equal(sharded.labels, alone.labels)
    for place in range(len(alone)):
        np.testing.assert_array_equal(sharded.image(place), alone.image(place))
    note = "11 of 11 shards have no index (.idx); their headers were read instead."
    assert sharded.notes == (*alone.notes, *(() if indexed else (note,)))


def test_any_tar_file_of_the_images_will_do(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder / "Img" / "img_align_celeba", "./img_align_celeba")
    faces = load_celeba(folder, "test", image_size=16, image_folder=tmp_path)
    np.testing.assert_array_equal(faces.image(0), load_celeba(folder, "test", image_size=16).image(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_or_on_where_the_epoch_began(shards: Path, workers: int) -> None:
    def batches(first: int, workers: int) -> list[list[int]]:
        faces = load_celeba(shards, "train", image_size=16)
        loader = make_loader(
            faces, 4, seed=3, shuffle=True, drop_last=True, mirror=0.5, workers=workers, skip_corrupt=False
        )
        loader.batch_sampler.epoch, loader.batch_sampler.first_batch = 2, first
        return [[*batch.indices.tolist(), int(batch.images.sum())] for batch in loader]

    whole = batches(0, 0)
    assert batches(3, workers) == whole[3:]


class TestOrder:
    numbers = np.random.default_rng(0).integers(0, 30, 1000) * 7

    def order(self, epoch: int, seed: int = 0) -> list[int]:
        batches = EpochBatches(1000, 50, seed=seed, shards=self.numbers)
        batches.epoch = epoch
        return [index for batch in batches for _, index in batch]

    def test_holds_each_index_once_and_depends_on_seed_and_epoch_alone(self) -> None:
        assert sorted(self.order(0)) == list(range(1000))
        assert self.order(5) == self.order(5)
        assert len({tuple(self.order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9

    def test_keeps_to_a_few_shards_at_a_time(self) -> None:
        shards = self.numbers[self.order(1)]
        ends = np.array([np.flatnonzero(shards == number)[[0, -1]] for number in np.unique(shards)])
        open_at = [((ends[:, 0] <= place) & (place <= ends[:, 1])).sum() for place in range(1000)]
        assert max(open_at) == SHARDS_AT_ONCE

    def test_mixes_what_it_keeps_together(self) -> None:
        first = [set(self.numbers[self.order(epoch)[:200]]) for epoch in range(60)]
        assert {len(shards) for shards in first} == {SHARDS_AT_ONCE}
        assert len(set.union(*first)) == 30  # every shard comes first at some time
        order = np.array(self.order(0))
        assert (np.diff(order) > 0).mean() == pytest.approx(0.5, abs=0.05)


class TestBroken:
    def refused(self, root: Path, message: str) -> None:
        with pytest.raises(DataError, match=re.escape(message)):
            load_celeba(root, "train", image_size=16)

    @pytest.fixture
    def first(self, shards: Path) -> Path:
        return shards / "celeba-train-000000.tar"

    @pytest.mark.parametrize("indexed", [True, False])
    @pytest.mark.parametrize("kept", [0.5, 0.99])
    def test_a_truncated_shard(self, shards: Path, first: Path, indexed: bool, kept: float) -> None:
        content = first.read_bytes()
        with tarfile.open(first) as tar:
            end = tar.getmembers()[-1].offset_data + 512
        first.write_bytes(content[: int(kept * end)])
        if not indexed:
            first.with_suffix(".idx").unlink()
        found = f"{int(kept * end)} bytes of at least {end + 1024}." if indexed else ""
        self.refused(shards, f"{first}: must be a whole, uncompressed tar file, got {found}")

    @pytest.mark.parametrize("content", [b"", b"no tar file" * 100])
    def test_a_shard_that_is_none(self, shards: Path, first: Path, content: bytes) -> None:
        first.with_suffix(".idx").unlink()
        first.write_bytes(content)
        self.refused(shards, f"{first}: must be a whole, uncompressed tar file, got ")

    @pytest.mark.parametrize(
        ("old", "new", "line"),
        [("v1.2 4", "v1.1 4", 1), ("v1.2 4", "v1.2 5", 1), ("000003.jpg", "", 3), ("jpg 512", "jpg 12", 2)],
    )
    def test_a_broken_index(self, shards: Path, first: Path, old: str, new: str, line: int) -> None:
        index = first.with_suffix(".idx")
        text = index.read_text()
        assert old in text
        index.write_text(text.replace(old, new, 1))
        self.refused(shards, f"{index}, line {line}: must be a whole index in the format v1.2 of DALI's wds2idx, got ")

    def test_an_index_of_another_shard(self, shards: Path, first: Path) -> None:
        other = shards / "celeba-train-000001.tar"
        other.with_suffix(".idx").replace(first.with_suffix(".idx"))
        first.with_suffix(".tar").replace(other)
        first.write_bytes(other.read_bytes())
        other.unlink()
        faces = load_celeba(shards, "train", image_size=16)
        text = re.escape(f"{first}/000006.jpg: image 0 must decode as a whole, got ")
        with pytest.raises(CorruptImageError, match=text + "(no|another) file at the place that the index names"):
            faces.image(0)

    def test_a_file_in_two_shards(self, shards: Path, first: Path) -> None:
        twice = shards / "z.tar"
        twice.write_bytes(first.read_bytes())
        self.refused(
            shards,
            f"{twice}: a file must lie in the shards once, got 000002.jpg in {first.name} as well. Remove one of the",
        )

    def test_a_missing_shard_is_counted(self, shards: Path, first: Path) -> None:
        first.unlink()
        faces = load_celeba(shards, "train", image_size=16)
        assert faces.notes[0] == "6 of 40 label rows have no image or no partition row and were left out."
        assert len(faces) == 25

    def test_an_image_that_does_not_decode(self, shards: Path, first: Path) -> None:
        content = bytearray(first.read_bytes())
        content[512 : 512 + 100] = bytes(100)
        first.write_bytes(content)
        with pytest.raises(CorruptImageError, match=re.escape(f"{first}/000002.jpg: image 0 must decode as a whole")):
            load_celeba(shards, "train", image_size=16).image(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images-per-shard", "0"], "shard: --images-per-shard must be at least 1, got 0. Raise it."),
        (
            ["--data-root", "nowhere"],
            "load_celeba: the data folder must exist, got nowhere (nothing there). Name it with",
        ),
        ([], "shard: the output folder must hold no tar files, got some in {shards}. Remove them, or give another"),
        (
            ["--data-root", "{shards}"],
            "shard: the official folder must hold images, got tar files in {shards}. Name the",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(
    folder: Path, shards: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shards if not options else shards / "new"
    given = [option.format(shards=shards) for option in options]
    assert shard(["--data-root", str(folder), "--output", str(output), *given]) == 1
    assert f"error: {message.format(shards=shards)}" in capsys.readouterr().err
    assert not list(output.glob("list_*")) or not options


def test_a_run_goes_on_from_its_shards_and_not_from_a_folder(
    folder: Path, shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blan_facial.train.write_report", lambda *_, **__: None)
    options = ["--data", "celeba", "--image-size", "32", "--width", "4", "--batch-size", "8", "--epochs", "1"]
    options += ["--model", "resnet", "--accelerator", "cpu", "--warmup-steps", "0"]
    run = shards / "run"
    assert train([*options, "--data-root", str(shards), "--output", str(run), "--max-steps", "1"]) == 0
    assert train([*options, "--data-root", str(folder), "--output", str(run), "--resume"]) == 1
    assert "train: --resume needs the data that the checkpoint in" in capsys.readouterr().err
    assert train([*options, "--data-root", str(shards), "--output", str(run), "--resume", "--workers", "1"]) == 0
    assert json.loads((run / "metrics.json").read_text())["images"] == 5


def test_a_run_on_all_of_lfwa_is_tested_on_them(shards: Path) -> None:
    options = ["--preset", "lfwa", "--data-root", "gone", "--lfwa-split", "all", "--accelerator", "cpu", *SMALL]
    write_run(shards / "run", *options, "--blocks", "1", "1", "1", "1", attributes=["Bald"])
    output = shards / "metrics.json"
    given = ["--data", "celeba", "--data-root", str(shards), "--output", str(output), "--workers", "0"]
    assert evaluate([str(shards / "run"), *given]) == 0
    metrics = json.loads(output.read_text())
    assert (metrics["data"], metrics["images"], list(metrics["per_attribute"])) == ("celeba", 5, ["Bald"])
