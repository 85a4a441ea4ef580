"""Which image's summary each map is paired with to make a fake pair.

All of it stays on the device, without a loop whose length is drawn: the device is never waited for.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._tracing import whole

Negatives: TypeAlias = Literal["shift", "derangement", "per-location", "all", "queue", "given"]

NEGATIVES: tuple[Negatives, ...] = ("shift", "derangement", "per-location", "all", "queue", "given")

DRAWN = ("shift", "derangement", "per-location")
"""Those that give each map as many fake pairs as are asked for."""

OF_ALL = ("all", "queue")
"""Those that take every candidate."""


def shifted_indices(batch: int, device: torch.device, *, random: bool) -> Tensor:
    """Return a cyclic shift of 0 .. batch - 1 that leaves none of them in place.

    The shift is one, or, if ``random``, drawn uniformly from 1 .. batch - 1 by the device's default generator. It
    stays a tensor, so that the device is never waited for.
    """
    images = torch.arange(batch, device=device)
    if not random:
        return images.roll(-1)
    return _around(images + torch.randint(1, batch, (), device=device), batch)


def distinct_shifts(batch: int, count: int, device: torch.device, *, random: bool) -> Tensor:
    """Return ``count`` cyclic shifts (count, batch) by 1, 2, ... or drawn without repetition, then fewer than batch."""
    steps = torch.randperm(batch - 1, device=device)[:count] if random else torch.arange(count, device=device)
    return _around(torch.arange(batch, device=device) + 1 + steps.unsqueeze(1) % (batch - 1), batch)


def _around(images: Tensor, batch: int) -> Tensor:
    """Return numbers below twice the batch, counted on from its start where they pass its end."""
    return torch.where(images >= batch, images - batch, images)


def derangements(batch: int, count: int, device: torch.device) -> Tensor:
    """Draw ``count`` permutations (count, batch) without fixed point, each of them equally likely.

    Permutations are drawn at once and those with a fixed point left out. At least a third has none, so that fewer than
    ``count`` remain once in 1e11 calls; a shift by one then fills the place.
    """
    permutations = torch.rand(4 * count + 64, batch, device=device).argsort(1)
    images = torch.arange(batch, device=device)
    deranged = (permutations != images).all(1)
    chosen = deranged.byte().argsort(dim=0, descending=True, stable=True)[:count]
    return torch.where(deranged[chosen, None], permutations[chosen], (images + 1) % batch)


def partners_apart(groups: Tensor, count: int, *, random: bool) -> Tensor:
    """Return ``count`` partners of each image (count, batch), none of its own group.

    The images are lined up group by group. From an image on, the images of other groups are as many as the batch less
    its group, and lie ``after`` it at distances from its group's end on; the first partner is as far as the largest
    group is wide, each further one the next of them. While these distances are the same for all, a row is a
    permutation, and where all groups are of one size, every row is. Drawn are the order of groups and of their images,
    anew for each row, and a distance that is the same for all.
    """
    batch, device = groups.shape[0], groups.device
    same = same_group(groups)
    first = same.byte().argmax(1)  # the first image of a group stands for it
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
    """Tell of every two images whether they are of one group, (batch, batch)."""
    return groups.unsqueeze(1) == groups


@whole
def drawn_indices(kind: Negatives, local_features: Tensor, count: int, groups: Tensor | None, random: bool) -> Tensor:
    r"""Return whose summaries make the fake pairs of maps (B, C, \*S).

    Args:
        kind: One of those that are drawn.
        local_features: The maps.
        count: Fake pairs K of each location.
        groups: Group of each image (B,), none of which is paired with its own, or None.
        random: Whether to draw; if not, the pairs are the same at every call.

    Shape:
        -> (B,) for one permutation of all, (B, K) for several, (B, K, \*S) for "per-location".
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
    total = torch.Size(spread).numel()
    if groups is not None:
        rows = partners_apart(groups, total, random=random)
    elif kind == "shift" or not random:
        rows = distinct_shifts(batch, total, device, random=random)
    else:
        rows = derangements(batch, total, device)
    return rows[0] if spread == (1,) else rows.reshape(*spread, batch).movedim(-1, 0)


@whole
def valid_candidates(local_features: Tensor, summaries: Tensor, groups: Tensor | None, filled: Tensor | None) -> Tensor:
    """Tell which of all candidates make fake pairs with each map, (B, N).

    Args:
        local_features: The maps (B, ...).
        summaries: The batch's own and what other processes gathered.
        groups: Group of each candidate, none of which is paired with its own, or None.
        filled: Which places of a queue, that is put behind the summaries, hold one.
    """
    batch, count = local_features.shape[0], summaries.shape[0]
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
    """Tell which of all candidates are of each map's group, (B, N)."""
    if groups is None:
        raise ValueError(said("positives='groups' needs groups, got none. Pass the group of each image."))
    return groups[: local_features.shape[0]].unsqueeze(1) == groups


@whole
def with_given(global_features: Tensor, negative_features: Tensor) -> tuple[Tensor, Tensor]:
    """Return summaries (B, D) with further ones (B, K, D) behind them, and at which places each map's are, (B, K)."""
    batch, count = negative_features.shape[:2]
    places = torch.arange(batch, batch + batch * count, device=global_features.device)
    return torch.cat([global_features, negative_features.flatten(0, 1)]), places.unflatten(0, (batch, count))


@whole
def without_given(kind: Negatives, negative_features: Tensor | None, global_features: Tensor) -> Tensor:
    """Return summaries, beside which no negatives are given."""
    if negative_features is not None:
        raise ValueError(
            said(f"negative_features needs negatives 'given', got negatives={kind!r}. Pass that, or drop it.")
        )
    return global_features


@whole
def checked_given(negative_features: Tensor | None, global_features: Tensor) -> Tensor:
    """Return negatives (B, K, D) that go with summaries (B, D)."""
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
                f"{name} must be where global_features are, on {global_features.device}, got them on "
                f"{negative_features.device}. Move them there."
            )
        )
    _checks.same_dtype(name, negative_features, global_features.dtype)
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


def _check_queue(filled: Tensor) -> None:
    """Refuse a single image beside a queue that holds none yet, where values may be read."""
    if _checks.reads_values(filled) and not bool(filled.any()):
        raise ValueError(
            said(
                "needs at least 2 images, or a queue that holds some, to form negative pairs, got a batch of 1 and an "
                "empty queue. Begin with a larger batch."
            )
        )


def _check_left(valid: Tensor) -> None:
    """Refuse groups that leave an image without a fake pair in batch and queue, where values may be read."""
    if _checks.reads_values(valid) and not bool((found := valid.any(1)).all()):
        raise ValueError(
            said(
                "groups must leave each image one of another group in the batch or the queue, got none for image "
                f"{int(found.byte().argmin())}. Draw batches from several groups."
            )
        )


@whole
def checked_groups(kind: Negatives, local_features: Tensor, groups: Tensor | None) -> Tensor | None:
    """Return groups that are integers (B,), for negatives that can keep them apart."""
    if groups is not None:
        _check_groups(kind, groups, local_features.shape[0])
    return groups


@whole
def with_partners(kind: Negatives, groups: Tensor | None) -> Tensor | None:
    """Return groups, of all processes where these are gathered, that leave each image a partner."""
    if groups is not None:
        _check_partners(kind, groups)
    return groups


def _check_groups(kind: Negatives, groups: object, batch: int) -> None:
    """Refuse groups that are no integers (B,), or negatives that cannot keep them apart."""
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
                f"groups needs negatives that can keep them apart, got negatives={kind!r}. "
                "Use 'derangement', 'per-location', 'all' or 'queue'."
            )
        )


def _check_partners(kind: Negatives, groups: Tensor) -> None:
    """Refuse groups that leave an image without a partner, where values may be read."""
    if kind == "queue" or not _checks.reads_values(groups):  # which may hold partners
        return
    batch, largest = groups.shape[0], int(same_group(groups).sum(1).max())
    if largest == batch:
        raise ValueError(
            said(f"groups must be at least 2, got one of all {batch} images. Draw batches from several groups.")
        )
    if kind != "all" and 2 * largest > batch:
        raise ValueError(
            said(
                f"groups of more than half the batch cannot be paired with others, got one of {largest} "
                f"in a batch of {batch}. Use negatives='all', or draw batches from more groups."
            )
        )
