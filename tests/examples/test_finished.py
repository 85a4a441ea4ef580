"""A finished run is rebuilt from its files, or refused with the reason."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blan_facial.config import PRESETS, Config, ConfigError, parse
from blan_facial.results.finished import load_run
from blan_facial.results.weights_file import read_weights
from blan_facial.training.checkpoint import RunError
from blan_facial.training.scaling import Scaling
from tests.examples.run_folder import ATTRIBUTES, SMALL, write_run

MODELS: list[tuple[str, ...]] = [
    SMALL,
    (*SMALL, "--no-fusion", "--join", "rar"),
    ("--model", "resnet", *SMALL[:4]),
    ("--model", "moon", *SMALL[:4]),
    ("--model", "mcnn", *SMALL[:6]),
]


@pytest.mark.parametrize("options", MODELS, ids=" ".join)
def test_every_model_is_rebuilt_from_weights_and_settings_alone(options: tuple[str, ...], tmp_path: Path) -> None:
    model = write_run(tmp_path, *options).eval()
    (tmp_path / "metrics.json").unlink()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    run = load_run(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.attributes == ATTRIBUTES
    assert run.config == dataclasses.replace(parse(options), attributes=ATTRIBUTES)
    assert not run.model.training
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, rebuilt = model.to(memory_format=model.encoder.memory_format)(images), run.model(images)  # type: ignore[call-overload]  # torch types Module.to without it
    assert torch.equal(expected.scores, rebuilt.scores)
    assert torch.equal(expected.logits, rebuilt.logits)
    assert run.parameters.inference == sum(parameter.numel() for parameter in model.parameters())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in run.model.parameters())


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return do


def test_a_scaling_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL)
    weights = load_file(tmp_path / "model.safetensors")
    for broken in (
        "warm",
        '{"scaling": {"scale": [2]}}',
        '{"scaling": 2}',
        '{"scaling": {"scale": [0], "shift": [1], "images": 3}}',
        "[1]",
    ):
        save_file(weights, tmp_path / "model.safetensors", {"blan": broken})
        with pytest.raises(
            RunError, match=r"model\.safetensors: must be a whole safetensors file, got .+ Copy it again"
        ):
            load_run(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", {"blan": '{"temperature": {"value": 2, "images": 3}}'})
    with pytest.raises(RunError, match=r"got the single temperature of an older version\. Train the run again"):
        load_run(tmp_path)


def test_a_scaling_of_other_attributes_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL, scaling=Scaling((1.0,), (0.0,), 3))
    with pytest.raises(RunError, match=r"must contain a scale for each of 4 attributes, got 1\. Use config\.json"):
        load_run(tmp_path)


def replace(name: str, data: bytes | None) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)

    return do


def with_entries(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return do


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (replace("config.json", None), "{folder}: must be the output folder of a run, got no config.json in it."),
        (replace("config.json", b"{"), "{folder}/config.json: must be JSON that a run wrote, got Expecting property"),
        (replace("config.json", b"[]"), "{folder}/config.json: must be JSON that a run wrote, got no settings."),
        (
            edit(lambda content: content.update(attributes="Smiling")),
            "{folder}/config.json: attributes must be a list of names, got 'Smiling'. Restore it.",
        ),
        (
            edit(lambda content: content.update(width="wide")),
            "{folder}/config.json: must contain valid settings of a run, got an error: train: width must be a "
            "valid value of "
            "--width, got 'wide'. Restore the setting.",
        ),
        (
            edit(lambda content: content.update(colour="red")),
            "settings must be those of this release, got 'colour'. Use the release that wrote it.",
        ),
        (
            edit(lambda content: content.update(image_size=33)),
            "{folder}/config.json: must contain valid settings of a run, got an error: train: --image-size must be",
        ),
        (
            edit(lambda content: content["attributes"].append("Bald")),
            "{folder}/model.safetensors: classifiers.0.fc2.weight must have the shape (10, 8), "
            "got (8, 8). Use config.json and model.safetensors of the same run.",
        ),
        (
            edit(lambda content: content.update(fusion=False)),
            "{folder}/model.safetensors: must contain only weights of the model in config.json, got fusion.weight "
            "too. Use config.json and model.safetensors of the same run.",
        ),
        (
            with_entries(lambda weights: weights.pop("encoder.conv1.weight")),
            "{folder}/model.safetensors: must contain all weights of the model in config.json, got none for "
            "encoder.conv1.weight. Use config.json and model.safetensors of the same run.",
        ),
        (
            replace("model.safetensors", None),
            "{folder}: must be a finished run, got no model.safetensors in it. Finish it with train.py --resume.",
        ),
        (
            replace("model.safetensors", b"\x80\x04cos\nsystem\n(S'false'\ntR."),  # a pickle that would run a program
            "{folder}/model.safetensors: must be a whole safetensors file, got ",
        ),
    ],
)
def test_what_is_no_finished_run_is_refused(spoil: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    write_run(tmp_path, *SMALL)
    spoil(tmp_path)
    with pytest.raises(RunError) as caught:
        load_run(tmp_path)
    assert text.format(folder=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("fusion.weight", torch.Tensor.half, "must have the dtype torch.float32, got torch.float16"),
        ("fusion.weight", torch.Tensor.bool, "must have the dtype torch.float32, got torch.bool"),
        ("fusion.weight", lambda value: value / 0, "must be finite, got inf"),
        ("encoder.bn1.running_var", torch.neg, "contains variances, which must not be negative, got -"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], fault: str, tmp_path: Path
) -> None:
    write_run(tmp_path, *SMALL)
    with_entries(lambda weights: weights.update({name: change(weights[name])}))(tmp_path)
    with pytest.raises(RunError) as caught:
        load_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/model.safetensors: {name} {fault}")


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, scaling = tmp_path / "model.safetensors", Scaling((1.5,) * 4, (0.1,) * 4, 10)
    own = write_run(tmp_path, *SMALL, scaling=scaling).state_dict()
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in (*range(8, 200), *random.integers(len(whole), size=100)):  # the header, and anywhere
        broken = bytearray(whole)
        broken[place] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            weights, found, _ = read_weights(path)
        except RunError:
            refused += 1
        else:
            assert all(torch.equal(weights[name], value) for name, value in own.items())
            assert found == scaling
    assert refused > 200


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset: str) -> None:
    root = [] if PRESETS[preset].data == "avatars" else ["--data-root", "x"]
    config = parse(["--preset", preset, *root, "--clip-norm", "1"])
    assert Config.from_json(json.loads(json.dumps(config.as_json()))) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "cnn"), ("blocks", [1, 1, 1]), ("width", 1.5), ("width", True), ("os", 1), ("lr", None), ("lr", "1")],
)
def test_a_setting_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"train: {name} must be a valid value of --{name}, got "):
        Config.from_json({name: value})
