"""Which image's summary each map is paired with to make a fake pair.

All of it stays on the device, without a loop whose length is drawn: the device is never waited for.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from blan_layers import _checks

Negatives: TypeAlias = Literal["shift", "derangement", "per-location", "all", "queue"]

NEGATIVES: tuple[Negatives, ...] = ("shift", "derangement", "per-location", "all", "queue")

DRAWN = ("shift", "derangement", "per-location")
"""Those that give each map as many fake pairs as are asked for; the others take every candidate."""


def shifted_indices(batch: int, device: torch.device, *, random: bool) -> Tensor:
    """Return a cyclic shift of 0 .. batch - 1 that leaves none of them in place.

    The shift is one, or, if ``random``, drawn uniformly from 1 .. batch - 1 by the device's default generator. It
    stays a tensor, so that the device is never waited for.
    """
    shift = torch.randint(1, batch, (), device=device) if random else 1
    return (torch.arange(batch, device=device) + shift) % batch


def distinct_shifts(batch: int, count: int, device: torch.device, *, random: bool) -> Tensor:
    """Return ``count`` cyclic shifts (count, batch) by 1, 2, ... or drawn without repetition, then fewer than batch."""
    steps = torch.randperm(batch - 1, device=device)[:count] if random else torch.arange(count, device=device)
    return (torch.arange(batch, device=device) + 1 + steps.unsqueeze(1) % (batch - 1)) % batch


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


def permutations_apart(groups: Tensor, count: int, *, random: bool) -> Tensor:
    """Return ``count`` permutations (count, batch) that pair no image with one of its own group.

    The images are lined up group by group and shifted by the size of the largest group at least, and by so much less
    than all of them at most. Drawn are the order of groups and images and the shift.
    """
    batch, device = groups.shape[0], groups.device
    same = same_group(groups)
    first = same.byte().argmax(1)  # the first image of a group stands for it
    largest = same.sum(1).max()
    room = (batch + 1 - 2 * largest).clamp(min=1)
    if random:
        shuffled = torch.rand(count, batch, device=device).argsort(1)
        rank = torch.rand(count, batch, device=device).argsort(1)[:, first]
        line = shuffled.gather(1, rank.gather(1, shuffled).argsort(dim=1, stable=True))
        step = (torch.rand(count, 1, device=device) * room).long().clamp(max=room - 1)
    else:
        line = first.argsort(dim=0, stable=True).expand(count, -1)
        step = torch.arange(count, device=device).unsqueeze(1) % room
    partner = line.gather(1, (torch.arange(batch, device=device) + largest + step) % batch)
    return torch.empty_like(line).scatter(1, line, partner)


def same_group(groups: Tensor) -> Tensor:
    """Tell of every two images whether they are of one group, (batch, batch)."""
    return groups.unsqueeze(1) == groups


def drawn_indices(
    kind: Negatives,
    locations: tuple[int, ...],
    count: int,
    groups: Tensor | None,
    device: torch.device,
    *,
    random: bool,
) -> Tensor:
    r"""Return whose summaries make the fake pairs of maps with these ``locations`` (B, \*S).

    Args:
        kind: One of those that are drawn.
        locations: Shape of the logits.
        count: Fake pairs K of each location.
        groups: Group of each image (B,), none of which is paired with its own, or None.
        device: Where.
        random: Whether to draw; if not, the pairs are the same at every call.

    Shape:
        -> (B,) for one permutation of all, (B, K) for several, (B, K, \*S) for "per-location".
    """
    batch, *space = locations
    if kind == "shift" and count == 1:
        return shifted_indices(batch, device, random=random)
    spread = (count, *space) if kind == "per-location" else (count,)
    total = torch.Size(spread).numel()
    if groups is not None:
        rows = permutations_apart(groups, total, random=random)
    elif kind == "shift" or not random:
        rows = distinct_shifts(batch, total, device, random=random)
    else:
        rows = derangements(batch, total, device)
    return rows[0] if spread == (1,) else rows.reshape(*spread, batch).movedim(-1, 0)


def check_groups(owner: str, kind: Negatives, groups: object, batch: int) -> None:
    """Refuse groups that are no integers (B,), or negatives that cannot keep them apart."""
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.is_complex():
        got = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"{owner}: groups must be an integer tensor, got {got}. Number the groups.")
    if groups.shape != (batch,):
        raise ValueError(
            f"{owner}: groups must have a number for every image, shape ({batch},), got {_checks.shape(groups)}. "
            "Pass one integer an image."
        )
    if kind in ("shift", "queue"):
        raise ValueError(
            f"{owner}: groups needs negatives that can keep them apart, got negatives={kind!r}. "
            "Use 'derangement', 'per-location' or 'all'."
        )


def check_partners(owner: str, kind: Negatives, groups: Tensor) -> None:
    """Refuse groups that leave an image without a partner, where values may be read."""
    if not _checks.reads_values(groups):
        return
    batch, largest = groups.shape[0], int(same_group(groups).sum(1).max())
    if largest == batch:
        raise ValueError(
            f"{owner}: groups must be at least 2, got one of all {batch} images. Draw batches from several groups."
        )
    if kind != "all" and 2 * largest > batch:
        raise ValueError(
            f"{owner}: groups of more than half the batch cannot be paired with others, got one of {largest} "
            f"in a batch of {batch}. Use negatives='all', or draw batches from more groups."
        )
