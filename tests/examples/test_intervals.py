"""Intervals, against slow twins and numbers done by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision

from blan_facial.training import intervals
from blan_facial.training.intervals import Units, interval, resample

TAILS = torch.tensor([0.025, 0.975]).double()


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (2, 200, 3) and labels (200, 3)."""
    torch.manual_seed(0)
    labels = (torch.rand(200, 3) < 0.3).long()
    return (torch.rand(2, 200, 3) * 0.6 + 0.4 * labels), labels


def drawn(units: int) -> torch.Tensor:
    """The units of every resample (R, U)."""
    generator = torch.Generator().manual_seed(intervals.SEED)
    return torch.cat([torch.randint(units, (100, units), generator=generator) for _ in range(10)])


@pytest.mark.parametrize("people", [None, 200, 40])
def test_an_interval_is_the_middle_of_the_resampled_values(
    people: int | None, answers: tuple[torch.Tensor, torch.Tensor]
) -> None:
    probabilities, labels = answers
    groups = None if people is None else np.arange(200) % people
    units = Units.of_images(200, groups)
    assert (units.total, units.name) == (people or 200, "images" if people is None else "people")
    rows = drawn(units.total)  # a person's images are 40 apart
    rows = torch.cat([rows + first for first in range(0, 200, units.total)], 1)
    right = (probabilities > 0.5) == labels
    whole, resampled = resample(right, probabilities[-1], labels, units)

    values = right[1, :, 1].double()[rows].mean(1)
    torch.testing.assert_close(resampled.accuracy[:, 1, 1], values)
    assert interval(resampled.accuracy[:, 1, 1], whole.accuracy[0, 1, 1]) == pytest.approx(
        values.quantile(TAILS).tolist()
    )
    means = right[1].double()[rows].mean((1, 2)).quantile(TAILS).tolist()
    assert interval(resampled.accuracy[:, 1], whole.accuracy[0, 1]) == pytest.approx(means)

    positive, correct = labels[:, 1][rows].bool(), right[1, :, 1].double()[rows]
    recalls = [(correct * side).sum(1) / side.sum(1) for side in (positive, ~positive)]
    torch.testing.assert_close(resampled.balanced[:, 1, 1], (recalls[0] + recalls[1]) / 2)

    precisions = torch.stack([binary_average_precision(probabilities[1, of, 2], labels[of, 2]) for of in rows[:50]])
    torch.testing.assert_close(resampled.precision[:50, 2], precisions.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        whole.precision[0, 2].float(), binary_average_precision(probabilities[1, :, 2], labels[:, 2])
    )


def test_a_resample_without_positives_says_nothing_of_balanced_accuracy() -> None:
    labels = torch.zeros(500, 2, dtype=torch.int64)
    labels[:2, 0] = 1  # neither of which is found
    whole, resampled = resample(labels[None] == 0, torch.rand(500, 2), labels, Units.of_images(500, None))
    assert interval(resampled.balanced[:, 0, 0], whole.balanced[0, 0, 0]) == [0.5, 0.5]
    assert 100 < resampled.balanced[:, 0, 0].isnan().sum() < 170  # e^-2 of 1,000
    assert interval(resampled.balanced[:, 0, 1], whole.balanced[0, 0, 1]) == [1, 1]  # the test set has no positives
    assert interval(resampled.balanced[:, 0], whole.balanced[0, 0]) == [0.75, 0.75]  # both attributes in every resample


def test_an_interval_of_nothing_is_none() -> None:
    labels = torch.tensor([[0, -1], [0, -1], [0, -1]])
    whole, resampled = resample(labels[None] == 0, torch.rand(3, 2), labels, Units.of_images(3, None))
    assert interval(resampled.precision[:, 0], whole.precision[0, 0]) is None
    assert interval(resampled.accuracy[:, 0, 1], whole.accuracy[0, 0, 1]) is None
    assert interval(resampled.accuracy[:, 0], whole.accuracy[0, 0]) == [1, 1]


def test_images_of_few_people_tell_less_than_as_many_of_many() -> None:
    groups = np.arange(1000) // 20
    right = torch.from_numpy(np.random.default_rng(0).random(50)[groups] < 0.8)[None, :, None]  # all of a person alike
    labels, widths = torch.ones(1000, 1, dtype=torch.int64), []
    for of in (groups, None):
        whole, resampled = resample(right, torch.rand(1000, 1), labels, Units.of_images(1000, of))
        low, high = interval(resampled.accuracy[:, 0, 0], whole.accuracy[0, 0, 0]) or (0, 0)
        widths.append(high - low)
    assert widths[0] == pytest.approx(20**0.5 * widths[1], rel=0.15)


def test_average_precision_of_equal_scores_is_that_of_torchmetrics() -> None:
    labels = torch.tensor([[1], [0], [1], [0], [1]])
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1])[:, None]
    found = intervals.precisions(scores, labels, torch.ones(1, 5)).item()
    assert found == pytest.approx(binary_average_precision(scores[:, 0], labels[:, 0]).item())
