"""Several devices: two processes on this machine's CPU do what one does, and end together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.elastic.utils.distributed import get_free_port

from blan_facial.config import ConfigError, parse
from blan_facial.evaluate import main as evaluate
from blan_facial.machines.devices import ENVIRONMENT, layout
from blan_facial.machines.launching import LOST, follow_launcher, launch
from blan_facial.machines.sharding import load_whole_states, whole_states
from blan_facial.train import main
from shared.program import SIGNALS, handling_signals, run_program
from tests.examples.two_devices import SMALL


@pytest.fixture(scope="module")
def folders(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What two processes left that ran ``two_devices.py``, and what each of them said."""
    folder = tmp_path_factory.mktemp("devices")
    script = str(repository / "tests" / "examples" / "two_devices.py")
    place = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(get_free_port()),
        "PYTHONPATH": os.pathsep.join([str(repository / "examples"), str(repository)]),
        "OMP_NUM_THREADS": "1",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [run.communicate(timeout=600) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    for run, (_, errors) in zip(runs, said, strict=True):
        assert run.returncode == 0, errors
    return folder, [output for output, _ in said]


def test_a_run_stopped_by_a_signal_to_one_process_ends_as_the_one_that_was_not(
    folders: tuple[Path, list[str]],
) -> None:
    folder, said = folders
    through, stopped = (load_file(folder / name / "model.safetensors") for name in ("through", "stopped"))
    assert all(torch.equal(stopped[name], value) for name, value in through.items())
    assert "Training was stopped by SIGTERM after step 3 and saved" in " ".join(said[0].split())
    assert not said[1], "the first process alone prints"


def test_metrics_are_written_once_and_are_those_of_one_process(folders: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = folders[0] / "through"
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 64
    assert evaluate([str(folder), "--output", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == metrics
    lines = (folder / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    step, total = (lines[0].split(",").index(name) for name in ("step", "total"))
    losses = [int(cells[step]) for cells in (line.split(",") for line in lines[1:]) if cells[total]]
    assert losses == [*range(8)], "every step's losses are logged once"
    assert {path.name for path in (folder / "logs").iterdir()} == {"version_0"}


def test_a_sharded_run_is_gone_on_with_by_one_process(folders: tuple[Path, list[str]]) -> None:
    folder = folders[0] / "sharded"
    content = torch.load(folder / "last.ckpt", weights_only=True)
    assert content["position"]["step"] == 2
    assert content["weights"]["model.encoder.conv1.weight"].shape == (4, 3, 7, 7)
    assert main([*SMALL, "--devices", "1", "--output", str(folder), "--resume", "--max-steps", "3"]) == 0
    assert torch.load(folder / "last.ckpt", weights_only=True)["position"]["step"] == 3


def test_a_killed_process_ends_the_run_and_leaves_a_checkpoint_to_go_on_from(repository: Path, tmp_path: Path) -> None:
    script = str(repository / "examples" / "blan_facial" / "train.py")
    options = [*SMALL, "--epochs", "1000", "--output", str(tmp_path)]
    run = subprocess.Popen([sys.executable, script, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (tmp_path / "last.ckpt").exists():
        assert run.poll() is None, run.communicate()[1].decode()
        time.sleep(0.02)
    ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    errors = run.communicate(timeout=600)[1].decode()
    assert run.returncode == 128 + signal.SIGKILL
    assert errors == (
        "error: train: all processes must run to the end, got process 1 of 0 to 1, which was killed by SIGKILL. The "
        "others were stopped; the same command with --resume continues from the last checkpoint.\n"
    )
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["position"]["step"]
    assert main([*options, "--devices", "1", "--resume", "--max-steps", str(step + 1)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == 64


class TestLaunch:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def launched(self, code: str) -> int:
        """Launch two processes of a few lines, which is fast: they import no torch."""
        script = self.folder / "script.py"
        script.write_text(f"import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n{code}\n")
        return run_program("train", lambda _: launch(str(script), [str(self.folder)], 2))

    def wait_for(self, *names: str) -> None:
        deadline = time.monotonic() + 60
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_processes_are_told_their_place(self) -> None:
        names = [*ENVIRONMENT, "OMP_NUM_THREADS"]
        code = f"pathlib.Path(sys.argv[1], str(rank)).write_text(' '.join(os.environ[name] for name in {names}))"
        assert self.launched(code) == 0
        for rank in "01":
            assert (self.folder / rank).read_text().split()[:5] == [rank, "2", rank, "2", "127.0.0.1"]

    def test_a_failure_that_was_explained_is_returned_without_a_word(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.launched(f"sys.exit(1 if rank else {LOST})") == 1
        assert self.launched("time.sleep(60 * rank); sys.exit(130)") == 130
        assert not capfd.readouterr().err

    def test_another_failure_is_named_and_ends_the_others(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.launched("sys.exit(3) if rank else time.sleep(60)") == 3
        assert capfd.readouterr().err == (
            "error: train: all processes must run to the end, got process 1 of 0 to 1, which ended with status 3. "
            "The others were stopped; the same command with --resume continues from the last checkpoint.\n"
        )

    @pytest.mark.parametrize("number", SIGNALS)
    def test_a_signal_reaches_all_which_take_their_time(self, number: signal.Signals) -> None:
        def interrupt() -> None:
            self.wait_for("begun0", "begun1")
            os.kill(os.getpid(), number)

        threading.Thread(target=interrupt).start()
        code = """
def save(number, _):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], f"saved{rank}").touch()
    os._exit(0 if rank else 128 + number)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, save)
pathlib.Path(sys.argv[1], f"begun{rank}").touch()
time.sleep(60)
"""
        assert self.launched(code) == 128 + number
        self.wait_for("saved0", "saved1")

    def test_a_process_that_is_left_behind_asks_itself_to_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not follow_launcher()
        monkeypatch.setenv("BLAN_LAUNCHER", "1")
        came = threading.Event()
        with handling_signals(lambda *_: came.set()):
            assert follow_launcher()
            assert came.wait(10)


class TestWholeStates:
    def stepped(self) -> tuple[nn.Module, torch.optim.Adam]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        adam = torch.optim.Adam(module.parameters(), lr=0.1)
        module(torch.randn(4, 3)).square().sum().backward()
        adam.step()
        return module, adam

    def test_an_optimizer_without_a_state_takes_no_step(self) -> None:
        module = nn.Linear(3, 2)
        adam = torch.optim.Adam(module.parameters())
        weights, kept = whole_states(module, adam)
        assert weights.keys() == {"weight", "bias"}
        assert not kept
        assert not adam.state

    def test_loading_brings_back_all_but_the_options(self) -> None:
        module, adam = self.stepped()
        weights, kept = whole_states(module, adam)
        other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        theirs = torch.optim.Adam(other.parameters(), lr=0.2, foreach=False)
        load_whole_states(other, theirs, weights, kept)
        assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in other.state_dict().items())
        for mine, parameter in zip(module.parameters(), other.parameters(), strict=True):
            assert all(torch.equal(theirs.state[parameter][name], value) for name, value in adam.state[mine].items())
        assert (theirs.param_groups[0]["lr"], theirs.param_groups[0]["foreach"]) == (0.2, False)


class TestLayout:
    def test_of_this_machine(self) -> None:
        assert layout(parse(SMALL)) == (2, 1)
        assert layout(parse([*SMALL, "--devices", "auto"])) == (1, 1)

    def test_of_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ENVIRONMENT:
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert layout(parse([*SMALL, "--nodes", "2"])) == (2, 2)
        assert layout(parse([*SMALL, "--nodes", "2", "--devices", "auto"])) == (2, 2)
        with pytest.raises(
            ConfigError, match=r"^train: --nodes must agree with torchrun \(2\), got 1\. Give --nodes 2\.$"
        ):
            layout(parse(SMALL))
        with pytest.raises(
            ConfigError, match=r"^train: --devices must agree with torchrun \(2\), got 4\. Give --devices 2\.$"
        ):
            layout(parse([*SMALL, "--nodes", "2", "--devices", "4"]))
