"""Accuracies, on numbers done by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from blan_facial.data.faces import CorruptImageError, DataError
from blan_facial.data.loading import EpochBatches, make_loader, normalize
from blan_facial.network.baselines import ResNet
from blan_facial.training.intervals import Units
from blan_facial.training.metrics import Scores, evaluate


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


def test_unknown_labels_count_for_nothing_by_hand() -> None:
    labels = torch.tensor([[1, 0, -1], [-1, 0, -1], [0, 0, -1], [1, -1, -1]])
    predicted = scores_of([[1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 1, 1]])
    scores = Scores(("a", "b", "c"), levels=(), fused=False)
    scores.update(predicted[None], None, labels)
    metrics = scores.compute()
    a, b, c = metrics["per_attribute"].values()
    assert (a["accuracy"], a["majority"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert a["balanced"] == (1 / 2 + 0) / 2
    assert (b["accuracy"], b["majority"], b["balanced"]) == (pytest.approx(2 / 3), 1, pytest.approx(2 / 3))
    assert set(c.values()) == {None}
    assert metrics["accuracy"] == metrics["per_level"]["sum"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert metrics["majority_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 4 + 2 / 3) / 2)
    statistics = scores.statistics(Units.of_images(4, None))
    assert statistics["statistics"]["mean"]["columns"]["sum"]["accuracy"] == pytest.approx(metrics["accuracy"])
    assert set(statistics["statistics"]["per_attribute"]["c"]["columns"]["sum"].values()) == {None}
    assert "NaN" not in json.dumps([metrics, statistics])


class People:
    """Noise, two images of each person next to one another; the first does not decode."""

    attributes, groups, image_size, shards, images = ("a", "b", "c"), np.arange(12) // 2, 32, None, None
    labels = np.random.default_rng(0).integers(0, 2, (12, 3), dtype=np.int8)

    def __len__(self) -> int:
        return 12

    def image(self, index: int) -> np.ndarray:
        if index == 0:
            raise CorruptImageError(Path("0.png"), 0, "nonsense")
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_people_are_resampled_where_they_are_known() -> None:
    torch.manual_seed(0)
    faces: Any = People()
    fabric = Fabric(accelerator="cpu", devices=1)
    loader = make_loader(
        faces,
        EpochBatches(len(faces), 5, seed=0, shuffle=False, drop_last=False),
        mirror=0,
        workers=0,
        skip_corrupt=True,
    )
    model = ResNet(3, width=4, blocks=(1, 1, 1, 1)).eval()
    metrics = evaluate(fabric, model, loader, in_full=True)
    bootstrap = metrics["statistics"]["bootstrap"]
    assert (metrics["images"], bootstrap["resampled"], bootstrap["units"]) == (11, "people", 6)
    scores = Scores(faces.attributes, levels=(), fused=False)
    with torch.no_grad():
        images = np.stack([faces.image(index) for index in range(1, 12)])
        output = model(normalize(torch.from_numpy(images).movedim(-1, 1)))
    scores.update(output.scores, None, torch.from_numpy(faces.labels[1:].astype(np.int64)))
    expected = scores.statistics(Units.of_images(11, faces.groups[1:]))["statistics"]["mean"]["columns"]["sum"]
    found = metrics["statistics"]["mean"]["columns"]["sum"]
    assert found["accuracy_interval"] == pytest.approx(expected["accuracy_interval"])
    assert (
        found["accuracy_interval"]
        != scores.statistics(Units.of_images(11, None))["statistics"]["mean"]["columns"]["sum"]["accuracy_interval"]
    )


def test_a_split_without_any_known_label_is_refused() -> None:
    scores = Scores(("a",), levels=(), fused=False)
    scores.update(scores_of([[1], [0]])[None], None, torch.full((2, 1), -1))
    with pytest.raises(DataError, match=r"evaluate: needs at least one known label, got none\. Label some images"):
        scores.compute()


def test_without_fusion_the_sum_predicts() -> None:
    labels = torch.tensor([[1], [0]])
    right, wrong = scores_of([[1], [0]]), scores_of([[0], [1]])
    scores = Scores(("a",), fused=False)
    scores.update(torch.stack([2 * right, wrong, 2 * right, wrong]), None, labels)
    metrics = scores.compute()
    assert metrics["per_level"] == {"AC1": 1, "AC2": 0, "AC3": 1, "AC4": 0, "sum": 1, "fused": None}
    assert metrics["accuracy"] == 1
