"""Accuracies, on numbers done by hand."""

import pytest
import torch

from blan_facial.metrics import Scores


def scores_of(predictions: list[list[int]]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predictions), 2).float()


def test_accuracy_majority_and_balanced_by_hand() -> None:
    labels = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 0]])
    predicted = scores_of([[1, 0], [0, 0], [1, 1], [0, 0]])
    wrong = scores_of([[0, 1]] * 4)
    scores = Scores(("a", "b"), fused=True)
    for part in (slice(0, 1), slice(1, 4)):  # in two batches
        level_scores = torch.stack([wrong, wrong, wrong, wrong])[:, part]
        scores.update(level_scores, predicted[part], labels[part])
    metrics = scores.compute()
    a, b = metrics["per_attribute"]["a"], metrics["per_attribute"]["b"]
    assert (a["accuracy"], a["majority"]) == (3 / 4, 3 / 4)
    assert a["balanced"] == pytest.approx((2 / 3 + 1) / 2)
    assert (b["accuracy"], b["majority"], b["balanced"]) == (3 / 4, 1, 3 / 4)  # no positives: the negatives' alone
    assert (a["AC1"], b["AC1"], a["sum"], a["fused"]) == (1 / 4, 0, 1 / 4, 3 / 4)
    assert metrics["accuracy"] == metrics["per_level"]["fused"] == 3 / 4
    assert metrics["majority_accuracy"] == 7 / 8


def test_without_fusion_the_sum_predicts() -> None:
    labels = torch.tensor([[1], [0]])
    right, wrong = scores_of([[1], [0]]), scores_of([[0], [1]])
    scores = Scores(("a",), fused=False)
    scores.update(torch.stack([2 * right, wrong, 2 * right, wrong]), None, labels)
    metrics = scores.compute()
    assert metrics["per_level"] == {"AC1": 1, "AC2": 0, "AC3": 1, "AC4": 0, "sum": 1, "fused": None}
    assert metrics["accuracy"] == 1
