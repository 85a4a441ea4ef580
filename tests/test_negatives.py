"""The negatives: nobody is paired with itself or its own group, and every allowed pairing is as likely as it should."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blan_layers.mutual_information.memory import SummaryQueue
from blan_layers.mutual_information.negatives import (
    derangements,
    distinct_shifts,
    drawn_indices,
    partners_apart,
    shifted_indices,
)

CPU = torch.device("cpu")


def maps(batch: int, *space: int) -> Tensor:
    return torch.zeros(batch, 1, *space)


def chi_square(counts: torch.Tensor) -> float:
    """Return the chi-square statistic against equal counts, in standard deviations from its mean."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_derangements_are_uniform(batch: int) -> None:
    torch.manual_seed(0)
    possible = [p for p in itertools.permutations(range(batch)) if all(i != j for i, j in enumerate(p))]
    powers = batch ** torch.arange(batch)
    drawn = (derangements(batch, 20000, CPU) * powers).sum(1)
    names, counts = drawn.unique(return_counts=True)
    assert names.tolist() == sorted((torch.tensor(possible) * powers).sum(1).tolist())
    if batch > 2:  # of two images there is one
        assert abs(chi_square(counts.double())) < 5


def test_derangements_of_separate_calls_are_uniform_too() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([derangements(3, 1, CPU)[0, 0] for _ in range(2000)])
    counts = torch.bincount(drawn, minlength=3).double()
    assert counts[0] == 0
    assert abs(chi_square(counts[1:])) < 5


@pytest.mark.parametrize("batch", [2, 3])
def test_what_is_left_out_is_filled_by_a_shift(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda rows, columns, **_: torch.arange(columns).expand(rows, -1).double())
    assert derangements(batch, 2, CPU).tolist() == 2 * [[(i + 1) % batch for i in range(batch)]]


@settings(deadline=None)
@given(
    batch=st.integers(2, 40),
    count=st.integers(1, 5),
    space=st.lists(st.integers(1, 4), max_size=2),
    kind=st.sampled_from(["shift", "derangement", "per-location"]),
    random=st.booleans(),
)
def test_nobody_is_paired_with_itself(batch: int, count: int, space: list[int], kind: Any, random: bool) -> None:
    count = min(count, batch - 1)
    indices = drawn_indices(kind, maps(batch, *space), count, None, random)
    several = (batch, count, *space) if kind == "per-location" else (batch, count)
    assert indices.shape == ((batch,) if several == (batch, 1) else several)
    permutations = indices.reshape(batch, -1)
    assert not (permutations == torch.arange(batch)[:, None]).any()
    assert (permutations.sort(0).values == torch.arange(batch)[:, None]).all()
    if not random:
        assert torch.equal(indices, drawn_indices(kind, maps(batch, *space), count, None, False))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8).filter(lambda sizes: 2 * max(sizes) <= sum(sizes)),
    kind=st.sampled_from(["derangement", "per-location"]),
    random=st.booleans(),
    seed=st.integers(0, 99),
)
def test_nobody_is_paired_with_its_own_group(sizes: list[int], kind: Any, random: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.repeat_interleave(torch.arange(len(sizes)) - 3, torch.tensor(sizes))
    groups = groups[torch.randperm(sum(sizes), generator=generator)]
    indices = drawn_indices(kind, maps(sum(sizes), 2), min(3, sum(sizes) - 1), groups, random).reshape(sum(sizes), -1)
    assert not (groups[indices] == groups[:, None]).any()
    shifts = sum(sizes) + 1 - 2 * max(sizes)
    if random or len(set(sizes)) == 1 or indices.shape[1] <= shifts:
        assert (indices.sort(0).values == torch.arange(sum(sizes))[:, None]).all()  # permutations


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2], [1, 1, 1, 1, 1], [3, 3], [3, 1, 1, 1], [1, 2, 3, 4]])
def test_partners_in_evaluation_are_every_image_of_other_groups_before_any_comes_again(sizes: list[int]) -> None:
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[torch.randperm(sum(sizes))]
    partners = partners_apart(groups, sum(sizes) - 1, random=False)
    for image, group in enumerate(groups):
        others = (groups != group).nonzero().flatten()
        assert torch.equal(partners[: len(others), image].sort().values, others)


def test_drawn_partners_go_as_far_as_the_groups_let_them() -> None:
    """Of four images without groups a shift by two, one of three, is the only one that pairs two with one another."""
    torch.manual_seed(0)
    partners = partners_apart(torch.arange(4), 3000, random=True)
    mutual = (partners.gather(1, partners) == torch.arange(4)).all(1).double().mean().item()
    assert mutual == pytest.approx(1 / 3, abs=0.04)


def test_grouped_partners_reach_every_image_of_other_groups() -> None:
    torch.manual_seed(0)
    groups = torch.tensor([0, 1, 0, 2, 1, 3])
    partners = partners_apart(groups, 4000, random=True)
    reached = torch.zeros(6, 6, dtype=torch.bool)
    reached[torch.arange(6), partners] = True
    assert torch.equal(reached, groups[:, None] != groups)


def test_sorted_data_meets_more_than_its_neighbours() -> None:
    """A shift by one pairs images sorted by class with their own class; what training draws does not."""
    labels = torch.arange(40) // 10
    torch.manual_seed(0)
    for kind in ("shift", "derangement", "per-location"):
        drawn = torch.stack([drawn_indices(kind, maps(40), 1, None, True).flatten() for _ in range(200)])
        within = (labels[drawn] == labels).double().mean().item()
        assert within == pytest.approx(9 / 39, abs=0.06)
    assert (labels[shifted_indices(40, CPU, random=False)] == labels).double().mean() == 0.9


def test_distinct_shifts_are_distinct_and_drawn_equally_often() -> None:
    torch.manual_seed(0)
    firsts = torch.stack([distinct_shifts(5, 3, CPU, random=True)[:, 0] for _ in range(3000)])
    assert (firsts.sort(1).values.diff(dim=1) > 0).all()
    counts = torch.bincount(firsts.flatten(), minlength=5).double()
    assert counts[0] == 0
    assert abs(chi_square(counts[1:])) < 5
    assert distinct_shifts(4, 3, CPU, random=False).tolist() == [[1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]


def test_negatives_never_wait_for_the_device() -> None:
    meta = torch.device("meta")  # where reading a value is an error
    groups = torch.empty(6, dtype=torch.int64, device=meta)
    for kind in ("shift", "derangement", "per-location"):
        for random in (True, False):
            assert drawn_indices(kind, maps(6, 2).to(meta), 2, None, random).is_meta
    assert partners_apart(groups, 3, random=True).is_meta


@settings(deadline=None)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 14), max_size=6))
def test_the_queue_keeps_the_latest_summaries(size: int, batches: list[int]) -> None:
    queue, seen = SummaryQueue(size, 2), torch.zeros(0, 2)
    for batch in batches:
        rows = torch.arange(len(seen), len(seen) + batch).float()[:, None].expand(-1, 2)
        queue(rows, store=True)
        seen = torch.cat([seen, rows])
    filled = queue(torch.zeros(0, 2)).filled
    kept = queue.stored[filled]
    assert sorted(kept[:, 0].tolist()) == seen[-size:, 0].tolist()
    twin = SummaryQueue(size, 2)
    twin.load_state_dict(queue.state_dict())
    for each in (queue, twin):
        each(torch.full((1, 2), -1.0), store=True)
    assert torch.equal(twin.stored, queue.stored)
