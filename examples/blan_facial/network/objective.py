"""The objective: a weighted sum of named terms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blan_facial.config import Config
from blan_facial.data.faces import UNKNOWN
from blan_facial.network.model import LEVEL_NAMES, Features
from blan_layers import LMIMLoss

REDUCTIONS = ("sum", "mean")


class Term(nn.Module, ABC):
    """A term of the objective. Progress, logs, page and the search for a non-finite loss use its names.

    Args:
        weight: Non-negative factor of the term in the sum.
    """

    name: str
    """Name in logs."""
    short: str
    """Name in the progress display, and prefix of the names of its levels' losses."""
    of_labels = False
    """Whether the term is a mean over known labels; otherwise it is a mean over images."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise ValueError(
                f"{type(self).__name__}: weight must be a finite number of at least 0, got {weight}. "
                "Leave the term out to drop it."
            )
        self.weight = weight

    @abstractmethod
    def forward(self, features: Features, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss averaged over the batch: a scalar, or (4,) with one loss per level, which are summed.

        Args:
            features: The network's outputs for the images.
            images: The network's input (B, 3, H, W), normalised.
            labels: int64 (B, N): 1, 0 or ``UNKNOWN``.
        """

    def look_at(self, labels: np.ndarray) -> None:  # most terms do not need them
        """Prepare the term from all training labels (n, N)."""


class CrossEntropy(nn.Module):
    """Eq. 4 for scores (K, B, N, 2): the cross entropy over attributes, averaged over the batch, (K,).

    The reduction over attributes affects the relative weights of the other terms: with 40 attributes the paper's sum
    (Eqs. 4 and 7) is 40 times the mean.

    Unknown labels are ignored: the mean is taken over the known labels, and the sum is N times the mean. The gradient
    is therefore that of the labelled part of a batch, and does not shrink as the unlabelled part grows.

    Args:
        reduction: "sum" (the paper's) or "mean" over attributes.
        balanced: Number of attributes whose labels :meth:`balance` weights; None gives every label the same weight.

    Raises:
        ValueError: The reduction is neither of the two.
    """

    weights: Tensor | None

    def __init__(self, reduction: str = "sum", *, balanced: int | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", None if balanced is None else torch.ones(2, balanced))
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"CrossEntropy: reduction must be one of {REDUCTIONS}, got {reduction!r}. Choose one of them."
            )
        self.reduction = reduction

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of scores for labels (B, N)."""
        targets = labels.expand(len(scores), *labels.shape)
        losses = F.cross_entropy(
            precise(scores).flatten(0, 2), targets.flatten(), ignore_index=UNKNOWN, reduction="none"
        ).view_as(targets)
        if self.weights is not None:
            losses = losses * torch.where(targets == 1, self.weights[1], self.weights[0])
        return over_known(losses, labels, self.reduction)

    def balance(self, labels: np.ndarray) -> None:
        """Set the weights from the known training labels (n, N), if labels are weighted.

        The weight of a label is half the number of known labels divided by its own count. Both labels then have the
        same total weight, and the mean weight of a known label is 1. An attribute with only one label keeps weight 1.
        """
        if self.weights is not None:
            counts = np.stack([(labels == label).sum(0) for label in (0, 1)])
            weights = np.where(counts.min(0) > 0, counts.sum(0) / np.maximum(2 * counts, 1), 1.0)
            self.weights.copy_(torch.from_numpy(weights))


def over_known(losses: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Return the mean (K,) over known labels (B, N) of losses (K, B, N) that are 0 elsewhere, N times it for "sum"."""
    mean = losses.sum((-2, -1)) / (labels != UNKNOWN).sum().clamp(min=1)
    return labels.shape[-1] * mean if reduction == "sum" else mean


class Classification(Term):
    """``sum_i l_CLS_i``: the classification loss of each level's scores.

    Args:
        loss: Maps scores (K, B, N, 2) and labels (B, N) to the loss (K,) of each classifier.
    """

    name, short = "classification", "cls"
    of_labels = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, features: Features, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each classifier."""
        losses: Tensor = self.loss(features.scores, labels)
        return losses

    def look_at(self, labels: np.ndarray) -> None:
        """Let the loss compute its weights, if it has any."""
        if balance := getattr(self.loss, "balance", None):
            balance(labels)


class MutualInformation(Term):
    """``alpha sum_i l_LMIM_i`` (Eq. 5): local mutual information of A_i and T_i. Its critics are trained jointly.

    Args:
        weight: alpha.
        local_channels: Channels of A_1..A_4.
        summary_channels: Width of T_1..T_4.
        critic_channels: Hidden width of the critics.
    """

    name = short = "lmim"

    def __init__(
        self, weight: float, local_channels: Sequence[int], summary_channels: int, *, critic_channels: int = 512
    ) -> None:
        super().__init__(weight)
        self.losses = nn.ModuleList(
            LMIMLoss(channels, summary_channels, hidden_channels=critic_channels) for channels in local_channels
        )

    def forward(self, features: Features, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each level."""
        pairs = zip(self.losses, features.attended, features.summaries, strict=True)
        return torch.stack([loss(attended, summary) for loss, attended, summary in pairs])


class Reconstruction(Term):
    """``beta l_REC`` (Eq. 1): mean squared error per element between the decoder's image and the input.

    Args:
        weight: beta.
    """

    name, short = "reconstruction", "rec"

    def forward(self, features: Features, images: Tensor, labels: Tensor) -> Tensor:
        """Return the error.

        Raises:
            ValueError: There is no reconstruction.
        """
        if features.reconstruction is None:
            raise ValueError(
                "Reconstruction: needs a reconstruction, got features without one. Call the network with "
                "reconstruct=True, or leave the term out."
            )
        return F.mse_loss(precise(features.reconstruction), precise(images))


class Fusion(Term):
    """``gamma l_SF`` (Eq. 7): classification loss of the fused scores. Its gradient reaches the scores of all levels.

    Args:
        weight: gamma.
        loss: As in :class:`Classification`.
    """

    name = short = "fusion"
    of_labels = True

    def __init__(self, weight: float, loss: nn.Module) -> None:
        super().__init__(weight)
        self.loss = loss

    def forward(self, features: Features, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Raises:
            ValueError: There are no fused scores.
        """
        if features.fused is None:
            raise ValueError(
                "Fusion: needs fused scores, got features without them. Give the network a fusion, or leave the term "
                "out."
            )
        loss: Tensor = self.loss(features.fused[None], labels)[0]
        return loss


class Losses(NamedTuple):
    """The objective and its terms."""

    total: Tensor
    """The weighted sum to minimise."""
    parts: dict[str, Tensor]
    """Every unweighted term by its name, and the terms of its levels as ``cls_AC1``, ``lmim_AC1`` and so on."""

    def logged(self) -> dict[str, Tensor]:
        """Return all values by name, detached."""
        return {name: loss.detach() for name, loss in {"total": self.total, **self.parts}.items()}


class Objective(nn.Module):
    """``sum_t weight_t loss_t`` over named terms.

    The parameters of the terms (critics) are optimised together with the network's. Every loss is computed in at least
    float32, under autocast too.

    Args:
        terms: Terms with distinct names.

    Raises:
        ValueError: There is no term, or two have the same name.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        names = [term.name for term in terms]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"Objective: needs terms with different names, got {names}. Name each once.")
        self.by_name = nn.ModuleDict(dict(zip(names, terms, strict=True)))

    @property
    def terms(self) -> dict[str, Term]:
        """The terms by their names."""
        return cast("dict[str, Term]", dict(self.by_name.items()))

    @property
    def shown(self) -> dict[str, str]:
        """Short names for the progress display, by the names of the losses."""
        return {"total": "loss"} | {name: term.short for name, term in self.terms.items()}

    def look_at(self, labels: np.ndarray) -> None:
        """Prepare every term from all training labels (n, N)."""
        for term in self.terms.values():
            term.look_at(labels)

    def forward(self, features: Features, images: Tensor, labels: Tensor, counted: Tensor | None = None) -> Losses:
        """Compute every term.

        Args:
            features: The network's outputs for the images.
            images: The network's input (B, 3, H, W), the target of the reconstruction.
            labels: int64 (B, N): 1, 0 or ``UNKNOWN``.
            counted: Weights (2,) of the means over these images and over these labels, relative to other processes'
                parts of the batch; None for 1 each.

        Raises:
            TypeError: The labels are not int64.
            ValueError: The labels do not have the shape (B, N), or features that a term needs are missing.
        """
        _check_labels(labels, features.scores)
        parts: dict[str, Tensor] = {}
        for term in self.terms.values():
            loss = term(features, images, labels)
            if counted is not None:
                loss = counted[int(term.of_labels)] * loss
            parts |= dict(_by_level(term, loss))
            parts[term.name] = loss.sum()
        return Losses(cast("Tensor", sum(term.weight * parts[name] for name, term in self.terms.items())), parts)


def build_objective(config: Config, local_channels: Sequence[int], attributes: int) -> Objective:
    """Return BLAN's objective, Eq. 8: ``sum_i (l_CLS_i + alpha l_LMIM_i) + beta l_REC + gamma l_SF``.

    Terms with weight 0, or whose part of the network is left out, are omitted.

    Args:
        config: The settings.
        local_channels: Channels of A_1..A_4.
        attributes: N.

    Reference:
        Zheng et al. 2020, Eqs. 1, 4, 5, 7 and 8.
    """
    loss = CrossEntropy(config.attribute_reduction, balanced=attributes if config.balance else None)
    terms: list[Term] = [Classification(loss)]
    if config.lmim and config.alpha:
        width = config.critic_channels
        terms.append(MutualInformation(config.alpha, local_channels, config.summary_channels, critic_channels=width))
    if config.decoder and config.beta:
        terms.append(Reconstruction(config.beta))
    if config.fusion and config.gamma:
        terms.append(Fusion(config.gamma, loss))
    return Objective(terms)


def precise(values: Tensor) -> Tensor:
    """Return values in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _by_level(term: Term, loss: Tensor) -> Iterator[tuple[str, Tensor]]:
    if loss.shape == (len(LEVEL_NAMES),):
        for level, part in zip(LEVEL_NAMES, loss.unbind(), strict=True):
            yield f"{term.short}_{level}", part


def _check_labels(labels: Tensor, scores: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"Objective: labels must be torch.int64, got {labels.dtype}. Convert them with .long().")
    if labels.shape != scores.shape[1:3]:
        raise ValueError(
            f"Objective: labels must have the scores' shape (B, N) = {tuple(scores.shape[1:3])}, "
            f"got {tuple(labels.shape)}. Give one column per attribute of the model."
        )
