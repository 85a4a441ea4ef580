"""Settings: what a preset is, and what the command line makes of it."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from blan_facial.config import PRESETS, Config, Data, parse
from blan_facial.data.splits import READERS


def test_the_paper_s_settings_are_those_of_the_paper() -> None:
    celeba, lfwa = PRESETS["celeba"], PRESETS["lfwa"]
    assert (celeba.image_size, lfwa.image_size) == (256, 224)
    assert (celeba.batch_size, celeba.lr, celeba.fusion_lr, celeba.lr_decay) == (64, 1e-3, 1e-4, "linear")
    assert (celeba.alpha, celeba.beta, celeba.gamma, celeba.attribute_reduction) == (0.1, 0.1, 1.0, "sum")
    assert (celeba.dropout, celeba.encoder_weights, celeba.os) == (0.5, "imagenet", True)
    assert (celeba.blocks, celeba.width, celeba.epochs, lfwa.epochs) == ((3, 4, 6, 3), 64, 20, 60)
    differing = {f.name for f in dataclasses.fields(Config) if getattr(celeba, f.name) != getattr(lfwa, f.name)}
    assert differing == {"preset", "data", "image_size", "epochs"}


def test_every_preset_bears_its_name_and_the_demo_is_the_default() -> None:
    assert {name: config.preset for name, config in PRESETS.items()} == {name: name for name in PRESETS}
    assert parse([]) == PRESETS["demo"]


def test_options_override_the_preset_wherever_they_stand() -> None:
    config = parse(["--join", "rar", "--preset", "lfwa", "--data-root", "x", "--blocks", "1", "2", "3", "4", "--no-os"])
    assert config == dataclasses.replace(
        PRESETS["lfwa"], join="rar", data_root=Path("x"), blocks=(1, 2, 3, 4), os=False
    )


def test_what_is_kept_of_the_settings_is_plain() -> None:
    kept = parse(["--preset", "celeba", "--data-root", "x"]).as_json()
    assert kept["data_root"] == "x"
    assert kept["blocks"] == [3, 4, 6, 3]
    assert {type(value) for value in kept.values()} <= {str, int, float, bool, list, type(None)}


def test_every_data_set_has_a_reader() -> None:
    assert tuple(READERS) == get_args(Data)


@pytest.mark.parametrize("option", [["--width", "wide"], ["--preset", "imagenet"], ["--no-such-option"]])
def test_an_option_that_cannot_be_read_is_named(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        parse(option)
    assert status.value.code == 2
    captured = capsys.readouterr()
    assert option[-1] in captured.err + captured.out


def test_what_0_meant_in_tables_is_known_of_runs_that_did_not_say_it():
    settings = Config(data="csv", data_root=Path("x"), labels=Path("y")).as_json()
    assert Config.from_json(settings).unknown is None
    del settings["unknown"]
    assert Config.from_json(settings).unknown == "zero"
    assert Config.from_json(settings | {"data": "parquet", "labels": None}).unknown is None
