"""The information between a user's two arrays: what is measured, how sure it is, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from mutual_information.arrays import ArraysError, read
from mutual_information.between import main
from mutual_information.estimators import ESTIMATORS, EstimatorName, fake, real
from mutual_information.information import Information, information_between
from mutual_information.resampling import bootstrap, effective_pairs, weighed
from mutual_information.tasks import TASKS, correlation

RESAMPLED: list[EstimatorName] = [name for name in get_args(EstimatorName) if name != "alpha"]
FAST: dict[str, Any] = {"seeds": (0,), "max_steps": 250, "lr": 3e-3, "shuffled": False}


def gaussian(rows: int, dimensions: int, information: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    return TASKS["gaussian"].draw(rows, dimensions, information, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Gaussians that share a nat, in units of their own."""
    x, y = gaussian(3000, 2, 1.0)
    return 40 + 1e3 * x.double().numpy(), 1e-4 * y.double().numpy()


@pytest.fixture(scope="module")
def found(arrays: tuple[np.ndarray, np.ndarray]) -> Information:
    return information_between(*arrays, seeds=(0, 1), lr=3e-3)


class TestMeasuring:
    def test_gaussians_show_their_information(self, found: Information) -> None:
        assert found.value == pytest.approx(1, abs=0.15)
        assert found.low < found.value < found.high
        assert found.high - found.low < 0.3
        assert found.value == pytest.approx(sum(found.by_seed) / 2)
        assert found.kind == "lower bound"
        assert found.cap == pytest.approx(math.log(900))
        assert found.pairs == (1500, 600, 900)
        assert found.warnings == ()

    def test_shuffled_pairs_show_none(self, found: Information) -> None:
        assert found.shuffled is not None
        assert found.shuffled.value == pytest.approx(0, abs=0.05)
        assert found.shuffled.high < found.low

    def test_it_is_told_in_words(self, found: Information) -> None:
        text = str(found)
        assert f"{found.value:.3f} nats, 95 % interval {found.low:.3f} to {found.high:.3f}" in text
        assert "InfoNCE: a lower bound, so that the information may be more, at most 6.80 nats." in text
        assert "Pairs: 1,500 to train, 600 to stop, 900 held out." in text
        assert "neither how critics of other training pairs would differ" in text
        assert json.loads(json.dumps(found.as_json()))["pairs"] == {"train": 1500, "stopping": 600, "held_out": 900}

    def test_bits_are_nats_over_log_2(self, arrays: tuple[np.ndarray, np.ndarray]) -> None:
        nats, bits = (information_between(*arrays, units=units, **FAST) for units in ("nats", "bits"))
        for name in ("value", "low", "high", "cap"):
            assert getattr(bits, name) == pytest.approx(getattr(nats, name) / math.log(2))
        assert "bits, 95 % interval" in str(bits)

    def test_tensors_and_single_columns_will_do_and_the_callers_draws_stay_theirs(self) -> None:
        x, y = gaussian(600, 1, 1.0)
        state = torch.get_rng_state()
        result = information_between(x[:, 0], y.double(), critic="bilinear", **FAST)
        assert torch.equal(state, torch.get_rng_state())
        again = information_between(x.numpy(), y[:, 0].numpy(), critic="bilinear", **FAST)
        assert result.value == pytest.approx(again.value)

    @pytest.mark.parametrize("estimator", [name for name in RESAMPLED if name != "infonce"])
    def test_other_estimators_find_it_too(
        self, arrays: tuple[np.ndarray, np.ndarray], estimator: EstimatorName
    ) -> None:
        result = information_between(*arrays, estimator=estimator, **FAST)
        least, most = (0.5, 0.95) if estimator == "certificate" else (0.7, 1.25)
        assert least < result.value < most
        assert result.cap is None
        assert ESTIMATORS[estimator].kind == result.kind

    def test_progress_is_told(self, arrays: tuple[np.ndarray, np.ndarray]) -> None:
        lines: list[str] = []
        options = FAST | {"seeds": (3, 4), "shuffled": True, "max_steps": 1}
        information_between(*(side[:200] for side in arrays), progress=lines.append, **options)
        assert lines == ["pairs, seed 3", "pairs, seed 4", "shuffled pairs, seed 3", "shuffled pairs, seed 4"]


class TestWarnings:
    def test_an_estimate_near_its_cap_says_so(self) -> None:
        result = information_between(*gaussian(2000, 4, 8.0), candidates=32, **FAST)
        assert result.cap == pytest.approx(math.log(32))
        assert any(
            "within 1 nat of the most that InfoNCE can show. The information may be far more" in line
            for line in result.warnings
        )
        assert "Warning: the value is within 1 nat" in str(result)

    def test_a_mean_of_exponentials_that_rests_on_few_pairs_says_so(self) -> None:
        result = information_between(*gaussian(800, 4, 8.0), estimator="nwj", **FAST)
        assert any("the mean of exponentials rests on about" in line for line in result.warnings)

    def test_none_is_told_from_some(self) -> None:
        x, _ = gaussian(1500, 2, 1.0)
        result = information_between(x, gaussian(1500, 2, 1.0, seed=9)[1], **FAST)
        assert "the value cannot be told from none." in result.warnings
        assert result.value < 0.05

    def test_training_that_was_cut_short_says_so(self, arrays: tuple[np.ndarray, np.ndarray]) -> None:
        result = information_between(*arrays, **FAST | {"max_steps": 5})
        assert "training was ended by max_steps while it still improved. Raise max_steps." in result.warnings


class TestBootstrap:
    @pytest.mark.parametrize("name", RESAMPLED)
    def test_equal_weights_give_the_library_s_estimate(self, name: EstimatorName) -> None:
        logits = 2 * torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits = logits + 6 * torch.eye(12) - 3
        value, resamples = bootstrap(name, logits, seed=0)
        assert value == pytest.approx(ESTIMATORS[name].estimate(logits).item())
        assert resamples.shape == (1000,)
        assert torch.equal(resamples, bootstrap(name, logits, seed=0)[1])
        assert not torch.equal(resamples, bootstrap(name, logits, seed=1)[1])

    @pytest.mark.parametrize("name", RESAMPLED)
    def test_a_pair_without_weight_is_as_if_it_were_not_there(self, name: EstimatorName) -> None:
        logits = torch.randn(1, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weights = torch.tensor([[[2.0, 2, 2, 2, 2, 2, 0, 0, 0]]], dtype=torch.float64)
        rest = ESTIMATORS[name].estimate(logits[:, :6, :6]).item()
        if name == "infonce":  # which keeps its number of candidates, by weight
            p, others = real(logits)[0, :6], fake(logits[:, :6, :6])[0]
            mean = logits[0, :6, :6].masked_fill(torch.eye(6, dtype=torch.bool), -math.inf).logsumexp(1) - math.log(5)
            assert others.numel() == 30
            rest = (math.log(9) + p - p.logaddexp(mean + math.log(8))).mean().item()
        assert weighed(name, logits, weights).item() == pytest.approx(rest)

    @pytest.mark.parametrize("name", ["infonce", "nwj", "jsd", "certificate"])
    def test_its_deviation_is_that_of_new_pairs(self, name: EstimatorName) -> None:
        rho, estimates, deviations = correlation(1.0, 2), [], []
        x, y = (side.double().view(150, 2, 64, 2) for side in gaussian(150 * 128, 2, 1.0))
        norms = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
        ratios = (rho * x @ y.mT - rho**2 * norms / 2) / (1 - rho**2) + 1.0
        for place, ratio in enumerate(ratios + (name == "nwj")):
            value, resamples = bootstrap(name, ratio, seed=place) if place < 40 else (None, None)
            estimates.append(ESTIMATORS[name].estimate(ratio).item())
            if value is not None and resamples is not None:
                deviations.append(resamples.std().item())
        assert np.mean(deviations) == pytest.approx(np.std(estimates), rel=0.25)

    def test_effective_pairs_count_equal_ones_and_no_others(self) -> None:
        assert effective_pairs(torch.zeros(2, 5, 5) + 3) == pytest.approx(2 * 20)
        assert effective_pairs(torch.eye(5) * 50) == pytest.approx(20)
        one = torch.zeros(5, 5)
        one[0, 1] = 50
        assert effective_pairs(one) == pytest.approx(1)


ONES = np.arange(100.0)
BAD: list[tuple[Callable[[], tuple[Any, Any]], type[Exception], str]] = [
    (
        lambda: (ONES, ONES[:90]),
        ArraysError,
        "x and y must have a row for each pair, got 100 and 90 rows. Pair them row by row first.",
    ),
    (
        lambda: (ONES[:50], ONES[:50]),
        ArraysError,
        "needs at least 100 rows to train and to hold some out, got 50. Gather more pairs.",
    ),
    (
        lambda: (ONES, np.where(ONES == 7, np.nan, ONES)),
        ArraysError,
        "y must be finite, got nan in row 7, column 0 (1 such in all). Leave these rows out of both arrays, or fill "
        "them in.",
    ),
    (
        lambda: (np.stack([ONES, np.where(ONES > 97, -np.inf, ONES)], 1), ONES),
        ArraysError,
        "x must be finite, got -inf in row 98, column 1 (2 such in all).",
    ),
    (
        lambda: (np.stack([ONES, 0 * ONES + 3], 1), ONES),
        ArraysError,
        "x must vary in every column, got 3 throughout column 1. Leave it out: a constant tells nothing.",
    ),
    (
        lambda: (ONES, np.array(["red", "green"] * 50)),
        TypeError,
        "y must hold real numbers, got dtype <U5. Encode categories as columns of zeros and ones.",
    ),
    (lambda: (ONES.astype(object), ONES), TypeError, "x must hold real numbers, got dtype object."),
    (lambda: (ONES + 1j, ONES), TypeError, "x must hold real numbers, got dtype complex128."),
    (
        lambda: (np.zeros((100, 2, 2)), ONES),
        ArraysError,
        "x must be (n,) or (n, d) with d >= 1, got shape (100, 2, 2). Flatten what belongs to a row.",
    ),
    (lambda: (np.zeros((100, 0)), ONES), ArraysError, "x must be (n,) or (n, d) with d >= 1, got shape (100, 0)."),
]

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"estimator": "alpha"},
        "estimator must be one of 'infonce', 'nwj', 'dv', 'mine', 'jsd', 'smile', 'certificate', got",
    ),
    ({"critic": "deep"}, "critic must be one of 'separable', 'concat', 'dot-product', 'bilinear', got 'deep'."),
    ({"units": "bans"}, "units must be one of 'nats', 'bits', got 'bans'. Pass one of those."),
    ({"seeds": ()}, "seeds must be different numbers from 0 on, got (). Pass one or more."),
    ({"seeds": (1, 1)}, "seeds must be different numbers from 0 on, got (1, 1)."),
    ({"held_out": 0.8}, "held_out and stopping must be above 0 and leave pairs to train on, got 0.8 and 0.2."),
    ({"confidence": 95}, "confidence must be between 0 and 1, got 95. Pass 0.95."),
    ({"candidates": 1}, "candidates must be at least 2, got 1. Raise it."),
    ({"batch_size": 1}, "batch_size must be at least 2, got 1. Raise it."),
    ({"max_steps": 0}, "max_steps must be at least 1, got 0. Raise it."),
    ({"lr": -1.0}, "lr must be a positive number, got -1.0. Pass, for example, 1e-3."),
    ({"hidden_channels": 0}, "hidden_channels must be at least 1, got 0. Pass None for the default."),
    (
        {"hidden_channels": 8, "critic": "bilinear"},
        "hidden_channels must be left out for the bilinear critic, got 8. Pass None for the default.",
    ),
    (
        {"held_out": 0.01},
        "every part must have at least 10 pairs, got 79 to train, 20 to stop and 1 to score with one another. Change "
        "held_out, stopping or candidates.",
    ),
    ({"lr": 1e30, "estimator": "nwj"}, "training must stay finite, got estimates of"),
]


class TestRefusals:
    @pytest.mark.parametrize(("arrays", "error", "message"), BAD)
    def test_arrays(self, arrays: Callable[[], tuple[Any, Any]], error: type[Exception], message: str) -> None:
        with pytest.raises(error) as raised:
            information_between(*arrays())
        assert str(raised.value).startswith("information_between: ")
        assert message in str(raised.value)

    @pytest.mark.parametrize(("options", "message"), WRONG)
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError) as raised:  # noqa: PT011  # the text is compared below
            information_between(ONES, ONES**2, **options)
        assert message in str(raised.value)


class TestCommand:
    def test_files_of_either_kind_say_the_same(
        self, tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
    ) -> None:
        x, y = (side[:400] for side in arrays)
        np.save(tmp_path / "x.npy", x)
        lines = ["first,second", *(f"{a!r},{b!r}" for a, b in y.tolist())]
        (tmp_path / "y.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
        (tmp_path / "y.tsv").write_text("\n".join(line.replace(",", "\t") for line in lines[1:]))
        assert np.array_equal(read(tmp_path / "y.csv"), y)
        assert np.array_equal(read(tmp_path / "y.tsv"), y)
        options = ["--seeds", "0", "--max-steps", "50", "--no-shuffled", "--json", str(tmp_path / "found.json")]
        assert main([str(tmp_path / "x.npy"), str(tmp_path / "y.csv"), *options]) == 0
        content = json.loads((tmp_path / "found.json").read_text())
        assert content == json.loads(
            json.dumps(information_between(x, y, seeds=(0,), max_steps=50, shuffled=False).as_json())
        )
        assert f"{content['value']:.3f} nats, 95 % interval" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("x.txt", "1\n", "between: files must be .npy, .csv or .tsv, got"),
            ("x.npy", "no array", "must hold an array of numbers, got a file that does not load"),
            ("x.csv", "", "must hold a table of numbers, got an empty file. Check the path."),
            ("x.csv", "a,b\n", "must hold a table of numbers, got a header alone. Check the file."),
            (
                "x.csv",
                "a,b\n1,2\n3\n",
                "must have 2 fields in every line, as in its first, got 1 in line 3. Mend that line.",
            ),
            (
                "x.csv",
                "size,colour\n1,2\n3,red\n",
                "must hold numbers, got 'red' in line 3, column 'colour'. Encode categories as columns of zeros and "
                "ones, or leave the column out.",
            ),
            ("x.tsv", "1\t2\n3\tred\n", "must hold numbers, got 'red' in line 2, column 1."),
            ("x.csv", "1\n\n2\n", "needs at least 100 rows to train and to hold some out, got 2."),
            ("x.csv", "1\n" * 99 + ",\n", "must have 1 fields in every line, as in its first, got 2 in line 100."),
            ("x.csv", "1,2\n" * 99 + "1,\n", "x must be finite, got nan in row 99, column 1 (1 such in all)."),
        ],
    )
    def test_files_that_cannot_be_are_refused(
        self, tmp_path: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_text(content)
        assert main([str(tmp_path / name)] * 2) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert error.startswith("error: ")
        assert message in error

    def test_a_file_that_is_not_there_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]) == 1
        assert "No such file or directory" in capsys.readouterr().err

    def test_an_array_of_objects_is_never_unpickled(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object))
        assert main([str(tmp_path / "x.npy")] * 2) == 1
        assert "must hold an array of numbers" in " ".join(capsys.readouterr().err.split())
