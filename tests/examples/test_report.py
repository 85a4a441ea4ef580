import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from blan_facial.config import Config
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.faces import UNKNOWN, CorruptImageError, FaceDataset
from blan_facial.data.loading import normalize
from blan_facial.network.builder import build_blan
from blan_facial.network.parameters import ParameterTable
from blan_facial.report.looks import attention
from blan_facial.report.pictures import write_pictures
from blan_facial.report.sample import Mark, draw_sample, marks
from blan_facial.results.run_folder import PICTURES
from blan_facial.results.terminal import metrics_table, parameters_table
from blan_layers.networks import capture_maps
from shared.svg import png


class RandomFaces(FaceDataset):
    """Faces of noise; those of `corrupt` do not decode."""

    name, split, notes = "celeba", "test", ()

    def __init__(self, length=3, *, size=32, attributes=3, corrupt=()):
        random = np.random.default_rng(0)
        self.image_size = size
        self.attributes = CELEBA_ATTRIBUTES[:attributes]
        self.images = random.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
        self.labels = random.integers(0, 2, (length, attributes), dtype=np.uint8)
        self.corrupt = corrupt
        self.asked = []

    def image(self, index):
        self.asked.append(index)
        if index in self.corrupt:
            raise CorruptImageError(f"{index}.jpg", index, "nonsense")
        return self.images[index]


def tiny(faces, **options):
    torch.manual_seed(0)
    config = Config(image_size=faces.image_size, width=4, blocks=(1, 1, 1, 1), summary_channels=8, **options)
    return build_blan(config, len(faces.attributes))


def inputs(faces):
    return normalize(torch.from_numpy(faces.images).movedim(-1, 1))


def written(folder, faces, model=None):
    model = tiny(faces) if model is None else model
    sample = draw_sample(model, faces, device="cpu", seed=0)
    write_pictures(folder, sample, METRICS)
    return {path.name for path in folder.iterdir() if path.is_file()}


class TestMarks:
    def test_tell_correct_from_false_and_missed_and_leave_out_the_absent(self):
        found = marks(("Bald", "Male", "Young", "Smiling"), [True, True, False, False], [False, True, True, False])
        assert found == [Mark("Male", "correct"), Mark("Bald", "false-positive"), Mark("Young", "missed")]

    def test_say_nothing_of_what_is_unknown(self):
        assert marks(("Bald", "Male"), [True, False], [UNKNOWN, UNKNOWN]) == []

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
    def test_right_answers_are_the_correct_ones_and_those_not_listed(self, answers):
        attributes = CELEBA_ATTRIBUTES[: len(answers)]
        found = marks(attributes, [a for a, _ in answers], [b for _, b in answers])
        wrong = sum(mark.kind != "correct" for mark in found)
        assert wrong == sum(a != b for a, b in answers)
        assert {mark.attribute for mark in found} == {
            attribute for attribute, pair in zip(attributes, answers, strict=True) if any(pair)
        }


class TestSample:
    def test_holds_what_the_model_says(self):
        faces = RandomFaces(4)
        model = tiny(faces).train()
        sample = draw_sample(model, faces, 4, device="cpu", seed=0)
        order = [next(i for i in range(4) if np.array_equal(faces.images[i], face)) for face in sample.faces]
        assert sorted(order) == [0, 1, 2, 3]
        assert np.array_equal(sample.labels, faces.labels[order])
        images = inputs(faces)[order]
        with torch.no_grad():
            features = model.eval()(images, reconstruct=True)
        with capture_maps(model) as captured:
            model(images)
        assert np.array_equal(sample.predicted, features.fused[..., 1] > features.fused[..., 0])
        for gates, maps in zip(sample.spatial_maps, captured.values(), strict=True):
            np.testing.assert_allclose(gates, maps["spatial_map"][:, 0], atol=1e-5)
        errors = [
            (rebuilt - image).square().mean() for rebuilt, image in zip(features.reconstruction, images, strict=True)
        ]
        np.testing.assert_allclose(sample.squared_errors, errors, rtol=1e-4)
        plain = images.mean((2, 3), keepdim=True).expand_as(images)
        np.testing.assert_allclose(sample.plain_errors, (images - plain).square().mean((1, 2, 3)), rtol=1e-4)
        assert sample.marks(0) == marks(faces.attributes, sample.predicted[0], sample.labels[0])

    def test_without_fusion_the_summed_scores_predict(self):
        faces = RandomFaces(4, attributes=20)
        model = tiny(faces, fusion=False).eval()
        sample = draw_sample(model, faces, 1, device="cpu", seed=0)
        place = next(i for i in range(4) if np.array_equal(faces.images[i], sample.faces[0]))
        with torch.no_grad():
            summed = model(inputs(faces)[[place]]).scores.sum(0)[0]
        assert np.array_equal(sample.predicted[0], summed[:, 1] > summed[:, 0])

    def test_is_chosen_by_the_seed(self):
        faces = RandomFaces(30)
        model = tiny(faces)
        first, again, other = (draw_sample(model, faces, 5, device="cpu", seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(first.faces, again.faces)
        assert not np.array_equal(first.faces, other.faces)

    def test_passes_over_corrupt_faces_and_decodes_no_more_than_it_needs(self):
        faces = RandomFaces(10, corrupt=(0, 1, 2, 3, 4))
        sample = draw_sample(tiny(faces), faces, 3, device="cpu", seed=0)
        good = [index for index in faces.asked if index >= 5]
        assert np.array_equal(sample.faces, faces.images[good])
        assert len(good) == 3
        assert faces.asked[-1] == good[-1]

    def test_refuses_a_model_of_other_attributes(self):
        model = tiny(RandomFaces(attributes=3))
        with pytest.raises(ValueError, match=r"the data set's 5 attributes, got 3\. Use the data set"):
            draw_sample(model, RandomFaces(attributes=5), 3, device="cpu", seed=0)

    def test_leaves_the_random_state_alone(self):
        faces = RandomFaces()
        model = tiny(faces)
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        draw_sample(model, faces, 3, device="cpu", seed=0)
        assert torch.equal(torch.rand(1), expected)


class TestPictures:
    @pytest.mark.parametrize(("length", "size", "attributes"), [(1, 32, 1), (26, 32, 8), (2, 256, 40)])
    def test_all_are_written_and_decode(self, tmp_path, length, size, attributes):
        assert written(tmp_path, RandomFaces(length, size=size, attributes=attributes)) == set(PICTURES)
        for path in tmp_path.iterdir():
            with Image.open(path) as image:
                image.load()
                assert image.format == "PNG"
                assert min(image.size) > 200
                assert max(image.size) < 6000
                assert len(image.convert("RGB").getcolors(1 << 24)) > 20

    @pytest.mark.parametrize(
        ("options", "missing"),
        [
            ({"join": "concat"}, {"attention.png"}),
            ({"beta": 0.0}, {"reconstructions.png"}),
            ({"decoder": False}, {"attention.png", "reconstructions.png"}),
            ({"fusion": False}, set()),
        ],
    )
    def test_none_for_a_part_that_is_missing(self, tmp_path, options, missing):
        faces = RandomFaces()
        assert set(PICTURES) - written(tmp_path, faces, tiny(faces, **options)) == missing

    def test_without_a_face_that_decodes_the_metrics_remain(self, tmp_path):
        assert written(tmp_path, RandomFaces(2, corrupt=(0, 1))) == {"accuracy.png"}

    def test_words_are_drawn_whatever_fonts_the_machine_has_and_whatever_they_hold(self):
        blank, words, bold = (png(title, note, 99, 99) for title, note in (("", ""), ("", "a"), ("a", "")))
        assert len({blank, words, bold}) == 3
        assert png("\udce4\x01", "", 99, 99) == png("\N{REPLACEMENT CHARACTER}" * 2, "", 99, 99)

    def test_the_gates_share_one_scale(self):
        faces = RandomFaces(1)
        sample = draw_sample(tiny(faces), faces, 1, device="cpu", seed=0)
        shapes = [gates.shape for gates in sample.spatial_maps]
        flat = [np.full(shapes[-1], value, np.float32) for value in (0.2, 0.4, 0.4)]
        ((_, gates),) = attention(sample._replace(spatial_maps=tuple(flat))).faces
        first, second, third = (source for _, source, _ in gates)
        assert first != second == third
        ((_, gates),) = attention(sample._replace(spatial_maps=(flat[0],) * 3)).faces  # and so do gates of one value
        assert [source for _, source, _ in gates] == [first] * 3


COLUMNS = {
    "columns": {name: {"accuracy_interval": [0.843, 0.857]} for name in ("AC1", "AC2", "AC3", "AC4", "sum", "fused")},
    "winner": None,
}
METRICS = {
    "data": "avatars",
    "split": "test",
    "images": 1600,
    "accuracy": 0.85,
    "majority_accuracy": 0.7,
    "balanced_accuracy": 0.8,
    "per_level": {"AC1": 0.8, "AC2": 0.75, "AC3": 0.7, "AC4": 0.8, "sum": 0.84, "fused": 0.85},
    "per_attribute": {
        "Bald": {"accuracy": 0.95, "majority": 0.8, "balanced": 0.9}
        | {"AC1": 0.9, "AC2": 0.8, "AC3": 0.7, "AC4": 0.94, "sum": 0.95, "fused": 0.95},
        "Mouth_Slightly_Open": {"accuracy": 0.7512, "majority": 0.76, "balanced": 0.7}
        | {"AC1": 0.7, "AC2": 0.7, "AC3": 0.7, "AC4": 0.66, "sum": 0.73, "fused": 0.7512},
    },
    "calibration_error": 0.0934,
    "nll": 0.21,
    "scaling": {"images": 800},
    "scaled_calibration_error": 0.0312,
    "scaled_nll": 0.18,
    "scaled_accuracy": 0.861,
    "scaled_balanced_accuracy": 0.799,
    "statistics": {
        "bootstrap": {"resampled": "people", "units": 1200},
        "mean": COLUMNS,
        "per_attribute": {"Bald": COLUMNS, "Mouth_Slightly_Open": COLUMNS},
    },
}


def rendered(table, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(table)
    return console.file.getvalue()


def cells(text):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


class TestTables:
    @pytest.mark.parametrize("width", [80, 100])
    def test_metrics(self, width):
        text = rendered(metrics_table(METRICS), width)
        assert cells(text) == [
            ["Bald", "95.0", "80.0", "90.0", "AC4  94.0"],
            ["Mouth_Slightly_Open", "75.1", "76.0", "70.0", "AC1  70.0"],
            ["mean", "85.0", "70.0", "80.0", "AC1  80.0"],
        ]
        assert text.splitlines()[0].strip() == "Test split of avatars, 1,600 images"
        assert max(map(len, text.splitlines())) <= width
        caption = " ".join(text.split("┘")[1].split())
        assert caption == (
            "95 % interval of the mean accuracy: 84.3 to 85.7 % (resampled 1,200 people). Calibration error 0.093, "
            "log loss 0.210. Scaled for each attribute, fitted on 800 validation images: calibration error 0.031, "
            "log loss 0.180, accuracy 86.1 %, balanced 79.9 %."
        )
        unscaled = " ".join(rendered(metrics_table(METRICS | {"scaling": None}), width).split())
        assert "log loss 0.210; not scaled: the run had no labelled validation images with finite scores." in unscaled

    def test_metrics_without_fusion(self):
        plain = METRICS | {"images": 1, "per_level": METRICS["per_level"] | {"fused": None}}
        assert "avatars, 1 image\n" in rendered(metrics_table(plain)).replace(" \n", "\n").replace("  ", "")

    def test_an_accuracy_below_the_majority_is_red(self):
        text = rendered(metrics_table(METRICS), force_terminal=True, color_system="standard")
        assert "\x1b[31m75.1\x1b[0m" in text
        assert "\x1b[31m95.0" not in text

    @pytest.mark.parametrize("width", [80, 100])
    def test_parameters(self, width):
        table = ParameterTable(
            rows=(("encoder", 21_284_672), ("fusion", 200)), inference=21_284_872, training=23_000_000
        )
        text = rendered(parameters_table(table), width)
        assert cells(text) == [
            ["encoder", "21,284,672", "21.28"],
            ["fusion", "200", "0.00"],
            ["in inference", "21,284,872", "21.28"],
            ["in training", "23,000,000", "23.00"],
            ["paper, Table 10", "38,340,000", "38.34"],
        ]
        assert " ".join(text.split()).endswith(table.note)
        assert max(map(len, text.splitlines())) <= width
