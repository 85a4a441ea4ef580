"""The command that measures loading apart from training."""

import io

import pytest
from rich.console import Console

from blan_facial.config import parse
from blan_facial.loading import Rates, Settings, main, measure, table_of

SMALL = ["--images", "32", "--image-size", "32", "--width", "4", "--batch-size", "8", "--accelerator", "cpu"]


def test_both_are_measured_each_by_itself() -> None:
    rates = measure(Settings(workers=(0, 1), seconds=0.1), parse(SMALL), Console(quiet=True))
    assert set(rates.loading) == {0, 1}
    assert min(*rates.loading.values(), rates.training) > 1


def test_the_table_says_who_waits() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table_of(Rates({0: 100.0, 1: 75.0, 2: 200.0}, 100.0)))
    rows = [line.split("\u2502")[1:-1] for line in console.export_text().splitlines() if line.startswith("\u2502")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["0", "100", "100", "training, for 50 % of the time"],
        ["1", "75", "75", "training, for 25 % of the time"],
        ["2", "200", "100", "the workers"],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--seconds", "0"],
            "loading: needs a time above 0 and numbers of workers of 0 or more, got --seconds 0.0 and",
        ),
        (["--workers", "-1"], "got --seconds 5.0 and --workers -1. Correct them."),
        (["--", "--data", "celeba"], "train: --data celeba needs --data-root, got none."),
        (["--", *SMALL, "--batch-size", "64"], "EpochBatches: batch_size must be at most the number of images, 32,"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 1
    assert message in capsys.readouterr().err


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers", "0", "--seconds", "0.05", "--", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "Training images a second" in printed
    assert "The model by itself trains on" in printed
