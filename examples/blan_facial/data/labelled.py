"""Training with few labels: selecting the labels to keep, and batches of labelled and unlabelled faces."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from blan_facial.data.faces import UNKNOWN, DataError, FaceDataset
from blan_facial.data.loading import EpochBatches, EpochIndex, random_generator
from blan_facial.machines.share import WHOLE, Share

_CHOICE, _LABELLED, _REST = 2, 3, 4  # random streams of a seed, other than those of loading


def has_label(faces: FaceDataset) -> np.ndarray:
    """Return which faces have any known label, bool (n,)."""
    known: np.ndarray = (faces.labels != UNKNOWN).any(1)
    return known


def keep_labels(faces: FaceDataset, count: int, seed: int) -> FaceDataset:
    """Keep the labels of randomly chosen faces, and set those of the others to unknown.

    People are drawn with all their labelled faces, so that nobody has faces of both kinds.

    Args:
        faces: The training faces.
        count: Number of faces that keep their labels.
        seed: Seed of the choice.

    Raises:
        DataError: There are fewer labelled faces, or no set of whole people has this number of faces.
    """
    candidates = np.flatnonzero(has_label(faces))
    if count > len(candidates):
        raise DataError(
            f"train: --labelled must be at most the number of labelled training faces, {len(candidates)}, got {count}. "
            "Give a smaller number."
        )
    people = candidates if faces.groups is None else faces.groups[candidates]
    names, sizes = np.unique(people, return_counts=True)
    order = random_generator(seed, _CHOICE).permutation(len(names))
    chosen = order[_with_sum(sizes[order].tolist(), count)]
    if (reached := sizes[chosen].sum()) != count:
        raise DataError(
            f"train: --labelled must be a sum of whole people's images, so that nobody has images of both kinds, got "
            f"{count}. Use {reached or sizes.min()}, for example."
        )
    keeps = np.zeros(len(faces), dtype=bool)
    keeps[candidates[np.isin(people, names[chosen])]] = True
    return dataclasses.replace(faces, labels=np.where(keeps[:, None], faces.labels, UNKNOWN).astype(np.int8))


def _with_sum(sizes: list[int], total: int) -> list[int]:
    """Return the places of sizes with the largest sum up to ``total``, among the first that reach it."""
    sums = [1]  # bit s says whether some of the sizes so far have the sum s
    for size in sizes:
        if sums[-1] >> total:
            break
        sums.append((sums[-1] | sums[-1] << size) & ((2 << total) - 1))
    places, left = [], sums[-1].bit_length() - 1
    for place in range(len(sums) - 2, -1, -1):
        if not sums[place] >> left & 1:
            places.append(place)
            left -= sizes[place]
    return places


class MixedBatches(EpochBatches):
    """Batches with a fixed number of labelled faces; the rest are unlabelled.

    An epoch has as many batches as an epoch over all faces, independent of the number of labels. Each kind is iterated
    repeatedly, in an order that depends only on the seed and the pass; faces that do not fill a batch are left out of a
    pass. Several processes get equal parts of both kinds.

    Args:
        labelled: Which faces have labels, bool (n,).
        batch_size: Faces per batch.
        seed: Seed of the order.
        unlabelled: Unlabelled faces per batch.
        share: The share of this process.

    Raises:
        ValueError: A batch needs more faces of a kind than there are, or they cannot be split into equal parts.
    """

    def __init__(
        self, labelled: np.ndarray, batch_size: int, *, seed: int, unlabelled: int = 0, share: Share = WHOLE
    ) -> None:
        super().__init__(len(labelled), batch_size, seed=seed, share=share)
        self._kinds = [
            (_LABELLED, np.flatnonzero(labelled), batch_size - unlabelled),
            (_REST, np.flatnonzero(~labelled), unlabelled),
        ]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        """Current pass of each kind, and its order."""
        for (_, faces, places), kind in zip(self._kinds, ("labelled", "unlabelled"), strict=True):
            if places > len(faces):
                other = "another --labelled-fraction" if unlabelled else "more labels"
                raise ValueError(
                    f"MixedBatches: a batch needs {places} {kind} faces, got {len(faces)} training faces. "
                    f"Use smaller batches, or {other}."
                )
            if places % share.processes:
                raise ValueError(
                    f"MixedBatches: {kind} faces of a batch must be a multiple of the processes that share it, "
                    f"{share.processes}, got {places}. Use another batch size or --labelled-fraction."
                )

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        if not 0 <= self.first_batch <= len(self):
            raise ValueError(f"MixedBatches: first_batch must be in 0..{len(self)}, got {self.first_batch}.")
        epoch, self._orders = self.epoch, {}
        for batch in range(self.first_batch, len(self)):
            number = epoch * len(self) + batch
            indices = [index for kind in self._kinds if kind[2] for index in self._faces(number, *kind)]
            yield [(epoch, index) for index in indices]

    def _faces(self, number: int, stream: int, faces: np.ndarray, places: int) -> list[int]:
        """Return this process's faces of a kind in a batch, numbered from the start of the run."""
        passed, place = divmod(number, len(faces) // places)
        if self._orders.get(stream, (-1,))[0] != passed:  # drawn once per pass
            self._orders[stream] = passed, random_generator(self.seed, stream, passed).permutation(len(faces))
        order = self._orders[stream][1]
        drawn = faces[order[place * places : (place + 1) * places]]
        rank, count = self.share
        mine: list[int] = np.split(drawn, count)[rank].tolist()
        return mine
