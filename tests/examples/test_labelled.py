"""Training faces of which few have labels: which are chosen, what batches hold, and runs on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blan_facial.config import ConfigError, parse
from blan_facial.data.faces import UNKNOWN, DataError, FaceDataset
from blan_facial.data.labelled import MixedBatches, has_label, keep_labels
from blan_facial.machines.devices import make_fabric
from blan_facial.machines.processes import Processes
from blan_facial.machines.share import Share
from blan_facial.network.builder import build
from blan_facial.train import main
from blan_facial.training.learner import Counted, Learner

SMALL = [
    *("--images", "64", "--image-size", "32", "--width", "4", "--summary-channels", "8", "--critic-channels", "8"),
    *("--batch-size", "16", "--epochs", "2", "--warmup-steps", "0", "--accelerator", "cpu"),
]


def faces(count: int = 40, groups: np.ndarray | None = None) -> FaceDataset:
    labels = np.random.default_rng(0).integers(0, 2, (count, 3)).astype(np.int8)
    images = np.zeros((count, 32, 32, 3), np.uint8)
    return FaceDataset(
        name="test",
        split="train",
        attributes=("A", "B", "C"),
        labels=labels,
        images=images,
        image_size=32,
        groups=groups,
    )


class TestChoice:
    def test_so_many_keep_their_labels_drawn_by_the_seed(self) -> None:
        whole = faces()
        kept = [keep_labels(whole, 10, seed) for seed in (0, 0, 1)]
        rows = [has_label(of) for of in kept]
        assert [row.sum() for row in rows] == [10, 10, 10]
        assert (rows[0] == rows[1]).all()
        assert (rows[0] != rows[2]).any()
        assert (kept[0].labels[rows[0]] == whole.labels[rows[0]]).all()
        assert (kept[0].labels[~rows[0]] == UNKNOWN).all()
        assert kept[0].labels.dtype == np.int8
        assert not (whole.labels == UNKNOWN).any()  # which are left as they were

    def test_nobody_is_among_both(self) -> None:
        groups = np.repeat(np.arange(14), [7, 1, 2, 5, 1, 3, 2, 4, 6, 1, 1, 3, 2, 2])
        for seed in range(20):
            rows = has_label(keep_labels(faces(groups=groups), 12, seed))
            assert rows.sum() == 12
            assert not set(groups[rows]) & set(groups[~rows])
            two_of_three = np.repeat(np.arange(3), [36, 2, 2])  # a whole person, taken first, would leave 34 too few
            assert has_label(keep_labels(faces(groups=two_of_three), 4, seed)).sum() == 4
            assert has_label(keep_labels(faces(groups=two_of_three), 38, seed)).sum() == 38

    def test_faces_without_labels_are_never_chosen(self) -> None:
        partly = faces()
        partly.labels[:25] = UNKNOWN
        assert not has_label(keep_labels(partly, 10, 0))[:25].any()

    @pytest.mark.parametrize(
        ("count", "groups", "message"),
        [
            (41, None, "at most the number of labelled training faces, 40, got 41"),
            (
                15,
                np.repeat(np.arange(4), 10),
                "a sum of whole people's images, so that nobody has images of both kinds, got 15. Use 10",
            ),
            (3, np.repeat(np.arange(4), 10), "a sum of whole people's images.*got 3. Use 10"),
        ],
    )
    def test_what_cannot_be_chosen_is_refused(self, count: int, groups: np.ndarray | None, message: str) -> None:
        with pytest.raises(DataError, match=message):
            keep_labels(faces(groups=groups), count, 0)


class TestBatches:
    labelled = np.arange(50) % 5 == 0

    def batches(self, epoch: int = 0, first: int = 0, **options: object) -> list[list[int]]:
        sampler = MixedBatches(self.labelled, 8, **{"seed": 3, "unlabelled": 5} | options)  # type: ignore[arg-type]  # keywords by name
        sampler.epoch, sampler.first_batch = epoch, first
        found = list(sampler)
        assert all(of == epoch for batch in found for of, _ in batch)
        return [[index for _, index in batch] for batch in found]

    def test_each_holds_so_many_of_both_kinds_and_none_twice(self) -> None:
        for epoch in range(4):
            found = self.batches(epoch)
            assert len(found) == 50 // 8
            for batch in found:
                assert len(set(batch)) == 8
                assert self.labelled[batch].tolist() == [True] * 3 + [False] * 5

    def test_all_are_seen_before_one_is_seen_again(self) -> None:
        one_pass = [index for batch in self.batches()[:3] for index in batch[:3]]
        assert len(set(one_pass)) == 9  # of 10, as a batch of 3 is not filled by the last one
        everything = [index for epoch in range(8) for batch in self.batches(epoch) for index in batch]
        assert set(everything) == set(range(50))

    def test_depend_on_seed_epoch_and_place_alone(self) -> None:
        assert self.batches(2) == self.batches(2)
        assert self.batches(2, first=4) == self.batches(2)[4:]
        assert self.batches(2) != self.batches(3)
        assert self.batches(2) != self.batches(2, seed=4)

    def test_without_the_rest_an_epoch_is_as_long(self) -> None:
        found = self.batches(unlabelled=0)
        assert len(found) == 50 // 8
        assert all(self.labelled[batch].all() for batch in found)

    def test_processes_have_equal_parts_of_both_kinds(self) -> None:
        parts = [self.batches(unlabelled=4, share=Share(rank, 2)) for rank in (0, 1)]
        assert all(self.labelled[batch].sum() == 2 for part in parts for batch in part)
        both = [sorted(a + b) for a, b in zip(*parts, strict=True)]
        assert both == [sorted(batch) for batch in self.batches(unlabelled=4)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 16, "unlabelled": 4}, "a batch needs 12 labelled faces, got 10 training faces"),
            ({"batch_size": 48, "unlabelled": 44}, "a batch needs 44 unlabelled faces, got 40 training faces"),
            ({"batch_size": 8, "unlabelled": 5, "share": Share(0, 2)}, "labelled faces of a batch must be a multiple"),
        ],
    )
    def test_what_cannot_be_filled_is_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MixedBatches(self.labelled, **{"seed": 0} | options)  # type: ignore[arg-type]  # keywords by name


MIXED = [*SMALL, "--labelled", "24", "--unlabelled"]


class TestRuns:
    @pytest.mark.usefixtures("_without_report")
    def test_a_run_goes_on_exactly(self, tmp_path: Path) -> None:
        options = [*MIXED, "--labelled-fraction", "0.25"]
        assert main([*options, "--output", str(tmp_path / "whole")]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--max-steps", "3"]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--resume"]) == 0
        whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["balanced_accuracy"] > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--labelled", "0"], "--labelled must be at least 1, got 0"),
            (["--unlabelled", "--labelled-fraction", "0"], "--labelled-fraction must leave room for both kinds"),
            (["--unlabelled", "--labelled-fraction", "1"], "--labelled-fraction must leave room for both kinds"),
            (["--labelled-fraction", "0.25"], "--labelled-fraction has no effect with --no-unlabelled"),
            (["--unlabelled", "--no-lmim", "--no-decoder"], "--unlabelled needs LMIM or the reconstruction"),
            (["--unlabelled", "--model", "resnet"], "--unlabelled has no effect with --model resnet"),
        ],
    )
    def test_settings_that_mean_nothing_are_refused(self, options: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse(options)

    def test_unlabelled_faces_must_be_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*SMALL, "--unlabelled", "--output", str(tmp_path / "run")]) == 1
        assert "--unlabelled needs training faces without labels, got" in " ".join(capsys.readouterr().err.split())
        assert main([*SMALL, "--labelled", "100000", "--output", str(tmp_path / "run")]) == 1
        assert "--labelled must be at most the number of labelled" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()


class TestTuning:
    def test_scores_start_at_zero(self) -> None:
        model, _ = build(parse([*SMALL, "--zero-scores"]), ("Smiling", "Bald"))
        scores = model(torch.randn(2, 3, 32, 32)).scores
        assert scores.shape == (4, 2, 2, 2)
        assert not scores.any()

    @pytest.mark.usefixtures("_without_report")
    def test_classifiers_have_a_rate_of_their_own_and_a_run_goes_on_exactly(self, tmp_path: Path) -> None:
        options = [*SMALL, "--classifier-lr", "0.25", "--clip-norm", "1"]
        config = parse(options)
        fabric = make_fabric(config)
        learner = Learner(config, fabric, Processes(fabric), *build(config, ("Smiling", "Bald")))
        heads = {id(weight) for weight in learner.model.classifiers.parameters()}  # type: ignore[union-attr]  # BLAN has them
        learner.learn(0, 0.5, torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.ones(4, 2).long(), Counted())
        rates = {id(weight): group["lr"] for group in learner.adam.param_groups for weight in group["params"]}
        assert {rates[head] for head in heads} == {0.125}
        assert {rate for weight, rate in rates.items() if weight not in heads} == {0.5}

        assert main([*options, "--output", str(tmp_path / "whole")]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--max-steps", "3"]) == 0
        assert main([*options, "--output", str(tmp_path / "parts"), "--resume"]) == 0
        whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


class TestKeep:
    def run(self, folder: Path, *options: str) -> int:
        return main([*SMALL, "--epochs", "4", "--keep", "best", "--output", str(folder), *options])

    @pytest.mark.usefixtures("_without_report")
    def test_the_best_epoch_by_validation_is_tested_and_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        states, scores = judged_by(monkeypatch, [0.3, 0.6, 0.5, 0.6])
        assert self.run(tmp_path / "whole") == 0
        saved = load_file(tmp_path / "whole" / "model.safetensors")
        assert all(torch.equal(saved[name], states[1][name]) for name in saved)  # of equals the first
        metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
        assert metrics["kept"]["epoch"] == 2
        assert 0 < metrics["kept"]["seconds"] < metrics["train_seconds"]

        scores[:] = [0.3, 0.6, 0.5, 0.6]
        steps = int(torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["position"]["step"])
        assert self.run(tmp_path / "parts", "--max-steps", str(3 * steps // 4 + 1)) == 0
        assert self.run(tmp_path / "parts", "--resume") == 0
        again = load_file(tmp_path / "parts" / "model.safetensors")
        assert all(torch.equal(saved[name], again[name]) for name in saved)
        last = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["weights"] for name in ("whole", "parts")]
        assert all(
            torch.equal(last[0][name], last[1][name]) for name in last[0]
        )  # it went on from the last, not the best

    @pytest.mark.usefixtures("_without_report")
    def test_an_epoch_that_was_saved_and_not_tested_is_tested_when_the_run_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judged_by(monkeypatch, [0.3, None, 0.9, 0.5, 0.4])
        assert self.run(tmp_path) != 0
        assert self.run(tmp_path, "--resume") == 0
        assert json.loads((tmp_path / "metrics.json").read_text())["kept"]["epoch"] == 2

    def test_without_validation_it_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from blan_facial.data import splits

        real = splits.load_avatars
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(splits, "load_avatars", lambda split, **options: no_validation(real, split, **options))
            assert self.run(tmp_path / "run") == 1
        assert "--keep best needs a validation split" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()


def no_validation(load, split: str, **options) -> FaceDataset:
    from blan_facial.data.faces import NoSplitError

    if split == "validation":
        raise NoSplitError("none")
    found: FaceDataset = load(split, **options)
    return replace(found)


def judged_by(
    monkeypatch: pytest.MonkeyPatch, scores: list[float | None]
) -> tuple[list[dict[str, torch.Tensor]], list[float | None]]:
    """Let validation say these scores, None being an end of the process, and keep the weights it was asked about."""
    from blan_facial.training import loop

    real, states = loop.evaluate, []

    def evaluate(fabric, model, loader, **options):
        metrics = real(fabric, model, loader, **options)
        score = scores.pop(0)
        if score is None:
            raise KeyboardInterrupt
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return metrics | {"average_precision": score}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return states, scores
