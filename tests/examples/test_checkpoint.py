"""A checkpoint is read as it was written, or refused in one sentence."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blan_facial.config import Config, parse
from blan_facial.training.checkpoint import (
    CHECKPOINT,
    Best,
    Position,
    RunError,
    States,
    read_checkpoint,
    save_checkpoint,
)

CONFIG = parse([])
DATA = {"images": 3, "attributes": ["Smiling"], "digest": "0" * 64, "validation": None}
STATES = States({"w": torch.arange(500.0)}, {"w": {"step": torch.tensor(1.0), "exp_avg": torch.ones(500)}}, {})


def write(folder: Path) -> Path:
    save_checkpoint(folder, CONFIG, DATA, Position(step=4, images=12, seconds=0.5), STATES)
    return folder / CHECKPOINT


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    position, states, best = read_checkpoint(tmp_path, CONFIG, DATA)
    assert position == Position(step=4, images=12, seconds=0.5)
    assert best is None
    torch.testing.assert_close(states._asdict(), STATES._asdict(), rtol=0, atol=0)


def test_the_best_model_is_read_too(tmp_path: Path) -> None:
    best = Best(step=3, seconds=0.25, score=0.5, weights={"w": torch.ones(2)})
    save_checkpoint(tmp_path, CONFIG, DATA, Position(step=4), STATES, best)
    found = read_checkpoint(tmp_path, CONFIG, DATA)[2]
    assert found is not None
    torch.testing.assert_close(found._asdict(), best._asdict(), rtol=0, atol=0)


def test_settings_that_an_older_release_compared_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(Config, "comparable", Config.as_json)
        write(tmp_path)
    config = replace(CONFIG, skip_corrupt=True, workers=CONFIG.workers + 1)
    assert read_checkpoint(tmp_path, config, DATA)[0].step == 4
    with pytest.raises(RunError, match=r": seed 0 \(now 1\)\. Repeat the run's options"):
        read_checkpoint(tmp_path, replace(config, seed=1), DATA)


@pytest.mark.attack("15.3", "a bit of last.ckpt is flipped")
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    random, refused = np.random.default_rng(0), 0
    for place in random.integers(len(whole), size=200):
        broken = bytearray(whole)
        broken[place] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            position, states, _ = read_checkpoint(tmp_path, CONFIG, DATA)
        except RunError:
            refused += 1
        else:
            assert position.step == 4
            torch.testing.assert_close(states._asdict(), STATES._asdict(), rtol=0, atol=0)
    assert refused > 100


@pytest.mark.attack("15.3", "an entry of last.ckpt is of another kind or length")
@pytest.mark.parametrize(("field", "bit"), [(24, 1), (27, 1), (38, 16)], ids=["length", "large length", "folder"])
def test_another_kind_or_length_of_an_entry_is_refused(field: int, bit: int, tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    entries = [found.start() for found in re.finditer(b"PK\x01\x02", whole)]
    assert len(entries) > 5
    for entry in entries:
        broken = bytearray(whole)
        broken[entry + field] ^= bit
        path.write_bytes(broken)
        with pytest.raises(RunError, match="a file that does not load"):
            read_checkpoint(tmp_path, CONFIG, DATA)


@pytest.mark.attack("15.3", "last.ckpt is of another structure")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: [content],
        lambda content: content.pop("position"),
        lambda content: content.update(position=None),
        lambda content: content.update(position={"steps": 1}),
        lambda content: content["position"].update(step="4"),
        lambda content: content["position"].update(step=-1),
        lambda content: content["position"].update(seconds=float("nan")),
        lambda content: content.pop("weights"),
        lambda content: content.update(weights=[1]),
        lambda content: content.update(weights={"w": 1}),
        lambda content: content["weights"].update(w=torch.tensor([torch.inf])),
        lambda content: content.update(adam=7),
        lambda content: content.update(scaler=None),
        lambda content: content.update(config=None),
        lambda content: content.update(data={}),
        lambda content: content.update(data=[1]),
        lambda content: content.update(best=[1]),
        lambda content: content.update(best={"step": 1}),
        lambda content: content.update(best={"step": 1, "seconds": 1.0, "score": float("nan"), "weights": {}}),
        lambda content: content.update(best={"step": 1, "seconds": 1.0, "score": 0.5, "weights": {"w": 1}}),
    ],
)
def test_another_structure_is_refused_in_one_sentence(spoil: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = write(tmp_path)
    content = torch.load(path, weights_only=True)
    replaced = spoil(content)
    torch.save(replaced if isinstance(replaced, list) else content, path)
    with pytest.raises(RunError) as error:
        read_checkpoint(tmp_path, CONFIG, DATA)
    assert str(error.value).startswith(f"train: {path} must be a checkpoint of this program, got a file that does not")
    assert "\n" not in str(error.value)
