"""The mutual information between two variables, measured on pairs that the critics were not trained on."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blan_layers._checks import choice, positive_int, said
from blan_layers.estimation.arrays import LEAST_ROWS, MOST_CATEGORIES, Discrete, Pairs, Side, aligned
from blan_layers.estimation.bounds import ESTIMATORS, Estimator, effective_pairs, weighted
from blan_layers.estimation.categories import LEVEL, TAIL, entropy_at_most, information_at_most
from blan_layers.estimation.critics import fit_critics
from blan_layers.estimation.estimate import InformationEstimate, Units
from blan_layers.estimation.gaussian import canonical_correlation
from blan_layers.estimation.independence import permutation_test
from blan_layers.estimation.neighbours import MOST_ROWS, nearest_neighbours
from blan_layers.estimation.parts import (
    LEAST_BLOCKS,
    Labels,
    Part,
    Serial,
    block_labels,
    copies,
    folds,
    serial_dependence,
)
from blan_layers.estimation.preprocessing import PREPROCESSES, Preprocess, scale, untied_scores

__all__ = ["information_between"]

Progress: TypeAlias = Callable[[float, str], None]

FOLDS = 5
CANDIDATES = 2048
"""Maximum number of pairs that are measured together."""
RESAMPLES = 400

_SEEDS = 2**63
_LEARNING_RATE = 2 / 3  # the learning error falls with this power of the pairs, like kernel errors in two dimensions
_REACH_RATE = 1 / 2  # that of nearest neighbours at sharp edges in two dimensions, like the distance to a neighbour
_NEAR_CAP = 1.0  # nats
_GAIN = 0.05  # nats that twice as many candidates add
_DISAGREE = 0.05  # nats, and share of a value above 1
_FEW_COLUMNS = 3  # columns of x and y together up to which neighbours are reliable
_WIDE = 0.5  # nats, and share of an end above 1
_FEW_PAIRS = 50
_BELOW = 0.05  # nats below 0 that are more than the noise of independent pairs


def information_between(
    x: object,
    y: object,
    *,
    estimator: Estimator = "infonce",
    preprocess: Preprocess = "ranks",
    discrete: Discrete = None,
    blocks: int | npt.ArrayLike | Tensor | None = None,
    units: Units = "nats",
    seed: int = 0,
    max_rows: int = 20_000,
    progress: Progress | None = None,
) -> InformationEstimate:
    r"""Measure the mutual information between two variables, given as arrays with one pair per row.

    The pairs are split into five folds. Each fold is measured by a critic fitted to the other four, so that every pair
    is measured once, by a critic that was not trained on it. A fifth of the fitting pairs selects among candidate
    critics; the others are used to fit them, including their scale. The candidates are Gaussians in canonical
    variables, perceptrons that correct them, kernels, and always an uninformative critic, which estimates exactly 0. If
    x and y have at most three columns together, the perceptron sees both, and so resolves sharp edges better. A lower
    bound remains one whichever critic is selected. The value and the ends of the interval are at least 0, and at most
    the entropy of a side with categories or few values, with its sampling error; ``critics`` and ``by_fold`` keep what
    the critics show, which may be negative.

    **Nearest neighbours.** For so few columns and independent rows, the value is that of nearest neighbours, with a
    warning, if InfoNCE misses significantly much of it, by more than two standard errors, and the permutation test
    finds dependence. This happens at sharp edges, near the maximum of InfoNCE, and with few rows. ``critics`` keeps
    the bound.

    **Interval.** The lower end comes from a bootstrap of the measured pairs (of blocks, if given), with fixed critics.
    The upper end is that of the bootstrap of the value plus what critics would still learn from more pairs: 1.7 times
    their gain over critics fitted to half the pairs, since the learning error falls with the number of pairs to the
    power of 2/3 or faster. If the uninformative critic was selected for a fold, or the estimate is negative, the upper
    end is at least that of the Gaussian estimate. If x and y have at most three columns together, it is at least that
    of the nearest-neighbour estimate, which resolves sharp edges that critics blur: the estimate, 2.4 times its gain
    over half the pairs, since its error at edges falls with the root of the number of pairs, and twice the standard
    error, which is that of the extrapolation if neighbours show more than the critics. If both sides have categories or
    few values, and rows are independent, it is at most what the counts of their combinations allow. The interval covers
    the sampling of pairs and the limited learning from them. It does not cover dependence that neither critics nor, for
    few columns, neighbours can detect. How often it contained the true value is reported in
    ``examples/mutual_information/repeated.md``.

    **p-value.** It comes from 199 shuffles of the pairs and a statistic of the whole sample that needs no training. It
    is exact for independent rows (or blocks), whatever the estimate. Blocks are exchanged with others of their size.
    Of sizes that few blocks have, similar ones are made equal, by leaving the last rows of larger blocks out of this
    test; a block without similar ones keeps its pairing.

    Rows must be independent, or ``blocks`` must say which are not. Copies of a row are kept in the same part; rows that
    are equal because the distribution has an atom there, such as zeros in both x and y, are no copies. Training
    steps, measured pairs and ``max_rows`` are bounded, and so is the running time; while critics train, ``progress``
    receives an upper bound of the remaining seconds.

    Args:
        x: Numbers (n,) or (n, d): a NumPy array (of memory-mapped ones only the needed rows are read), a tensor of any
            floating or integer dtype, a data frame or a series (pandas, polars), or an array of xarray.
        y: Numbers (n,) or (n, d'). If both have an index, rows are paired by it.
        estimator: A lower bound with low variance, at most the log of the number of pairs in a fold ("infonce"); bounds
            with high variance and no maximum ("nwj", "dv"); estimates that are not bounds ("jsd", "smile"); or the
            bound certified by the binary cross entropy ("certificate").
        preprocess: "ranks" turns every column into normal scores, which does not change the information and removes the
            effect of outliers; "standardise" scales it to mean 0 and standard deviation 1.
        discrete: Which side contains categories, as strings or numbers: "x", "y" or "both".
        blocks: For a series, the number of rows after which they are no longer dependent; otherwise the group label
            (n,) of each row, paired by its index if it has one. Folds, bootstrap and shuffles keep blocks together.
        units: "nats" or "bits".
        seed: Seed of folds, training, bootstrap and shuffles. The same seed gives the same result.
        max_rows: If there are more rows, this many are drawn (in whole blocks), with a warning.
        progress: Called with the completed share and a description of the next step.

    Returns:
        The value, its interval, a p-value and warnings.

    Raises:
        TypeError: x or y does not contain real numbers or categories.
        ValueError: The numbers of rows differ or are too small, values are missing or infinite, columns are constant or
            equal or as many as rows, a block is too large, or an option is out of range.

    Shape:
        x ``(n,)`` or ``(n, d)``, y ``(n,)`` or ``(n, d')``, with n >= 100.

    Reference:
        van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding", 2018 (InfoNCE); Poole
        et al., "On variational bounds of mutual information", ICML 2019; McAllester and Stratos, "Formal limitations on
        the measurement of mutual information", AISTATS 2020; Chernozhukov et al., "Double/debiased machine learning for
        treatment and structural parameters", Econometrics Journal 21, 2018 (cross-fitting).

    Example:
        >>> import numpy as np
        >>> from blan_layers.estimation import information_between
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal(500)
        >>> y = 0.8 * x + 0.6 * rng.standard_normal(500)
        >>> found = information_between(np.exp(3 * x), y**5)  # the truth is 0.51 nats
        >>> found.low < 0.51 < found.high, found.p_value, found.warnings
        (True, 0.005, ())
    """
    choice("estimator", estimator, ESTIMATORS)
    choice("preprocess", preprocess, PREPROCESSES)
    choice("units", units, ("nats", "bits"))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < _SEEDS:
        raise ValueError(said(f"seed must be an int from 0 to 2**63 - 1, got {seed!r}. Pass, for example, 0."))
    if progress is not None and not callable(progress):
        raise TypeError(said(f"progress must be a function of a share and a text, got {progress!r}. Leave it out."))
    if positive_int("max_rows", max_rows) < LEAST_ROWS:
        raise ValueError(said(f"max_rows must be at least {LEAST_ROWS}, got {max_rows}. Raise it."))
    tell = progress or (lambda done, what: None)
    with _undisturbed():
        tell(0.0, "reading")
        sample = _read(x, y, discrete, blocks, max_rows, int(seed))
        measured = _cross_fitted(sample, preprocess, estimator, int(seed), tell)
        tell(0.8, "comparing with other estimates")
        whole = np.arange(len(sample.labels))
        left, right = (scale(side, whole, preprocess)(whole) for side in (sample.x, sample.y))
        neighbours = _neighbours(sample, int(seed))
        others = {"neighbours": neighbours.value, "gaussian": canonical_correlation(left, right)}
        tell(0.9, "shuffles")
        p_value = permutation_test(left, right, sample.labels, int(seed))
        tell(1.0, "done")
        return _estimate(sample, measured, others, neighbours, p_value, estimator, units)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Train and compute on the CPU in full precision, whatever the caller's gradient mode, device and autocast."""
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        yield


class _Sample(NamedTuple):
    """The measured rows."""

    x: Side
    y: Side
    labels: Labels
    distinct: npt.NDArray[np.intp]
    """Rows without copies."""
    independent: bool
    """Whether neither blocks nor correlations of neighbouring rows say otherwise."""
    warnings: list[str]


class _Measured(NamedTuple):
    """The measurements of the folds, in nats."""

    value: float
    resamples: Tensor
    learnt: Tensor
    """Resamples of the value and ``unlearnt`` together."""
    by_fold: tuple[float, ...]
    unlearnt: float
    cap: float
    """The log of the smallest number of candidates."""
    gain: float
    """The gain of all candidates over half of them."""
    started: bool
    """Whether a fold was measured by the uninformative critic."""
    effective: float
    """Smallest effective number of fake pairs of a fold."""


def _read(
    x: object, y: object, discrete: Discrete, blocks: int | npt.ArrayLike | Tensor | None, max_rows: int, seed: int
) -> _Sample:
    pairs = Pairs(x, y, discrete)
    given = np.arange(len(pairs))
    if blocks is not None:
        given = block_labels(aligned(*pairs.index, "blocks", blocks), len(pairs))
    warnings = []
    rows: npt.NDArray[np.intp] | slice = slice(None)
    if len(pairs) > max_rows:
        rows = _drawn(given, max_rows, seed)
        given = np.unique(given[rows], return_inverse=True)[1]
        if len(rows) < LEAST_ROWS or given.max() + 1 < LEAST_BLOCKS:
            raise ValueError(
                said(
                    f"max_rows must leave at least {LEAST_ROWS} rows in {LEAST_BLOCKS} blocks, got {max_rows:,}, which "
                    f"leaves {len(rows):,} in {given.max() + 1 if len(rows) else 0}. Raise it, or divide the blocks."
                )
            )
        warnings.append(
            f"of {len(pairs):,} rows, {len(given):,} drawn at random were measured. Raise max_rows for more."
        )
    left, right = pairs.sides(rows)
    widths = [int(side.values.max(0).sum()) if side.discrete else side.values.shape[1] for side in (left, right)]
    if sum(widths) >= len(given):
        raise ValueError(
            said(
                f"x and y must have fewer columns together than rows, got {widths[0]} and {widths[1]} columns (of "
                f"categories, one less than there are) and {len(given)} rows. Reduce them to fewer columns, or collect "
                "more pairs."
            )
        )
    labels, distinct = given, np.arange(len(given))
    equal = copies(left, right)
    if equal is not None:
        distinct = np.sort(np.unique(equal, return_index=True)[1])
        if len(distinct) < LEAST_ROWS:
            raise ValueError(
                said(
                    f"needs at least {LEAST_ROWS} rows that are not copies of others, got {len(distinct)} of "
                    f"{len(equal):,}. Collect more pairs."
                )
            )
        labels = equal if blocks is None else given
        kept = "they were kept in the same part, and count once in the interval"
        warnings.append(
            f"{len(equal) - len(distinct):,} of {len(equal):,} rows are copies of others: "
            f"{kept if blocks is None else 'blocks must keep them together'}. Leave copies out."
        )
    serial = _serial(left, right, distinct) if blocks is None else None
    if serial is not None:
        warnings.append(_serial_warning(serial, len(given), len(pairs)))
    return _Sample(left, right, labels, distinct, blocks is None and serial is None, warnings)


def _drawn(labels: Labels, most: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the rows of whole blocks, drawn until no other fits into ``most`` rows."""
    sizes = np.bincount(labels)
    order = np.random.default_rng(seed).permutation(len(sizes))
    fits = np.cumsum(sizes[order]) <= most
    taken = np.zeros(len(sizes), dtype=bool)
    taken[order[fits]] = True
    left, smallest = most - int(sizes[taken].sum()), int(sizes.min())
    for block in order[~fits].tolist():
        if left < smallest:
            break
        if sizes[block] <= left:
            taken[block] = True
            left -= int(sizes[block])
    return np.flatnonzero(taken[labels])


def _serial(x: Side, y: Side, rows: Labels) -> Serial | None:
    return serial_dependence(*(scale(side, rows, "ranks")(rows).double().numpy() for side in (x, y)))


def _serial_warning(serial: Serial, rows: int, all_rows: int) -> str:
    resemble = f"neighbouring rows are correlated, in x ({serial.x:.2f}) and in y ({serial.y:.2f})"
    if 2 * LEAST_BLOCKS * serial.length > rows:
        remedy = "Take differences, or" if min(serial.x, serial.y) > 0 else "Take"
        return (
            f"{resemble}, over more than a fortieth of the rows. If the rows are a series, value, interval and "
            f"p-value are meaningless, since it has too few independent parts. {remedy} a longer series. If "
            "their order has no meaning, shuffle the rows."
        )
    blocks = math.ceil(2 * serial.length * all_rows / rows)
    return (
        f"{resemble}. If the rows are a series, the interval is too narrow and the p-value too small: pass "
        f"blocks={blocks}, for example. If their order has no meaning, shuffle the rows."
    )


class _Block(NamedTuple):
    """Pairs of a fold that were measured together."""

    fold: int
    rows: npt.NDArray[np.intp]
    logits: Tensor
    """Logits of all pairs (M, M), real pairs on the diagonal."""
    start: bool
    """Whether they come from the uninformative critic."""


def _halves(block: _Block) -> list[_Block]:
    middle = len(block.rows) // 2
    return [
        block._replace(rows=block.rows[part], logits=block.logits[part, part])
        for part in (slice(middle), slice(middle, None))
    ]


def _cross_fitted(
    sample: _Sample, preprocess: Preprocess, estimator: Estimator, seed: int, tell: Progress
) -> _Measured:
    parts = folds(sample.labels, FOLDS, np.random.default_rng(seed))
    halves = [Part(part.fit[::2], part.stopping[::2], part.measured) for part in parts]
    measure = partial(_measure, sample, preprocess=preprocess, estimator=estimator, seed=seed)
    began: list[tuple[float, float]] = []

    def told(done: float) -> None:
        began.append((done, time.perf_counter()))
        (first, then), (last, now) = began[0], began[-1]
        left = "" if len(began) == 1 else f", at most {(now - then) / (last - first) * (2 - last):.0f} s more"
        tell(0.4 * done, f"critics{left}")

    blocks = list(measure(parts, progress=told))
    of_halves = list(
        measure(halves, progress=lambda done: tell(0.4 + 0.4 * done, "training critics on half of the pairs"))
    )
    fewer = [half for block in blocks for half in _halves(block)]
    once = torch.ones(1, len(sample.labels), dtype=torch.float64)
    drawn = _resamples(sample.labels, parts, np.random.default_rng(seed))
    weights = torch.from_numpy(drawn[:, sample.labels]).double()
    value, resamples = _value(estimator, blocks, once).item(), _value(estimator, blocks, weights)
    doubled = value - _value(estimator, of_halves, once).item()
    beyond = 1 / (2**_LEARNING_RATE - 1)
    return _Measured(
        value,
        resamples,
        resamples + beyond * (resamples - _value(estimator, of_halves, weights)),
        tuple(
            _value(estimator, [block for block in blocks if block.fold == fold], once).item()
            for fold in range(len(parts))
        ),
        beyond * doubled,
        math.log(min(len(block.rows) for block in blocks)),
        value - _value(estimator, fewer, once).item(),
        any(block.start for block in blocks),
        min(effective_pairs(block.logits) for block in blocks),
    )


def _resamples(labels: Labels, parts: list[Part], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how often each block occurs in each bootstrap sample; those without a block of some fold are redrawn."""
    number = int(labels.max()) + 1
    in_fold = np.zeros((number, len(parts)), dtype=np.int64)
    for fold, part in enumerate(parts):
        in_fold[labels[part.measured], fold] = 1
    drawn = np.empty((RESAMPLES, number), dtype=np.int64)
    lacking = np.ones(RESAMPLES, dtype=bool)
    while lacking.any():
        drawn[lacking] = rng.multinomial(number, np.full(number, 1 / number), lacking.sum())
        lacking = (drawn @ in_fold).min(1) == 0
    return drawn


def _measure(
    sample: _Sample,
    parts: list[Part],
    preprocess: Preprocess,
    estimator: Estimator,
    seed: int,
    progress: Callable[[float], None],
) -> Iterator[_Block]:
    """Yield the pairs of every part, measured by its critic."""
    scales = [[scale(side, part.fit, preprocess) for side in (sample.x, sample.y)] for part in parts]
    fit, stopping = (
        [(x(part[kind]), y(part[kind])) for (x, y), part in zip(scales, parts, strict=True)] for kind in (0, 1)
    )
    critics = fit_critics(fit, stopping, seed, progress)
    for fold, (part, (x, y), critic) in enumerate(zip(parts, scales, critics, strict=True)):
        for rows in np.array_split(part.measured, math.ceil(len(part.measured) / CANDIDATES)):
            logits = critic.logits(x(rows), y(rows))
            if estimator != "infonce":  # which alone is blind to what is added to a row
                known = critic.logits(x(rows), stopping[fold][1])
                logits -= known.logsumexp(1, keepdim=True) - math.log(known.shape[1])
            yield _Block(fold, rows, logits + 1 if estimator == "nwj" else logits, not any(critic.weights))


def _value(estimator: Estimator, blocks: list[_Block], weights: Tensor) -> Tensor:
    """Return the mean (R,) of the blocks' estimates under weights (R, n) of all rows."""
    values = torch.stack(
        [
            weights.new_zeros(len(weights))
            if block.start
            else weighted(estimator, block.logits.double(), weights[:, torch.from_numpy(block.rows)])
            for block in blocks
        ]
    )
    sizes = torch.tensor([float(len(block.rows)) for block in blocks], dtype=torch.float64)
    return sizes @ values / sizes.sum()


class _Neighbours(NamedTuple):
    """The nearest-neighbour estimate, in nats."""

    value: float
    error: float
    """Its standard error."""
    gain: float
    """How much more they would show with unlimited pairs, extrapolated from half of them; 0 with many columns."""
    extrapolated: float
    """Standard error of the value and the gain together."""


def _neighbours(sample: _Sample, seed: int) -> _Neighbours:
    """Return the nearest-neighbour estimate of rows without copies, from normal scores without ties."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(sample.distinct)[:MOST_ROWS]
    left, right = (
        torch.from_numpy(side.values[chosen]) if side.discrete else untied_scores(side.values[chosen], rng)
        for side in (sample.x, sample.y)
    )

    def terms(rows: slice) -> Tensor:
        return nearest_neighbours(left[rows], right[rows], discrete=(sample.x.discrete, sample.y.discrete))

    def error(of: Tensor) -> float:
        return of.std().item() / math.sqrt(len(of))

    whole = terms(slice(None))
    if _columns(sample) > _FEW_COLUMNS:
        return _Neighbours(whole.mean().item(), error(whole), 0.0, 0.0)
    middle, halved = len(chosen) // 2, torch.zeros_like(whole)
    for half in (slice(0, None, 2), slice(1, None, 2), slice(middle), slice(middle, None)):
        halved[half] += terms(half) / 2  # every row is in two halves
    gains = (whole - halved) / (2**_REACH_RATE - 1)
    return _Neighbours(whole.mean().item(), error(whole), gains.mean().item(), error(whole + gains))


def _estimate(
    sample: _Sample,
    measured: _Measured,
    others: dict[str, float],
    neighbours: _Neighbours,
    p_value: float,
    estimator: Estimator,
    units: Units,
) -> InformationEstimate:
    critics, capped, most = measured.value, estimator == "infonce", _most(sample)
    low, high = _interval(measured, others["gaussian"], neighbours, sample)
    saturated = capped and (critics > measured.cap - _NEAR_CAP or measured.gain > _GAIN) and critics < most - _GAIN
    missed = neighbours.value - critics > TAIL * neighbours.error and p_value <= LEVEL
    replaced = capped and missed and sample.independent and _columns(sample) <= _FEW_COLUMNS
    words = [
        *sample.warnings,
        *_of_estimator(measured, neighbours.value, estimator, saturated, most),
        *(_of_neighbours(critics) if replaced else ()),
        *(_of_negative(critics, estimator) if critics < -_BELOW and not replaced else ()),
        *(() if saturated or replaced else _of_others(critics, low, high, others, sample)),
    ]
    value, low, high = (min(max(each, 0.0), most) for each in (neighbours.value if replaced else critics, low, high))
    words += _of_interval(low, high, p_value)
    unit = 1.0 if units == "nats" else 1 / math.log(2)
    return InformationEstimate(
        value=unit * value,
        low=unit * low,
        high=unit * high,
        p_value=p_value,
        saturated=saturated,
        others={name: unit * other for name, other in others.items()},
        warnings=tuple(words),
        units=units,
        estimator=estimator,
        cap=unit * min(measured.cap, most) if capped else None,
        critics=unit * critics,
        by_fold=tuple(unit * fold for fold in measured.by_fold),
        unlearnt=unit * measured.unlearnt,
        pairs=len(sample.labels),
    )


def _interval(measured: _Measured, gaussian: float, neighbours: _Neighbours, sample: _Sample) -> tuple[float, float]:
    """Return the ends of the interval; resamples have fewer distinct pairs and are recentred at the value."""
    tails = torch.tensor([LEVEL / 2, 1 - LEVEL / 2], dtype=torch.float64)
    below, above = (measured.resamples - measured.resamples.mean()).quantile(tails).tolist()
    further = (measured.learnt - measured.learnt.mean()).quantile(tails[1]).item()
    low, high = measured.value + below, measured.value + max(above, measured.unlearnt + further)
    if measured.value < 0:
        high = min(high, measured.cap)
    if _columns(sample) <= _FEW_COLUMNS and math.isfinite(neighbours.value):
        high = max(high, neighbours.value + max(above, TAIL * neighbours.error) + max(0.0, neighbours.gain))
        if neighbours.value - measured.value > neighbours.error:
            high = max(high, neighbours.value + neighbours.gain + TAIL * neighbours.extrapolated)
    if measured.started or measured.value < 0:
        rows, terms = len(sample.distinct), sample.x.values.shape[1] * sample.y.values.shape[1]
        deviation = math.sqrt(terms / 2 / rows**2 + 2 * max(gaussian, 0.0) / rows)
        high = max(high, gaussian + 2 * deviation)
    if _countable(sample.x) and _countable(sample.y) and sample.independent:
        counted = information_at_most(sample.x.values[sample.distinct], sample.y.values[sample.distinct])
        high = max(measured.value, neighbours.value, min(high, counted))
    return low, high


def _most(sample: _Sample) -> float:
    """Return the largest information that categories, or few values, leave possible, in nats: their entropy.

    That of several columns is at most the sum of their entropies, each the upper end of an interval.
    """
    sizes = np.bincount(sample.labels)
    rows = len(sample.labels) ** 2 / int((sizes**2).sum())  # effective number of independent ones
    most = math.inf
    for side in (sample.x, sample.y):
        if _countable(side):
            most = min(most, sum(entropy_at_most(column, rows) for column in side.values.T))
    return most


def _countable(side: Side) -> bool:
    """Return whether a side has categories or few values."""
    return side.discrete or all(MOST_CATEGORIES * len(np.unique(column)) <= len(column) for column in side.values.T)


def _columns(sample: _Sample) -> int:
    return int(sample.x.values.shape[1] + sample.y.values.shape[1])


def _of_estimator(
    measured: _Measured, neighbours: float, estimator: Estimator, saturated: bool, most: float
) -> Iterator[str]:
    """Yield warnings about the value, in nats, that concern its estimator."""
    if saturated:
        limit = f"{measured.cap:.2f} nats, and the information may be much larger"
        if most <= measured.cap:
            limit = f"and the information may be larger, up to {most:.2f} nats, the entropy of a side with few values"
        yield (
            f"the critics' value is near the maximum that this many pairs can show, {limit}. Collect more pairs. "
            f"Nearest neighbours, which have no maximum, show {neighbours:.2f} nats, but are reliable only for few "
            "columns."
        )
    if estimator != "infonce" and measured.value > min(measured.cap, most):
        limit = "the log of the number of pairs in a fold, beyond which no bound is reliable"
        if most <= measured.cap:
            limit = "the entropy of a side with few values, which no information exceeds"
        yield f"the critics' value is above {min(measured.cap, most):.2f} nats, {limit}. Collect more pairs."
    if estimator in ("nwj", "dv") and measured.effective < _FEW_PAIRS:
        yield (
            f"the mean of exponentials depends on only about {max(1, round(measured.effective))} fake pairs, and its "
            "variance is larger than the interval shows. Use infonce, or collect more pairs."
        )


def _of_negative(critics: float, estimator: Estimator) -> Iterator[str]:
    """Yield the warning that critics, in nats, are misled."""
    yield (
        f"the critics' value is {critics:.3g} nats. Information is never negative: this says nothing about it, and 0 "
        f"is shown. {'Use infonce or smile' if estimator in ('nwj', 'dv') else 'Collect more pairs'}."
    )


def _of_neighbours(critics: float) -> Iterator[str]:
    """Yield the warning that the value is that of nearest neighbours."""
    yield (
        f"critics show {critics:.2f} nats, significantly less than nearest neighbours, whose estimate is the value. "
        "The lower end of the interval comes from the critics."
    )


def _of_others(value: float, low: float, high: float, others: dict[str, float], sample: _Sample) -> Iterator[str]:
    """Yield warnings about other estimates, in nats, that disagree."""
    neighbours, gaussian = others["neighbours"], others["gaussian"]
    beyond = _DISAGREE * max(1.0, value)
    if neighbours > (2 * value - low if _columns(sample) <= _FEW_COLUMNS else high) + beyond:
        yield (
            f"nearest neighbours show more, {neighbours:.2f} nats: either critics miss something, such as sharp edges, "
            "or the neighbours are misled by many columns. Trust them for few columns, and collect more pairs."
        )
    if gaussian > high + beyond:
        yield (
            f"the Gaussian estimate is larger, {gaussian:.2f} nats: the variables are not jointly Gaussian, or there "
            "are too few pairs for this many columns. Trust the value."
        )


def _of_interval(low: float, high: float, p_value: float) -> Iterator[str]:
    """Yield warnings about the interval, in nats."""
    if high - low > _WIDE * max(1.0, high):
        yield "the interval is wide. Collect more pairs."
    if p_value <= LEVEL and low <= 0:
        yield "the permutation test finds dependence, but the critics cannot show how much. Collect more pairs."
    if p_value > LEVEL:
        yield f"the pairs cannot be distinguished from shuffled ones (p = {p_value:.2f})."
