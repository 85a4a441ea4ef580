"""What metrics.json says beside the accuracies: calibration, winners, and over what."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from blan_facial.training.calibration import calibration_errors, log_losses
from blan_facial.training.intervals import Units
from blan_facial.training.scaling import Scaling, fit_scaling
from blan_facial.training.statistics import statistics
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

    def test_scale_and_shift_of_each_attribute_are_found(self) -> None:
        torch.manual_seed(0)
        true = 2 * torch.randn(40_000, 3)
        labels = (torch.rand(40_000, 3) < true.sigmoid()).long()
        labels[:100] = -1
        scale, shift = torch.tensor([0.25, 1.0, 4.0]), torch.tensor([1.5, 0.0, -3.0])
        found = fit_scaling((true - shift) / scale, labels)
        assert found is not None
        assert found.images == 40_000
        torch.testing.assert_close(torch.tensor(found.scale), scale, rtol=0.03, atol=0)
        torch.testing.assert_close(torch.tensor(found.shift), shift, rtol=0.03, atol=0.05)
        assert calibration_errors(found((true - shift) / scale), labels).max() < 0.01

    def test_the_scaling_is_the_most_likely_one_under_its_priors(self) -> None:
        torch.manual_seed(1)
        odds, labels = 3 * torch.randn(60, 2), torch.randint(-1, 2, (60, 2))
        found = fit_scaling(odds, labels)
        assert found is not None
        logs = np.log(found.scale)
        common = logs.sum() / 3  # u, where u^2 + |v|^2 is least at these u + v

        def loss(u: float, v: np.ndarray, b: np.ndarray) -> float:
            total = (u**2 + np.square(v).sum() + np.square(b).sum()) / 2
            for n in range(2):
                z = np.exp(u + v[n]) * odds[:, n].double().numpy() + b[n]
                yes, no = ((labels[:, n] == label).numpy() for label in (1, 0))
                target = (yes.sum() + 1) / (yes.sum() + 2), 1 / (no.sum() + 2)
                total += sum((np.logaddexp(0, z) - t * z)[of].sum() for t, of in zip(target, (yes, no), strict=True))
            return float(total)

        own, shift = logs - common, np.array(found.shift)
        best = loss(common, own, shift)
        for step in (*0.01 * np.eye(5), *-0.01 * np.eye(5)):
            assert loss(common + step[0], own + step[1:3], shift + step[3:]) > best

    @pytest.mark.parametrize("odds", [[1.0, -1.0], [-1.0, 1.0], [1e4, 1e4]], ids=["right", "wrong", "constant"])
    def test_the_scaling_is_finite_whatever_the_scores(self, odds: list[float]) -> None:
        found = fit_scaling(torch.tensor([odds, [0.5, -0.5]]).T, torch.tensor([[1, -1], [0, -1]]))
        assert found is not None
        assert all(np.isfinite(value) and value > 0 for value in found.scale)
        assert np.isfinite(found.shift).all()
        assert found.shift[1] == 0  # nothing is known of the second attribute
        assert found.scale[1] == pytest.approx(found.scale[0] ** 0.5, abs=1e-5)  # it borrows the common part, u = v

    @pytest.mark.parametrize("size", [1e-3, 1e3])
    def test_scores_of_any_size_are_scaled(self, size: float) -> None:
        torch.manual_seed(0)
        true = 2 * torch.randn(4000, 3)
        labels = (torch.rand(4000, 3) < true.sigmoid()).long()
        found = fit_scaling(size * true, labels)
        assert found is not None
        np.testing.assert_allclose(found.scale, 1 / size, rtol=0.2)

    def test_right_answers_alone_do_not_prove_certainty(self) -> None:
        torch.manual_seed(0)
        labels = torch.randint(2, (64, 40))
        found = fit_scaling(4 * labels - 2.0, labels)
        assert found is not None
        said = found(torch.full((1, 40), 2.0)).sigmoid()
        assert said.min() > 0.9
        assert said.max() < 0.99

    def test_there_is_no_scaling_without_labels(self) -> None:
        assert fit_scaling(torch.ones(2, 1), torch.full((2, 1), -1)) is None
        assert fit_scaling(torch.full((2, 1), torch.inf), torch.ones(2, 1)) is None
        assert fit_scaling(torch.tensor([[torch.nan], [1.0]]), torch.tensor([[-1], [1]])) is not None

    def test_the_prediction_is_told_raw_and_scaled(self) -> None:
        torch.manual_seed(0)
        labels = torch.randint(2, (300, 2))
        odds = torch.randn(3, 300, 2)
        scaling = Scaling((0.4, 2.0), (0.5, -1.0), 80)
        found = described(odds, labels, scaling=scaling)
        raw = described(odds, labels)
        assert found["scaling"] == {"images": 80, "scale": {"a": 0.4, "b": 2.0}, "shift": {"a": 0.5, "b": -1.0}}
        changed = {f"scaled_{name}" for name in ("nll", "calibration_error", "accuracy", "balanced_accuracy")}
        assert raw["scaling"] is None
        assert {raw[name] for name in changed} == {None}
        assert found["nll"] == raw["nll"] == pytest.approx(log_losses(odds[2], labels).mean().item())
        scaled = odds[2].double() * torch.tensor([0.4, 2.0]).double() + torch.tensor([0.5, -1.0])
        assert found["scaled_nll"] == pytest.approx(log_losses(scaled, labels).mean().item())
        assert found["scaled_accuracy"] == pytest.approx(((scaled > 0) == labels.bool()).double().mean().item())
        columns = found["statistics"]["per_attribute"]["b"]["columns"]
        assert columns["sum"]["scaled_calibration_error"] == calibration_errors(scaled, labels)[1].item()
        assert not changed & set(columns["AC1"])
        for of in (found, raw):
            for column in (of["statistics"]["mean"], *of["statistics"]["per_attribute"].values()):
                for name in changed:
                    del column["columns"]["sum"][name]
        assert found["statistics"] == raw["statistics"]  # what the model itself predicts does not change


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
    assert (alone["mean"]["winner"]["interval"], alone["mean"]["winner"]["significant"]) == (None, False)
    labels[1:, 0] = -1  # known of one image
    columns = described(torch.full((3, 50, 2), NO), labels)["statistics"]["per_attribute"]["a"]["columns"]["sum"]
    assert columns["accuracy"] == 0
    assert {value for name, value in columns.items() if name.endswith("interval")} == {None}
