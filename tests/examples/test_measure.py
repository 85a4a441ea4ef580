"""Tasks of known information, the staircase on them, and the check of trained critics."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blan_layers import BilinearCritic, DotProductCritic, GlobalCritic, SeparableCritic
from blan_layers import functional as F
from mutual_information import held_out
from mutual_information.estimators import (
    ESTIMATORS,
    OBJECTIVES,
    CriticName,
    ObjectiveName,
    build_critic,
    build_objective,
    fake,
    real,
    score,
)
from mutual_information.measure import main
from mutual_information.picture import smoothed
from mutual_information.staircase import Staircase, climb, jobs
from mutual_information.summary import summarise
from mutual_information.tasks import DEGREES_OF_FREEDOM, TASKS, TaskName, common_scale_information, correlation

TINY = [
    *("--dimensions", "2", "--levels", "1", "2", "--steps", "200", "--hidden-channels", "64", "--lr", "5e-3"),
    *("--workers", "1", "--tasks", "gaussian", "spatial"),
]
PAIR = Staircase(levels=(1.0,), steps=3, batch_size=8, dimensions=2, critic="separable", hidden_channels=8, lr=1e-3)


def gaussian_ratio(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """Return log p(x, y) / p(x) p(y) of correlated Gaussians, from the quadratic forms."""
    form = (x.square() - 2 * rho * x * y + y.square()) / (1 - rho**2) - x.square() - y.square()
    return -form.sum(1) / 2 - x.shape[1] / 2 * math.log(1 - rho**2)


def student_log_density(squared_norm: Tensor, dimensions: int, log_det: float) -> Tensor:
    nu = DEGREES_OF_FREEDOM
    constant = math.lgamma((nu + dimensions) / 2) - math.lgamma(nu / 2) - dimensions / 2 * math.log(nu * math.pi)
    return constant - log_det / 2 - (nu + dimensions) / 2 * torch.log1p(squared_norm / nu)


def log_ratio(task: TaskName, x: Tensor, y: Tensor, information: float) -> Tensor:
    """Return the log density ratio of what a task drew, written independently of it."""
    d = x.shape[1]
    if task == "cubed":
        y = y.sign() * (y.abs() * math.sqrt(15)) ** (1 / 3)
    if task != "student":
        return gaussian_ratio(x, y, correlation(information, d))
    x, y = (side * math.sqrt(DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2)) for side in (x, y))
    rho = correlation(information - TASKS["student"].least(d), d)
    both = ((x.square() - 2 * rho * x * y + y.square()) / (1 - rho**2)).sum(1)
    alone = [student_log_density(side.square().sum(1), d, 0.0) for side in (x, y)]
    return student_log_density(both, 2 * d, d * math.log(1 - rho**2)) - alone[0] - alone[1]


class TestTasks:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("information", [1.0, 6.0])
    def test_the_mean_log_density_ratio_is_the_information(self, task: TaskName, information: float) -> None:
        x, y = TASKS[task].draw(40_000, 4, information, torch.Generator().manual_seed(0))
        for place in x.double().flatten(2).unbind(2) if TASKS[task].maps else [x.double()]:
            ratio = log_ratio(task, place, y.double(), information)
            assert abs(ratio.mean() - information) < 4 * ratio.std() / math.sqrt(len(ratio))
            if information == 1:  # its mean under independence is one
                assert ratio.neg().exp().mean() == pytest.approx(1, abs=0.1)

    @pytest.mark.parametrize("task", TASKS)
    def test_variables_have_mean_zero_and_variance_one(self, task: TaskName) -> None:
        for side in TASKS[task].draw(100_000, 2, 3.0, torch.Generator().manual_seed(1)):
            assert side.mean().item() == pytest.approx(0, abs=0.02)
            assert side.std().item() == pytest.approx(1, abs=0.05)

    def test_the_common_scale_tells_what_integration_says(self) -> None:
        u = (np.arange(1500) + 0.5) / 1500 * 2 - 1
        z, jacobian = np.tan(u * np.pi / 2), np.pi / 2 / np.cos(u * np.pi / 2) ** 2 * (2 / 1500)
        nu = DEGREES_OF_FREEDOM
        one = math.exp(math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2)) / math.sqrt(nu * math.pi)
        alone = one * (1 + z**2 / nu) ** (-(nu + 1) / 2)
        both = (1 + (z[:, None] ** 2 + z[None] ** 2) / nu) ** (-(nu + 2) / 2) / (2 * math.pi)
        integral = (both * np.log(both / (alone[:, None] * alone[None])) * jacobian[:, None] * jacobian[None]).sum()
        assert common_scale_information(nu, 1, 1) == pytest.approx(integral, rel=1e-4)
        assert common_scale_information(10**6, 3, 2) == pytest.approx(0, abs=1e-4)  # Gaussians in the limit


class TestEstimators:
    def test_real_pairs_are_on_the_diagonal_and_fake_ones_everywhere_else(self) -> None:
        logits = torch.arange(18.0).view(2, 3, 3)
        assert real(logits).tolist() == [[0, 4, 8], [9, 13, 17]]
        assert sorted(fake(logits).flatten().tolist()) == [1, 2, 3, 5, 6, 7, 10, 11, 12, 14, 15, 16]

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_what_is_maximised_is_what_its_name_says(self, name: ObjectiveName) -> None:
        logits = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(build_objective(name)(logits), OBJECTIVES[name](logits))

    def test_estimates_of_a_critic_that_tells_nothing_are_none(self) -> None:
        for name, estimator in ESTIMATORS.items():
            zero = torch.full((4, 4), 1.0 if name == "nwj" else 0.0)  # the best critic of NWJ is 1 + log r
            assert estimator.estimate(zero).item() == pytest.approx(0, abs=1e-6), name

    def test_no_estimate_passes_its_cap(self) -> None:
        sure = 1e3 * torch.eye(8) + 20
        for name in ("infonce", "alpha"):
            estimator = ESTIMATORS[name]
            logits = sure if name == "infonce" else torch.eye(8) * 50 - 10
            assert estimator.estimate(logits).item() <= estimator.cap(8) + 1e-5
        assert ESTIMATORS["infonce"].estimate(sure).item() == pytest.approx(math.log(8))

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("separable", SeparableCritic),
            ("concat", GlobalCritic),
            ("dot-product", DotProductCritic),
            ("bilinear", BilinearCritic),
        ],
    )
    @pytest.mark.parametrize("maps", [False, True])
    def test_critics_start_by_scoring_all_pairs_alike_and_learn(self, name: CriticName, kind: type, maps: bool) -> None:
        critic = build_critic(name, (3, 3), None if name == "bilinear" else 8, maps=maps)
        assert isinstance(critic, kind) or (maps and name == "concat")
        x, y = torch.randn(16, 3, 2, 2) if maps else torch.randn(16, 3), torch.randn(16, 3)
        logits = score(critic, x, y)
        assert logits.shape == ((2, 2, 16, 16) if maps else (16, 16))
        assert not logits.any()
        F.jsd_objective(real(logits), fake(logits)).neg().backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in critic.parameters())

    def test_a_width_for_the_bilinear_critic_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"bilinear critic has no hidden layers, got hidden_channels=8\. Leave it out"
        ):
            build_critic("bilinear", (2, 2), 8)


class TestStaircase:
    def test_estimators_of_one_objective_share_a_training(self) -> None:
        todo = jobs(["gaussian"], ["jsd", "infonce", "smile"], [0, 1])
        assert [(job.objective, job.seed, job.estimators) for job in todo] == [
            ("jsd", 0, ("jsd", "smile")),
            ("infonce", 0, ("infonce",)),
            ("jsd", 1, ("jsd", "smile")),
            ("infonce", 1, ("infonce",)),
        ]

    def test_a_training_is_a_function_of_its_seed(self) -> None:
        first, again, other = (climb(jobs(["spatial"], ["mine"], [seed])[0], PAIR)["mine"] for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_rows_say_bias_deviation_and_error_of_the_last_quarter(self) -> None:
        run = np.concatenate([np.full(12, 99.0), [1.0, 1.0, 3.0, 3.0]])[None]
        (row,) = summarise({("gaussian", "nwj"): [run, run]}, [1.0])
        assert (row.truth, row.bias, row.std, row.rmse) == pytest.approx((1, 1, 1, math.sqrt(2)))

    def test_the_running_mean_starts_at_the_first_value_and_keeps_a_constant(self) -> None:
        assert smoothed(np.full(5, 2.0), 3).tolist() == pytest.approx([2.0] * 5)
        steps = smoothed(np.array([0.0, 1.0, 1.0, 1.0]), 1)
        assert steps.tolist() == pytest.approx([1 - math.exp(-k) for k in range(4)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a tiny run."""
    folder = tmp_path_factory.mktemp("measured")
    assert main([*TINY, "--estimators", "infonce", "jsd", "certificate", "--output", str(folder)]) == 0
    return folder


class TestCommand:
    def test_a_tiny_run_finds_the_steps_and_writes_table_and_picture(self, measured: Path) -> None:
        content = json.loads((measured / "measure.json").read_text())
        rows = {(row["task"], row["estimator"], row["truth"]): row for row in content["rows"]}
        assert len(rows) == 2 * 3 * 2
        for (_, name, truth), row in rows.items():
            assert row["rmse"] == pytest.approx(math.hypot(row["bias"], row["std"]))
            if name != "certificate":
                assert abs(row["bias"]) < 0.25 * truth, row
            else:
                assert -0.75 * truth < row["bias"] < 0, row
        assert (measured / "measure.md").read_text().startswith("| task | estimator | 1 nats | 2 nats |")
        assert (measured / "staircase.png").stat().st_size > 10_000

    def test_results_are_replaced_only_when_told_to(self, measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (measured / "measure.json").read_text()
        options = [*TINY, "--estimators", "nwj", "--steps", "2", "--output", str(measured)]
        assert main(options) == 1
        assert "the output folder must not contain results, got measure.json, measure.md, staircase.png in" in " ".join(
            capsys.readouterr().err.split()
        )
        assert (measured / "measure.json").read_text() == before

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--levels", "1", "1"],
                "--levels must name at least one value, each once, got 1.0 1.0. Name one or more, none twice.",
            ),
            (["--steps", "0"], "--steps must be at least 1, got 0. Raise it."),
            (["--batch-size", "1"], "--batch-size must be at least 2, got 1. Raise it."),
            (["--workers", "0"], "--workers must be at least 1, got 0. Raise it."),
            (["--lr", "0"], "--lr must be a positive number, got 0.0. Give a number above 0."),
            (["--seeds", "-1"], "--seeds must be at least 0 and below 2**63, got -1. Give another."),
            (
                ["--critic", "bilinear", "--hidden-channels", "4"],
                "--hidden-channels has no effect with --critic bilinear, got 4. Leave it out.",
            ),
            (
                ["--levels", "0.4", "2"],
                "--levels must be above 0.558 nats for the task student in 20 dimensions, got 0.4 2. Raise them, or "
                "leave the task out.",
            ),
        ],
    )
    def test_settings_that_cannot_be_are_refused(
        self, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "out"
        assert main([*options, "--output", str(folder)]) == 1
        assert message in " ".join(capsys.readouterr().err.split())
        assert not folder.exists()

    def test_a_training_that_diverges_says_where(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = [*TINY[:-3], "--tasks", "gaussian", "--estimators", "nwj", "--lr", "1e30", "--workers", "1"]
        assert main([*options, "--output", str(tmp_path)]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "measure: estimates must stay finite, got" in error
        assert "from nwj on gaussian, seed 0. Lower --lr." in error

    def test_what_is_stopped_leaves_no_results_and_no_processes(self, tmp_path: Path, repository: Path) -> None:
        script = repository / "examples" / "mutual_information" / "measure.py"
        command = [
            sys.executable,
            str(script),
            "--steps",
            "100000",
            "--workers",
            "2",
            "--output",
            str(tmp_path / "out"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not (tmp_path / "out").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)  # which waits for all who hold the pipe
        assert process.returncode == 128 + signal.SIGTERM
        assert "Stopped; nothing was written." in errors.decode()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


class TestHeldOut:
    def test_a_trained_critic_is_near_the_truth_on_pairs_that_it_has_not_seen(self) -> None:
        recipe = held_out.RECIPES["jsd"]._replace(steps=250, hidden_channels=64, batch_size=256)
        outcome = held_out.held_out(held_out.Case("jsd", 1.0, 0), recipe)
        assert abs(outcome.error) < 0.15

    def test_the_table_tells_whether_all_are_within_the_limit(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(held_out, "held_out", lambda case: held_out.Outcome(case, case.information - 0.1))
        options = ["--workers", "1", "--seeds", "0"]
        assert held_out.main(options) == 0
        assert "Largest error 0.100 nats, limit 0.15" in capsys.readouterr().out
        assert held_out.main([*options, "--limit", "0.05"]) == 1

        def failed(case: held_out.Case) -> held_out.Outcome:
            return held_out.Outcome(case, math.nan if case.objective == "nwj" else case.information)

        monkeypatch.setattr(held_out, "held_out", failed)
        assert held_out.main(options) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--levels", "0"], "--levels must be above 0 and finite, got 0.0. Give, say, 0.5."),
            (["--levels", "1", "nan"], "--levels must be above 0 and finite, got nan. Give, say, 0.5."),
            (["--limit", "nan"], "--limit must be above 0 and finite, got nan. Give, say, 0.5."),
            (["--seeds", "1", "1"], "--seeds must name at least one value, each once, got 1 1. Name one or more"),
            (["--seeds", "-1"], "--seeds must be at least 0 and below 2**63, got -1. Give another."),
            (["--workers", "0"], "--workers must be at least 1, got 0. Raise it."),
        ],
    )
    def test_settings_that_cannot_be_are_refused(
        self, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert held_out.main(options) == 1
        assert message in " ".join(capsys.readouterr().err.split())
