"""Intervals, calibration and winners, against slow twins and numbers done by hand."""

from typing import Any

import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision

from blan_facial.training import intervals
from blan_facial.training.intervals import holm, mcnemar, statistics

LEVELS = ("AC1", "AC2")
NAMES = (*LEVELS, "sum")


def described(probabilities: torch.Tensor, labels: torch.Tensor, **options: Any) -> dict[str, Any]:
    attributes = tuple("abcdefgh"[: labels.shape[1]])
    predictions = (probabilities > 0.5).byte()
    return statistics(probabilities, predictions, labels, NAMES, attributes, **({"levels": 2} | options))


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = (torch.rand(200, 3) < 0.3).long()
    return (torch.rand(3, 200, 3) * 0.6 + 0.4 * labels), labels


def test_an_interval_is_the_middle_of_the_resampled_values(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities, labels = answers
    generator = torch.Generator().manual_seed(intervals.SEED)
    drawn = torch.cat([torch.randint(200, (100, 200), generator=generator) for _ in range(10)])
    right = ((probabilities > 0.5) == labels).double()
    found = described(probabilities, labels)["statistics"]
    column = found["per_attribute"]["b"]["columns"]["AC2"]
    values = right[1, :, 1][drawn].mean(1)
    assert column["accuracy_interval"] == pytest.approx(values.quantile(torch.tensor([0.025, 0.975]).double()).tolist())
    assert column["accuracy"] == pytest.approx(right[1, :, 1].mean().item())
    means = right[1][drawn].mean((1, 2))
    expected = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert found["mean"]["columns"]["AC2"]["accuracy_interval"] == pytest.approx(expected)

    positive = labels[:, 1][drawn].bool()
    correct = right[1, :, 1][drawn]
    recalls = [(correct * side).sum(1) / side.sum(1) for side in (positive, ~positive)]
    expected = ((recalls[0] + recalls[1]) / 2).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert column["balanced_interval"] == pytest.approx(expected)

    last = found["per_attribute"]["c"]["columns"]["sum"]
    precisions = torch.stack([binary_average_precision(probabilities[2, rows, 2], labels[rows, 2]) for rows in drawn])
    expected = precisions.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert last["average_precision_interval"] == pytest.approx(expected, abs=1e-5)
    assert last["average_precision"] == pytest.approx(
        binary_average_precision(probabilities[2, :, 2], labels[:, 2]).item()
    )


def test_average_precision_of_equal_scores_is_that_of_torchmetrics() -> None:
    labels = torch.tensor([[1], [0], [1], [0], [1]])
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1])[:, None]
    weights = torch.ones(1, 5)
    found = intervals._precisions(scores, labels, weights).item()
    assert found == pytest.approx(binary_average_precision(scores[:, 0], labels[:, 0]).item())


def test_calibration_error_by_hand() -> None:
    labels = torch.tensor([[1], [0], [0], [0]])
    probabilities = torch.full((3, 4, 1), 0.75)  # says 3 of 4, where it is 1 of 4
    assert described(probabilities, labels)["calibration_error"] == pytest.approx(0.5)


def test_what_is_undefined_is_none() -> None:
    labels = torch.tensor([[0, 1], [0, 0], [0, 1]])
    found = described(torch.rand(3, 3, 2), labels)["statistics"]["per_attribute"]
    assert found["a"]["columns"]["sum"]["average_precision"] is None
    assert found["a"]["columns"]["sum"]["average_precision_interval"] is None
    assert found["b"]["columns"]["sum"]["average_precision"] is not None


def test_unknown_labels_count_for_nothing(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities, labels = answers
    known = described(probabilities[:, :150], labels[:150])
    labels[150:] = -1
    with_unknown = described(probabilities, labels)
    assert with_unknown["average_precision"] == pytest.approx(known["average_precision"])
    assert with_unknown["calibration_error"] == pytest.approx(known["calibration_error"])
    for attribute in "abc":
        columns = (of["statistics"]["per_attribute"][attribute]["columns"]["AC1"] for of in (known, with_unknown))
        first, second = ({name: column[name] for name in ("accuracy", "balanced")} for column in columns)
        assert first == pytest.approx(second)


def test_the_winner_of_an_attribute_is_told_with_its_significance() -> None:
    torch.manual_seed(0)
    labels = torch.randint(2, (100, 2))
    wrong = 0.9 * (1 - labels) + 0.05
    right = 0.9 * labels + 0.05
    second = right.clone()
    second[:30, 0], second[:1, 1] = wrong[:30, 0], wrong[:1, 1]  # 30 losses on the first attribute, one on the other
    found = described(torch.stack([second, right, right]), labels)["statistics"]
    a, b = (found["per_attribute"][name]["winner"] for name in "ab")
    assert (a["level"], a["runner_up"], a["margin"], a["significant"]) == ("AC2", "AC1", 0.3, True)
    assert a["p_value"] == pytest.approx(2 * 0.5**30)
    assert (b["level"], b["p_value"], b["significant"]) == ("AC2", 1, False)
    mean = found["mean"]["winner"]
    assert (mean["level"], mean["significant"]) == ("AC2", True)
    assert mean["interval"][0] < mean["margin"] < mean["interval"][1]


def test_a_winner_is_told_among_known_labels_alone() -> None:
    labels = torch.ones(10, 2, dtype=torch.int64)
    labels[8:, 0], labels[:, 1] = -1, -1
    better = torch.full((10, 2), 0.9)
    worse = better.clone()
    worse[:4] = 0.1  # 4 losses of 8
    found = described(torch.stack([worse, better, better]), labels)["statistics"]["per_attribute"]
    assert found["a"]["winner"] | {"p_value": None} == {
        "level": "AC2",
        "runner_up": "AC1",
        "margin": 0.5,
        "p_value": None,
        "significant": False,
    }
    assert found["a"]["winner"]["p_value"] == pytest.approx(2 / 2**4)
    assert found["b"]["winner"] is None


def test_without_levels_no_level_wins(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = described(*answers, levels=0)["statistics"]
    assert found["mean"]["winner"] is None
    assert found["per_attribute"]["a"]["winner"] is None


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1), (5, 5, 1), (1, 0, 1), (5, 0, 2 / 32), (2, 8, 2 * 56 / 1024)]
)
def test_mcnemar_by_hand(wins: int, losses: int, p: float) -> None:
    assert mcnemar(wins, losses) == pytest.approx(p)


def test_holm_stops_at_the_first_that_fails() -> None:
    assert holm([0.04, 0.01, 0.03]) == [False, True, False]  # 0.01 <= 0.05 / 3, 0.03 > 0.05 / 2
    assert holm([0.02, 0.01, 0.03]) == [True, True, True]
