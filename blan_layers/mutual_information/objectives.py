"""Losses and estimates from the logits of pairs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from blan_layers import functional
from blan_layers.functional._logits import log_mean_exp, log_of, mean
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.functional.bounds import CLIP
from blan_layers.functional.contrastive import mean_log_share
from blan_layers.functional.objectives import OBJECTIVES, ObjectiveName
from blan_layers.mutual_information.gathering import exchanged

EstimatorName: TypeAlias = Literal["jsd", "positive_logit", "certificate", "nwj", "dv", "smile", "infonce"]


class PairLogits(NamedTuple):
    r"""The logits of real and fake pairs.

    Attributes:
        positive: Logits of each location with its own summary, (B, \*S).
        negative: Logits of each location with K other summaries, (B, K, \*S).
        valid: Which of the K form fake pairs, (B, K), or None for all.
        positives: Which of the K, then all candidates, form real pairs, (B, K), or None for the own summary only.
        of_summaries: For a symmetric loss, the log ratio of each summary's probability of its own map to chance, (B,
            \*S).
    """

    positive: Tensor
    negative: Tensor
    valid: Tensor | None
    positives: Tensor | None = None
    of_summaries: Tensor | None = None

    def plus(self, constant: float) -> "PairLogits":
        """Return the logits plus a constant."""
        return self._replace(positive=self.positive + constant, negative=self.negative + constant)

    def weights(self, mask: Tensor | None) -> dict[str, Tensor | None]:
        """Return the weights of all scores: that of the location, shared equally among its fake pairs."""
        return {"positive_weights": mask, "negative_weights": _of_fakes(self.negative, self.valid, mask)}


@whole
def _of_fakes(negative: Tensor, valid: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the weights (B, K, *S) of fake pairs, whose total is the weight of the real pair."""
    if valid is None:
        return None if mask is None else mask.unsqueeze(1).expand_as(negative)
    share = over_locations(valid, negative).to(at_least_float32(negative).dtype)
    share = (share / share.sum(1, keepdim=True)).expand_as(negative)
    return share if mask is None else share * mask.unsqueeze(1)


@whole
def over_locations(valid: Tensor, negative: Tensor) -> Tensor:
    """Return (B, K) as (B, K, 1, ...), which broadcasts to (B, K, *S)."""
    return valid.reshape(*valid.shape, *(1 for _ in negative.shape[2:]))


def location_losses(name: ObjectiveName, logits: PairLogits) -> Tensor:
    r"""Return the loss (B, \*S) of each location, for an objective that is a sum over locations."""
    objective = OBJECTIVES[name]
    if objective.each == "candidates":
        return -_infonce(logits)
    real, negative = -objective.of_positive(logits.positive), logits.negative
    if logits.valid is None:
        return real + objective.of_negative(negative).mean(1)
    valid = over_locations(logits.valid, negative)
    terms = objective.of_negative(negative.masked_fill(~valid, 0)) * valid
    return real + terms.sum(1) / valid.sum(1)


def _infonce(logits: PairLogits) -> Tensor:
    """Return the log ratio to chance of each location's probability of its own summary among all candidates.

    For a symmetric loss, average this with the log ratio of each summary's probability of its own map.
    """
    told = _of_locations(logits)
    return told if logits.of_summaries is None else (told + logits.of_summaries) / 2


def _of_locations(logits: PairLogits) -> Tensor:
    positive, negative = at_least_float32(logits.positive), at_least_float32(logits.negative)
    if logits.valid is None:
        shares = torch.cat([positive.unsqueeze(1), negative], 1).log_softmax(1)
        return log_of(shares.shape[1], shares) + shares[:, 0]
    valid = over_locations(logits.valid, negative)
    if logits.positives is None:
        candidates = torch.cat([positive.unsqueeze(1), negative.masked_fill(~valid, -math.inf)], 1)
        return (1 + valid.sum(1)).to(positive.dtype).log() + candidates.log_softmax(1)[:, 0]
    positives = over_locations(logits.positives, negative)
    among = valid | positives
    return among.sum(1).to(positive.dtype).log() + mean_log_share(negative, positives, among, 1)


@whole
def told_by_summaries(
    logits: Tensor, valid: Tensor, positives: Tensor | None, seen: Tensor | None, gather: bool
) -> Tensor:
    r"""Return the log ratio to chance of each summary's probability of its own map among all maps, (B, \*S).

    It is computed separately at every location.

    Args:
        logits: Logits of maps with summaries (B, N, \*S), the maps' own summaries first.
        valid: Which are fake pairs, (B, N).
        positives: Which are real pairs, (B, N), or None for the own summaries only.
        seen: Which locations have weight, (B, \*S), or None for all.
        gather: Whether summaries are scored with the maps of all processes, which exchange a few numbers per summary.
    """
    logits, batch = at_least_float32(logits), logits.shape[0]
    own = torch.arange(logits.shape[1], device=logits.device) == torch.arange(batch, device=logits.device).unsqueeze(1)
    real = over_locations(own if positives is None else positives, logits)
    among = over_locations(valid, logits) | real
    if seen is not None:
        among = among & (seen.unsqueeze(1) | over_locations(own, logits))
        real = real & among
    terms = (
        logits.masked_fill(~among, torch.finfo(logits.dtype).min / 2).logsumexp(0),  # finite where there are none
        logits.masked_fill(~real, 0).sum(0),
        real.sum(0),
        among.sum(0),
    )
    sums = torch.stack([term.to(logits.dtype).expand_as(terms[0]) for term in terms], 1)
    parts = exchanged(sums, batch) if gather else sums.unsqueeze(0)
    total, told, reals, count = parts.unbind(2)
    return count.sum(0).log() + told.sum(0) / reals.sum(0) - total.logsumexp(0)


@dataclass(frozen=True)
class Estimator:
    """How to estimate information from logits whose optimum is the log density ratio."""

    measure: Callable[[PairLogits, Tensor | None, int | None], Tensor]
    """Maps logits, the weights of locations and the axis of images (None for all axes) to nats."""
    of_ratio: bool = False
    """Whether the critic must be trained towards the log density ratio."""
    of_candidates: bool = False
    """Whether it needs all candidates."""


def _bce(logits: PairLogits, mask: Tensor | None, images: int | None) -> Tensor:
    return mean(location_losses("bce", logits), mask, images)


def _log_mean(logits: PairLogits, mask: Tensor | None, images: int | None, clip: float = math.inf) -> Tensor:
    """Return Donsker and Varadhan's bound, with fake pairs clipped."""
    negative, weights = logits.negative, logits.weights(mask)["negative_weights"]
    if clip < math.inf:
        negative = negative.clamp(-clip, clip)
    if images is not None:  # the axis of images and of their fake pairs
        negative, weights = negative.flatten(0, 1), None if weights is None else weights.flatten(0, 1)
    return mean(logits.positive, mask, images) - log_mean_exp(negative, weights, images)


ESTIMATORS: dict[EstimatorName, Estimator] = {
    "jsd": Estimator(lambda logits, mask, images: 2 * math.log(2) - _bce(logits, mask, images)),
    "positive_logit": Estimator(lambda logits, mask, images: mean(logits.positive, mask, images), of_ratio=True),
    "certificate": Estimator(
        lambda logits, mask, images: functional.mutual_information_certificate(_bce(logits, mask, images) / 2)
    ),
    "nwj": Estimator(lambda logits, mask, images: -mean(location_losses("nwj", logits.plus(1.0)), mask, images)),
    "dv": Estimator(_log_mean),
    "smile": Estimator(lambda logits, mask, images: _log_mean(logits, mask, images, CLIP), of_ratio=True),
    "infonce": Estimator(lambda logits, mask, images: mean(_infonce(logits), mask, images), of_candidates=True),
}
"""Every estimator of the losses."""
