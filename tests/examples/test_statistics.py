"""What metrics.json says beside the accuracies: calibration, winners, and over what."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from blan_facial.training.calibration import calibration_errors, log_losses
from blan_facial.training.intervals import Units
from blan_facial.training.statistics import statistics
from blan_facial.training.temperature import Temperature, fit_temperature
from blan_facial.training.winners import holm, sign_flip

NAMES = ("AC1", "AC2", "sum")
YES, NO = 2.0, -2.0


def described(
    odds: torch.Tensor, labels: torch.Tensor, groups: np.ndarray | None = None, **given: Any
) -> dict[str, Any]:
    attributes = tuple("abcdefgh"[: labels.shape[1]])
    units = Units.of_images(len(labels), groups)
    options: dict[str, Any] = {"levels": 2, "units": units} | given
    return statistics(odds, labels, NAMES, attributes, **options)


class TestCalibration:
    def test_error_and_likelihood_by_hand(self) -> None:
        labels = torch.tensor([[1, -1], [0, -1], [0, -1], [0, -1]])
        odds = torch.full((4, 2), 3.0).log()  # says 3 of 4, where it is 1 of 4
        assert calibration_errors(odds, labels)[0].item() == pytest.approx(0.5)
        loss = -(np.log(0.75) + 3 * np.log(0.25)) / 4
        assert log_losses(odds, labels)[0].item() == pytest.approx(loss, abs=1e-7)
        assert calibration_errors(odds, labels)[1].isnan()
        assert log_losses(odds, labels)[1].isnan()

    @pytest.mark.parametrize("temperature", [0.2, 1.0, 3.7])
    def test_the_temperature_of_overconfident_scores_is_found(self, temperature: float) -> None:
        torch.manual_seed(0)
        true = 2 * torch.randn(40_000, 2)
        labels = (torch.rand(40_000, 2) < true.sigmoid()).long()
        labels[:100] = -1
        odds = temperature * true
        found = fit_temperature(odds, labels) or 0.0
        assert found == pytest.approx(temperature, rel=0.03)
        losses = [log_losses(odds, labels, found * factor).mean() for factor in (0.98, 1, 1.02)]
        assert losses[1] == min(losses)
        assert calibration_errors(odds, labels, found).max() < 0.01

    @pytest.mark.parametrize("odds", [[1.0, -1.0], [-1.0, 1.0]], ids=["always right", "always wrong"])
    def test_there_is_none_where_no_temperature_is_most_likely(self, odds: list[float]) -> None:
        assert fit_temperature(torch.tensor(odds)[:, None], torch.tensor([[1], [0]])) is None
        assert fit_temperature(torch.tensor(odds)[:, None], torch.full((2, 1), -1)) is None

    def test_the_prediction_is_told_raw_and_scaled(self) -> None:
        torch.manual_seed(0)
        labels = torch.randint(2, (300, 2))
        odds = torch.randn(3, 300, 2)
        found = described(odds, labels, temperature=Temperature(2.5, 80))
        raw = described(odds, labels)
        assert found["temperature"] == {"value": 2.5, "images": 80}
        assert raw["temperature"] is raw["scaled_nll"] is raw["scaled_calibration_error"] is None
        changed = ("scaled_nll", "scaled_calibration_error")
        assert found["nll"] == raw["nll"] == pytest.approx(log_losses(odds[2], labels).mean().item())
        assert found["scaled_nll"] == pytest.approx(log_losses(odds[2], labels, 2.5).mean().item())
        columns = found["statistics"]["per_attribute"]["b"]["columns"]
        assert columns["sum"]["scaled_calibration_error"] == calibration_errors(odds[2], labels, 2.5)[1].item()
        assert not set(changed) & set(columns["AC1"])
        for of in (found, raw):
            for column in (of["statistics"]["mean"], *of["statistics"]["per_attribute"].values()):
                for name in changed:
                    del column["columns"]["sum"][name]
        assert found["statistics"] == raw["statistics"]  # a temperature changes no prediction


class TestWinners:
    def test_the_winner_of_an_attribute_is_told_with_its_significance(self) -> None:
        torch.manual_seed(0)
        labels = torch.randint(2, (100, 2))
        right = YES * (2 * labels - 1.0)
        second = right.clone()
        second[:30, 0] *= -1  # 30 losses on the first attribute, one on the other
        second[:1, 1] *= -1
        found = described(torch.stack([second, right, right]), labels)["statistics"]
        a, b = (found["per_attribute"][name]["winner"] for name in "ab")
        assert (a["level"], a["runner_up"], a["margin"], a["significant"]) == ("AC2", "AC1", 0.3, True)
        assert a["p_value"] == pytest.approx(2 * 0.5**30)
        assert (b["level"], b["p_value"], b["significant"]) == ("AC2", 1, False)
        mean = found["mean"]["winner"]
        assert (mean["level"], mean["significant"]) == ("AC2", True)
        assert mean["interval"][0] < mean["margin"] < mean["interval"][1]

    def test_images_of_one_person_are_one_witness(self) -> None:
        labels = torch.ones(100, 1, dtype=torch.int64)
        right = torch.full((100, 1), YES)
        second = right.clone()
        second[:30] = NO
        odds = torch.stack([second, right, right])
        by_images, by_people = (described(odds, labels, groups) for groups in (None, np.arange(100) // 15))
        bootstrap = by_people["statistics"]["bootstrap"]
        assert (bootstrap["resampled"], bootstrap["units"]) == ("people", 7)
        assert by_people["statistics"]["paired_test"] == "sign flips of people"
        assert (by_images["statistics"]["bootstrap"]["units"], by_images["statistics"]["paired_test"]) == (
            100,
            "McNemar",
        )
        found = [of["statistics"]["per_attribute"]["a"]["winner"] for of in (by_images, by_people)]
        assert [of["significant"] for of in found] == [True, False]
        assert found[1]["p_value"] == pytest.approx(0.5)  # two people, of whom both speak for one level

    def test_a_winner_is_told_among_known_labels_alone(self) -> None:
        labels = torch.ones(10, 2, dtype=torch.int64)
        labels[8:, 0], labels[:, 1] = -1, -1
        better = torch.full((10, 2), YES)
        worse = better.clone()
        worse[:4] = NO  # 4 losses of 8
        found = described(torch.stack([worse, better, better]), labels)["statistics"]["per_attribute"]
        winner = {"level": "AC2", "runner_up": "AC1", "margin": 0.5, "significant": False}
        assert found["a"]["winner"] == winner | {"p_value": pytest.approx(2 / 2**4)}
        assert found["b"]["winner"] is None

    def test_without_levels_no_level_wins(self) -> None:
        found = described(torch.randn(3, 20, 1), torch.randint(2, (20, 1)), levels=0)["statistics"]
        assert found["mean"]["winner"] is found["per_attribute"]["a"]["winner"] is None

    @pytest.mark.parametrize(
        ("wins", "losses", "p"), [(0, 0, 1), (5, 5, 1), (1, 0, 1), (5, 0, 2 / 32), (2, 8, 2 * 56 / 1024)]
    )
    def test_over_images_the_test_is_mcnemar_s_by_hand(self, wins: int, losses: int, p: float) -> None:
        assert sign_flip(torch.tensor([1] * wins + [-1] * losses + [0] * 7)) == pytest.approx(p)

    @pytest.mark.parametrize("gains", [[3, 2, -1], [4, 4, 4, -3, 1, 0, -2], [7], [1, -2, 3, -4, 5, 5, 5, 2]])
    def test_over_people_the_test_counts_all_signs(self, gains: list[int]) -> None:
        flipped = np.array(np.meshgrid(*[[g, -g] for g in gains])).reshape(len(gains), -1).sum(0)
        assert sign_flip(torch.tensor(gains)) == pytest.approx(np.mean(np.abs(flipped) >= abs(sum(gains))))

    def test_holm_stops_at_the_first_that_fails(self) -> None:
        assert holm([0.04, 0.01, 0.03]) == [False, True, False]  # 0.01 <= 0.05 / 3, 0.03 > 0.05 / 2
        assert holm([0.02, 0.01, 0.03]) == [True, True, True]


def test_unknown_labels_count_for_nothing() -> None:
    torch.manual_seed(0)
    labels = (torch.rand(200, 3) < 0.3).long()
    odds = torch.randn(3, 200, 3) + labels
    known = described(odds[:, :150], labels[:150])
    labels[150:] = -1
    with_unknown = described(odds, labels)
    for name in ("average_precision", "calibration_error", "nll"):
        assert with_unknown[name] == pytest.approx(known[name])
    for attribute in "abc":
        columns = (of["statistics"]["per_attribute"][attribute]["columns"]["AC1"] for of in (known, with_unknown))
        first, second = ({name: column[name] for name in ("accuracy", "balanced")} for column in columns)
        assert first == pytest.approx(second)


def test_what_is_undefined_is_none() -> None:
    labels = torch.tensor([[0, 1, -1], [0, 0, -1], [0, 1, -1]])
    found = described(torch.randn(3, 3, 3), labels)
    columns = {name: of["columns"]["sum"] for name, of in found["statistics"]["per_attribute"].items()}
    assert columns["a"]["average_precision"] is columns["a"]["average_precision_interval"] is None
    assert columns["b"]["average_precision"] is not None
    assert set(columns["c"].values()) == {None}
    json.dumps(found, allow_nan=False)


def test_resamples_that_lack_a_label_are_counted_and_one_person_has_no_interval() -> None:
    labels = torch.zeros(50, 2, dtype=torch.int64)
    labels[0, 0] = 1
    found = described(torch.full((3, 50, 2), NO), labels)["statistics"]["per_attribute"]
    assert 300 < found["a"]["left_out"] < 430  # e^-1 of 1,000
    assert found["b"]["left_out"] == 0
    alone = described(torch.full((3, 50, 2), NO), labels, np.zeros(50, np.int64))["statistics"]
    assert alone["per_attribute"]["b"]["columns"]["sum"]["accuracy"] == 1
    assert alone["per_attribute"]["b"]["columns"]["sum"]["accuracy_interval"] is None
