"""Loading batches from a face data set.

The content of a batch depends only on the seed, the epoch and its position in the epoch, not on the number of workers
or the first batch that is loaded. The global random state is neither read nor changed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from blan_facial.data.faces import CorruptImageError, FaceDataset
from blan_facial.machines.share import WHOLE, Share
from blan_facial.machines.workers import POLL, WorkerError, leave_process_group, share_memory, watched
from shared.warned import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_PILLOW = "PIL"
_ORDER, _MIRROR = 0, 1  # random streams of a seed

EpochIndex: TypeAlias = tuple[int, int]
"""An epoch and an index into the data set."""

Face: TypeAlias = tuple[Tensor, Tensor, int]
"""An image, uint8 (3, S, S), its labels, int64 (N,), and its index in the data set."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A batch of faces."""

    images: Tensor
    """uint8 (B, 3, S, S), channels last in memory."""
    labels: Tensor
    """int64 (B, N): 1, 0 or `UNKNOWN`."""
    indices: Tensor
    """int64 (B,), indices into the data set."""
    skipped: int
    """Number of corrupt images that were left out; B is smaller by this number and may be 0."""
    warned: tuple[str, ...] = ()
    """Pillow's warnings while decoding, also in workers."""


class EpochBatches(Sampler[list[EpochIndex]]):
    """Batches of (epoch, index) pairs, in an order that depends only on the seed and the epoch.

    Several processes share the batches of a single process. With `drop_last`, each process gets its part of every
    batch. Otherwise the last batch may be smaller, and the processes take whole batches in turn. Both ways, a batch
    contains the same images as with a single process.

    Args:
        length: Number of items.
        batch_size: Items per batch.
        seed: Seed of the order.
        shuffle: Whether the order is random; otherwise it is that of the indices.
        drop_last: Whether to drop an incomplete last batch.
        share: The share of this process.

    Attributes:
        epoch: The epoch of the next iteration. Set it before iterating.
        first_batch: The first batch to yield, for resuming within an epoch. Set it before iterating.

    Raises:
        ValueError: `length` or `batch_size` is below 1, `seed` is negative, `drop_last` leaves no batch, or full
            batches cannot be split into equal parts; when iterating, `first_batch` lies outside the epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        share: Share = WHOLE,
    ) -> None:
        if length < 1:
            raise ValueError(f"EpochBatches: length must be at least 1, got {length}.")
        if batch_size < 1:
            raise ValueError(f"EpochBatches: batch_size must be at least 1, got {batch_size}.")
        if seed < 0:
            raise ValueError(f"EpochBatches: seed must not be negative, got {seed}.")
        if drop_last and batch_size > length:
            raise ValueError(
                f"EpochBatches: batch_size must be at most the number of images, {length}, since incomplete batches "
                f"are dropped, got {batch_size}. Use smaller batches or more images."
            )
        if drop_last and batch_size % share.processes:
            raise ValueError(
                f"EpochBatches: batch_size must be a multiple of the processes that share a batch, {share.processes}, "
                f"got {batch_size}. Use {max(1, batch_size // share.processes) * share.processes}, for example."
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.share = share
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch over all processes, independent of `first_batch`."""
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        if not 0 <= self.first_batch <= len(self):
            raise ValueError(f"EpochBatches: first_batch must be in 0..{len(self)}, got {self.first_batch}.")
        epoch = self.epoch
        order = (
            random_generator(self.seed, _ORDER, epoch).permutation(self.length)
            if self.shuffle
            else np.arange(self.length)
        )
        rank, count = self.share
        for batch in range(self.first_batch, len(self)):
            images = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            if self.drop_last:
                images = np.split(images, count)[rank]
            elif batch % count != rank:
                continue
            yield [(epoch, index) for index in images.tolist()]


class FaceView(Dataset[Face]):
    """Faces as randomly mirrored tensors, indexed by (epoch, index).

    Args:
        faces: The data set.
        seed: Seed of the mirroring.
        mirror: Probability of a horizontal flip; whether a face is flipped depends only on seed, epoch and index.
        skip_corrupt: Whether to leave corrupt images out of batches.

    Raises:
        ValueError: `mirror` is not a probability, or `seed` is negative.
    """

    def __init__(self, faces: FaceDataset, *, seed: int, mirror: float = 0.0, skip_corrupt: bool = False) -> None:
        if not 0 <= mirror <= 1:
            raise ValueError(f"FaceView: mirror must be a probability in [0, 1], got {mirror}.")
        if seed < 0:
            raise ValueError(f"FaceView: seed must not be negative, got {seed}.")
        self.faces = faces
        self.seed = seed
        self.mirror = mirror
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, item: EpochIndex) -> Face:
        """Return one face.

        Raises:
            CorruptImageError: Its file does not decode.
        """
        _, index = item
        image = self.faces.image(index)
        if self._mirrored([item])[0]:
            image = image[:, ::-1]
        return _channels_first(image.copy()), torch.from_numpy(self.faces.labels[index].astype(np.int64)), index

    def __getitems__(self, items: Sequence[EpochIndex]) -> Batch | CorruptImageError | OSError | WorkerError:
        """Return the faces of a batch, or the error of the first one that is corrupt or unreadable.

        The error is returned instead of raised, since a DataLoader would replace its text by a worker's traceback.
        """
        indices = np.array([index for _, index in items], dtype=np.int64)
        warned: list[str] = []
        mirrored = self._mirrored(items)
        if isinstance(self.faces.images, np.ndarray):
            images = self.faces.images[indices]
        else:
            size = self.faces.image_size
            images = np.empty((len(items), size, size, 3), dtype=np.uint8)
            good = np.ones(len(items), dtype=bool)
            with counted(_PILLOW) as warned:
                for place, index in enumerate(indices.tolist()):
                    try:
                        images[place] = self.faces.image(index)
                    except OSError as error:
                        return error
                    except CorruptImageError as error:
                        if not self.skip_corrupt:
                            return error
                        _log.info("left out: %s", error)
                        good[place] = False
            if not good.all():
                images, indices, mirrored = images[good], indices[good], mirrored[good]
        images[mirrored] = images[mirrored, :, ::-1]
        labels = torch.from_numpy(self.faces.labels[indices].astype(np.int64))
        parts = (_channels_first(images), labels, torch.from_numpy(indices))
        try:
            share_memory(*parts)
        except WorkerError as error:
            return error
        return Batch(*parts, len(items) - len(indices), tuple(warned))

    def _mirrored(self, items: Sequence[EpochIndex]) -> np.ndarray:
        if self.mirror == 0:
            return np.zeros(len(items), dtype=bool)
        draws = [_mirror_draws(self.seed, epoch, len(self))[index] for epoch, index in items]
        return np.array(draws, dtype=np.float64) < self.mirror


class FaceLoader(DataLoader[Face]):
    """A DataLoader that raises a worker's original error, and never waits for a worker forever.

    Pillow's warnings in workers are logged in this process, where they are counted.

    Attributes:
        batch_sampler: Set its `epoch` and `first_batch` before iterating.
        dataset: The faces.
        stopping: Returns whether a stop was requested. If so, an empty batch replaces one that is not yet available.
    """

    batch_sampler: EpochBatches
    dataset: FaceView
    stopping: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base class names its private iterator here
        start = super().__iter__
        for batch in watched(start, self.num_workers, self.stopping) if self.num_workers else start():
            if isinstance(batch, Exception):
                raise batch
            for text in () if batch is None else batch.warned:
                logging.getLogger(_PILLOW).warning("%s", text)
            yield self._nothing() if batch is None else batch

    def _nothing(self) -> Batch:
        size, attributes = self.dataset.faces.image_size, len(self.dataset.faces.attributes)
        images = torch.empty((0, 3, size, size), dtype=torch.uint8)
        none = torch.empty(0, dtype=torch.int64)
        return Batch(images, none.view(0, attributes), none, 0)


def make_loader(
    faces: FaceDataset,
    batches: EpochBatches,
    *,
    mirror: float,
    workers: int,
    skip_corrupt: bool,
) -> FaceLoader:
    """Return a loader of the batches of a sampler.

    Args:
        faces: The data set.
        batches: The batches; their seed is also used for mirroring.
        mirror: Probability of a horizontal flip.
        workers: Number of processes that decode images; 0 decodes in this process. Workers are started for each epoch,
            so that those of one loader are not idle while another loader is used.
        skip_corrupt: Whether to leave corrupt images out of batches and count them in `Batch.skipped`.

    Raises:
        CorruptImageError: When iterating, the first corrupt image, unless `skip_corrupt`.
        WorkerError: When iterating, workers do not start, end, or lack memory for a batch.
        ValueError: `workers` is negative, or `FaceView` refuses its arguments.
    """
    if workers < 0:
        raise ValueError(f"make_loader: workers must be 0 or more, got {workers}.")
    return FaceLoader(
        FaceView(faces, seed=batches.seed, mirror=mirror, skip_corrupt=skip_corrupt),
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=workers,
        timeout=POLL if workers else 0,
        worker_init_fn=leave_process_group,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(batches.seed),  # otherwise the loader would use the global generator
    )


def normalize(images: Tensor) -> Tensor:
    """Normalise uint8 images (..., 3, H, W) to float32 by ImageNet's mean and standard deviation.

    Raises:
        TypeError: `images` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize: images must be torch.uint8, got {images.dtype}. Pass the images of a Batch.")
    mean, std = _statistics(images.device)
    return images.float().div_(255).sub_(mean).div_(std)


def denormalize(images: Tensor) -> Tensor:
    """Convert normalised images (..., 3, H, W) or reconstructions to float32 pictures in [0, 1]."""
    mean, std = _statistics(images.device)
    return images.float().mul(std).add_(mean).clamp_(0, 1)


def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), device=device).view(2, 3, 1, 1)
    return mean, std


def _as_is(batch: _T) -> _T:
    return batch


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(-1, -3)


def random_generator(seed: int, *stream: int) -> np.random.Generator:
    """Return the generator of a random stream of a seed, identified by its numbers."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


@lru_cache(maxsize=2)
def _mirror_draws(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return a uniform random number per index, independent of `length`."""
    return random_generator(seed, _MIRROR, epoch).random(length)
