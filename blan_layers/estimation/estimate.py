"""A measured mutual information: the number, how sure it is, and what speaks against it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from blan_layers.estimation.bounds import Estimator

Units: TypeAlias = Literal["nats", "bits"]


@dataclass(frozen=True, kw_only=True)
class InformationEstimate:
    """What was measured, in ``units``."""

    value: float
    """What pairs show that no critic has seen."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the interval."""
    p_value: float
    """Share of shuffled pairings that show as much dependence as the pairs do."""
    saturated: bool
    """Whether the value is near the most that so many pairs can show."""
    others: dict[str, float]
    """Other estimates: "neighbours" (Kraskov et al., Gao et al.) and "gaussian" (canonical correlation)."""
    warnings: tuple[str, ...]
    """What speaks against the number, and what to do about it."""
    units: Units
    estimator: Estimator
    cap: float | None
    """The most that the estimator can show, if there is a most."""
    by_fold: tuple[float, ...]
    """The value of each fold."""
    unlearnt: float
    """What critics of any number of pairs would show above these, going by critics of half as many pairs."""
    pairs: int
    """How many were measured."""

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """Say what was measured, and what of it is sure."""
        units = self.units
        capped = "" if self.cap is None else f", at most {self.cap:.2f} {units}"
        p_value = f"{self.p_value:.3f}".rstrip("0")
        lines = [
            f"{self.value:.3f} {units}, 95 % interval {self.low:.3f} to {self.high:.3f}; p = {p_value}",
            f"{_TITLES[self.estimator]}: {_MEANINGS[self.estimator]}{capped}.",
            f"{self.pairs:,} pairs, each measured by a critic that has not seen it. By fold: "
            f"{', '.join(f'{value:.3f}' for value in self.by_fold)}.",
            f"Nearest neighbours: {self.others['neighbours']:.3f}. Gaussian: {self.others['gaussian']:.3f}.",
            "The interval covers which pairs were drawn and, upwards, what critics would learn from more pairs "
            f"({self.unlearnt:.3f}) and, of few columns, what nearest neighbours show; it does not cover what none of "
            "them can tell.",
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

_LOWER = "a lower bound, so that the information may be more"
_NO_BOUND = "an estimate for an optimal critic and no bound"

_MEANINGS: dict[Estimator, str] = {
    "infonce": _LOWER,
    "nwj": _LOWER,
    "dv": f"{_LOWER}, given many pairs",
    "jsd": _NO_BOUND,
    "smile": _NO_BOUND,
    "certificate": _LOWER,
}
