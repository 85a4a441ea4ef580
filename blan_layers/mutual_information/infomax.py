"""What the local and the global loss share: pairs, their logits, and what is made of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks, functional
from blan_layers._init import reset
from blan_layers.functional._logits import mean
from blan_layers.functional._precision import at_least_float32
from blan_layers.mutual_information.critics import Critic
from blan_layers.mutual_information.gathering import gathered
from blan_layers.mutual_information.memory import SummaryQueue
from blan_layers.mutual_information.mine import MINEObjective
from blan_layers.mutual_information.negatives import (
    DRAWN,
    NEGATIVES,
    Negatives,
    check_groups,
    check_partners,
    drawn_indices,
    same_group,
)
from blan_layers.mutual_information.objectives import (
    ESTIMATORS,
    LOG_RATIO_BEHIND,
    OBJECTIVES,
    OF_ALL_PAIRS,
    Estimator,
    Objective,
    PairLogits,
    estimated,
    location_losses,
)

Reduction: TypeAlias = Literal["mean", "sum", "none"]


class Pairs(NamedTuple):
    """Who is scored with whom.

    Attributes:
        summaries: The batch's own (B, D), then further candidates: (N, D).
        indices: Whose summaries make the fake pairs, as a critic's ``contrast`` takes them, or None for all.
        valid: Which of all candidates make fake pairs with each map, (B, N), or None.
    """

    summaries: Tensor
    indices: Tensor | None
    valid: Tensor | None


class InfoMaxLoss(nn.Module, ABC):
    """Loss over a critic's logits of real and of fake pairs; a subclass says what it takes for features."""

    def __init__(
        self,
        *,
        objective: Objective,
        negatives: Negatives,
        num_negatives: int | None,
        queue_size: int | None,
        gather: bool,
        reduction: Reduction,
    ) -> None:
        super().__init__()
        owner = self._owner
        _checks.choice(owner, "objective", objective, OBJECTIVES)
        _checks.choice(owner, "negatives", negatives, NEGATIVES)
        _checks.choice(owner, "reduction", reduction, ("mean", "sum", "none"))
        self.objective: Objective = objective
        self.negatives: Negatives = negatives
        self.reduction = reduction
        self.gather = gather
        self.num_negatives = 1
        if num_negatives is not None:
            self.num_negatives = _checks.positive_int(owner, "num_negatives", num_negatives)
            self._needs("num_negatives", negatives in DRAWN, "negatives 'shift', 'derangement' or 'per-location'")
        if gather:
            self._needs("gather=True", negatives not in DRAWN, "negatives 'all' or 'queue'")
        if queue_size is not None:
            _checks.positive_int(owner, "queue_size", queue_size)
            self._needs("queue_size", negatives == "queue", "negatives 'queue'")
        elif negatives == "queue":
            raise ValueError(f"{owner}: negatives='queue' needs queue_size, got None. Pass, for example, 4096.")
        if objective == "infonce":
            self._needs("objective='infonce'", negatives not in DRAWN, "negatives 'all' or 'queue'")
        if objective in OF_ALL_PAIRS and reduction != "mean":
            raise ValueError(
                f"{owner}: objective={objective!r} is no sum over locations, got reduction={reduction!r}. "
                "Use reduction='mean', or another objective."
            )

    def _needs(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(
                f"{self._owner}: {name} needs {wanted}, got negatives={self.negatives!r}. "
                "Pass one of those, or drop it."
            )

    def _hold(
        self,
        critic: nn.Module,
        global_channels: int,
        queue_size: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Take in the critic, and what else has a state."""
        owner = self._owner
        if not isinstance(critic, nn.Module):
            raise TypeError(
                f"{owner}: critic must be a torch.nn.Module, got {type(critic).__name__}. "
                "Pass an instance that maps (local_features, global_features) to logits."
            )
        one_permutation = self.negatives in ("shift", "derangement") and self.num_negatives == 1
        if not (isinstance(critic, Critic) or one_permutation):
            raise ValueError(
                f"{owner}: negatives={self.negatives!r} with num_negatives={self.num_negatives} needs a "
                f"blan_layers.mutual_information.Critic, got {type(critic).__name__}. Subclass it, or use one "
                "negative of 'shift' or 'derangement'."
            )
        self.critic = critic
        if queue_size is not None:
            self.queue = SummaryQueue(queue_size, global_channels, device=device, dtype=dtype)
        if self.objective == "mine":
            self.mine = MINEObjective(device=device, dtype=dtype)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def reset_parameters(self) -> None:
        """Draw the critic's weights anew, where it knows how, and forget earlier batches."""
        for part in self.children():
            reset(part)

    @abstractmethod
    def _check_features(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the loss was not built for."""

    def _prepared(
        self,
        local_features: Tensor,
        global_features: Tensor,
        mask: Tensor | None,
        groups: Tensor | None,
        *,
        random: bool,
    ) -> tuple[Tensor, Pairs]:
        """Return the features, zero where the mask is, and who is scored with whom."""
        self._check_features(local_features, global_features)
        locations = (local_features.shape[0], *local_features.shape[2:])
        if mask is not None:
            self._check_mask(mask, locations)
            local_features = local_features.masked_fill((mask == 0).unsqueeze(1), 0)  # whatever stands there, NaN too
        return local_features, self._pairs(locations, global_features, groups, random=random)

    def _pairs(
        self, locations: tuple[int, ...], global_features: Tensor, groups: Tensor | None, *, random: bool
    ) -> Pairs:
        owner, batch = self._owner, locations[0]
        summaries = gathered(global_features) if self.gather else global_features
        if summaries.shape[0] < 2:
            raise ValueError(
                f"{owner}: needs at least 2 images to form negative pairs, got a batch of {batch}. "
                "Use drop_last=True in the DataLoader."
            )
        if groups is not None:
            check_groups(owner, self.negatives, groups, batch)
            groups = gathered(groups) if self.gather else groups
            check_partners(owner, self.negatives, groups)
        if self.negatives in DRAWN:
            if self.num_negatives >= batch:
                raise ValueError(
                    f"{owner}: num_negatives must be below the batch, got {self.num_negatives} for a batch of {batch}. "
                    "Use a larger batch, or negatives='all'."
                )
            device = global_features.device
            indices = drawn_indices(self.negatives, locations, self.num_negatives, groups, device, random=random)
            return Pairs(summaries, indices, None)
        if groups is None:
            images = torch.arange(summaries.shape[0], device=summaries.device)
            valid = images[:batch].unsqueeze(1) != images
        else:
            valid = ~same_group(groups)[:batch]
        if self.negatives == "queue":
            summaries = torch.cat([summaries, self.queue.stored.to(summaries.dtype)])
            valid = torch.cat([valid, self.queue.filled.expand(batch, -1)], 1)
        return Pairs(summaries, None, valid)

    def _logits(self, local_features: Tensor, pairs: Pairs) -> PairLogits:
        """Return the critic's logits of the real pairs and of the fake ones."""
        batch, *space = local_features.shape[0], *local_features.shape[2:]
        if pairs.indices is None:
            logits: Tensor = self.critic.all_pairs(local_features, pairs.summaries)  # type: ignore[operator]  # a Critic
            self._check_logits("(B, N, *S)", (batch, pairs.summaries.shape[0], *space), logits)
            own = logits[:, :batch].diagonal().movedim(-1, 0)  # square, so that compilers know its size
            return PairLogits(own, logits, pairs.valid)
        indices = pairs.indices
        if callable(contrast := getattr(self.critic, "contrast", None)):
            positive, negative = contrast(local_features, pairs.summaries, indices)
        else:
            positive = self.critic(local_features, pairs.summaries)
            negative = self.critic(local_features, pairs.summaries[indices])
        self._check_logits("(B, *S)", (batch, *space), positive)
        if indices.ndim == 1:
            self._check_logits("(B, *S)", (batch, *space), negative)
            negative = negative.unsqueeze(1)
        self._check_logits("(B, K, *S)", (batch, self.num_negatives, *space), negative)
        return PairLogits(positive, negative, None)

    def _check_logits(self, axes: str, wanted: tuple[int, ...], logits: Tensor) -> None:
        _checks.floating(self._owner, "the critic's logits", logits)
        if logits.shape != wanted:
            raise ValueError(
                f"{self._owner}: the critic must return logits {axes} = {wanted}, got shape "
                f"{_checks.shape(logits)}. Score every location once."
            )

    def _loss(self, local_features: Tensor, pairs: Pairs, mask: Tensor | None) -> Tensor:
        """Return the reduced loss, and remember the batch."""
        logits = self._logits(local_features, pairs)
        weights = self._weights(mask, logits.positive, divides=self.reduction == "mean")
        if self.training and self.negatives == "queue":
            self.queue.push(pairs.summaries[: -self.queue.stored.shape[0]])
        if self.objective == "mine":
            bound: Tensor = self.mine(logits.positive, logits.negative, **logits.weights(weights))
            return -bound
        if self.objective == "dv":
            return -functional.dv_lower_bound(logits.positive, logits.negative, **logits.weights(weights))
        loss = location_losses(self.objective, logits)
        if self.reduction == "mean":
            return mean(loss, weights)
        if weights is not None:
            loss = loss * weights
        return loss if self.reduction == "none" else loss.sum()

    @torch.no_grad()
    def estimate(
        self,
        local_features: Tensor,
        global_features: Tensor,
        *,
        mask: Tensor | None = None,
        groups: Tensor | None = None,
        estimator: Estimator = "jsd",
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        r"""Estimate the mutual information per location in nats, without gradient, on negatives as in evaluation.

        A critic of your own with dropout or batch norm is run in the mode it is in: call ``eval()`` first. What a bound
        promises holds in the mean over batches, of images that the critic was not fitted to, in an order that tells
        nothing: among images sorted by class a shift by one makes fake pairs of one class, which hides information.
        Shuffle them, or take negatives "all". The estimators:

        - "jsd", ``2 log 2 - bce``, a lower bound for every critic, which never passes 2 log 2 = 1.386;
        - "certificate", what the binary cross entropy alone certifies: a lower bound for every critic, without that
          cap, see :func:`~blan_layers.functional.mutual_information_certificate`. It is convex, so that for many
          batches it is to be taken once, of the mean of their cross entropies: (2 log 2 - the mean "jsd") / 2;
        - "nwj", a lower bound for every critic, of high variance; "dv", the same in the limit of many fake pairs;
        - "infonce", a lower bound for every critic, at most the log of the number of candidates; it needs negatives
          "all" or "queue";
        - "positive_logit", the mean logit of real pairs, and "smile", Donsker-Varadhan with clipped negatives: the
          mutual information for an optimal critic, and no bounds. They need a critic that an objective trains towards
          the log density ratio: "bce", "jsd", "nwj" or "rkl".

        With ``groups``, or a queue of summaries that have since changed, fake pairs are no draws from the product of
        the marginals, and every estimate can pass the mutual information.

        Args:
            local_features: Maps.
            global_features: Summaries.
            mask: Boolean or non-negative weights of the locations.
            groups: Group of each image (B,), integers, none of which is paired with its own.
            estimator: One of those above.
            reduction: "mean" over all pairs, or "none" for each location by itself, over the images; where no image has
                weight that is NaN.

        Shape:
            local_features (B, C, \*S), global_features (B, D), mask (B, \*S), groups (B,) -> scalar, (\*S) for "none".

        Raises:
            TypeError: As in ``forward``.
            ValueError: As in ``forward``, or a name is unknown, or the estimator does not go with the loss.
        """
        owner = f"{self._owner}.estimate"
        _checks.choice(owner, "estimator", estimator, ESTIMATORS)
        _checks.choice(owner, "reduction", reduction, ("mean", "none"))
        if estimator == "infonce" and self.negatives in DRAWN:
            raise ValueError(
                f"{owner}: estimator='infonce' needs negatives 'all' or 'queue', got {self.negatives!r}. "
                "Build the loss with one of those."
            )
        if estimator in ("positive_logit", "smile") and self.objective not in LOG_RATIO_BEHIND:
            raise ValueError(
                f"{owner}: estimator={estimator!r} needs a critic trained towards the log density ratio, got "
                f"objective={self.objective!r}. Use 'certificate', or train with 'bce', 'jsd', 'nwj' or 'rkl'."
            )
        local_features, pairs = self._prepared(local_features, global_features, mask, groups, random=False)
        logits = self._logits(local_features, pairs)
        weights = self._weights(mask, logits.positive, divides=True)
        if behind := LOG_RATIO_BEHIND.get(self.objective):
            logits = logits.plus(-behind)
        if reduction == "mean":
            return estimated(estimator, logits, weights)
        if weights is None:
            return estimated(estimator, logits, None, by_location=True)
        unseen = (weights == 0).all(0)
        weights = weights.masked_fill(unseen, 1)
        return estimated(estimator, logits, weights, by_location=True).masked_fill(unseen, math.nan)

    def _check_mask(self, mask: object, locations: tuple[int, ...]) -> None:
        owner = self._owner
        if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(
                f"{owner}: mask must be a boolean or floating-point tensor, got {got}. "
                "Pass mask.bool(), or mask.float() if it holds weights."
            )
        if mask.shape != locations:
            raise ValueError(
                f"{owner}: mask must have a weight for every location, shape {locations}, "
                f"got {_checks.shape(mask)}. Resize or expand it to the map."
            )

    def _weights(self, mask: Tensor | None, logits: Tensor, *, divides: bool) -> Tensor | None:
        """Return the mask as weights in the precision of the loss, after checking their values."""
        if mask is None:
            return None
        owner = self._owner
        weights = mask.to(at_least_float32(logits).dtype)
        if _checks.reads_values(weights):
            if not bool(((weights >= 0) & weights.isfinite()).all()):
                raise ValueError(
                    f"{owner}: mask must hold finite weights of at least 0, got values from {weights.min().item():g} "
                    f"to {weights.max().item():g}. Clamp it, or pass a boolean mask."
                )
            if divides and not 0 < weights.sum().item() < math.inf:
                raise ValueError(
                    f"{owner}: mask must have a finite sum above zero to take a mean over, got "
                    f"{weights.sum().item():g} for a mask of shape {_checks.shape(mask)}. "
                    "Skip the batch, scale the weights, or use reduction='sum'."
                )
        return weights

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"objective={self.objective!r}, negatives={self.negatives!r}, reduction={self.reduction!r}"


def refuse_beside_critic(owner: str, options: Mapping[str, object]) -> None:
    """Refuse options of the critic that a loss would build, where it is given one."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{owner}: {name} belongs to the critic that {owner} would build, got {name}={value!r} beside "
                f"critic=. Give it to the critic's own constructor."
            )
