"""What a loss makes of its pairs' logits, by the objective's name."""

import math
from typing import Literal, NamedTuple, TypeAlias, cast

from torch import Tensor

from blan_layers import functional
from blan_layers.functional._logits import log_mean_exp, mean
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional.bounds import CLIP
from blan_layers.functional.objectives import TERMS

Objective: TypeAlias = Literal[
    "bce", "jsd", "nwj", "rkl", "chi_squared", "squared_hellinger", "wasserstein", "infonce", "dv", "mine"
]
Estimator: TypeAlias = Literal["jsd", "positive_logit", "certificate", "nwj", "dv", "smile", "infonce"]

OF_ALL_PAIRS = ("dv", "mine")
"""Objectives with a logarithm of a mean over all fake pairs, which no location has by itself."""

OBJECTIVES: tuple[Objective, ...] = (
    "bce",
    "jsd",
    "nwj",
    "rkl",
    "chi_squared",
    "squared_hellinger",
    "wasserstein",
    "infonce",
    "dv",
    "mine",
)
ESTIMATORS: tuple[Estimator, ...] = ("jsd", "positive_logit", "certificate", "nwj", "dv", "smile", "infonce")

LOG_RATIO_BEHIND = {"bce": 0.0, "jsd": 0.0, "rkl": 0.0, "nwj": 1.0}
"""By how much the best critic of an objective is above the log density ratio, where it is that and a constant."""

DIVERGENCES = {"bce": "gan", "jsd": "gan", "nwj": "kl"}
"""The f-divergence of an objective, where it goes by another name."""


class PairLogits(NamedTuple):
    r"""The logits of real and of fake pairs.

    Attributes:
        positive: Of each location with its own summary, (B, \*S).
        negative: Of each location with K others, (B, K, \*S).
        valid: Which of the K are another's indeed, (B, K), or None for all.
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor | None

    def plus(self, constant: float) -> "PairLogits":
        """Return the logits plus a constant."""
        return self._replace(positive=self.positive + constant, negative=self.negative + constant)

    def weights(self, mask: Tensor | None) -> dict[str, Tensor | None]:
        """Return the weights of every score: a location's own, and a K-th of it, or its share, for each fake pair."""
        if self.valid is None:
            spread = None if mask is None else mask.unsqueeze(1).expand_as(self.negative)
            return {"positive_weights": mask, "negative_weights": spread}
        share = over_locations(self.valid, self.negative).to(at_least_float32(self.negative).dtype)
        share = (share / share.sum(1, keepdim=True)).expand_as(self.negative)
        return {"positive_weights": mask, "negative_weights": share if mask is None else share * mask.unsqueeze(1)}


def over_locations(valid: Tensor, negative: Tensor) -> Tensor:
    """Return (B, K) as (B, K, 1, ...), to go with (B, K, *S)."""
    return valid.reshape(*valid.shape, *(1 for _ in negative.shape[2:]))


def location_losses(objective: str, logits: PairLogits) -> Tensor:
    r"""Return the loss (B, \*S) of each location, for an objective that is a mean of them."""
    if objective == "infonce":
        return -_infonce(logits)
    of_positive, of_negative = TERMS[DIVERGENCES.get(objective, objective)]
    real, negative = -of_positive(logits.positive), logits.negative
    if logits.valid is None:
        fake = of_negative(negative).mean(1)
    else:
        valid = over_locations(logits.valid, negative)
        terms = of_negative(negative.masked_fill(~valid, 0)) * valid
        fake = terms.sum(1) / valid.sum(1)
    loss = real + fake
    return loss - 2 * math.log(2) if objective == "jsd" else loss


def estimated(estimator: str, logits: PairLogits, mask: Tensor | None, *, by_location: bool = False) -> Tensor:
    r"""Return an estimate in nats from logits that are the log density ratio at their best.

    It is over all pairs, or, by location, over those at each by itself: (\*S).
    """
    images = 0 if by_location else None
    if estimator == "positive_logit":
        return mean(logits.positive, mask, images)
    if estimator == "infonce":
        return mean(_infonce(logits), mask, images)
    if estimator in ("jsd", "certificate"):
        bce = mean(location_losses("bce", logits), mask, images)
        return 2 * math.log(2) - bce if estimator == "jsd" else functional.mutual_information_certificate(bce / 2)
    if estimator == "nwj":
        return -mean(location_losses("nwj", logits.plus(1.0)), mask, images)
    negative, weights = logits.negative, logits.weights(mask)["negative_weights"]
    if estimator == "smile":
        negative = negative.clamp(-CLIP, CLIP)
    if by_location:  # the axis of images and of their fake pairs
        negative, weights = negative.flatten(0, 1), None if weights is None else weights.flatten(0, 1)
    return mean(logits.positive, mask, images) - log_mean_exp(negative, weights, images)


def _infonce(logits: PairLogits) -> Tensor:
    """Return the log of how much more than by chance each location tells its own summary among all candidates."""
    positive, negative = at_least_float32(logits.positive), at_least_float32(logits.negative)
    valid = over_locations(cast(Tensor, logits.valid), negative)  # given with all candidates, which it needs
    negative = negative.masked_fill(~valid, -math.inf)
    candidates = (1 + valid.sum(1)).to(positive.dtype)
    return candidates.log() + positive - positive.logaddexp(negative.logsumexp(1))
