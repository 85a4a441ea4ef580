"""What is damaged is read or refused: a few mutations of every file, and none that ends otherwise."""

from typing import get_args

import pytest

from blan_facial.config import ConfigError, parse
from tests.fuzz import Reader, fuzz, main


@pytest.mark.attack("15.12", "files of every reader are mutated")
@pytest.mark.parametrize("reader", get_args(Reader))
def test_mutations_are_read_or_refused(reader: Reader) -> None:
    outcome = fuzz(reader, seconds=60, mutations=15)
    assert outcome.faults == []
    assert outcome.read + outcome.refused == 15
    assert outcome.refused


def test_a_fault_ends_the_program_with_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("tests.fuzz.PATIENCE", 0.1)
    monkeypatch.setattr("multiprocessing.connection.Connection.poll", lambda *_: False)
    assert main(["--reader", "csv", "--mutations", "1"]) == 1
    assert "did not end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "most"),
    [("width", 4096), ("summary-channels", 65536), ("critic-channels", 65536), ("image-size", 8192)],
)
def test_sizes_that_no_machine_holds_are_refused(option: str, most: int) -> None:
    with pytest.raises(ConfigError, match=f"--{option} must be at most {most:,}, got 1000000000"):
        parse([f"--{option}", "1" + "0" * 30])
