"""The encoder and what trains it, linear probes, and the program that compares them."""

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from deep_infomax.compare import CompareError, Job, Settings, main, probe, run
from deep_infomax.encoder import Decoder, Encoder
from deep_infomax.faces import Faces, Splits, load, split_counts
from deep_infomax.picture import probes_figure
from deep_infomax.probe import Score, extract, measure
from deep_infomax.summary import chosen, markdown, summarise
from deep_infomax.training import (
    INFOMAX,
    TITLES,
    Autoencoder,
    Classifier,
    InfoMax,
    InfoMaxName,
    Recipe,
    TrainingError,
    WayName,
    encoders,
    minimise,
)
from shared.probe import balanced_accuracy, fit_probe, label_weights

TINY = ["--faces", "60", "--size", "16", "--width", "4", "--dimensions", "8", "--workers", "1"]
RECIPE = Recipe(size=16, width=4, dimensions=8, epochs=1, steps=2)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load(16, 60)


def score(validation: float, test: float, accuracy: float = 0.5) -> Score:
    return Score(validation, test, accuracy, 1.0, [test])


class TestFaces:
    def test_splits_have_the_proportions_of_the_data_set_and_images_are_in_range(self, splits: Splits) -> None:
        assert split_counts(4000) == {"train": 4000, "validation": 800, "test": 1600}
        assert [len(faces.images) for faces in splits] == [60, 12, 24]
        for images, labels in splits:
            assert images.shape[1:] == (3, 16, 16)
            assert images.min() < -0.5
            assert images.max() > 0.5
            assert images.abs().max() <= 1
            assert set(labels.unique().tolist()) == {0.0, 1.0}


class TestEncoder:
    @pytest.mark.parametrize("size", [16, 32, 64])
    def test_a_map_of_eight_by_eight_a_summary_and_an_image_again(self, size: int) -> None:
        encoder = Encoder(size, 8, 5)
        features = encoder(torch.rand(2, 3, size, size))
        assert (features.map.shape, features.summary.shape) == ((2, 8, 8, 8), (2, 5))
        assert Decoder(encoder)(features.summary).shape == (2, 3, size, size)


class TestTraining:
    @pytest.mark.parametrize("name", INFOMAX)
    def test_deep_infomax_raises_the_information(self, name: InfoMaxName, splits: Splits) -> None:
        torch.manual_seed(0)
        images, encoder = splits.train.images[:24], Encoder(16, 8, 16)
        objective = InfoMax(encoder, INFOMAX[name](encoder))
        information = objective.loss.local_loss or objective.loss.global_loss
        assert information is not None
        before, weights = information(*encoder(images)).item(), [p.clone() for p in encoder.parameters()]
        assert len(minimise(objective, [images], 30)) == 30
        assert information(*encoder(images)).item() < before - 0.05
        assert all(not torch.equal(*pair) for pair in zip(weights, encoder.parameters(), strict=True))

    def test_losses_of_the_autoencoder_and_of_the_classifier_fall(self, splits: Splits) -> None:
        torch.manual_seed(0)
        means = minimise(Autoencoder(Encoder(16, 16, 16)), [splits.train.images], 30)
        assert means[-1] < 0.5 * means[0]
        images, labels = splits.train
        means = minimise(Classifier(Encoder(16, 16, 16), 23), [images, labels, label_weights(labels)], 30)
        assert means[-1] < 0.8 * means[0]

    def test_labels_change_the_encoder_that_learns_from_them_alone(self, splits: Splits) -> None:
        labelled = [splits.train.take(torch.arange(count)) for count in (10, 20)]
        for way in TITLES:
            small, large = encoders(way, RECIPE, 0, splits.train.images, labelled)
            assert (small is large) == (way != "labels")

    def test_all_ways_start_from_the_same_weights(self, splits: Splits) -> None:
        (start,) = encoders("random", RECIPE, 3, splits.train.images, [splits.train])
        still = RECIPE._replace(epochs=0, steps=0)
        for way in TITLES:
            (encoder,) = encoders(way, still, 3, splits.train.images, [splits.train])
            for first, second in zip(start.parameters(), encoder.parameters(), strict=True):
                assert torch.equal(first, second)

    def test_a_training_that_diverges_says_where(self, splits: Splits) -> None:
        message = r"^compare: losses must stay finite, got nan from autoencoder, seed 4\. Leave it out of --ways\.$"
        with pytest.raises(TrainingError, match=message):
            next(encoders("autoencoder", RECIPE, 4, splits.train.images * math.nan, [splits.train]))


class TestProbe:
    def test_a_planted_linear_attribute_is_found(self) -> None:
        features = torch.randn(600, 8, generator=torch.Generator().manual_seed(0)) * 5 + 3
        labels = torch.stack([features[:, 0] - features[:, 1] > 4, features[:, 2] > 0], 1).float()
        answers = fit_probe(features[:300], labels[:300], 1e-3).predict(features[300:])
        assert balanced_accuracy(answers, labels[300:]).min() > 0.95

    def test_a_larger_penalty_makes_smaller_weights_and_no_other_bias_than_the_balance(self) -> None:
        features = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
        labels = (features[:, :1] > 1).float()
        loose, tight = (fit_probe(features, labels, penalty) for penalty in (1e-3, 100.0))
        assert tight.weight.norm() < 0.1 * loose.weight.norm()
        assert tight.bias.item() == pytest.approx(0, abs=1e-2)  # either label has half of the weight

    def test_either_label_has_half_of_the_weight(self) -> None:
        labels = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
        weights = label_weights(labels)
        assert weights.mean() == 1
        assert weights[0].sum() == weights[1:].sum()

    def test_unknown_labels_count_as_little_as_rows_that_are_left_out(self) -> None:
        features = torch.randn(300, 4, generator=torch.Generator().manual_seed(3))
        labels = (features[:, :2] > 0.5).float()
        twice = torch.cat([features, features])  # so that the features are standardised alike
        unknown = torch.cat([labels, 1 - labels])
        unknown[300:, 0] = -1
        alone, both = fit_probe(features, labels, 1e-2), fit_probe(twice, unknown, 1e-2)
        assert torch.allclose(both.weight[:, 0], alone.weight[:, 0], rtol=0.02, atol=0.02)
        assert both.weight[:, 1].norm() < 0.1 * alone.weight[:, 1].norm()  # its known labels contradict each other
        answers = torch.randint(2, (600, 2), generator=torch.Generator().manual_seed(4)).bool()
        assert balanced_accuracy(answers, unknown)[0] == balanced_accuracy(answers[:300], labels)[0]
        assert balanced_accuracy(answers, torch.full((600, 2), -1.0)).isnan().all()

    def test_an_attribute_with_a_single_label_is_answered_with_that_label(self) -> None:
        features = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
        labels = torch.stack([torch.ones(50), torch.zeros(50), (features[:, 0] > 0).float()], 1)
        answers = fit_probe(features, labels, 1e-2).predict(10 * features)
        assert answers[:, 0].all()
        assert not answers[:, 1].any()
        both = torch.arange(50)[:, None].expand(-1, 2) % 2
        assert balanced_accuracy(answers[:, :2], both).tolist() == [0.5, 0.5]

    def test_balanced_accuracy_is_the_mean_recall_of_the_labels_that_are_there(self) -> None:
        answers = torch.tensor([[True, True], [False, False], [False, False], [True, False]])
        labels = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
        answers[3, 0] = False
        assert balanced_accuracy(answers, labels).tolist() == [0.75, 0.25]

    def test_probing_leaves_the_encoder_and_its_features_as_they_are(self, splits: Splits) -> None:
        encoder = Encoder(16, 4, 8)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        features = extract(encoder, splits.test.images)
        measure(encoder, splits.train, splits)
        assert torch.equal(extract(encoder, splits.test.images), features)
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert all(parameter.grad is None for parameter in encoder.parameters())

    def test_the_penalty_is_chosen_on_validation_faces_and_not_on_the_test(self, splits: Splits) -> None:
        encoder = Encoder(16, 4, 8)
        found = measure(encoder, splits.train, splits)
        turned = splits._replace(test=Faces(splits.test.images, 1 - splits.test.labels))
        other = measure(encoder, splits.train, turned)
        assert (other.penalty, other.validation) == (found.penalty, found.validation)
        assert other.accuracy == pytest.approx(1 - found.accuracy)
        single = [measure(encoder, splits.train, splits, [penalty]).validation for penalty in (1e-4, found.penalty)]
        assert single[1] == found.validation >= single[0]


class TestSummary:
    def test_rows_say_mean_and_deviation_in_per_cent(self) -> None:
        (row,) = summarise({"random": {50: [score(0.5, 0.6, 0.7), score(0.5, 0.8, 0.9)]}})
        assert (row.way, row.labels) == ("random", 50)
        assert row.test == pytest.approx((70, 10 * math.sqrt(2)))
        assert row.accuracy.mean == pytest.approx(80)
        (single,) = summarise({"random": {50: [score(0.5, 0.6)]}})
        assert single.test == (pytest.approx(60), None)

    def test_validation_chooses_among_the_configurations_of_deep_infomax(self) -> None:
        scores: dict[WayName, dict[int, list[Score]]] = {
            "random": {50: [score(0.9, 0.9)]},
            "local-jsd": {50: [score(0.6, 0.8)]},
            "global-jsd-prior": {50: [score(0.7, 0.6)]},
        }
        rows = summarise(scores)
        assert chosen(rows) == "global-jsd-prior"
        assert chosen(rows[:1]) is None
        lines = markdown(rows, "Caption.").splitlines()
        assert lines[0] == "| encoder trained by | 50 labels | validation |"
        assert lines[4] == f"| {TITLES['global-jsd-prior']} (chosen) | 60.0 (50.0) | 70.0 |"
        assert lines[-1] == "Caption."

    def test_names_of_lines_that_end_together_do_not_overlap(self) -> None:
        rows = summarise({way: {count: [score(0.6, 0.6)] for count in (50, 200)} for way in TITLES})
        figure = probes_figure(rows, "")
        names = [text for text in figure.texts if text.get_text().removesuffix(" (chosen)") in TITLES.values()]
        boxes = [text.get_window_extent() for text in names]
        assert len(boxes) == len(TITLES)
        assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])
        assert all(figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 for box in boxes)


class TestProgram:
    def test_scores_are_a_function_of_the_seed(self) -> None:
        settings = Settings(faces=60, size=16, width=4, dimensions=8, epochs=1, steps=2, labels=(10,), workers=1)
        for way in ("local-jsd-prior", "labels"):
            first, again, other = (probe(settings, Job(seed, way))[1] for seed in (0, 0, 1))
            assert first == again
            assert first != other

    def test_a_quick_run_writes_table_and_picture(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "run"
        options = ["--ways", "local-infonce", "labels", "random", "--labels", "10", "40", "--seeds", "3", "4"]
        assert main(["--quick", *TINY, *options, "--output", str(folder)]) == 0
        assert {path.name for path in folder.iterdir()} == {".lock", "compare.json", "compare.md", "probes.png"}
        content = json.loads((folder / "compare.json").read_text())
        assert (content["settings"]["seeds"], content["settings"]["epochs"]) == ([3, 4], 1)
        assert list(content["scores"]) == ["local-infonce", "labels", "random"]
        assert content["chosen"] == "local-infonce"
        for by_count in content["scores"].values():
            assert [len(by_seed) for by_seed in by_count.values()] == [2, 2]
            assert all(len(found["by_attribute"]) == 23 for by_seed in by_count.values() for found in by_seed)
        table = (folder / "compare.md").read_text()
        assert table.startswith("| encoder trained by | 10 labels | 40 labels | validation |")
        assert table.count("(chosen)") == 1
        assert "24 test faces of 16 x 16" in table
        assert (folder / "probes.png").read_bytes().startswith(b"\x89PNG")
        assert f"Table and picture are in {folder}." in capsys.readouterr().out

    def test_results_are_kept_unless_they_may_be_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "compare.md").write_text("kept")
        again = ["--quick", *TINY, "--labels", "10", "--seeds", "0", "--ways", "random", "--output", str(tmp_path)]
        assert main(again) == 1
        assert (
            f"error: compare: the output folder must not contain results, got compare.md in {tmp_path}. "
            "Give --overwrite to replace them, or another --output." in capsys.readouterr().err
        )
        assert (tmp_path / "compare.md").read_text() == "kept"
        assert main([*again, "--overwrite"]) == 0
        assert "(chosen)" not in (tmp_path / "compare.md").read_text()  # there is nothing to choose

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                Settings(ways=()),
                "--ways must name at least one value, each once, got none. Name one or more, none twice.",
            ),
            (
                Settings(labels=()),
                "--labels must name at least one value, each once, got none. Name one or more, none twice.",
            ),
            (
                Settings(labels=(50, 50)),
                "--labels must name at least one value, each once, got 50 50. Name one or more, none twice.",
            ),
            (
                Settings(seeds=(1, 1)),
                "--seeds must name at least one value, each once, got 1 1. Name one or more, none twice.",
            ),
            (Settings(seeds=(0, -1)), "--seeds must be at least 0 and below 2**63, got -1. Give another."),
            (Settings(seeds=(0, 2**63)), f"--seeds must be at least 0 and below 2**63, got {2**63}. Give another."),
            (Settings(faces=9), "--faces must be at least 10, got 9. Raise it."),
            (Settings(epochs=0), "--epochs must be at least 1, got 0. Raise it."),
            (Settings(steps=0), "--steps must be at least 1, got 0. Raise it."),
            (Settings(width=3), "--width must be at least 4, got 3. Raise it."),
            (Settings(dimensions=0), "--dimensions must be at least 1, got 0. Raise it."),
            (Settings(workers=0), "--workers must be at least 1, got 0. Raise it."),
            (Settings(labels=(1, 50)), "--labels must be at least 2, got 1. Raise it."),
            (
                Settings(labels=(50, 4001)),
                "--labels must be at most 4000, the number of --faces, got 4001. Lower it, or raise --faces.",
            ),
        ],
    )
    def test_settings_that_cannot_be_compared_with_are_refused(
        self, settings: Settings, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CompareError) as caught:
            run(settings, Console(quiet=True))
        assert str(caught.value) == f"compare: {message}"
        assert not list(tmp_path.iterdir())

    def test_the_command_line_names_the_ways(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--ways", "supervised"])
        assert ended.value.code == 2
        assert "local-infonce" in capsys.readouterr().err
