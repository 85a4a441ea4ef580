"""Information between a user's arrays: what is measured, how sure it is, and what is refused."""

import json
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import silu

from blan_layers import functional as F
from blan_layers.estimation import InformationEstimate, information_between, joint, perceptrons
from blan_layers.estimation.arrays import Side
from blan_layers.estimation.bounds import Estimator, effective_pairs, infonce, weighted
from blan_layers.estimation.categories import entropy_at_most, information_at_most
from blan_layers.estimation.critics import Weighted, fit_critics
from blan_layers.estimation.gaussian import canonical_correlation, fit_gaussian
from blan_layers.estimation.independence import equalised, permutation_test
from blan_layers.estimation.joint import JointCritic, train_joint
from blan_layers.estimation.kernels import KernelCritic
from blan_layers.estimation.neighbours import nearest_neighbours
from blan_layers.estimation.parts import copies, folds, serial_dependence
from blan_layers.estimation.perceptrons import PerceptronCritic
from blan_layers.estimation.preprocessing import scale, untied_scores

Arrays = tuple[np.ndarray, np.ndarray]


def gaussian(rows: int, columns: int = 1, rho: float = 0.8, seed: int = 0) -> Arrays:
    x, noise = np.random.default_rng(seed).standard_normal((2, rows, columns))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def of_xarray(frame: pd.DataFrame) -> Any:
    """Return a data array of xarray, as far as one is read."""
    return SimpleNamespace(dims=("row", "column"), indexes={"row": frame.index}, to_pandas=lambda: frame)


class Polars:
    """A frame of polars, as far as one is read."""

    columns = ("a", "b")

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def to_numpy(self) -> np.ndarray:
        return self.values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


class LazyPolars:
    @property
    def columns(self) -> list[str]:
        warnings.warn("resolves its schema", stacklevel=2)
        return ["a"]


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own, of deprecation
        return torch.quantize_per_tensor(torch.arange(100.0), 1.0, 0, torch.quint8)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how well perceptrons are trained."""
    for trained in (joint, perceptrons):
        monkeypatch.setattr(trained, "MOST_STEPS", 25)
    monkeypatch.setattr(joint, "EVERY", 25)


@pytest.fixture(scope="module")
def found() -> InformationEstimate:
    x, y = gaussian(1500, 2, 0.7)
    return information_between(np.exp(3 * x), y**5)


class TestMeasuring:
    def test_long_tails_show_their_information(self, found: InformationEstimate) -> None:
        truth = -math.log(1 - 0.49)
        assert found.value == pytest.approx(truth, abs=0.1)
        assert found.low < truth < found.high < found.low + 0.3
        assert found.value == pytest.approx(np.mean(found.by_fold))
        assert found.p_value == pytest.approx(1 / 200)
        assert not found.saturated
        assert found.others["gaussian"] == pytest.approx(truth, abs=0.1)
        assert found.others["neighbours"] == pytest.approx(truth, abs=0.15)
        assert found.cap == pytest.approx(math.log(300))
        assert found.pairs == 1500
        assert found.warnings == ()

    def test_it_is_told_in_words(self, found: InformationEstimate) -> None:
        text = str(found)
        assert f"{found.value:.3f} nats, 95 % interval {found.low:.3f} to {found.high:.3f}; p = 0.005" in text
        assert "InfoNCE: a lower bound of the information, at most 5.70 nats." in text
        assert "1,500 pairs, each measured by a critic that was not trained on it." in text
        assert "It does not cover dependence that none of them can detect." in text
        assert json.loads(json.dumps(found.as_json()))["value"] == found.value
        assert "; p = 1\n" in str(replace(found, p_value=1.0))

    def test_one_outlier_does_not_matter(self, short: None) -> None:
        x, y = gaussian(500)
        plain = information_between(x, y)
        x[np.argmax(x)] = 1e8
        assert information_between(x, y).value == pytest.approx(plain.value, abs=0.01)

    def test_independent_pairs_show_none(self, short: None) -> None:
        found = [information_between(*gaussian(400, 3, 0.0, seed=seed), seed=seed) for seed in range(5)]
        assert any(each.value == 0 for each in found)
        assert all(-0.02 <= each.value <= 0.02 and each.low <= 0 <= each.high for each in found)
        assert any("cannot be distinguished from shuffled ones" in line for each in found for line in each.warnings)

    def test_the_same_seed_gives_the_same_and_the_caller_s_draws_stay_theirs(self, short: None) -> None:
        x, y = gaussian(300, 2)
        state, of_numpy = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
        first = information_between(x, y, seed=3)
        assert torch.equal(state, torch.get_rng_state())
        assert str(of_numpy) == str(np.random.get_state(legacy=False))  # noqa: NPY002  # the caller's global one
        assert first == information_between(x, y, seed=3)
        assert first.value != information_between(x, y, seed=4).value

    @pytest.mark.parametrize("columns", [1, 2])
    def test_the_caller_s_modes_do_not_matter(self, columns: int, short: None) -> None:
        x, y = gaussian(200, columns)
        alone = information_between(x, y)
        with torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            assert information_between(x, y) == alone
        usual = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            assert information_between(x, y) == alone
        finally:
            torch.set_default_dtype(usual)

    def test_many_columns_do_not_fall_below_the_uninformative_critic(self, short: None) -> None:
        x, noise = np.random.default_rng(0).standard_normal((2, 300, 128))
        found = information_between(x, x + noise)
        assert found.value >= -0.02
        assert all(math.isfinite(other) for other in found.others.values())

    def test_a_rare_value_is_measured(self, short: None) -> None:
        rng = np.random.default_rng(0)
        rare = rng.permutation(np.arange(400) < 4).astype(float)
        found = information_between(rare, rng.standard_normal(400))
        assert found.value == pytest.approx(0, abs=0.02)
        assert found.p_value > 0.05

    def test_bits_are_nats_over_log_2(self, short: None) -> None:
        x, y = gaussian(300)
        nats, bits = (information_between(x, y, units=units) for units in ("nats", "bits"))
        for name in ("value", "low", "high", "cap", "unlearnt"):
            assert getattr(bits, name) == pytest.approx(getattr(nats, name) / math.log(2))
        assert bits.others["gaussian"] == pytest.approx(nats.others["gaussian"] / math.log(2))
        assert "bits, 95 % interval" in str(bits)

    @pytest.mark.parametrize("estimator", [name for name in get_args(Estimator) if name != "infonce"])
    def test_other_estimators_find_it_too(self, estimator: Estimator, short: None) -> None:
        found = information_between(*gaussian(2000), estimator=estimator)
        assert found.value == pytest.approx(-math.log(0.6), abs=0.3 if estimator == "certificate" else 0.1)
        assert found.cap is None

    def test_a_cap_that_is_near_is_told(self, short: None) -> None:
        found = information_between(*gaussian(1000, rho=math.sqrt(1 - 1e-6)))
        assert found.saturated
        assert any("near the maximum that this many pairs can show, 5.30 nats" in line for line in found.warnings)

    def test_a_mean_of_exponentials_that_rests_on_few_pairs_says_so(self, short: None) -> None:
        found = information_between(*gaussian(500, rho=0.9999), estimator="nwj")
        assert any("the mean of exponentials depends on only about" in line for line in found.warnings)

    def test_sharp_edges_are_resolved_and_the_interval_covers_the_rest(self) -> None:
        rng = np.random.default_rng(0)
        x, truth = rng.uniform(size=2000), math.log(5) + 0.1
        found = information_between(x, x + rng.uniform(-0.1, 0.1, 2000))
        assert truth - 0.15 < found.critics < truth < found.high
        assert found.critics - 0.3 < found.low < found.critics
        assert found.critics < found.value == found.others["neighbours"] < truth + 0.05
        assert any("significantly less than nearest neighbours" in line for line in found.warnings)
        assert f"Nearest neighbours. Critics show {found.critics:.3f}. InfoNCE" in str(found)

    def test_the_upper_end_is_at_least_that_of_the_neighbours(
        self, short: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def known(x: torch.Tensor, y: torch.Tensor, discrete: tuple[bool, bool]) -> torch.Tensor:
            if len(x) < 200:
                return torch.full((len(x),), 0.8, dtype=torch.float64)
            return torch.tensor([0.5, 1.5], dtype=torch.float64).repeat(100)

        monkeypatch.setattr("blan_layers.estimation.information.nearest_neighbours", known)
        found = information_between(*gaussian(200, rho=0.5))
        factor = 1 / (math.sqrt(2) - 1)
        error = (1 + factor) * 0.5 / math.sqrt(199)
        assert found.high == pytest.approx(1 + factor * 0.2 + 1.96 * error, abs=1e-3)
        wide = information_between(*gaussian(200, 2, rho=0.5))
        assert wide.high < 1

    def test_what_neighbours_show_and_critics_miss_is_reported(self, short: None) -> None:
        rng = np.random.default_rng(0)
        x = rng.uniform(size=1000)
        pairs = x, np.sin(40 * x) + 0.1 * rng.standard_normal(1000)
        found = information_between(*pairs)
        assert found.value == found.others["neighbours"] > found.critics
        blocks = information_between(*pairs, blocks=2)
        assert blocks.value == blocks.critics
        assert any("nearest neighbours show more" in line for line in blocks.warnings)

    def test_rounding_does_not_mislead_neighbours(self, short: None) -> None:
        rounded = [side.round(1) for side in gaussian(1000, rho=0.0, seed=1)]
        independent = information_between(*rounded)
        assert independent.others["neighbours"] == pytest.approx(0, abs=0.06)
        assert independent.value == 0
        assert not any("nearest neighbours" in line for line in independent.warnings)
        coarse = [side.round(1) for side in gaussian(1000)]
        assert information_between(*coarse).others["neighbours"] == pytest.approx(-math.log(0.6), abs=0.1)

    def test_progress_grows_to_one(self, short: None) -> None:
        told: list[tuple[float, str]] = []
        information_between(*gaussian(200), progress=lambda done, what: told.append((done, what)))
        shares = [done for done, _ in told]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0, 1)

    @pytest.mark.parametrize("fill", [1e20, 1e40])
    def test_a_fill_value_does_not_overflow(self, fill: float, short: None) -> None:
        x, y = gaussian(200)
        x[7] = fill
        found = information_between(x, y, preprocess="standardise")
        assert all(math.isfinite(number) for number in (found.value, found.low, found.high))

    def test_standardised_columns_are_free_of_units(self, short: None) -> None:
        x, y = gaussian(400)
        plain = information_between(x, y, preprocess="standardise")
        assert plain.value == pytest.approx(-math.log(0.6), abs=0.15)
        scaled = information_between(1e300 * x, 1e-300 * y, preprocess="standardise")
        assert scaled.value == pytest.approx(plain.value, abs=1e-4)


PAIRS = gaussian(300, 2)


class TestKinds:
    """What may be measured, and that it is the same whatever holds it."""

    @pytest.fixture
    def value(self, short: None) -> float:
        return information_between(*PAIRS).value

    @pytest.mark.parametrize(
        "kind",
        [
            torch.from_numpy,
            lambda values: torch.from_numpy(values).requires_grad_(),
            lambda values: values.tolist(),
            lambda values: np.ma.masked_array(values, mask=False),
            lambda values: values[::-1][::-1],
            lambda values: pd.DataFrame(values, columns=["a", "b"]).convert_dtypes(),
        ],
        ids=["tensor", "with gradient", "list", "nothing masked", "view", "frame"],
    )
    def test_other_holders(self, kind: Callable[[np.ndarray], Any], value: float) -> None:
        assert information_between(*(kind(side) for side in PAIRS)).value == pytest.approx(value)

    def test_bfloat16(self, value: float) -> None:
        x, y = (torch.from_numpy(side).bfloat16() for side in PAIRS)
        assert information_between(x, y).value == pytest.approx(value, abs=0.05)

    @pytest.mark.parametrize("kind", [pd.DataFrame, of_xarray])
    def test_rows_are_paired_by_their_index(self, kind: Callable[[pd.DataFrame], Any], value: float) -> None:
        x, y = (pd.DataFrame(side, index=[f"row {r}" for r in range(300)]) for side in PAIRS)
        assert information_between(kind(x), kind(y.sample(frac=1, random_state=0))).value == pytest.approx(value)

    def test_files_are_mapped(self, value: float, tmp_path: Path) -> None:
        for name, side in zip("xy", PAIRS, strict=True):
            np.save(tmp_path / f"{name}.npy", side)
        mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
        assert information_between(*mapped).value == value

    def test_of_many_rows_some_are_drawn(self, short: None) -> None:
        found = information_between(*gaussian(1000), max_rows=300)
        assert found.pairs == 300
        assert "of 1,000 rows, 300 drawn at random were measured. Raise max_rows for more." in found.warnings

    def test_categories_by_their_names(self, short: None) -> None:
        rng = np.random.default_rng(0)
        codes = rng.integers(3, size=1200)
        x = 3.0 * codes + rng.standard_normal(1200)
        grid = np.linspace(-8, 14, 20001)
        densities = np.exp(-((grid - 3.0 * np.arange(3)[:, None]) ** 2) / 2) / math.sqrt(2 * math.pi)
        mixed = densities.mean(0)
        truth = np.trapezoid(-mixed * np.log(mixed + 1e-300), grid) - 0.5 * math.log(2 * math.pi * math.e)
        found = information_between(x, np.array(["red", "green", "blue"])[codes], discrete="y")
        assert found.value == pytest.approx(truth, abs=0.1)
        assert found.others["neighbours"] == pytest.approx(truth, abs=0.1)
        assert found.value == pytest.approx(information_between(x, pd.Series(codes), discrete="y").value, abs=0.05)
        named = pd.DataFrame({"c": pd.Categorical.from_codes(codes, ["red", "green", "blue"])})
        assert information_between(x, named, discrete="y") == found

    def test_categories_on_both_sides(self, short: None) -> None:
        rng = np.random.default_rng(0)
        x = rng.integers(4, size=2000)
        y = np.where(rng.uniform(size=2000) < 0.7, x, rng.integers(4, size=2000))
        same = 0.7 + 0.3 / 4
        truth = math.log(4) + same * math.log(same) + (1 - same) * math.log((1 - same) / 3)
        found = information_between(x, y, discrete="both")
        assert found.value == pytest.approx(truth, abs=0.1)
        assert found.others["neighbours"] == pytest.approx(truth, abs=0.05)
        assert information_between(x, x, discrete="both").value == pytest.approx(math.log(4), abs=0.1)

    def test_what_the_drawn_rows_lack_is_said_of_the_draw(self) -> None:
        y = np.random.default_rng(0).standard_normal(100_000)
        rare = np.arange(100_000) == np.arange(2)[:, None]
        drawn = r"200 rows drawn from 100,000"
        for discrete in ("x", None):
            with pytest.raises(ValueError, match=rf"got the constant .* of the {drawn}\. Raise max_rows, or leave it"):
                information_between(rare[0], y, discrete=discrete, max_rows=200)
        wave = np.sin(np.arange(100_000))
        with pytest.raises(ValueError, match=rf"column 0 and column 1 in the {drawn}\. Raise max_rows, or leave"):
            information_between(np.stack([wave, wave + rare[0]], 1), y, max_rows=200)
        with pytest.raises(ValueError, match=rf"categories in {drawn} in column 0\. Raise max_rows, merge some"):
            information_between(np.arange(100_000) % 100, y, discrete="x", max_rows=200)

    def test_the_entropy_of_categories_is_the_maximum(self, short: None) -> None:
        rng = np.random.default_rng(1)
        x = rng.integers(10, size=500)
        found = information_between(x, rng.permutation(10)[x], discrete="both")
        assert found.high == found.cap == pytest.approx(math.log(10))
        assert not any("4.61" in line or "much larger" in line for line in found.warnings)
        assert f"at most {math.log(10):.2f} nats" in str(found)
        above = information_between(x, rng.permutation(10)[x], discrete="both", estimator="jsd")
        assert above.value == pytest.approx(math.log(10))
        assert any("2.30 nats, the entropy of a side with few values, which no" in line for line in above.warnings)

    def test_numbers_with_few_values_have_that_maximum_too(self, short: None) -> None:
        rng = np.random.default_rng(10)
        x = rng.integers(0, 2, 300)
        found = information_between(x, x ^ (rng.uniform(size=300) < 0.2))
        assert found.high <= math.log(2)
        assert information_between(x, rng.standard_normal(300) + x).high <= math.log(2)

    def test_the_sampling_error_of_the_entropy_is_known(self) -> None:
        rng, shares = np.random.default_rng(0), np.array([0.02, 0.18, 0.8])
        columns = [rng.choice(3, size=200, p=shares).astype(float) for _ in range(1000)]
        truth = -(shares * np.log(shares)).sum()
        assert np.mean([entropy_at_most(column, 200) >= truth for column in columns]) >= 0.975

    @pytest.mark.parametrize("dependence", [0.0, 0.1, 0.6, 0.99])
    @pytest.mark.parametrize(("categories", "rows"), [(2, 300), (5, 300), (10, 1000)])
    def test_the_sampling_error_of_counts_is_known(self, categories: int, rows: int, dependence: float) -> None:
        rng = np.random.default_rng(categories)
        shares = (1 - dependence) * np.outer(*rng.dirichlet(np.full(categories, 3.0), size=2))
        shares += dependence / categories * np.eye(categories)
        truth = (shares * np.log(shares / np.outer(shares.sum(1), shares.sum(0)))).sum()
        drawn = rng.choice(categories**2, size=(400, rows), p=shares.ravel())
        ends = [information_at_most(x[:, None], y[:, None]) for x, y in (np.divmod(d, categories) for d in drawn)]
        assert np.mean(np.array(ends) >= truth) >= 0.96
        assert np.mean(ends) - truth < 4 * math.sqrt((categories - 1 + truth) / rows)

    def test_few_categories_have_a_narrow_interval(self, short: None) -> None:
        x, other = np.random.default_rng(0).integers(2, size=(2, 300))
        y = np.where(np.random.default_rng(1).random(300) < 0.2, other, x)
        found = information_between(x, y, discrete="both")
        numbers = information_between(x, y)
        assert found.low < found.value < found.high == numbers.high == information_at_most(x[:, None], y[:, None])
        assert found.high < found.value + 0.15
        assert "Categories leave no more possible." in str(found)

    @pytest.mark.parametrize(("estimator", "remedy"), [("infonce", "Collect more pairs."), ("nwj", "Use infonce or")])
    def test_a_negative_estimate_says_nothing(
        self, estimator: Estimator, remedy: str, short: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("blan_layers.estimation.information.weighted", lambda *given: weighted(*given) - 2)
        x, y = gaussian(200, 3)
        found = information_between(x, y[:, 0] > 0, discrete="y", estimator=estimator)
        assert found.critics < 0 == found.value == found.low
        assert 0.2 < found.high <= math.log(2)
        (told,) = (line for line in found.warnings if "Information is never negative" in line)
        assert remedy in told
        assert "Nearest neighbours. Critics" not in str(found)

    def test_an_estimate_that_explodes_shows_no_more_than_its_ends(self, short: None) -> None:
        found = information_between(*gaussian(400, 2, rho=0.9999), estimator="nwj")
        assert found.critics < 0 == found.value == found.low
        assert 0 < found.high < 20


class TestDependentRows:
    def test_copies_are_kept_together_and_told(self, short: None) -> None:
        x, y = gaussian(400, rho=0.0)
        found = information_between(np.repeat(x, 5, 0), np.repeat(y, 5, 0))
        assert abs(found.value) < 0.05
        assert found.p_value > 0.01
        assert found.warnings[0].startswith("1,600 of 2,000 rows are copies of others")
        assert not any("series" in line for line in found.warnings)

    @pytest.mark.parametrize(
        ("rows", "rho", "step"),
        [(400, 0.0, 1.0), (1000, 0.0, 0.1), (1000, 0.0, 0.01), (4000, 0.8, 0.01), (4000, 0.999, 0.05)],
    )
    def test_values_that_repeat_by_themselves_are_no_copies(self, rows: int, rho: float, step: float) -> None:
        for seed in range(10):
            sides = [Side(side[:rows].round(6) // step, False) for side in gaussian(rows + seed, 1, rho, seed)]
            assert copies(*sides) is None

    @pytest.mark.parametrize("discrete", [False, True])
    def test_repeated_values_that_determine_the_other_side_are_no_copies(self, discrete: bool) -> None:
        rng = np.random.default_rng(0)
        age, celsius, bits = rng.integers(18, 91, 5000), rng.normal(20, 5, 2000).round(1), rng.integers(0, 2, (600, 2))
        for x, y in (
            (age, np.digitize(age, [30, 50, 70])),
            (celsius, celsius > 22),
            (bits, bits[:, 0] ^ bits[:, 1]),
        ):
            sides = Side(x.reshape(len(x), -1).astype(float), False), Side(y.reshape(-1, 1).astype(float), discrete)
            assert copies(*sides) is None
        salary = rng.integers(20_000, 120_000, 500)[rng.integers(0, 500, 900)]
        labels = copies(
            Side(salary[:, None].astype(np.float64), False),
            Side((salary[:, None] // 10_000).astype(np.float64), discrete),
        )
        assert labels is not None
        assert len(np.unique(labels)) == len(np.unique(salary))

    @pytest.mark.parametrize("share", [0.02, 0.15, 0.5, 0.9])
    @pytest.mark.parametrize("times", [1, 5])
    def test_an_atom_is_no_copy(self, share: float, times: int) -> None:
        zero = np.random.default_rng(0).uniform(size=1000) < share
        sides = [Side(np.where(zero[:, None], 0, side).repeat(times, 0), False) for side in gaussian(1000)]
        labels = copies(*sides)
        assert labels is None if times == 1 else labels is not None and (np.bincount(labels) == times).all()
        twice = [Side(np.concatenate([side.values, side.values[:100]]), False) for side in sides]
        labels = copies(*twice)
        assert labels is not None
        assert np.bincount(labels).max() <= 2 * times

    def test_an_atom_is_measured(self, short: None) -> None:
        zero = np.random.default_rng(0).uniform(size=500) < 0.5
        x, y = (np.where(zero[:, None], 0, 3 + side) for side in gaussian(500))
        found = information_between(x, y)
        assert found.low < math.log(2) - 0.5 * math.log(0.6) < found.high
        assert not any("copies" in line for line in found.warnings)

    @pytest.mark.parametrize("decimals", [1, 2, 6])
    @pytest.mark.parametrize("drawn", [False, True])
    def test_copies_of_rounded_values_are_recognised(self, decimals: int, drawn: bool) -> None:
        if drawn and decimals == 1:  # as many repeat by themselves
            return
        rng = np.random.default_rng(0)
        rows = rng.integers(2000, size=2000) if drawn else rng.permutation(np.arange(2000) % 400)
        sides = [Side(side.round(decimals)[rows], False) for side in rng.standard_normal((2, 2000, 1))]
        labels = copies(*sides)
        assert labels is not None
        assert len(np.unique(labels)) == len(np.unique(np.concatenate([side.values for side in sides], 1), axis=0))

    def test_series_are_told(self, short: None) -> None:
        noise = np.random.default_rng(0).standard_normal((2, 2000))
        walks = information_between(*noise.cumsum(1))
        assert any("Take differences, or a longer series." in line for line in walks.warnings)
        few = information_between(*noise.cumsum(1), max_rows=1000)
        assert any("neighbouring rows are correlated" in line for line in few.warnings)
        smooth = (np.convolve(side, np.full(8, 0.4), "valid") for side in noise)
        assert any(
            "If the rows are a series" in line and "pass blocks=" in line
            for line in information_between(*smooth).warnings
        )
        assert serial_dependence(*(side[:, None] for side in noise)) is None

    @pytest.mark.parametrize("weights", [(-0.95, 0.0), (0.0, 0.95), (0.0, -0.95)])
    def test_series_of_either_sign_and_of_period_two_are_told(self, weights: tuple[float, float]) -> None:
        series = np.random.default_rng(0).standard_normal((2, 1000))
        for row in range(2, 1000):
            series[:, row] += weights[0] * series[:, row - 1] + weights[1] * series[:, row - 2]
        found = serial_dependence(*(side[:, None] for side in series))
        assert found is not None
        assert found.length > 20

    def test_blocks_answer_the_warning(self, short: None) -> None:
        noise = np.random.default_rng(1).standard_normal((2, 2000))
        x, y = (np.convolve(side, np.full(8, 0.4), "valid") for side in noise)
        found = information_between(x, y, blocks=40)
        assert not any("series" in line for line in found.warnings)
        assert found.p_value > 0.05

    def test_the_smallest_number_of_blocks_has_an_interval(self, short: None) -> None:
        found = information_between(*gaussian(400), blocks=20)
        assert found.low < found.value < found.high

    @pytest.mark.parametrize("phi", [0.9, 0.93])
    def test_the_blocks_that_a_warning_names_are_taken(self, phi: float, short: None) -> None:
        x, y = np.random.default_rng(0).standard_normal((2, 1000))
        for row in range(1, 1000):
            x[row] += phi * x[row - 1]
            y[row] += phi * y[row - 1]
        told = " ".join(information_between(x, y).warnings)
        length = re.search(r"pass blocks=(\d+)", told)
        assert "Take differences" in told if length is None else information_between(x, y, blocks=int(length[1]))

    def test_drawn_blocks_are_those_that_fit(self, short: None) -> None:
        groups = np.r_[np.zeros(1700, dtype=int), np.arange(1, 301)]
        found = information_between(*gaussian(2000), blocks=groups, max_rows=1000)
        assert found.pairs == 300
        with pytest.raises(
            ValueError, match=r"max_rows must leave at least 100 rows in 20 blocks, got 300, which leaves"
        ):
            information_between(*gaussian(2000), blocks=100, max_rows=300)

    @pytest.mark.parametrize(
        "kind",
        [
            np.asarray,
            torch.from_numpy,
            lambda groups: torch.from_numpy(groups).bfloat16(),
            lambda groups: pd.Series(groups)[::-1],
            lambda groups: groups.astype(str),
        ],
    )
    def test_groups_stay_together(self, kind: Callable[[np.ndarray], Any], short: None) -> None:
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(60), 10)
        x, y = (rng.standard_normal(60)[groups] + 0.01 * rng.standard_normal(600) for _ in range(2))
        assert information_between(x, y).value > 1  # each group is recognised by x, and has its y
        found = information_between(pd.Series(x), y, blocks=kind(groups))
        assert found.value < 0.1
        assert found.p_value > 0.05

    def test_folds_cut_no_block_and_measure_every_row_once(self) -> None:
        labels = np.random.default_rng(0).integers(50, size=1000)
        parts = folds(labels, 5, np.random.default_rng(0))
        assert np.array_equal(np.sort(np.concatenate([part.measured for part in parts])), np.arange(1000))
        for part in parts:
            blocks = [set(labels[rows]) for rows in part]
            assert sum(map(len, blocks)) == len(set().union(*blocks))


class TestParts:
    """What the measuring is made of."""

    @pytest.mark.parametrize("name", get_args(Estimator))
    def test_equal_weights_give_the_library_s_estimate(self, name: Estimator) -> None:
        logits = 2 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits = logits + 6 * torch.eye(12) - 3
        real = logits.diagonal()
        fake = logits.flatten()[1:].unflatten(0, (11, 13))[:, :-1]
        functions: dict[Estimator, Callable[[], torch.Tensor]] = {
            "infonce": lambda: F.infonce_lower_bound(logits),
            "nwj": lambda: F.nwj_lower_bound(real, fake),
            "dv": lambda: F.dv_lower_bound(real, fake),
            "jsd": real.mean,
            "smile": lambda: F.smile_estimate(real, fake, clip=5.0),
            "certificate": lambda: F.mutual_information_certificate(F.bce_loss(real, fake) / 2),
        }
        expected = functions[name]()
        assert weighted(name, logits, logits.new_ones(1, 12)).item() == pytest.approx(expected.item())
        assert infonce(logits).mean().item() == pytest.approx(F.infonce_lower_bound(logits).item())

    @pytest.mark.parametrize("name", get_args(Estimator))
    def test_a_pair_without_weight_is_as_if_it_were_not_there(self, name: Estimator) -> None:
        logits = torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        weights = torch.tensor([[2.0, 2, 2, 2, 2, 2, 0, 0, 0]], dtype=torch.float64)
        few = logits[:6, :6]
        rest = weighted(name, few, few.new_ones(1, 6)).item()
        if name == "infonce":  # which keeps its number of candidates, by weight
            mean = few.masked_fill(torch.eye(6, dtype=torch.bool), -math.inf).logsumexp(1) - math.log(5)
            real = few.diagonal()
            rest = (math.log(9) + real - real.logaddexp(mean + math.log(8))).mean().item()
        assert weighted(name, logits, weights).item() == pytest.approx(rest)

    def test_effective_pairs_count_equal_ones_and_no_others(self) -> None:
        assert effective_pairs(torch.zeros(5, 5) + 3) == pytest.approx(20)
        one = torch.zeros(5, 5)
        one[0, 1] = 50
        assert effective_pairs(one) == pytest.approx(1)

    def test_gaussian_critics_are_the_density_ratio(self) -> None:
        x, y = (torch.from_numpy(side) for side in gaussian(200_000, rho=0.6))
        critic = fit_gaussian(x, y)
        u, v = torch.tensor([[0.3], [-1.2]]), torch.tensor([[1.0], [0.4]])
        expected = (0.6 * u * v.T - 0.18 * (u**2 + v.T**2)) / 0.64 - math.log(0.64) / 2
        assert torch.allclose(critic.logits(u, v), expected.float(), atol=0.03)

    def test_what_chance_makes_of_correlations_is_taken_off(self) -> None:
        x, y = (torch.from_numpy(side) for side in gaussian(1000, 20, rho=0.0))
        critic = fit_gaussian(x, y)
        assert critic.correlations[0] > 0.15
        assert critic.shrunk(1.5).kept.count_nonzero() == 0
        assert critic.shrunk(1.5).logits(x[:3], y[:3]).count_nonzero() == 0

    def test_canonical_correlation_has_no_bias_of_few_rows(self) -> None:
        draws = [gaussian(100, 5, 0.5, seed=seed) for seed in range(200)]
        found = [canonical_correlation(*(torch.from_numpy(side) for side in draw)) for draw in draws]
        assert np.mean(found) == pytest.approx(-2.5 * math.log(0.75), abs=3 * np.std(found) / math.sqrt(200))

    def test_kernels_are_the_ratio_written_out(self) -> None:
        known = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0))
        x, y = torch.tensor([[0.2]]), torch.tensor([[-0.4]])
        near_x, near_y = (torch.exp(-((known[s] - z) ** 2) / (2 * 0.5**2)) for s, z in enumerate((x, y)))
        ratio = (near_x * near_y).mean() / (near_x.mean() * near_y.mean())
        expected = (0.98 * ratio + 0.02).log().item()
        assert KernelCritic(known[0], known[1], 0.5).logits(x, y).item() == pytest.approx(expected, abs=1e-5)

    def test_a_joint_critic_is_its_perceptron_written_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joint, "_AT_ONCE", 11)
        x, y = (torch.from_numpy(side).float() for side in gaussian(300, rho=0.9))
        base = fit_gaussian(x, y)
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        first, bias, second, of_second, last = weights = [
            draw(1, *shape) for shape in ((3, 32), (1, 32), (32, 32), (1, 32), (32, 1))
        ]
        found = JointCritic(base, base, weights).logits(x[:4], y[:5])
        u, v = base.canonical(0, x.double()), base.canonical(1, y.double())
        for i in range(4):
            for j in range(5):
                rho = base.kept
                residual = ((v[j] - rho * u[i]) / torch.sqrt(1 - rho**2)).clamp(-6, 6).float()
                hidden = torch.cat([x[i], y[j], residual]) @ first[0] + bias[0, 0]
                hidden = torch.cat([hidden[:16].tanh(), silu(hidden[16:])])
                added = silu(hidden @ second[0] + of_second[0, 0]) @ last[0]
                expected = base.logits(x[i : i + 1], y[j : j + 1]) + added
                assert found[i, j].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)

    def test_a_joint_critic_gains_on_the_stopping_pairs_and_is_the_same_again(self) -> None:
        torch.manual_seed(0)
        x = torch.rand(400, 1)
        y = x + 0.2 * torch.rand(400, 1)
        fit, watched = (x[:200], y[:200]), (x[200:], y[200:])
        base = fit_gaussian(*fit)
        told: list[float] = []
        (critic,) = train_joint([fit], [watched], [base], 0, told.append)
        assert critic.weights
        shown = infonce(critic.logits(*watched)).mean()
        assert shown > infonce(base.logits(*watched)).mean() + 0.05
        assert told == sorted(told)
        (again,) = train_joint([fit], [watched], [base], 0)
        assert torch.equal(critic.logits(*watched), again.logits(*watched))

    @pytest.mark.parametrize(("columns", "kind"), [(1, JointCritic), (2, PerceptronCritic)])
    def test_columns_decide_which_perceptrons_are_trained(self, columns: int, kind: type, short: None) -> None:
        x, y = (torch.from_numpy(side).float() for side in gaussian(300, columns))
        (critic,) = fit_critics([(x[:200], y[:200])], [(x[200:], y[200:])], 0, lambda done: None)
        assert isinstance(critic, Weighted)
        assert any(isinstance(each, kind) for each in critic.critics)

    @pytest.mark.parametrize("shape", [lambda x: 1e-310 * x, lambda x: np.exp(30 * x - 650), lambda x: 2e307 * x])
    def test_ranks_are_free_of_units(self, shape: Callable[[np.ndarray], np.ndarray]) -> None:
        x = gaussian(150)[0]
        fitted, rows = np.arange(0, 150, 2), np.arange(150)
        scores = scale(Side(shape(x), False), fitted, "ranks")(rows)
        assert scores.isfinite().all()
        assert torch.equal(scores[fitted], scale(Side(x, False), fitted, "ranks")(fitted))

    def test_untied_scores_break_ties_at_random(self) -> None:
        values = np.random.default_rng(0).integers(3, size=(999, 2)).astype(float)
        scores = untied_scores(values, np.random.default_rng(1))
        evenly = torch.special.ndtri((torch.arange(999, dtype=torch.float64) + 0.5) / 999)
        for column, scored in zip(values.T, scores.T, strict=True):
            assert torch.equal(scored.sort().values, evenly)
            assert all(scored[column == code].max() < scored[column == code + 1].min() for code in range(2))
        tied = torch.from_numpy(values[:, 0] == 1)
        assert abs(torch.corrcoef(scores[tied].T)[0, 1].item()) < 0.2

    def test_nearest_neighbours_are_those_of_the_definition(self) -> None:
        x, y = gaussian(60, 2)
        far = [np.abs(side[:, None] - side).max(-1) for side in (x, y)]
        joint = np.maximum(*far) + np.diag(np.full(60, np.inf))
        reach = np.sort(joint, 1)[:, 2]
        counts = [(each < reach[:, None]).sum(1) for each in far]  # itself among them
        psi = torch.special.digamma
        inner = sum(psi(torch.from_numpy(count).double()) for count in counts)
        expected = psi(torch.tensor(3.0).double()) + psi(torch.tensor(60.0).double()) - inner
        assert torch.allclose(nearest_neighbours(torch.from_numpy(x), torch.from_numpy(y)), expected)

    def test_ties_share_a_score_and_new_values_lie_between(self) -> None:
        side = Side(np.array([[1.0], [2], [2], [3], [1e9], [2.5], [-5], [2e9]]), False)
        scores = scale(side, np.arange(5), "ranks")(np.arange(8)).flatten()
        expected = torch.special.ndtri(torch.tensor([0.1, 0.4, 0.4, 0.7, 0.9]))
        assert torch.allclose(scores[:5], expected)
        assert scores[5].item() == pytest.approx((scores[1] + scores[3]).item() / 2)
        assert (scores[6], scores[7]) == (scores[0], scores[4])

    def test_the_test_of_independence_keeps_its_level(self) -> None:
        draws = [gaussian(100, 2, 0.0, seed=seed) for seed in range(200)]
        found = [
            permutation_test(torch.from_numpy(x).float(), torch.from_numpy(y).float(), np.arange(100), seed)
            for seed, (x, y) in enumerate(draws)
        ]
        assert 2 <= sum(p <= 0.05 for p in found) <= 20  # 10 +- 3.1
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)

    @pytest.mark.parametrize(
        ("sizes", "kept"),
        [
            ([60, 40, 40, *[1] * 60], [40, 40, 40, *[1] * 60]),
            ([*[7] * 20, 3], [*[7] * 20, 3]),
            ([*range(11, 31)], [*[11] * 5, *[16] * 5, *[21] * 5, *[26] * 5]),
            ([*[2] * 9, *[1] * 9, 50], [*[2] * 9, *[1] * 9, 50]),
        ],
    )
    def test_blocks_of_the_test_are_cut_to_a_few_sizes(self, sizes: list[int], kept: list[int]) -> None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        rows = equalised(labels)
        assert np.bincount(labels[rows]).tolist() == kept
        assert all(np.array_equal(rows[labels[rows] == b], np.flatnonzero(labels == b)[:k]) for b, k in enumerate(kept))

    @pytest.mark.parametrize("sizes", [[60, 40, 40, *[1] * 60], [*range(11, 31)]])
    def test_the_test_of_independence_keeps_its_level_with_blocks(self, sizes: list[int]) -> None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        found = []
        for seed in range(200):
            x, y = (torch.from_numpy(side).float() for side in gaussian(len(labels), 1, 0.0, seed))
            found.append(permutation_test(x, y, labels, seed))
        assert sum(p <= 0.05 for p in found) <= 20  # 10 +- 3.1
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)

    def test_rows_of_the_test_that_are_all_equal_show_nothing(self) -> None:
        sizes = np.arange(11, 31)
        labels, x = np.repeat(np.arange(20), sizes), gaussian(sizes.sum())[0]
        left_out = np.isin(np.arange(len(x)), equalised(labels), invert=True)
        y = torch.from_numpy(left_out[:, None]).float()
        assert permutation_test(torch.from_numpy(x).float(), y, labels, 0) == 1


LINE = np.arange(100.0)
WIDE = np.random.default_rng(0).standard_normal((100, 3))

BAD: list[tuple[Callable[[], tuple[Any, Any]], type[Exception], str]] = [
    (
        lambda: (LINE, LINE[:90]),
        ValueError,
        "x and y must have one row per pair, got 100 and 90 rows. Pair them row by row first.",
    ),
    (
        lambda: (LINE[:50], LINE[:50]),
        ValueError,
        "needs at least 100 rows, for training and for held-out estimates, got 50. Collect more pairs.",
    ),
    (
        lambda: (WIDE.T, WIDE.T),
        ValueError,
        "x must have more rows than columns, got shape (3, 100). If its columns are observations, pass x.T; otherwise "
        "reduce it to fewer columns.",
    ),
    (
        lambda: (LINE, np.where(LINE == 7, np.nan, LINE)),
        ValueError,
        "y must be finite, got nan in row 7, column 0 (1 in all). Leave these rows out of both arrays, or fill "
        "them in.",
    ),
    (
        lambda: (np.stack([LINE, np.where(LINE > 97, -np.inf, LINE)], 1), LINE),
        ValueError,
        "x must be finite, got -inf in row 98, column 1 (2 in all).",
    ),
    (
        lambda: (pd.DataFrame({"a": LINE, "b": pd.array([None, *range(99)], dtype="Int64")}), LINE),
        ValueError,
        "x must be finite, got nan in row 0, column 'b' (1 in all).",
    ),
    (
        lambda: (Polars(np.stack([LINE, np.where(LINE > 97, np.inf, LINE)], 1)), LINE),
        ValueError,
        "x must be finite, got inf in row 98, column 'b' (2 in all).",
    ),
    (lambda: (LINE, LazyPolars()), TypeError, "y must be an array, a tensor or a data frame, got LazyPolars."),
    (
        lambda: (LINE, SimpleNamespace(dims=("t",), indexes={}, data_vars={})),
        TypeError,
        "y must be an array, a tensor or a data frame, got SimpleNamespace. Pass its variables as columns, for example "
        "by y.to_dataframe().",
    ),
    (
        lambda: (np.stack([LINE, 0 * LINE + 3], 1), LINE),
        ValueError,
        "x must vary in every column, got the constant 3.0 in column 1. Leave it out: a constant has no information.",
    ),
    (
        lambda: (np.stack([LINE, -LINE, LINE], 1), WIDE),
        ValueError,
        "x must not have the same column twice, got equal column 0 and column 2. Leave one of them out: it adds no "
        "information.",
    ),
    (
        lambda: (WIDE, WIDE),
        ValueError,
        "x and y must differ, got column 0 of x equal to column 0 of y. A column in both has infinite information: "
        "leave it out of one of them.",
    ),
    (
        lambda: (LINE, np.array(["red", "green"] * 50)),
        TypeError,
        'y must contain real numbers, got dtype <U5. If they are categories, pass discrete="y" (or "both").',
    ),
    (lambda: (LINE.astype(object), LINE), TypeError, "x must contain real numbers, got dtype object."),
    (
        lambda: (LINE, pd.DataFrame({"c": pd.Categorical(LINE)})),
        TypeError,
        "y must contain real numbers, got dtype category. Convert numbers by y.astype(float), or pass discrete=",
    ),
    (
        lambda: (LINE + 1j, LINE),
        TypeError,
        "x must contain real numbers, got dtype complex128. Pass real and imaginary parts as columns.",
    ),
    (
        lambda: (LINE.astype("datetime64[s]"), LINE),
        TypeError,
        "x must contain real numbers, got dtype datetime64[s]. Pass times as numbers, for example "
        "(x - x.min()).astype('int64').",
    ),
    (
        lambda: (pd.Series(pd.date_range("2026", periods=100, tz="UTC", unit="s")), LINE),
        TypeError,
        "x must contain real numbers, got dtype datetime64[s, UTC]. Pass times as numbers, for example "
        "(x - x.min()).astype('int64').",
    ),
    (
        lambda: (pd.DataFrame({"a": LINE, "t": pd.date_range("2026", periods=100, unit="s")}), LINE),
        TypeError,
        "got dtype datetime64[s]. Pass times as numbers, for example (x['t'] - x['t'].min()).astype('int64').",
    ),
    (
        lambda: (np.zeros(100, dtype=[("a", float)]), LINE),
        TypeError,
        "x must contain real numbers, got dtype [('a', '<f8')]. Pass each field as a column.",
    ),
    (
        lambda: (np.ma.zeros(100, dtype=[("a", float), ("b", bool)]), LINE),
        TypeError,
        "x must contain real numbers, got dtype [('a', '<f8'), ('b', '?')]. Pass each field as a column.",
    ),
    (
        lambda: (quantised(), LINE),
        TypeError,
        "x must contain real numbers, got dtype torch.quint8. Convert it by x.dequantize().",
    ),
    (
        lambda: ([[1.0], [1.0, 2.0]], LINE),
        ValueError,
        "x must have the same number of values in every row, got a ragged list. Pad or truncate it.",
    ),
    (
        lambda: (np.zeros((100, 2, 2)), LINE),
        ValueError,
        "x must be (n,) or (n, d) with d >= 1, got shape (100, 2, 2). Pass one row per observation,",
    ),
    (lambda: (np.zeros((100, 0)), LINE), ValueError, "x must be (n,) or (n, d) with d >= 1, got shape (100, 0)."),
    (lambda: (np.array(3.0), LINE), ValueError, "x must be (n,) or (n, d) with d >= 1, got shape (). Pass one row"),
    (
        lambda: (3.0, LINE),
        TypeError,
        "x must be an array, a tensor or a data frame, got float. Pass one row per observation, (n,) or (n, d).",
    ),
    (lambda: (LINE, (row for row in WIDE)), TypeError, "y must be an array, a tensor or a data frame, got generator."),
    *(
        (
            lambda integers=integers: (integers(2**60 + np.arange(100)), LINE),
            ValueError,
            f"x must have integers of at most 2**53, which are exact in float64, got {2**60} in row 0, column 0. "
            "Subtract an offset first, for example by x - x.min().",
        )
        for integers in (
            np.asarray,
            torch.tensor,
            pd.Series,
            lambda values: values.astype(np.uint64),
            lambda values: pd.Series(values, dtype="Int64"),
            lambda values: [[value, 0.5] for value in values.tolist()],
        )
    ),
    (
        lambda: (pd.DataFrame({"a": LINE, "b": np.r_[1:100, -(2**60)]}), LINE),
        ValueError,
        f"x must have integers of at most 2**53, which are exact in float64, got {-(2**60)} in row 99, column 'b'. ",
    ),
    (
        lambda: (WIDE[:0], WIDE[:0]),
        ValueError,
        "needs at least 100 rows, for training and for held-out estimates, got 0.",
    ),
    (
        lambda: (LINE, np.ma.masked_less(WIDE, -1)),
        ValueError,
        "y must have no masked values, got one in row ",
    ),
    (
        lambda: ([np.ma.array([v, v], mask=[v == 3, False]) for v in LINE], LINE),
        ValueError,
        "x must have no masked values, got one in row 3, column 0 (1 of them in all). Leave these rows out of both "
        "arrays, or fill them in.",
    ),
    (
        lambda: ([[v, np.ma.masked if v > 97 else v] for v in LINE], LINE),
        ValueError,
        "x must have no masked values, got one in row 98, column 1 (2 of them in all).",
    ),
    (
        lambda: (torch.eye(100).to_sparse(), LINE),
        TypeError,
        "x must be dense, got torch.sparse_coo. Convert it, for example by x.to_dense().",
    ),
    (
        lambda: (pd.Series(LINE), pd.Series(LINE, index=range(1, 101))),
        ValueError,
        "x and y must have the same labels in their indices, got 2 without partner, 0 only in x. Join them first, or "
        "pair by position by passing .to_numpy().",
    ),
    (lambda: (torch.eye(100, device="meta"), LINE), TypeError, "x must be dense, got a tensor without values (meta)."),
    (lambda: (torch.eye(100)[0] + 1j, LINE), TypeError, "x must contain real numbers, got dtype complex64."),
    (
        lambda: gaussian(120, 60),
        ValueError,
        "x and y must have fewer columns together than rows, got 60 and 60 columns",
    ),
    (
        lambda: (np.tile(LINE[:50], 2), np.tile(LINE[:50], 2) ** 2),
        ValueError,
        "needs at least 100 rows that are not copies of others, got 50 of 100. Collect more pairs.",
    ),
    (
        lambda: (pd.Series(LINE, index=[0, *range(99)]), pd.Series(LINE)),
        ValueError,
        "x's index must have unique labels to be aligned with the other, got 0 twice.",
    ),
]

CATEGORIES: list[tuple[Any, type[Exception], str]] = [
    (
        pd.Series(["a", pd.NA] * 50, dtype="string"),
        ValueError,
        "y must have no missing values, got <NA> in row 1, column 0",
    ),
    (
        np.array(["a", None] * 50, dtype=object),
        ValueError,
        "y must have no missing values, got None in row 1, column 0",
    ),
    (
        np.array(["a", 1] * 50, dtype=object),
        TypeError,
        "y must contain categories of one type, got int and str in column 0",
    ),
    (LINE, ValueError, "y must have at least 10 rows for each category, got 100 categories in 100 rows in column 0"),
]

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"estimator": "alpha"}, ValueError, "estimator must be one of 'infonce', 'nwj', 'dv', 'jsd', 'smile', 'certifi"),
    ({"preprocess": None}, ValueError, "preprocess must be one of 'ranks', 'standardise', got None."),
    ({"discrete": True}, ValueError, "discrete must be one of None, 'x', 'y', 'both', got True."),
    ({"units": "bans"}, ValueError, "units must be one of 'nats', 'bits', got 'bans'. Pass one of those."),
    ({"seed": -1}, ValueError, "seed must be an int from 0 to 2**63 - 1, got -1. Pass, for example, 0."),
    ({"seed": 2**63}, ValueError, "seed must be an int from 0 to 2**63 - 1, got 9223372036854775808."),
    ({"progress": True}, TypeError, "progress must be a function of a share and a text, got True. Leave it out."),
    ({"max_rows": 50}, ValueError, "max_rows must be at least 100, got 50. Raise it."),
    ({"blocks": 0}, ValueError, "blocks must be at least 1, got 0. Pass the number of rows of a block."),
    ({"blocks": True}, TypeError, "blocks must be an int or an array of labels, got True."),
    (
        {"blocks": 10},
        ValueError,
        "needs at least 20 blocks for training and held-out estimates, got 10. Make them shorter, or",
    ),
    (
        {"blocks": np.maximum(LINE, 60)},
        ValueError,
        "rows that belong together must be few enough to be divided into 5 folds, got 61 of 100 together.",
    ),
    ({"blocks": [[1], [1, 2]]}, ValueError, "blocks must have the same number of values in every row, got a ragged"),
    (
        {"blocks": LINE[:9]},
        ValueError,
        "blocks must have one label for each of the 100 rows, got shape (9,). Pass (n,).",
    ),
    (
        {"blocks": np.where(LINE == 3, np.nan, LINE)},
        ValueError,
        "blocks must have a label for each row, got nan in row 3.",
    ),
]


class TestRefusals:
    @pytest.mark.parametrize(("arrays", "error", "message"), BAD)
    def test_arrays(self, arrays: Callable[[], tuple[Any, Any]], error: type[Exception], message: str) -> None:
        with pytest.raises(error) as raised:
            information_between(*arrays())
        assert str(raised.value).startswith("information_between: ")
        assert message in str(raised.value)

    @pytest.mark.skipif(np.finfo(np.longdouble).maxexp <= 1024, reason="has no numbers beyond float64")
    @pytest.mark.parametrize("kind", [np.asarray, pd.Series])
    def test_numbers_beyond_float64(self, kind: Callable[[np.ndarray], Any]) -> None:
        x = LINE.astype(np.longdouble) * np.longdouble("1e4000")
        message = r"x must be finite in float64, got 1e\+4000 in row 1, column 0 \(99 in all\). .* or scale the column"
        with pytest.raises(ValueError, match=message):
            information_between(kind(x), LINE)

    @pytest.mark.parametrize(("y", "error", "message"), CATEGORIES)
    def test_categories(self, y: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error) as raised:
            information_between(LINE, y, discrete="y")
        assert message in str(raised.value)

    @pytest.mark.parametrize(("options", "error", "message"), WRONG)
    def test_options(self, options: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error) as raised:
            information_between(LINE, LINE**2, **options)
        assert str(raised.value).startswith("information_between: ")
        assert message in str(raised.value)
