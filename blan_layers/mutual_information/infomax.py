"""The common base of the local and the global loss: pairs, their logits, and losses and estimates from them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from blan_layers import _checks, functional
from blan_layers._checks import Checked, Option, said
from blan_layers._init import reset
from blan_layers._module import Module, runs_forward
from blan_layers.functional._logits import mean, weighted
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.functional.objectives import OBJECTIVES, ObjectiveName
from blan_layers.mutual_information.critics import Critic, contrast
from blan_layers.mutual_information.gathering import by_rank, gathered
from blan_layers.mutual_information.memory import SummaryQueue, all_but_last
from blan_layers.mutual_information.mine import MINEObjective
from blan_layers.mutual_information.negatives import (
    DRAWN,
    NEGATIVES,
    OF_ALL,
    Negatives,
    checked_given,
    checked_groups,
    drawn_indices,
    of_own_group,
    valid_candidates,
    with_given,
    with_partners,
    without,
)
from blan_layers.mutual_information.objectives import (
    ESTIMATORS,
    EstimatorName,
    PairLogits,
    location_losses,
    told_by_summaries,
)

Reduction: TypeAlias = Literal["mean", "sum", "none"]

REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")

Positives: TypeAlias = Literal["own", "groups"]

POSITIVES: tuple[Positives, ...] = ("own", "groups")


OptionalTensor = TypeVar("OptionalTensor", Tensor, Tensor | None)


class Pairs(NamedTuple):
    r"""Which maps are scored with which summaries.

    Attributes:
        summaries: Those of the batch (B, D), followed by further candidates: (N, D).
        indices: Indices of the summaries in the fake pairs, as for a critic's ``contrast``, or None for all.
        valid: Which candidates form fake pairs with each map, (B, N), or None.
        groups: Group of each candidate, (N,), or None.
        seen: Which locations have weight, (B, \*S), or None for all.
    """

    summaries: Tensor
    indices: Tensor | None
    valid: Tensor | None = None
    groups: Tensor | None = None
    seen: Tensor | None = None


class InfoMaxLoss(Module, ABC):
    """Loss of a critic's logits of real and fake pairs; a subclass defines which features it accepts."""

    needs = "critic", "queue", "mine"
    objective = Option(tuple(OBJECTIVES))
    negatives = Option(NEGATIVES)
    positives = Option(POSITIVES)
    reduction = Option(REDUCTIONS)
    gather = Checked(_checks.flag)
    symmetric = Checked(_checks.flag)
    num_negatives = Checked(_checks.positive_int)

    critic: Critic | nn.Module

    def __init__(
        self,
        *,
        objective: ObjectiveName,
        negatives: Negatives,
        num_negatives: int | None,
        queue_size: int | None,
        gather: bool,
        symmetric: bool,
        positives: Positives,
        reduction: Reduction,
    ) -> None:
        super().__init__()
        self._built = False
        self.objective = objective
        self.negatives = negatives
        self.positives = positives
        self.reduction = reduction
        self.gather = gather
        self.symmetric = symmetric
        self.num_negatives = 1 if num_negatives is None else num_negatives
        if num_negatives is not None:
            self._needs("num_negatives", negatives in DRAWN, "negatives 'shift', 'derangement' or 'per-location'")
        if queue_size is not None:
            _checks.positive_int("queue_size", queue_size)
            self._needs("queue_size", negatives == "queue", "negatives 'queue'")
        elif negatives == "queue":
            raise ValueError(said("negatives='queue' needs queue_size, got None. Pass, for example, 4096."))
        self._check_options()

    def _check_options(self) -> None:
        """Refuse options that contradict each other, whenever they were set."""
        for option, value, part in (("objective", "mine", "mine"), ("negatives", "queue", "queue")):
            if self._built and getattr(self, option) == value and part not in self._modules:
                raise ValueError(
                    said(
                        f"{option}={value!r} needs state that the constructor creates, got none. "
                        "Pass it to the constructor."
                    )
                )
        if self.gather:
            self._needs("gather=True", self.negatives in OF_ALL, "negatives 'all' or 'queue'")
        each = OBJECTIVES[self.objective].each
        if each == "candidates":
            wanted = "negatives 'all', 'queue' or 'given'"
            self._needs(f"objective={self.objective!r}", self.negatives not in DRAWN, wanted)
        for name, asked, kinds, wanted in (
            ("symmetric=True", self.symmetric, ("all",), "negatives 'all'"),
            ("positives='groups'", self.positives == "groups", OF_ALL, "negatives 'all' or 'queue'"),
        ):
            if asked:
                self._needs(name, each == "candidates", "objective 'infonce'", "objective")
                self._needs(name, self.negatives in kinds, wanted)
        if each == "batch" and self.reduction != "mean":
            raise ValueError(
                said(
                    f"objective={self.objective!r} is not a sum over locations, got reduction={self.reduction!r}. "
                    "Use reduction='mean', or another objective."
                )
            )

    def _needs(self, name: str, holds: bool, wanted: str, option: str = "negatives") -> None:
        if not holds:
            remedy = "one of those" if " or " in wanted else "that"
            raise ValueError(
                said(f"{name} needs {wanted}, got {option}={getattr(self, option)!r}. Pass {remedy}, or drop it.")
            )

    def _hold(self, critic: nn.Module, global_channels: int, queue_size: int | None) -> None:
        """Store the critic, and all other state with the device and dtype of its parameters."""
        if not isinstance(critic, nn.Module):
            raise TypeError(
                said(
                    f"critic must be a torch.nn.Module, got {type(critic).__name__}. "
                    "Pass an instance that maps (local_features, global_features) to logits."
                )
            )
        self._check_critic(critic)
        self.critic = critic
        like = next((parameter for parameter in critic.parameters() if parameter.is_floating_point()), None)
        device, dtype = (None, None) if like is None else (like.device, like.dtype)
        if queue_size is not None:
            self.queue = SummaryQueue(queue_size, global_channels, device=device, dtype=dtype)
        if self.objective == "mine":
            self.mine = MINEObjective(device=device, dtype=dtype)
        self._built = True

    def _check_critic(self, critic: nn.Module) -> None:
        """Refuse a critic that cannot compute the logits that the negatives need."""
        one_permutation = self.negatives in ("shift", "derangement") and self.num_negatives == 1
        if not (one_permutation or takes_partners(critic)):
            several = f" with num_negatives={self.num_negatives}" if self.num_negatives > 1 else ""
            raise ValueError(
                said(
                    f"negatives={self.negatives!r}{several} needs a blan_layers.mutual_information.Critic, got "
                    f"{type(critic).__name__}. Subclass it, or use a single negative of 'shift' or 'derangement'."
                )
            )

    def reset_parameters(self) -> None:
        """Reinitialise the critic, if it has ``reset_parameters``, and forget earlier batches."""
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
        negative_features: Tensor | None,
        *,
        random: bool,
    ) -> tuple[Tensor, Pairs]:
        """Return the features, zero where the mask is zero, and the pairs to score."""
        self._check_options()
        self._check_features(local_features, global_features)
        if self.negatives == "given":
            negative_features = checked_given(negative_features, global_features)
        elif negative_features is not None:
            words = (
                f"negative_features needs negatives 'given', got negatives={self.negatives!r}. Pass that, or drop it."
            )
            global_features = without(negative_features, global_features, words)
        if mask is not None:
            local_features = _masked(local_features, mask)
            global_features = _without_unseen(global_features, mask)
            negative_features = _without_unseen(negative_features, mask)
        pairs = self._pairs(local_features, global_features, groups, negative_features, random=random)
        return local_features, pairs._replace(seen=_seen(mask)) if self.symmetric else pairs

    def _pairs(
        self,
        local_features: Tensor,
        global_features: Tensor,
        groups: Tensor | None,
        negative_features: Tensor | None,
        *,
        random: bool,
    ) -> Pairs:
        summaries = gathered(global_features) if self.gather else global_features
        if groups is not None:
            groups = checked_groups(self.negatives, local_features, groups)
            groups = gathered(groups) if self.gather and groups is not None else groups
            groups = with_partners(self.negatives, groups)
        if self.negatives == "given":
            given = with_given(global_features, cast(Tensor, negative_features))
            return Pairs(given[0], given[1])
        if self.negatives in DRAWN:
            indices = drawn_indices(self.negatives, local_features, self.num_negatives, groups, random)
            return Pairs(summaries, indices)
        candidates, filled = summaries, None
        if self.negatives == "queue":
            candidates, filled, groups = self.queue(summaries, groups)
        return Pairs(candidates, None, valid_candidates(local_features, summaries, groups, filled), groups)

    def _logits(self, local_features: Tensor, pairs: Pairs) -> PairLogits:
        """Return the critic's logits of the real and the fake pairs."""
        critic, summaries, indices = self.critic, pairs.summaries, pairs.indices
        self._check_critic(critic)
        if indices is None:
            logits: Tensor
            if isinstance(critic, Critic):
                logits = critic.all_pairs(local_features, summaries)
            else:
                logits = critic(local_features, summaries, "all")
            self._check_logits("(B, N, *S)", logits, local_features, summaries.shape[0])
            return self._all_logits(logits, local_features, pairs)
        positive: Tensor
        negative: Tensor
        if hasattr(type(critic), "contrast"):
            positive, negative = cast(Critic, critic).contrast(local_features, summaries, indices)
        elif takes_partners(critic):
            positive, negative = contrast(critic, local_features, summaries, indices)
        else:
            positive = critic(local_features, summaries)
            negative = critic(local_features, summaries[indices])
        self._check_logits("(B, *S)", positive, local_features)
        if self._one_each:
            self._check_logits("(B, *S)", negative, local_features)
            negative = negative.unsqueeze(1)
        count = self.num_negatives if self.negatives in DRAWN else indices.shape[1]
        self._check_logits("(B, K, *S)", negative, local_features, count)
        return PairLogits(positive, negative, None)

    def _all_logits(self, logits: Tensor, local_features: Tensor, pairs: Pairs) -> PairLogits:
        """Split the logits of all pairs into real and fake ones."""
        valid = cast(Tensor, pairs.valid)
        positives = of_summaries = None
        if self.positives == "groups":
            positives = of_own_group(local_features, pairs.groups)
        if self.symmetric:
            of_summaries = told_by_summaries(logits, valid, positives, pairs.seen, self.gather)
        return PairLogits(_own(logits), logits, valid, positives, of_summaries)

    @property
    def _one_each(self) -> bool:
        """Whether each map has one fake pair, the same at all its locations."""
        return self.negatives in ("shift", "derangement") and self.num_negatives == 1

    def _check_logits(self, axes: str, logits: Tensor, local_features: Tensor, *count: int) -> None:
        _checks.floating("the critic's logits", logits)
        if _checks.traced(logits, local_features):
            return
        wanted = (local_features.shape[0], *count, *local_features.shape[2:])
        if logits.shape != wanted:
            raise ValueError(
                said(
                    f"the critic must return logits {axes} = {wanted}, got shape {_checks.shape(logits)}. "
                    "Return one logit per location."
                )
            )

    def _loss(self, local_features: Tensor, pairs: Pairs, mask: Tensor | None) -> Tensor:
        """Return the reduced loss, and remember the batch."""
        logits = self._logits(local_features, pairs)
        weights = self._weights(mask, logits.positive, divides=self.reduction == "mean")
        if self.training and self.negatives == "queue":
            size, batch = self.queue.stored.shape[0], local_features.shape[0]
            summaries, groups = pairs.summaries[:-size], all_but_last(pairs.groups, size)
            if self.gather:  # all processes store the same queue
                summaries, groups = by_rank(summaries, batch), None if groups is None else by_rank(groups, batch)
            self.queue(summaries, groups, store=True)
        if self.objective == "mine":
            return -self.mine(logits.positive, logits.negative, **logits.weights(weights))
        if self.objective == "dv":
            return -functional.dv_lower_bound(logits.positive, logits.negative, **logits.weights(weights))
        loss = location_losses(self.objective, logits)
        if self.reduction == "mean":
            return mean(loss, weights)
        loss = weighted(loss, weights)
        return loss if self.reduction == "none" else loss.sum()

    @runs_forward
    @torch.no_grad()
    def estimate(
        self,
        local_features: Tensor,
        global_features: Tensor,
        *,
        mask: Tensor | None = None,
        groups: Tensor | None = None,
        negative_features: Tensor | None = None,
        estimator: EstimatorName = "jsd",
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        r"""Estimate the mutual information per location in nats, without gradient, with negatives as in evaluation.

        A custom critic with dropout or batch norm runs in its current mode: call ``eval()`` first. A bound holds for
        the mean over batches of images that the critic was not fitted to, in random order. For images sorted by class,
        a shift by one forms fake pairs within a class, which hides information: shuffle the images, or use negatives
        "all". The estimators are:

        - "jsd", ``2 log 2 - bce``, a lower bound for every critic, which never exceeds 2 log 2 = 1.386;
        - "certificate", a lower bound for every critic, without that maximum, from the binary cross entropy, see
          :func:`~blan_layers.functional.mutual_information_certificate`. It is convex: for many batches, compute it
          once from the mean of their cross entropies, (2 log 2 - the mean "jsd") / 2;
        - "nwj", a lower bound for every critic, with high variance; "dv", the same in the limit of many fake pairs;
        - "infonce", a lower bound for every critic, at most the log of the number of candidates; it needs negatives
          "all", "queue" or "given", and is the negative loss of that objective, in both directions for a symmetric
          loss;
        - "positive_logit", the mean logit of real pairs, and "smile", Donsker-Varadhan with clipped negatives: equal to
          the mutual information for an optimal critic, but not bounds. They need a critic trained towards the log
          density ratio, by the objective "bce", "jsd", "nwj" or "rkl".

        With ``groups``, a queue of outdated summaries, or negatives of your choice, fake pairs are not drawn from the
        product of the marginals, and every estimate can exceed the mutual information.

        Args:
            local_features: Maps.
            global_features: Summaries.
            mask: Boolean or non-negative weights of the locations.
            groups: Group of each image (B,), integers; images of the same group form no fake pairs.
            negative_features: Summaries (B, K, D) of the fake pairs, for negatives "given".
            estimator: The name of an estimator above.
            reduction: "mean" over all pairs, or "none" for an estimate per location, over the images. Locations where
                no image has weight are NaN.

        Shape:
            local_features (B, C, \*S), global_features (B, D), mask (B, \*S), groups (B,) -> scalar, or (\*S) for
            ``reduction="none"``.

        Raises:
            TypeError: In the cases of ``forward``.
            ValueError: In the cases of ``forward``, or a name is unknown, or the estimator does not fit the loss.
        """
        _checks.choice("estimator", estimator, tuple(ESTIMATORS))
        _checks.choice("reduction", reduction, ("mean", "none"))
        record, behind = ESTIMATORS[estimator], OBJECTIVES[self.objective].log_ratio_behind
        if record.of_candidates and self.negatives in DRAWN:
            raise ValueError(
                said(
                    f"estimator={estimator!r} needs negatives 'all', 'queue' or 'given', got {self.negatives!r}. "
                    "Build the loss with one of those."
                )
            )
        if record.of_ratio and behind is None:
            raise ValueError(
                said(
                    f"estimator={estimator!r} needs a critic trained towards the log density ratio, got "
                    f"objective={self.objective!r}. Use 'certificate', or train with 'bce', 'jsd', 'nwj' or 'rkl'."
                )
            )
        local_features, pairs = self._prepared(
            local_features, global_features, mask, groups, negative_features, random=False
        )
        logits = self._logits(local_features, pairs)
        weights = self._weights(mask, logits.positive, divides=True)
        if behind:
            logits = logits.plus(-behind)
        if reduction == "mean":
            return record.measure(logits, weights, None)
        if weights is None:
            return record.measure(logits, None, 0)
        unseen = (weights == 0).all(0)
        return record.measure(logits, weights.masked_fill(unseen, 1), 0).masked_fill(unseen, math.nan)

    def _weights(self, mask: Tensor | None, logits: Tensor, *, divides: bool) -> Tensor | None:
        """Return the mask as weights in the precision of the loss, with checked values."""
        return None if mask is None else _checked_weights(mask, logits, divides)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        both = ", symmetric=True" if self.symmetric else ""
        several = f", positives={self.positives!r}" if self.positives != "own" else ""
        shown = f"objective={self.objective!r}, negatives={self.negatives!r}{both}{several}"
        return f"{shown}, reduction={self.reduction!r}"

    if TYPE_CHECKING:

        def __call__(
            self,
            local_features: Tensor,
            global_features: Tensor,
            *,
            mask: Tensor | None = None,
            groups: Tensor | None = None,
            negative_features: Tensor | None = None,
        ) -> Tensor:
            """Call ``forward`` and its hooks."""


def refuse_beside_critic(options: Mapping[str, object]) -> None:
    """Refuse options for building a critic where a critic is given."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                said(
                    f"{name} is for the critic that the loss builds, got {name}={_checks.shown(value)} together with "
                    "critic=. Pass it to the critic's constructor."
                )
            )


def takes_partners(critic: nn.Module) -> bool:
    """Return whether a critic is a :class:`Critic`, or wraps one and passes on all its arguments."""
    if isinstance(critic, Critic):
        return True
    inner = critic._modules.get(
        "_orig_mod", critic._modules.get("module")
    )  # the wrappers of compilers and data parallelism
    return inner is not None and _checks.takes(critic.forward, None, None, None) and takes_partners(inner)


@whole
def _masked(local_features: Tensor, mask: Tensor | None) -> Tensor:
    """Return maps with zeros where the mask is zero, even in place of NaN."""
    if mask is None:
        return local_features
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            said(
                f"mask must be a boolean or floating-point tensor, got {got}. "
                "Pass mask.bool(), or mask.float() if it holds weights."
            )
        )
    locations = (local_features.shape[0], *local_features.shape[2:])
    if not _checks.traced(mask, local_features) and mask.shape != locations:
        raise ValueError(
            said(
                f"mask must have a weight for every location, shape {locations}, "
                f"got {_checks.shape(mask)}. Resize or expand it to the map."
            )
        )
    return local_features.masked_fill((mask == 0).unsqueeze(1), 0)


@whole
def _seen(mask: Tensor | None) -> Tensor | None:
    """Tell which locations have weight."""
    return None if mask is None else mask != 0


@whole
def _without_unseen(summaries: OptionalTensor, mask: Tensor | None) -> OptionalTensor:
    """Return summaries with zeros for non-finite values of images that the mask excludes entirely."""
    if mask is None or summaries is None:
        return summaries
    unseen = (mask == 0).reshape(mask.shape[0], -1).all(1)
    return summaries.masked_fill(unseen.reshape(-1, *(1 for _ in summaries.shape[1:])) & ~summaries.isfinite(), 0)


@whole
def _checked_weights(mask: Tensor | None, logits: Tensor, divides: bool) -> Tensor | None:
    """Return a mask as checked weights in the precision of the loss; a mean ``divides`` by their sum."""
    if mask is None:
        return None
    weights = mask.to(at_least_float32(logits).dtype)
    if not _checks.reads_values(weights):
        return weights
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(
            said(
                f"mask must contain finite weights of at least 0, got values from {weights.min().item():g} "
                f"to {weights.max().item():g}. Clamp it, or pass a boolean mask."
            )
        )
    if divides and not 0 < weights.sum().item() < math.inf:
        raise ValueError(
            said(
                f"mask must have a finite sum above zero to take a mean over, got {weights.sum().item():g} "
                f"for a mask of shape {_checks.shape(weights)}. "
                "Skip the batch, scale the weights, or use reduction='sum'."
            )
        )
    return weights


@whole
def _own(logits: Tensor) -> Tensor:
    """Return the logits (B, *S) of the real pairs from those of all pairs (B, N, *S)."""
    own = logits[:, : logits.shape[0]]  # square, so that compilers know the size
    return own.diagonal().movedim(-1, 0)
