"""What the tests of the pages share: a run."""

import shutil
from pathlib import Path

import pytest

from blan_facial.train import main as train

TINY = [
    *("--images", "48", "--image-size", "32", "--width", "4", "--summary-channels", "8", "--critic-channels", "8"),
    *("--batch-size", "16", "--epochs", "2", "--warmup-steps", "0", "--accelerator", "cpu"),
]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of BLAN; it must stay as it is."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train([*TINY, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def _without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare page and pictures where a test looks at something else."""
    monkeypatch.setattr("blan_facial.train.write_report", lambda *_, **__: None)


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))
