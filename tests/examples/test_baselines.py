"""The rivals: what they are made of, what they minimise, and that the trainer treats them as it treats BLAN."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from blan_facial.config import ConfigError, parse
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.faces import UNKNOWN
from blan_facial.network.baselines import MCNN, DomainBalancedError, ResNet, build_baseline
from blan_facial.network.baselines.mcnn import GROUPS
from blan_facial.network.model import Features
from blan_facial.network.objective import Classification, Objective
from blan_facial.train import main

SMALL = [
    *("--images", "32", "--image-size", "32", "--width", "4", "--batch-size", "16", "--epochs", "2"),
    *("--warmup-steps", "0", "--accelerator", "cpu"),
]


class TestModels:
    @pytest.mark.parametrize("model", ["resnet", "moon", "mcnn"])
    def test_has_the_preset_s_encoder_and_one_set_of_scores(self, model: str) -> None:
        network, _ = build_baseline(parse([*SMALL, "--model", model]), CELEBA_ATTRIBUTES)
        output = network(torch.randn(2, 3, 32, 32))
        assert (network.encoder.width, network.encoder.blocks) == (4, (1, 1, 1, 1))
        assert output.scores.shape == (1, 2, 40, 2)
        assert torch.equal(output.logits, output.scores[0])

    def test_resnet_34_has_torchvision_s_parameters(self) -> None:
        count = sum(parameter.numel() for parameter in ResNet(500).parameters())
        assert count == 21_797_672  # torchvision's resnet34 with its 1,000 outputs

    def test_the_groups_hold_every_attribute_once(self) -> None:
        assert sorted(name for group in GROUPS.values() for name in group) == sorted(CELEBA_ATTRIBUTES)

    def test_every_attribute_is_scored_by_the_branch_of_its_group(self) -> None:
        names = ("Young", "Male", "Smiling", "Big_Lips", "Attractive")
        model = MCNN(names, width=4, blocks=(1, 1, 1, 1), summary_channels=8).eval()
        assert len(model.classifiers) == 3  # gender, mouth, face
        images = torch.randn(2, 3, 32, 32)
        before = model(images).logits
        with torch.no_grad():
            model.get_parameter("classifiers.1.fc2.bias").add_(1)  # the mouth's
        changed = (model(images).logits != before).any(2).any(0)
        assert changed.tolist() == [False, False, True, True, False]
        with torch.no_grad():
            model.get_parameter("classifiers.1.fc2.bias")[:2] += 1  # Big_Lips, the first of the mouth's
        assert (model(images).logits[:, 3] - before[:, 3]).mean().item() == pytest.approx(2, abs=1e-5)

    def test_what_it_lacks_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"ResNet: has no reconstruction, got reconstruct=True"):
            ResNet(1, width=1, blocks=(1, 1, 1, 1))(torch.zeros(1, 3, 32, 32), reconstruct=True)


class TestObjectives:
    def test_resnet_minimises_the_cross_entropy_of_every_attribute(self) -> None:
        scores, labels = torch.randn(1, 5, 3, 2), torch.randint(2, (5, 3))
        _, objective = build_baseline(parse(["--model", "resnet"]), CELEBA_ATTRIBUTES)
        total = objective(Features(scores), torch.empty(0), labels).total
        expected = sum(F.cross_entropy(scores[0, :, n], labels[:, n]) for n in range(3))
        assert total.item() == pytest.approx(float(expected))

    def test_moon_gives_both_labels_the_same_say(self) -> None:
        labels = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
        error = DomainBalancedError(2)
        Objective([Classification(error)]).look_at(labels)
        assert error.weights.tolist() == [[pytest.approx(1 / 3)] * 2, [1, 1]]
        zero = torch.zeros(1, 4, 2, 2, requires_grad=True)
        error(zero, torch.from_numpy(labels)).sum().backward()
        assert zero.grad is not None
        margins = zero.grad[0].diff(dim=-1)[..., 0]
        assert margins.sum(0).tolist() == pytest.approx([0, 0], abs=1e-6)  # no label pulls more than the other

    def test_moon_is_the_squared_error_of_the_margin(self) -> None:
        scores = torch.tensor([[[[0.0, 0.5]], [[1.0, 0.0]]]])  # margins 0.5 and -1
        labels = torch.tensor([[1], [0]])
        for reduction in ("sum", "mean"):
            error = DomainBalancedError(1, reduction=reduction)
            assert error(scores, labels).item() == pytest.approx(0.125)

    def test_moon_counts_and_fits_known_labels_alone(self) -> None:
        labels = np.array([[1], [UNKNOWN], [0], [0], [UNKNOWN]])
        error = DomainBalancedError(1)
        error.balance(labels)
        assert error.weights.tolist() == [[0.5], [1]]
        assert error(torch.zeros(1, 5, 1, 2), torch.from_numpy(labels)).item() == pytest.approx((1 + 0.5 + 0.5) / 3)

    def test_an_attribute_with_one_label_keeps_its_weight(self) -> None:
        error = DomainBalancedError(1)
        error.balance(np.zeros((4, 1)))
        assert error.weights.tolist() == [[1], [1]]


class TestTraining:
    @pytest.mark.parametrize("model", ["resnet", "moon", "mcnn"])
    def test_trains_resumes_exactly_and_reports(
        self, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if model != "resnet":  # pictures are the same for all three
            monkeypatch.setattr("blan_facial.train.write_report", lambda *_, **__: None)
        options = [*SMALL, "--model", model]
        assert main([*options, "--output", str(tmp_path / "whole")]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--max-steps", "1"]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--resume"]) == 0
        whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
        assert metrics["per_level"]["sum"] == metrics["accuracy"]
        assert {metrics["per_level"][name] for name in ("AC1", "AC2", "AC3", "AC4", "fused")} == {None}
        assert metrics["statistics"]["mean"]["winner"] is None
        assert (tmp_path / "whole" / "faces.png").exists() == (model == "resnet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["resnet", "--join", "rar"], "train: --join has no effect with --model resnet, got both. Give one of them."),
        (["moon", "--alpha", "1"], "train: --alpha has no effect with --model moon, got both. Give one of them."),
        (
            ["resnet", "--summary-channels", "9"],
            "train: --summary-channels has no effect with --model resnet, got both. Give one of them.",
        ),
        (
            ["mcnn", "--critic-channels", "9"],
            "train: --critic-channels has no effect with --model mcnn, got both. Give one of them.",
        ),
    ],
)
def test_an_option_of_another_model_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(["--model", *options])
    assert str(error.value) == message


def test_mcnn_takes_the_width_of_its_branches() -> None:
    model, _ = build_baseline(parse(["--model", "mcnn", "--summary-channels", "9"]), ("Male",))
    assert model.get_parameter("classifiers.0.fc1.weight").shape[0] == 9
