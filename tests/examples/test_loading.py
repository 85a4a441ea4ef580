import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blan_facial.data.faces import CorruptImageError, FaceDataset
from blan_facial.data.loading import Batch, EpochBatches, FaceView, denormalize, make_loader, normalize
from blan_facial.machines.share import Share


class NumberedFaces(FaceDataset):
    """Random faces; those of `corrupt` do not decode."""

    name, split, attributes = "celeba", "train", ("Bald", "Male")

    def __init__(self, length, corrupt=()):
        self.images = None
        random_faces = np.random.default_rng(0)
        self.image_size = 8
        self.pictures = random_faces.integers(0, 256, (length, 8, 8, 3), dtype=np.uint8)
        self.labels = random_faces.integers(0, 2, (length, 2), dtype=np.uint8)
        self.corrupt = corrupt

    def image(self, index):
        if index in self.corrupt:
            raise CorruptImageError(Path(f"{index}.jpg"), index, "nonsense")
        return self.pictures[index]


class FacesInMemory(NumberedFaces):
    def __init__(self, length):
        super().__init__(length)
        self.images = self.pictures

    def image(self, index):
        raise AssertionError("a batch must come from the array of images")


def loader(faces, *, batch_size=4, seed=5, shuffle=True, drop_last=True, mirror=0.5, workers=0, skip_corrupt=False):
    batches = EpochBatches(len(faces), batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)
    return make_loader(faces, batches, mirror=mirror, workers=workers, skip_corrupt=skip_corrupt)


def epoch_of(batches, epoch, first_batch=0):
    batches.batch_sampler.epoch = epoch
    batches.batch_sampler.first_batch = first_batch
    return list(batches)


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.skipped == b.skipped
        for left, right in zip(a[:3], b[:3], strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)


lengths = st.integers(1, 60)
batch_sizes = st.integers(1, 12)
epochs = st.integers(0, 2**40)


@given(length=lengths, batch_size=batch_sizes, seed=st.integers(0, 2**64), epoch=epochs, shuffle=st.booleans())
def test_an_epoch_holds_each_index_once(length, batch_size, seed, epoch, shuffle):
    batches = EpochBatches(length, batch_size, seed=seed, shuffle=shuffle, drop_last=False)
    batches.epoch = epoch
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert {len(batch) for batch in drawn[:-1]} <= {batch_size}
    pairs = [pair for batch in drawn for pair in batch]
    assert sorted(pairs) == [(epoch, index) for index in range(length)]
    if not shuffle:
        assert pairs == sorted(pairs)


@given(length=lengths, batch_size=batch_sizes, seed=st.integers(0, 99), epoch=epochs)
def test_dropping_the_last_batch_leaves_the_full_ones_as_they_are(length, batch_size, seed, epoch):
    batch_size = min(batch_size, length)
    full, all_of_them = (
        EpochBatches(length, batch_size, seed=seed, drop_last=drop_last) for drop_last in (True, False)
    )
    full.epoch = all_of_them.epoch = epoch
    assert len(list(full)) == len(full) == length // batch_size
    assert list(full) == [batch for batch in all_of_them if len(batch) == batch_size]


@given(length=lengths, batch_size=batch_sizes, seed=st.integers(0, 99), epoch=epochs, data=st.data())
def test_an_epoch_that_begins_later_is_the_tail_of_the_whole(length, batch_size, seed, epoch, data):
    batches = EpochBatches(length, batch_size, seed=seed, drop_last=False)
    batches.epoch = epoch
    whole = list(batches)
    batches.first_batch = data.draw(st.integers(0, len(batches)))
    assert list(batches) == whole[batches.first_batch :]
    assert len(batches) == len(whole)


def test_the_order_depends_on_the_seed_and_on_the_epoch():
    def order(seed, epoch):
        batches = EpochBatches(100, 100, seed=seed)
        batches.epoch = epoch
        return tuple(index for _, index in next(iter(batches)))

    orders = {(seed, epoch): order(seed, epoch) for seed in range(5) for epoch in range(5)}
    assert len(set(orders.values())) == 25
    assert orders == {key: order(*key) for key in orders}


def test_the_number_of_workers_changes_nothing():
    faces = NumberedFaces(22, corrupt=(3, 8))
    alone, one, two = (loader(faces, workers=workers, skip_corrupt=True) for workers in (0, 1, 2))
    for epoch in (0, 3):
        expected = epoch_of(alone, epoch)
        assert sum(batch.skipped for batch in expected) > 0
        assert_same(epoch_of(one, epoch), expected)
        assert_same(epoch_of(two, epoch, first_batch=2), expected[2:])


@pytest.mark.parametrize("mirror", [0.0, 0.5])
def test_images_in_memory_make_the_same_batches(mirror):
    slow = loader(NumberedFaces(22), mirror=mirror, drop_last=False)
    fast = loader(FacesInMemory(22), mirror=mirror, drop_last=False)
    assert_same(epoch_of(fast, 2), epoch_of(slow, 2))


def test_a_batch_holds_the_faces_of_its_indices():
    faces = NumberedFaces(10)
    first, second, third = loader(faces, shuffle=False, drop_last=False, mirror=0.0)
    assert isinstance(first, Batch)
    assert [batch.indices.tolist() for batch in (first, second, third)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (second.images.dtype, second.labels.dtype, second.indices.dtype) == (torch.uint8, torch.int64, torch.int64)
    assert second.images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(second.images.numpy(), faces.pictures[4:8].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(second.labels.numpy(), faces.labels[4:8])
    assert second.skipped == 0


def test_the_data_set_keeps_its_images():
    faces = FacesInMemory(8)
    before = faces.pictures.copy()
    for batch in loader(faces, shuffle=False, mirror=1.0):
        batch.images.zero_()
    np.testing.assert_array_equal(faces.pictures, before)


def test_about_half_of_the_faces_are_mirrored_and_others_in_each_epoch():
    faces = NumberedFaces(1000)
    view = FaceView(faces, seed=1, mirror=0.5)
    straight = torch.from_numpy(faces.pictures).movedim(-1, 1)
    mirrored = []
    for epoch in range(2):
        images = view.__getitems__([(epoch, index) for index in range(1000)]).images
        flipped = (images == straight.flip(-1)).flatten(1).all(1)
        assert torch.equal(flipped, ~(images == straight).flatten(1).all(1))
        mirrored.append(flipped)
    for flipped in mirrored:
        assert 430 < flipped.sum() < 570
    assert 430 < (mirrored[0] == mirrored[1]).sum() < 570


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), min_size=1, max_size=8),
    seed=st.integers(0, 3),
    mirror=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_a_face_does_not_depend_on_its_batch(pairs, seed, mirror):
    view = FaceView(NumberedFaces(12, corrupt=(2, 5)), seed=seed, mirror=mirror, skip_corrupt=True)
    batch = view.__getitems__(pairs)
    good = [pair for pair in pairs if pair[1] not in (2, 5)]
    assert batch.skipped == len(pairs) - len(good)
    assert len(batch.images) == len(good)
    for place, pair in enumerate(good):
        image, label, index = view[pair]
        assert torch.equal(batch.images[place], image)
        assert torch.equal(batch.labels[place], label)
        assert batch.indices[place] == index == pair[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_stops_the_loader_with_its_own_error(workers):
    class Vanished(NumberedFaces):
        def image(self, index):
            raise FileNotFoundError(2, "No such file or directory", f"{index}.jpg")

    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '0\.jpg'$"):
        next(iter(loader(Vanished(4), shuffle=False, workers=workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_stops_the_loader_with_its_own_error(workers):
    batches = iter(loader(NumberedFaces(12, corrupt=(6,)), shuffle=False, workers=workers))
    assert next(batches).indices.tolist() == [0, 1, 2, 3]
    with pytest.raises(CorruptImageError) as caught:
        next(batches)
    assert str(caught.value) == (
        "6.jpg: image 6 must decode completely, got nonsense. "
        "Replace the file, or skip such images with --skip-corrupt."
    )
    assert (caught.value.place, caught.value.index) == (Path("6.jpg"), 6)


class GroupedFaces(NumberedFaces):
    def image(self, index):
        return np.full((8, 8, 3), os.getpgrp() == os.getpgid(os.getppid()), dtype=np.uint8)


@pytest.mark.skipif(not hasattr(os, "setpgrp"), reason="no process groups here")
def test_an_interrupt_of_the_process_group_spares_the_workers():
    (batch,) = loader(GroupedFaces(4), workers=1)
    assert not batch.images.any()


PROGRAM_THAT_STOPS_IN_MID_EPOCH = """
from tests.examples.test_loading import NumberedFaces, loader
batches = iter(loader(NumberedFaces(40), workers=1))
next(batches)
"""


def test_workers_do_not_keep_a_program_from_ending():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PROGRAM_THAT_STOPS_IN_MID_EPOCH], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_are_left_out_and_counted(workers):
    faces = NumberedFaces(12, corrupt=(1, 4, 5, 6, 7))
    batches = list(loader(faces, shuffle=False, mirror=0.0, workers=workers, skip_corrupt=True))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2, 3], [], [8, 9, 10, 11]]
    assert [batch.skipped for batch in batches] == [1, 4, 0]
    assert batches[1].images.shape == (0, 3, 8, 8)
    np.testing.assert_array_equal(batches[0].images.numpy(), faces.pictures[[0, 2, 3]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batches[0].labels.numpy(), faces.labels[[0, 2, 3]])


def test_one_corrupt_face_raises_whatever_the_batches_do():
    with pytest.raises(CorruptImageError, match="image 1 must decode"):
        FaceView(NumberedFaces(2, corrupt=(1,)), seed=0, skip_corrupt=True)[0, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_is_left_alone(workers):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002 - the state that must not change

    before = states()
    assert len(list(loader(NumberedFaces(12), workers=workers))) == 3
    assert states() == before


def test_normalize_follows_imagenets_statistics_and_denormalize_undoes_it():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).expand(3, 1, 3)[None]
    normal = normalize(images)
    torch.testing.assert_close(normal[0, 0, 0], (torch.tensor([0, 1, 0.2]) - 0.485) / 0.229)
    torch.testing.assert_close(normal[0, 2, 0], (torch.tensor([0, 1, 0.2]) - 0.406) / 0.225)
    torch.testing.assert_close(denormalize(normalize(images)), images / 255)
    assert images.flatten().tolist() == [0, 255, 51] * 3


def test_normalize_keeps_channels_last():
    (batch,) = loader(NumberedFaces(4))
    assert normalize(batch.images).is_contiguous(memory_format=torch.channels_last)


def test_denormalize_clips_to_pictures_and_leaves_its_input():
    reconstruction = torch.tensor([-9.0, 0.0, 9.0]).expand(3, 1, 3).clone()
    picture = denormalize(reconstruction)
    assert picture[:, 0, 0].tolist() == [0, 0, 0]
    assert picture[:, 0, 2].tolist() == [1, 1, 1]
    torch.testing.assert_close(picture[:, 0, 1], torch.tensor([0.485, 0.456, 0.406]))
    assert reconstruction[0, 0].tolist() == [-9, 0, 9]


def test_normalize_refuses_other_types():
    text = "normalize: images must be torch.uint8, got torch.float32. Pass the images of a Batch."
    with pytest.raises(TypeError, match=re.escape(text)):
        normalize(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"length": 0}, "EpochBatches: length must be at least 1, got 0."),
        ({"batch_size": 0}, "EpochBatches: batch_size must be at least 1, got 0."),
        ({"seed": -1}, "EpochBatches: seed must not be negative, got -1."),
        (
            {"length": 3},
            "EpochBatches: batch_size must be at most the number of images, 3, since incomplete batches are dropped, "
            "got 4. Use smaller batches or more images.",
        ),
    ],
)
def test_batches_that_cannot_be_are_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        EpochBatches(**{"length": 10, "batch_size": 4, "seed": 0} | arguments)


@pytest.mark.parametrize("first_batch", [-1, 4])
def test_a_first_batch_outside_the_epoch_is_refused(first_batch):
    batches = EpochBatches(12, 4, seed=0)
    batches.first_batch = first_batch
    with pytest.raises(ValueError, match=re.escape(f"first_batch must be in 0..3, got {first_batch}.")):
        list(batches)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"mirror": 1.5}, "FaceView: mirror must be a probability in [0, 1], got 1.5."),
        ({"seed": -1}, "EpochBatches: seed must not be negative, got -1."),
        ({"workers": -1}, "make_loader: workers must be 0 or more, got -1."),
    ],
)
def test_a_loader_that_cannot_be_is_refused(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        loader(NumberedFaces(12), **arguments)


class TestShares:
    def batches(self, drop_last, share=Share()):  # noqa: B008  # an immutable default
        return list(EpochBatches(22, 6, seed=3, shuffle=True, drop_last=drop_last, share=share))

    def test_full_batches_are_cut(self):
        shares = [self.batches(True, Share(rank, 3)) for rank in range(3)]
        joined = [[item for part in parts for item in part] for parts in zip(*shares, strict=True)]
        assert joined == self.batches(True)
        assert {len(part) for share in shares for part in share} == {2}

    def test_where_the_last_may_be_smaller_whole_batches_go_by_turns(self):
        shares = [self.batches(False, Share(rank, 3)) for rank in range(3)]
        whole = self.batches(False)
        assert shares == [[whole[0], whole[3]], [whole[1]], [whole[2]]]

    def test_unequal_parts_are_refused(self):
        with pytest.raises(
            ValueError,
            match=r"^EpochBatches: batch_size must be a multiple of the processes that share a batch, 4, got 6\. "
            r"Use 4, for example\.$",
        ):
            self.batches(True, Share(0, 4))
