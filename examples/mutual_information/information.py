"""The mutual information between two arrays of your own, measured on pairs that no critic was trained on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blan_layers.mutual_information import Critic
from mutual_information.arrays import Array, ArraysError, checked
from mutual_information.estimators import (
    ESTIMATORS,
    OBJECTIVES,
    CriticName,
    Estimator,
    EstimatorName,
    Kind,
    build_critic,
    build_objective,
    clip,
    score,
)
from mutual_information.resampling import bootstrap, effective_pairs

Units: TypeAlias = Literal["nats", "bits"]

MOST_HELD_OUT, MOST_STOPPING = 8192, 2048
"""Pairs of either part; what a larger share would have beyond goes to training."""

EVERY, PATIENCE = 25, 12
"""Steps between two looks at the stopping part, and looks without improvement after which training ends."""

HIDDEN, WEIGHT_DECAY = 64, 1.0
"""A narrow critic and a strong decay: with thousands of pairs and not millions, critics learn pairs by heart."""

NEAR_CAP = 1.0  # nats
WIDE = 0.25  # of the value, and nats
FEW_PAIRS = 50


class Interval(NamedTuple):
    """An estimate with the interval of its bootstrap."""

    value: float
    low: float
    high: float


class Split(NamedTuple):
    """Number of pairs in each part."""

    train: int
    stopping: int
    held_out: int


@dataclass(frozen=True, kw_only=True)
class Information:
    """What was measured, in ``units``."""

    value: float
    """Mean over the seeds of what the held-out pairs show."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    units: Units
    confidence: float
    """Of the bootstrap over held-out pairs."""
    estimator: EstimatorName
    kind: Kind
    """What the estimator is of the information."""
    cap: float | None
    """The most that the estimator can show, if there is a most."""
    by_seed: tuple[float, ...]
    """The estimate with each seed's critic."""
    shuffled: Interval | None
    """The same with pairs that were shuffled first, which have no information."""
    pairs: Split
    warnings: tuple[str, ...]
    """What speaks against the number."""

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        content = asdict(self)
        content["pairs"] = self.pairs._asdict()
        content["shuffled"] = None if self.shuffled is None else self.shuffled._asdict()
        return content

    def __str__(self) -> str:
        """Say what was measured, and what of it is sure."""
        units, percent = self.units, f"{100 * self.confidence:g} %"
        capped = "" if self.cap is None else f", at most {self.cap:.2f} {units}"
        lines = [
            f"{self.value:.3f} {units}, {percent} interval {self.low:.3f} to {self.high:.3f}",
            f"{ESTIMATORS[self.estimator].title}: {_MEANING[self.kind]}{capped}.",
            f"Pairs: {self.pairs.train:,} to train, {self.pairs.stopping:,} to stop, {self.pairs.held_out:,} held out.",
            f"By seed: {', '.join(f'{value:.3f}' for value in self.by_seed)}.",
        ]
        if self.shuffled is not None:
            value, low, high = self.shuffled
            lines.append(f"Shuffled pairs, which have none: {value:.3f} {units} ({low:.3f} to {high:.3f}).")
        lines.append(
            "The interval is a bootstrap over the held-out pairs, with the critics as they are: it covers which pairs "
            "were held out, and neither how critics of other training pairs would differ nor how far off the estimator "
            "is by itself."
        )
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


_MEANING: dict[Kind, str] = {
    "lower bound": "a lower bound, so that the information may be more",
    "lower bound given many pairs": "a lower bound given many pairs, which few of them raise",
    "no bound": "an estimate for an optimal critic and no bound, so that the information may be more or less",
}


def information_between(
    x: npt.NDArray[Any] | Tensor,
    y: npt.NDArray[Any] | Tensor,
    *,
    estimator: EstimatorName = "infonce",
    critic: CriticName = "separable",
    hidden_channels: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    held_out: float = 0.3,
    stopping: float = 0.2,
    candidates: int = 1024,
    batch_size: int = 256,
    max_steps: int = 3000,
    lr: float = 1e-3,
    confidence: float = 0.95,
    units: Units = "nats",
    shuffled: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Information:
    r"""Measure the mutual information between two arrays, row by row a pair.

    The pairs are parted at random into three: critics are trained on the first part, one a seed; training ends when
    the objective falls on the second, and the critic that was best there is kept; the third, which nothing has seen, is
    measured. Columns are standardised by mean and deviation of the first part. The value is the mean over the seeds,
    which differ in the critic's start and in the order of batches, never in the parts.

    The interval is the middle of a bootstrap of the held-out pairs with the critics as they are. It tells how much the
    value depends on which pairs were held out. It does not tell what other training pairs would have made of the
    critics, nor the estimator's own error: a lower bound may lie below the information by any amount, with any
    interval. The one statement that needs no trust in the critics is the lower end of a lower bound: the information
    is above it, with the confidence of one side.

    Rows must be independent of one another. Of time series, neighbouring rows are not: the held-out part then
    resembles the training part, and interval and shuffled check say too little. So do rows that stand there twice.

    Args:
        x: Numbers (n,) or (n, d).
        y: Numbers (n,) or (n, d').
        estimator: A lower bound of low variance that is capped at the log of the candidates ("infonce"), others
            without cap and of high variance ("nwj", "dv", "mine"), estimates that are no bound ("jsd", "smile"), or
            what the binary cross entropy alone certifies ("certificate").
        critic: "separable", "concat" (sees both sides at once; slower), "dot-product" or "bilinear".
        hidden_channels: Width of the critic's hidden layers; None means 64.
        seeds: A critic for each. The first also draws the parts.
        held_out: Share of the pairs that is measured, at most 8,192 of them.
        stopping: Share of the pairs that ends the training, at most 2,048 of them.
        candidates: Held-out pairs that are scored with one another. The log of this is InfoNCE's cap.
        batch_size: Pairs in a training batch, at most as many as there are.
        max_steps: Training steps at most.
        lr: AdamW's learning rate.
        confidence: Of the interval.
        units: "nats" or "bits".
        shuffled: Whether to do all of it once more with pairs that were shuffled first, and should show nothing.
        progress: Called with a line on what begins.

    Raises:
        TypeError: An array does not hold real numbers.
        ArraysError: The arrays have different or too few rows, another shape, numbers that are not finite or constant
            columns.
        ValueError: An option is out of its range, or training diverged.

    Example:
        >>> import numpy as np
        >>> from mutual_information.information import information_between
        >>> x = np.random.default_rng(0).standard_normal((400, 2))
        >>> y = x + np.random.default_rng(1).standard_normal((400, 2))
        >>> found = information_between(x, y, seeds=(0,), max_steps=50, shuffled=False)
        >>> found.kind, found.pairs.held_out
        ('lower bound', 120)
    """
    _check_options(estimator, critic, units, seeds, held_out, stopping, confidence)
    for name, number, least in (
        ("candidates", candidates, 2),
        ("batch_size", batch_size, 2),
        ("max_steps", max_steps, 1),
    ):
        if number < least:
            raise ValueError(f"information_between: {name} must be at least {least}, got {number}. Raise it.")
    if hidden_channels is not None and (hidden_channels < 1 or critic == "bilinear"):
        rule = "be left out for the bilinear critic" if critic == "bilinear" else "be at least 1"
        raise ValueError(
            f"information_between: hidden_channels must {rule}, got {hidden_channels}. Pass None for the default."
        )
    if not 0 < lr < math.inf:
        raise ValueError(f"information_between: lr must be a positive number, got {lr}. Pass, for example, 1e-3.")
    kind = ESTIMATORS[estimator]
    plan = _Plan(kind, critic, hidden_channels, min(seeds), batch_size, max_steps, lr)
    left, right = checked(x, y)
    parts, size = _parts(len(left), held_out, stopping, candidates, seeds[0])
    tell = progress or (lambda line: None)

    real = _measure(plan, estimator, left, right, parts, size, seeds, confidence, tell, "pairs")
    null = None
    if shuffled:
        order = np.random.default_rng(seeds[0]).permutation(len(right))
        null = _measure(plan, estimator, left, right[order], parts, size, seeds, confidence, tell, "shuffled pairs")
    scale = 1.0 if units == "nats" else 1 / math.log(2)
    cap = kind.cap(size)
    pairs = Split(*(len(part) for part in parts))
    interval = Interval(*(scale * number for number in real.interval))
    return Information(
        **interval._asdict(),
        units=units,
        confidence=confidence,
        estimator=estimator,
        kind=kind.kind,
        cap=None if math.isinf(cap) else scale * cap,
        by_seed=tuple(scale * value for value in real.by_seed),
        shuffled=None if null is None else Interval(*(scale * number for number in null.interval)),
        pairs=pairs,
        warnings=tuple(_warnings(kind, real, null, cap, pairs)),
    )


class _Plan(NamedTuple):
    """How critics are trained."""

    estimator: Estimator
    critic: CriticName
    hidden_channels: int | None
    seed: int
    batch_size: int
    max_steps: int
    lr: float


class _Measured(NamedTuple):
    """What held-out pairs show, in nats."""

    interval: Interval
    by_seed: tuple[float, ...]
    effective_pairs: float
    """Fake pairs that a mean of exponentials rests on, with the critic for which they are fewest."""
    stopped: bool
    """Whether every training ended by itself."""


def _check_options(
    estimator: str, critic: str, units: str, seeds: Sequence[int], held_out: float, stopping: float, confidence: float
) -> None:
    names = [name for name in ESTIMATORS if name != "alpha"]
    for option, value, allowed in (
        ("estimator", estimator, names),
        ("critic", critic, ["separable", "concat", "dot-product", "bilinear"]),
        ("units", units, ["nats", "bits"]),
    ):
        if value not in allowed:
            raise ValueError(
                f"information_between: {option} must be one of {', '.join(map(repr, allowed))}, got {value!r}. "
                "Pass one of those."
            )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(
            f"information_between: seeds must be different numbers from 0 on, got {tuple(seeds)}. Pass one or more."
        )
    if not (held_out > 0 and stopping > 0 and held_out + stopping < 1):
        raise ValueError(
            f"information_between: held_out and stopping must be above 0 and leave pairs to train on, got {held_out} "
            f"and {stopping}. Pass, for example, 0.3 and 0.2."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"information_between: confidence must be between 0 and 1, got {confidence}. Pass 0.95.")


def _parts(
    rows: int, held_out: float, stopping: float, candidates: int, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Return the rows of each part, and into how large blocks the held-out ones go."""
    measured = min(round(held_out * rows), MOST_HELD_OUT)
    size = min(candidates, measured)
    measured -= measured % max(1, size)
    watched = min(round(stopping * rows), MOST_STOPPING)
    if min(size, watched, rows - measured - watched) < 10:
        raise ArraysError(
            f"information_between: every part must have at least 10 pairs, got {rows - measured - watched} to train, "
            f"{watched} to stop and {size} to score with one another. Change held_out, stopping or candidates."
        )
    order = np.random.default_rng(seed).permutation(rows)
    return (order[measured + watched :], order[measured : measured + watched], order[:measured]), size


def _measure(
    plan: _Plan,
    estimator: EstimatorName,
    x: Array,
    y: Array,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: int,
    seeds: Sequence[int],
    confidence: float,
    tell: Callable[[str], None],
    what: str,
) -> _Measured:
    """Train a critic for each seed, and measure the held-out pairs in blocks."""
    train, watched, measured = (
        (left, right) for left, right in zip(_standardised(x, parts), _standardised(y, parts), strict=True)
    )
    values, resampled, effective, stopped = [], [], [], []
    for seed in seeds:
        tell(f"{what}, seed {seed}")
        critic, ended = _train(plan._replace(seed=seed), train, watched)
        logits = _scores(critic, measured, size)
        value, again = bootstrap(estimator, logits, seeds[0])
        values.append(value)
        resampled.append(again)
        effective.append(effective_pairs(logits))
        stopped.append(ended)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.stack(resampled).mean(0).quantile(tails).tolist()
    interval = Interval(float(np.mean(values)), low, high)
    if not np.isfinite([*values, low, high]).all():
        raise _diverged(values)
    return _Measured(interval, tuple(values), min(effective), all(stopped))


def _standardised(values: Array, parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Tensor]:
    """Return the three parts with mean 0 and deviation 1 in the first of them."""
    train = values[parts[0]]
    scale = train.std(0)
    scale[scale == 0] = 1.0
    return [torch.from_numpy(((values[part] - train.mean(0)) / scale).astype(np.float32)) for part in parts]


def _train(plan: _Plan, train: tuple[Tensor, Tensor], watched: tuple[Tensor, Tensor]) -> tuple[Critic, bool]:
    """Return the critic that was best on the stopping part, and whether training ended by itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        channels = train[0].shape[1], train[1].shape[1]
        critic = build_critic(plan.critic, channels, plan.hidden_channels, default=HIDDEN)
    generator = torch.Generator().manual_seed(plan.seed)
    objective, watch = build_objective(plan.estimator.objective), OBJECTIVES[plan.estimator.objective]
    optimizer = torch.optim.AdamW(critic.parameters(), plan.lr, weight_decay=WEIGHT_DECAY)
    batch = min(plan.batch_size, len(train[0]))
    order = torch.empty(0, dtype=torch.long)
    best, weights, waited = -math.inf, None, 0
    for step in range(1, plan.max_steps + 1):
        if len(order) < batch:
            order = torch.randperm(len(train[0]), generator=generator)
        chosen, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        (-objective(score(critic, train[0][chosen], train[1][chosen]))).backward()
        clip(plan.estimator.objective, critic)
        optimizer.step()
        if step % EVERY and step < plan.max_steps:
            continue
        shown = watch(_scores(critic, watched, min(plan.batch_size, len(watched[0])))).item()
        waited += 1
        if shown > best:
            best, waited = shown, 0
            weights = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
        if waited == PATIENCE:
            break
    if weights is None:
        raise _diverged([shown])
    critic.load_state_dict(weights)
    return critic, waited == PATIENCE


@torch.no_grad()
def _scores(critic: nn.Module, pairs: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Return the logits (K, M, M) of all pairs in each block of M; what is left over is left out."""
    whole = len(pairs[0]) - len(pairs[0]) % size
    x, y = (side[:whole].split(size) for side in pairs)
    return torch.stack([score(critic, a, b) for a, b in zip(x, y, strict=True)])


def _warnings(kind: Estimator, real: _Measured, null: _Measured | None, cap: float, pairs: Split) -> list[str]:
    """Say what speaks against the number."""
    value, low, high = real.interval
    found = []
    if value > cap - NEAR_CAP:
        found.append(
            f"the value is within {NEAR_CAP:g} nat of the most that {kind.title} can show. The information may be far "
            "more: hold out more pairs and raise candidates, or use an estimator without cap."
        )
    if kind.objective in ("nwj", "dv", "mine"):
        if real.effective_pairs < FEW_PAIRS:
            found.append(
                f"the mean of exponentials rests on about {max(1, round(real.effective_pairs))} fake pairs. Its "
                "variance is more than the interval shows: use infonce, or hold out more pairs."
            )
        if value > math.log(pairs.held_out):
            found.append(
                f"the value is more than log {pairs.held_out:,}, the log of the held-out pairs: no bound is sure "
                "beyond that."
            )
    if high - low > 2 * WIDE * max(1.0, value):
        found.append("the interval is wide. Hold out more pairs, or use infonce.")
    spread = max(real.by_seed) - min(real.by_seed)
    if spread > max(high - low, 0.1):
        found.append("the seeds differ by more than the interval is wide: training matters more than sampling here.")
    if not real.stopped:
        found.append("training was ended by max_steps while it still improved. Raise max_steps.")
    if low <= max(0.0, -math.inf if null is None else null.interval.high):
        found.append("the value cannot be told from none.")
    if null is not None and null.interval.low > 0:
        found.append("shuffled pairs show information, where there is none: the estimate is too high by about as much.")
    return found


def _diverged(values: Sequence[float]) -> ValueError:
    return ValueError(
        f"information_between: training must stay finite, got estimates of {', '.join(f'{v:g}' for v in values)}. "
        "Lower lr, or look for outliers in the arrays."
    )
