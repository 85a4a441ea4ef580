"""Drawn shapes, the U-Net with its kinds of skips, and the program that compares them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from blan_layers import capture_maps
from segmentation.shapes import FORMS, Canvas, draw
from segmentation.train import SKIPS, Kind, Settings, TrainError, agreement, main, predict, run, segmentation_loss
from segmentation.unet import UNet

WHITE = np.ones(3)
TINY = ["--steps", "2", "--size", "16", "--width", "2", "--workers", "1"]


def canvas(size: int = 64) -> Canvas:
    return Canvas(np.zeros((3, size, size)))


class TestShapes:
    def test_the_same_seed_draws_the_same_pictures(self) -> None:
        first, again, other = draw(4, 24, 5), draw(4, 24, 5), draw(4, 24, 6)
        assert np.array_equal(first.images, again.images)
        assert np.array_equal(first.masks, again.masks)
        assert not np.array_equal(first.images, other.images)
        assert np.array_equal(draw(2, 24, 5).images, first.images[:2])

    @pytest.mark.parametrize("size", [16, 33])
    def test_images_are_in_range_and_every_mask_holds_shapes_and_background(self, size: int) -> None:
        images, masks = draw(64, size, 0)
        assert (images.shape, masks.shape) == ((64, 3, size, size), (64, 1, size, size))
        assert (images.dtype, masks.dtype) == (np.float32, np.bool_)
        assert images.min() >= 0
        assert images.max() <= 1
        assert ((masks.mean((1, 2, 3)) > 0) & (masks.mean((1, 2, 3)) < 1)).all()

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("angle", [0.0, 0.4])
    def test_a_form_has_the_area_of_its_disc_and_is_painted_where_the_mask_is(self, form: str, angle: float) -> None:
        drawn = canvas()
        drawn.fill(form, 31.7, 32.2, 12, angle, WHITE)
        assert drawn.mask.sum() == pytest.approx(math.pi * 12**2, rel=0.03)
        assert np.array_equal(drawn.image[0] >= 0.5, drawn.mask)
        rows, columns = np.nonzero(drawn.mask)
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((31.7, 32.2), abs=0.3)

    def test_forms_differ(self) -> None:
        furthest = []
        for form in FORMS:
            drawn = canvas()
            drawn.fill(form, 32, 32, 12, 0, WHITE)
            rows, columns = np.nonzero(drawn.mask)
            furthest.append(np.hypot(rows - 31.5, columns - 31.5).max())
        corners = [math.sqrt(2) * math.sqrt(math.pi) / 2, 2 * math.sqrt(math.pi / 3 / math.sqrt(3))]
        assert furthest == pytest.approx([12, *(12 * corner for corner in corners)], abs=1)

    def test_distractors_are_seen_and_are_not_in_the_mask(self) -> None:
        drawn = canvas()
        for form in FORMS:
            drawn.outline(form, 20, 20, 12, 0.3, 2, WHITE)
        assert drawn.image[0, 20, 20] == 0  # the inside is left
        before = drawn.image.copy()
        drawn.blob(45, 45, 6, WHITE)
        drawn.line(32, 32, 0.5, 2, WHITE)
        assert (drawn.image - before).max() > 0.9
        assert not drawn.mask.any()

    def test_too_small_a_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^draw: size must be at least 16, got 15\. Raise it\.$"):
            draw(1, 15, 0)


class TestUNet:
    @pytest.mark.parametrize("kind", SKIPS)
    @pytest.mark.parametrize("size", [(32, 32), (9, 22)])
    def test_a_logit_for_every_pixel_of_images_of_any_size(self, kind: Kind, size: tuple[int, int]) -> None:
        assert UNet(4, 3, skip=SKIPS[kind])(torch.rand(2, 3, *size)).shape == (2, 1, *size)

    def test_images_that_cannot_be_halved_are_refused(self) -> None:
        message = (
            r"^UNet: images must be at least 8 x 8 at depth 3, got 20 x 7\. "
            r"Enlarge them, or build the network with a smaller depth\.$"
        )
        with pytest.raises(ValueError, match=message):
            UNet(4, 3, skip=SKIPS["plain"])(torch.rand(1, 3, 20, 7))

    @pytest.mark.parametrize("kind", ["attention-gate", "rdam"])
    def test_every_gate_is_learnt_and_captured(self, kind: Kind) -> None:
        torch.manual_seed(0)
        network = UNet(4, 3, skip=SKIPS[kind])
        with capture_maps(network) as maps:
            network(torch.rand(2, 3, 24, 24)).sum().backward()
        shapes = {name: tuple(found["spatial_map"].shape) for name, found in maps.items()}
        assert shapes == {f"skips.{level}": (2, 1, side, side) for level, side in enumerate((24, 12, 6))}
        for skip in network.skips:
            gradients = [parameter.grad for parameter in skip.parameters() if parameter.grad is not None]
            assert len(gradients) == len(list(skip.parameters()))
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert any(gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("kind", SKIPS)
    def test_a_tiny_network_learns_one_batch_by_heart(self, kind: Kind) -> None:
        images, masks = map(torch.from_numpy, draw(4, 24, 0))
        torch.manual_seed(0)
        network = UNet(8, 2, skip=SKIPS[kind])
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        before, _ = agreement(predict(network, images), masks)
        network.train()
        for _ in range(100):
            optimizer.zero_grad()
            segmentation_loss(network(images), masks).backward()
            optimizer.step()
        after, _ = agreement(predict(network, images), masks)
        assert before < 0.5
        assert after > 0.95


class TestScores:
    def test_agreement_of_masks_whose_overlap_is_known(self) -> None:
        masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        found = masks.clone()
        masks[:, :, :2] = True
        found[0, :, :2] = True  # all of the first
        found[1, :, 1:3] = True  # half of the second, and as much beside it
        assert agreement(found, masks) == pytest.approx(((1 + 1 / 3) / 2, (1 + 1 / 2) / 2))

    def test_the_loss_is_none_at_the_truth_and_high_at_its_opposite(self) -> None:
        masks = torch.from_numpy(draw(2, 16, 0).masks)
        logits = 40 * (2 * masks.float() - 1)
        assert segmentation_loss(logits, masks) == pytest.approx(0, abs=1e-6)
        assert segmentation_loss(-logits, masks) > 40


class Own(nn.Module):
    """A gate that is none of the library's."""

    def __init__(self, channels: int, coarse: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, 1, 1)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return skip * self.gate(skip).sigmoid()


class TestProgram:
    @pytest.fixture(autouse=True)
    def _few_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("segmentation.train.IMAGES", 32)
        monkeypatch.setattr("segmentation.train.HELD_OUT", 16)

    def test_a_run_writes_scores_and_pictures(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "run"
        assert main([*TINY, "--seeds", "3", "4", "--output", str(folder)]) == 0
        assert {path.name for path in folder.iterdir()} == {".lock", "scores.json", "masks.png", "maps.png"}
        content = json.loads((folder / "scores.json").read_text())
        assert content["settings"]["seeds"] == [3, 4]
        assert [len(by_seed) for by_seed in content["scores"].values()] == [2, 2, 2]
        assert list(content["scores"]) == list(SKIPS)
        for path in folder.glob("*.png"):
            assert path.read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr().out
        assert all(word in printed for word in (*SKIPS, "IoU, %", "Dice, %", "±", f"pictures are in {folder}."))

    def test_a_skip_of_one_s_own_needs_no_gate_that_can_be_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(SKIPS, "plain", Own)
        assert main([*TINY, "--kinds", "plain", "--seeds", "3", "--workers", "2", "--output", str(tmp_path)]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "scores.json", "masks.png"}
        said = " ".join(capsys.readouterr().out.split())
        assert "Seed 3; 16 held-out images" in said
        assert "1 run at a time." in said

    def test_an_output_that_is_a_file_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").touch()
        for output in (tmp_path / "file", tmp_path / "file" / "run"):
            assert main([*TINY, "--output", str(output)]) == 1
            said = " ".join(capsys.readouterr().err.split())
            assert f"train: --output must be a folder, got {output}, which is or passes through a file." in said

    def test_results_are_kept_unless_they_may_be_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "maps.png").touch()
        again = [*TINY, "--seeds", "0", "--kinds", "plain", "--output", str(tmp_path)]
        assert main(again) == 1
        assert (
            f"error: train: the output folder must not contain results, got maps.png in {tmp_path}. "
            "Give --overwrite to replace them, or another --output." in capsys.readouterr().err
        )
        assert main([*again, "--overwrite"]) == 0
        written = {path.name for path in tmp_path.iterdir()}
        assert written == {".lock", "scores.json", "masks.png"}  # a plain skip has no gate

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                Settings(kinds=()),
                "--kinds must name at least one value, each once, got none. Name one or more, none twice.",
            ),
            (
                Settings(seeds=(1, 1)),
                "--seeds must name at least one value, each once, got 1 1. Name one or more, none twice.",
            ),
            (Settings(seeds=(0, -1)), "--seeds must be at least 0 and below 2**63, got -1. Give another."),
            (Settings(seeds=(0, 2**63)), f"--seeds must be at least 0 and below 2**63, got {2**63}. Give another."),
            (Settings(steps=0), "--steps must be at least 1, got 0. Raise it."),
            (Settings(size=15), "--size must be at least 16, got 15. Raise it."),
            (Settings(width=0), "--width must be at least 1, got 0. Raise it."),
            (Settings(workers=0), "--workers must be at least 1, got 0. Raise it."),
        ],
    )
    def test_settings_that_cannot_be_trained_with_are_refused(self, settings: Settings, message: str) -> None:
        with pytest.raises(TrainError) as caught:
            run(settings, Console(quiet=True))
        assert str(caught.value) == f"train: {message}"

    def test_the_command_line_names_the_kinds(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--kinds", "cbam"])
        assert ended.value.code == 2
        assert "attention-gate" in capsys.readouterr().err
