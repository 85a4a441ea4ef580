"""Which summaries form fake pairs with each map.

Everything stays on the device, without loops of random length, so that nothing waits for the device.
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers._torch import autocasts
from blan_layers.functional._tracing import whole

Negatives: TypeAlias = Literal["shift", "derangement", "per-location", "all", "queue", "given"]

NEGATIVES: tuple[Negatives, ...] = ("shift", "derangement", "per-location", "all", "queue", "given")

DRAWN = ("shift", "derangement", "per-location")
"""Negatives with a chosen number of fake pairs per map."""

OF_ALL = ("all", "queue")
"""Negatives that use every candidate."""


def shifted_indices(batch: int, device: torch.device, *, random: bool) -> Tensor:
    """Return a cyclic shift of 0 .. batch - 1 without fixed points.

    The shift is one, or, if ``random``, drawn uniformly from 1 .. batch - 1 with the device's default generator. It
    stays a tensor, so that nothing waits for the device.
    """
    images = torch.arange(batch, device=device)
    if not random:
        return images.roll(-1)
    return _around(images + torch.randint(1, batch, (), device=device), batch)


def distinct_shifts(batch: int, count: int, device: torch.device, *, random: bool) -> Tensor:
    """Return ``count`` < batch cyclic shifts (count, batch), by 1, 2, ... or drawn without repetition."""
    steps = torch.randperm(batch - 1, device=device)[:count] if random else torch.arange(count, device=device)
    return _around(torch.arange(batch, device=device) + 1 + steps.unsqueeze(1) % (batch - 1), batch)


def _around(images: Tensor, batch: int) -> Tensor:
    """Return numbers below twice the batch size modulo the batch size."""
    return torch.where(images >= batch, images - batch, images)


def derangements(batch: int, count: int, device: torch.device) -> Tensor:
    """Draw ``count`` permutations (count, batch) without fixed points, all equally likely.

    Permutations are drawn all at once, and those with fixed points are discarded. At least a third have none, so that
    fewer than ``count`` remain only once in 1e11 calls; shifts by one then fill the gaps.
    """
    permutations = torch.rand(4 * count + 64, batch, device=device).argsort(1)
    images = torch.arange(batch, device=device)
    deranged = (permutations != images).all(1)
    chosen = deranged.byte().argsort(dim=0, descending=True, stable=True)[:count]
    return torch.where(deranged[chosen, None], permutations[chosen], (images + 1) % batch)


def partners_apart(groups: Tensor, count: int, *, random: bool) -> Tensor:
    """Return ``count`` partners of each image (count, batch), none of its own group.

    The images are ordered by group on a circle, in which those of other groups follow each image ``after`` the end of
    its own group. The first partner is at a distance of the largest group's size, and further partners follow it. A row
    whose distances are equal for all images is a permutation; if all groups have the same size, every row is one. With
    ``random``, the order of the groups and of their images is drawn for each row, as is a distance common to all.
    """
    batch, device = groups.shape[0], groups.device
    same = same_group(groups)
    first = same.byte().argmax(1)  # the first image of a group represents it
    sizes = same.sum(1)
    largest = sizes.max()
    places = torch.arange(batch, device=device)
    if random:
        shuffled = torch.rand(count, batch, device=device).argsort(1)
        rank = torch.rand(count, batch, device=device).argsort(1)[:, first]
        line = shuffled.gather(1, rank.gather(1, shuffled).argsort(dim=1, stable=True))
        room = (batch + 1 - 2 * largest).clamp(min=1)
        step = (torch.rand(count, 1, device=device) * room).long().clamp(max=room - 1)
    else:
        line = first.argsort(dim=0, stable=True).expand(count, -1)
        step = torch.arange(count, device=device).unsqueeze(1)
    group, size = first[line], sizes[line]
    start = (group.unsqueeze(1) == group.unsqueeze(2)).byte().argmax(2)
    rest = start + size - places
    after = rest + (largest - rest + step) % (batch - size).clamp(min=1)
    partner = line.gather(1, (places + after) % batch)
    return torch.empty_like(line).scatter(1, line, partner)


def same_group(groups: Tensor) -> Tensor:
    """Return whether each two images are of the same group, (batch, batch)."""
    return groups.unsqueeze(1) == groups


@whole
def drawn_indices(kind: Negatives, local_features: Tensor, count: int, groups: Tensor | None, random: bool) -> Tensor:
    r"""Return the indices of the summaries in the fake pairs of maps (B, C, \*S).

    Args:
        kind: Negatives that are drawn.
        local_features: The maps.
        count: Number K of fake pairs per location.
        groups: Group of each image (B,), within which no fake pairs are formed, or None.
        random: Whether to draw; otherwise every call returns the same pairs.

    Shape:
        -> (B,) for one permutation, (B, K) for several, (B, K, \*S) for "per-location".
    """
    batch, _, *space = local_features.shape
    device = local_features.device
    _check_batch(batch, batch)
    if not _checks.traced(local_features) and count >= batch:
        raise ValueError(
            said(
                f"num_negatives must be below the batch, got {count} for a batch of {batch}. "
                "Use a larger batch, or negatives='all'."
            )
        )
    if kind == "shift" and count == 1:
        return shifted_indices(batch, device, random=random)
    spread = (count, *space) if kind == "per-location" else (count,)
    total = math.prod(spread)  # torch.Size.numel would fix the sizes of an export
    if groups is not None:
        rows = partners_apart(groups, total, random=random)
    elif kind == "shift" or not random:
        rows = distinct_shifts(batch, total, device, random=random)
    else:
        rows = derangements(batch, total, device)
    return rows[0] if spread == (1,) else rows.reshape(*spread, batch).movedim(-1, 0)


@whole
def valid_candidates(local_features: Tensor, summaries: Tensor, groups: Tensor | None, filled: Tensor | None) -> Tensor:
    """Return which candidates form fake pairs with each map, (B, N).

    Args:
        local_features: The maps (B, ...).
        summaries: Those of the batch and those gathered from other processes.
        groups: Group of each candidate, within which no fake pairs are formed, or None.
        filled: Which entries of a queue, which follows the summaries, contain a summary.
    """
    batch, count = local_features.shape[0], summaries.shape[0]
    _check_some(batch)
    if filled is None:
        _check_batch(batch, count)
    elif count < 2:
        _check_queue(filled)
    images = torch.arange(count, device=summaries.device)
    valid = images[:batch].unsqueeze(1) != images if groups is None else groups[:batch].unsqueeze(1) != groups
    if filled is None:
        return valid
    if groups is None:
        return torch.cat([valid, filled.expand(batch, -1)], 1)
    valid = valid & torch.cat([filled.new_ones(count), filled])
    _check_left(valid)
    return valid


@whole
def of_own_group(local_features: Tensor, groups: Tensor | None) -> Tensor:
    """Return which candidates belong to the group of each map, (B, N)."""
    if groups is None:
        raise ValueError(said("positives='groups' needs groups, got none. Pass the group of each image."))
    return groups[: local_features.shape[0]].unsqueeze(1) == groups


@whole
def with_given(global_features: Tensor, negative_features: Tensor) -> tuple[Tensor, Tensor]:
    """Return summaries (B, D) followed by further ones (B, K, D), and the indices of each map's own, (B, K)."""
    batch, count = negative_features.shape[:2]
    _check_some(batch)
    places = torch.arange(batch, batch + batch * count, device=global_features.device)
    return torch.cat([global_features, negative_features.flatten(0, 1)]), places.unflatten(0, (batch, count))


@whole
def without(option: Tensor | None, global_features: Tensor, words: str) -> Tensor:
    """Return the summaries, or raise with these words if an option is given that the loss does not use."""
    if option is not None:
        raise ValueError(said(words))
    return global_features


@whole
def checked_given(negative_features: Tensor | None, global_features: Tensor) -> Tensor:
    """Return negatives (B, K, D) after checking that they fit the summaries (B, D)."""
    name = "negative_features"
    if negative_features is None:
        raise ValueError(
            said(
                "negatives='given' needs negative_features, got none. "
                "Pass K further summaries for each image, (B, K, D)."
            )
        )
    _checks.floating(name, negative_features)
    if _checks.traced(negative_features, global_features):
        return negative_features
    batch, channels = global_features.shape
    shape = negative_features.shape
    if len(shape) != 3 or (shape[0], shape[2]) != (batch, channels) or shape[1] == 0:
        raise ValueError(
            said(
                f"{name} must be ({batch}, K, {channels}) with K >= 1, got shape {tuple(shape)}. "
                "Pass K further summaries for each image."
            )
        )
    if negative_features.device != global_features.device:
        raise ValueError(
            said(
                f"{name} must be on the device of global_features, {global_features.device}, got them on "
                f"{negative_features.device}. Move them there."
            )
        )
    dtypes = negative_features.dtype, global_features.dtype
    if dtypes[0] != dtypes[1] and not autocasts(global_features.device):
        raise TypeError(
            said(
                f"{name} must have the dtype of global_features, {dtypes[1]}, got {dtypes[0]}. "
                "Convert one of them, or use torch.autocast."
            )
        )
    return negative_features


def _check_batch(batch: int, candidates: int) -> None:
    """Refuse a batch that has no fake pairs."""
    if not _checks.traced() and candidates < 2:
        raise ValueError(
            said(
                f"needs at least 2 images to form negative pairs, got a batch of {batch}. "
                "Use drop_last=True in the DataLoader."
            )
        )


def _check_some(batch: int) -> None:
    """Refuse an empty batch."""
    if not _checks.traced() and batch == 0:
        raise ValueError(said("needs at least one image, got a batch of 0. Skip empty batches."))


def _check_queue(filled: Tensor) -> None:
    """Refuse a single image with an empty queue, where values may be read."""
    if _checks.reads_values(filled) and not bool(filled.any()):
        raise ValueError(
            said(
                "needs at least 2 images, or a non-empty queue, to form negative pairs, got a batch of 1 and an "
                "empty queue. Start with a larger batch."
            )
        )


def _check_left(valid: Tensor) -> None:
    """Refuse groups that leave an image without a fake pair in batch and queue, where values may be read."""
    if _checks.reads_values(valid) and not bool((found := valid.any(1)).all()):
        raise ValueError(
            said(
                "groups must leave each image a partner of another group in the batch or the queue, got none for image "
                f"{int(found.byte().argmin())}. Draw batches from several groups."
            )
        )


@whole
def checked_groups(kind: Negatives, local_features: Tensor, groups: Tensor | None) -> Tensor | None:
    """Return groups in int64 after checking that they are integers (B,) and that the negatives support groups.

    In other dtypes they could not be joined with those of a queue or, some of them, be exchanged between processes.
    """
    if groups is None:
        return None
    _check_groups(kind, groups, local_features.shape[0])
    return groups.to(torch.int64)


@whole
def with_partners(kind: Negatives, groups: Tensor | None) -> Tensor | None:
    """Return the groups, gathered or not, after checking that they leave each image a partner."""
    if groups is not None:
        _check_partners(kind, groups)
    return groups


def _check_groups(kind: Negatives, groups: object, batch: int) -> None:
    """Refuse groups that are not integers (B,), or negatives that do not support groups."""
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.is_complex():
        got = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(said(f"groups must be an integer tensor, got {got}. Number the groups."))
    if groups.shape != (batch,):
        raise ValueError(
            said(
                f"groups must have a number for every image, shape ({batch},), got {_checks.shape(groups)}. "
                "Pass one integer per image."
            )
        )
    if kind in ("shift", "given"):
        raise ValueError(
            said(
                f"groups needs negatives that support groups, got negatives={kind!r}. "
                "Use 'derangement', 'per-location', 'all' or 'queue'."
            )
        )


def _check_partners(kind: Negatives, groups: Tensor) -> None:
    """Refuse groups that leave an image without a partner, where values may be read."""
    if kind == "queue" or not _checks.reads_values(groups):  # the queue may contain partners
        return
    batch, largest = groups.shape[0], int(same_group(groups).sum(1).max())
    if largest == batch:
        raise ValueError(
            said(f"needs at least 2 groups, got one group of all {batch} images. Draw batches from several groups.")
        )
    if kind != "all" and 2 * largest > batch:
        raise ValueError(
            said(
                f"groups must be at most half of the batch to be paired with others, got one of {largest} "
                f"in a batch of {batch}. Use negatives='all', or draw batches from more groups."
            )
        )
