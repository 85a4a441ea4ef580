"""A measured mutual information: the value, its uncertainty, and warnings."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from blan_layers.estimation.bounds import Estimator

Units: TypeAlias = Literal["nats", "bits"]


@dataclass(frozen=True, kw_only=True)
class InformationEstimate:
    """A measured mutual information; all values of information are in ``units``."""

    value: float
    """The estimate: that of the critics, on pairs that they were not trained on, or, if x and y have at most three
    columns together and critics miss part of what nearest neighbours show, that of nearest neighbours; never negative,
    and at most the entropy of categories."""
    low: float
    """Lower end of the 95 % confidence interval, which comes from the critics, at least 0."""
    high: float
    """Upper end of the interval, at most the entropy of categories, and what their counts allow."""
    p_value: float
    """Share of shuffled pairings that show at least as much dependence as the pairs."""
    saturated: bool
    """Whether the value is near the maximum that this number of pairs can show."""
    others: dict[str, float]
    """Other estimates: "neighbours" (Kraskov et al., Gao et al.) and "gaussian" (canonical correlation)."""
    warnings: tuple[str, ...]
    """Reasons to doubt the value, and what to do about them."""
    units: Units
    estimator: Estimator
    cap: float | None
    """The maximum of the estimator, at most the entropy of categories, or None if it is unbounded."""
    critics: float
    """The estimate of the critics, which may be negative."""
    by_fold: tuple[float, ...]
    """That of each fold."""
    unlearnt: float
    """How much more critics trained on unlimited pairs would show, extrapolated from critics of half the pairs."""
    pairs: int
    """Number of measured pairs."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a readable summary."""
        units = self.units
        capped = "" if self.cap is None else f", at most {self.cap:.2f} {units}"
        p_value = f"{self.p_value:.3f}".rstrip("0").rstrip(".")
        meaning = f"{_TITLES[self.estimator]}: {_MEANINGS[self.estimator]}{capped}."
        if self.value == self.others["neighbours"] != self.critics:
            meaning = f"Nearest neighbours. Critics show {self.critics:.3f}. {meaning}"
        limit = " Categories leave no more possible." if self.value + self.unlearnt > self.high else ""
        lines = [
            f"{self.value:.3f} {units}, 95 % interval {self.low:.3f} to {self.high:.3f}; p = {p_value}",
            meaning,
            f"{self.pairs:,} pairs, each measured by a critic that was not trained on it. By fold: "
            f"{', '.join(f'{value:.3f}' for value in self.by_fold)}.",
            f"Nearest neighbours: {self.others['neighbours']:.3f}. Gaussian: {self.others['gaussian']:.3f}.",
            "The interval covers the sampling of pairs. Its upper end also covers what critics would learn from more "
            f"pairs ({self.unlearnt:.3f}) and, for few columns, what nearest neighbours show.{limit} It does not "
            "cover dependence that none of them can detect.",
        ]
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


_TITLES: dict[Estimator, str] = {
    "infonce": "InfoNCE",
    "nwj": "NWJ",
    "dv": "DV",
    "jsd": "Mean logit",
    "smile": "SMILE",
    "certificate": "Certificate",
}

_LOWER = "a lower bound of the information"
_NO_BOUND = "an estimate for an optimal critic, not a bound"

_MEANINGS: dict[Estimator, str] = {
    "infonce": _LOWER,
    "nwj": _LOWER,
    "dv": f"{_LOWER}, given many pairs",
    "jsd": _NO_BOUND,
    "smile": _NO_BOUND,
    "certificate": _LOWER,
}
