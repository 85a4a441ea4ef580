import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from blan_facial.config import Config
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.faces import UNKNOWN, CorruptImageError, FaceDataset
from blan_facial.data.loading import normalize
from blan_facial.network.builder import build_blan
from blan_facial.network.parameters import ParameterTable, parameter_table
from blan_facial.report import metrics_table, parameters_table, write_pictures
from blan_facial.report.chart import accuracy_figure
from blan_facial.report.pictures import SIGNS, attention_figure, faces_figure, reconstructions_figure
from blan_facial.report.sample import Mark, draw_sample, marks
from blan_layers.networks import capture_maps

ALL_PICTURES = ["faces.png", "attention.png", "reconstructions.png", "accuracy.png"]


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


def invented(faces, *, fusion):
    """What `metrics.json` holds, with numbers drawn at random."""
    random = np.random.default_rng(0)
    levels = ("AC1", "AC2", "AC3", "AC4", "sum", "fused")

    def accuracies(*others):
        drawn = {name: random.random() for name in (*others, *levels)}
        return drawn if fusion else drawn | {"fused": None}

    return {
        "data": faces.name,
        "split": faces.split,
        "images": len(faces),
        "accuracy": random.random(),
        "majority_accuracy": random.random(),
        "balanced_accuracy": random.random(),
        "per_level": accuracies(),
        "per_attribute": {name: accuracies("accuracy", "majority", "balanced") for name in faces.attributes},
    }


def inputs(faces):
    return normalize(torch.from_numpy(faces.images).movedim(-1, 1))


def written(folder, faces, model=None):
    model = tiny(faces) if model is None else model
    sample = draw_sample(model, faces, device="cpu", seed=0)
    return write_pictures(folder, sample, invented(faces, fusion=model.fusion is not None))


def names(paths):
    return [path.name for path in paths]


class TestMarks:
    def test_tell_correct_from_false_and_missed_and_leave_out_the_absent(self):
        found = marks(("Bald", "Male", "Young", "Smiling"), [True, True, False, False], [False, True, True, False])
        assert found == [Mark("Male", "correct"), Mark("Bald", "false positive"), Mark("Young", "missed")]

    def test_take_integers_as_well(self):
        answers = np.array([1, 0]), np.array([1, 1], dtype=np.uint8)
        assert marks(("Bald", "Male"), *answers) == [Mark("Bald", "correct"), Mark("Male", "missed")]

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

    def test_kinds_differ_by_sign_as_well_as_colour(self):
        signs, colors, meanings = zip(*SIGNS.values(), strict=True)
        assert len(set(signs)) == len(set(colors)) == len(set(meanings)) == len(SIGNS)


class TestSample:
    def test_holds_what_the_model_says(self):
        faces = RandomFaces(4)
        model = tiny(faces).eval()
        sample = draw_sample(model, faces, 4, device="cpu", seed=0)
        order = [next(i for i in range(4) if np.array_equal(faces.images[i], face)) for face in sample.faces]
        assert sorted(order) == [0, 1, 2, 3]
        assert np.array_equal(sample.labels, faces.labels[order])
        images = inputs(faces)[order]
        with torch.no_grad():
            features = model(images, reconstruct=True)
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

    def test_none_if_no_face_decodes(self):
        faces = RandomFaces(2, corrupt=(0, 1))
        assert draw_sample(tiny(faces), faces, 3, device="cpu", seed=0) is None

    def test_restores_the_mode_of_every_module_and_touches_no_statistics(self):
        faces = RandomFaces()
        model = tiny(faces).train()
        model.encoder.eval()
        modes = [module.training for module in model.modules()]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        draw_sample(model, faces, 3, device="cpu", seed=0)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_restores_the_mode_after_an_error(self):
        faces = RandomFaces(size=32)
        model = tiny(RandomFaces(size=64)).train()
        with pytest.raises(ValueError, match="images must have the shape"):
            draw_sample(model, faces, 3, device="cpu", seed=0)
        assert model.training
        assert torch.is_grad_enabled()

    def test_refuses_a_model_of_other_attributes(self):
        model = tiny(RandomFaces(attributes=3))
        with pytest.raises(ValueError, match=r"the data set's 5 attributes, got 3\. Show it faces of the data set"):
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
        paths = written(tmp_path, RandomFaces(length, size=size, attributes=attributes))
        assert paths == [tmp_path / name for name in ALL_PICTURES]
        assert sorted(names(tmp_path.iterdir())) == sorted(ALL_PICTURES)
        for path in paths:
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
        paths = written(tmp_path, faces, tiny(faces, **options))
        assert set(ALL_PICTURES) - set(names(paths)) == missing
        assert set(names(tmp_path.iterdir())) == set(names(paths))

    def test_without_a_face_that_decodes_the_metrics_remain(self, tmp_path):
        faces = RandomFaces(2, corrupt=(0, 1))
        assert names(written(tmp_path, faces)) == ["accuracy.png"]

    def test_are_the_same_for_the_same_arguments_whatever_the_users_style(self, tmp_path):
        faces = RandomFaces(2)
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        paths = written(tmp_path / "a", faces)
        with matplotlib.rc_context({"savefig.dpi": 30, "savefig.bbox": "tight", "font.size": 30, "xtick.color": "red"}):
            again = written(tmp_path / "b", faces)
        assert [a.read_bytes() for a in paths] == [b.read_bytes() for b in again]

    def test_the_users_style_is_left_as_it_was(self, tmp_path):
        before = dict(matplotlib.rcParams)
        written(tmp_path, RandomFaces(1))
        assert dict(matplotlib.rcParams) == before

    def test_nothing_is_half_written_when_saving_fails(self, tmp_path, monkeypatch):
        (tmp_path / "faces.png").write_bytes(b"of the last run")

        def fail_midway(self, file, **options):
            file.write(b"half a picture")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Figure, "savefig", fail_midway)
        with pytest.raises(OSError, match="No space left"):
            written(tmp_path, RandomFaces(1))
        assert names(tmp_path.iterdir()) == ["faces.png"]
        assert (tmp_path / "faces.png").read_bytes() == b"of the last run"

    def test_the_maps_cover_the_faces_they_are_laid_over(self):
        faces = RandomFaces(2)
        sample = draw_sample(tiny(faces), faces, 2, device="cpu", seed=0)
        figure = attention_figure(sample)
        overlaid = [axes.images for axes in figure.axes if len(axes.images) == 2]
        assert len(overlaid) == 2 * 3
        for face, gates in overlaid:
            assert face.get_extent() == gates.get_extent()
            assert gates.get_alpha() < 1

    def test_the_maps_share_one_scale(self):
        faces = RandomFaces(1)
        sample = draw_sample(tiny(faces), faces, 1, device="cpu", seed=0)
        flat = [np.full_like(gates, value) for gates, value in zip(sample.spatial_maps, (0.2, 0.4, 0.4), strict=True)]
        figure = attention_figure(sample._replace(spatial_maps=tuple(flat)))
        first, second, third = (axes.images[1].get_array()[0, 0] for axes in figure.axes if len(axes.images) == 2)
        assert np.array_equal(second, third)
        assert not np.array_equal(first, second)

    def test_maps_of_one_value_have_a_scale_too(self):
        faces = RandomFaces(1)
        sample = draw_sample(tiny(faces), faces, 1, device="cpu", seed=0)
        flat = tuple(np.full_like(gates, 0.5) for gates in sample.spatial_maps)
        figure = attention_figure(sample._replace(spatial_maps=flat))
        low, high = figure.axes[-1].get_ylim()
        assert low <= 0.5 < high

    def test_the_chart_is_sorted_by_the_gain_and_ends_with_the_mean(self):
        figure = accuracy_figure(METRICS)
        dots = figure.axes[0]
        assert [label.get_text() for label in dots.get_yticklabels()] == ["Bald", "Mouth Slightly Open", "Mean"]
        cells = [text.get_text() for text in figure.axes[1].texts]
        assert cells[:7] == ["80.0", "90.0", "80.0", "70.0", "94.0", "95.0", "95.0"]
        assert [frame.get_center()[0] for frame in figure.axes[1].patches] == [4, 1, 1]

    def test_the_chart_without_fusion_has_no_column_for_it(self):
        plain = METRICS | {"per_level": METRICS["per_level"] | {"fused": None}}
        columns = [label.get_text() for label in accuracy_figure(plain).axes[1].get_xticklabels()]
        assert columns == ["majority", "AC1", "AC2", "AC3", "AC4", "sum"]

    def test_the_contact_sheet_lists_every_mark(self):
        faces = RandomFaces(2, attributes=6)
        sample = draw_sample(tiny(faces), faces, 2, device="cpu", seed=0)
        words = [text.get_text() for text in faces_figure(sample).texts]
        listed = [mark for face in range(2) for mark in sample.marks(face)]
        assert [word for word in words if word.replace(" ", "_") in faces.attributes] == [
            mark.attribute.replace("_", " ") for mark in listed
        ]
        right = (sample.predicted == sample.labels).sum(1)
        assert [word for word in words if word.endswith("right")] == [f"{count} of 6 right" for count in right]

    def test_reconstructions_need_a_sample_that_has_them(self):
        faces = RandomFaces(1)
        sample = draw_sample(tiny(faces, beta=0.0), faces, 1, device="cpu", seed=0)
        with pytest.raises(ValueError, match=r"needs a sample with reconstructions, got one without\. Build the model"):
            reconstructions_figure(sample)

    def test_pyplot_and_its_backends_are_never_loaded(self):
        program = "import sys, blan_facial.report; print('matplotlib.pyplot' in sys.modules)"
        path = {"PYTHONPATH": ":".join(sys.path), "MPLBACKEND": "tkagg"}
        done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


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

    def test_parameters_of_a_model(self):
        model = tiny(RandomFaces())
        rows = cells(rendered(parameters_table(parameter_table(model))))
        assert [row[0] for row in rows][:5] == ["encoder", "decoder", "joins", "classifiers", "fusion"]
        assert int(rows[5][1].replace(",", "")) == sum(parameter.numel() for parameter in model.parameters())
