"""BLAN's objective: classification, mutual information, reconstruction and fusion in one sum."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blan_facial.data.faces import UNKNOWN
from blan_facial.network.model import LEVELS, BLANFeatures
from blan_layers import LMIMLoss

ATTRIBUTE_REDUCTIONS = ("sum", "mean")


class ObjectiveTerms(NamedTuple):
    """The terms of the objective, each before its weight; None where the term is left out."""

    total: Tensor
    """What is minimised."""
    classification: Tensor
    """Sum of the levels' classification losses."""
    lmim: Tensor | None
    """Sum of the levels' LMIM losses."""
    reconstruction: Tensor | None
    """Mean squared error per element."""
    fusion: Tensor | None
    """Classification loss of the fused scores."""
    levels: dict[str, Tensor]
    """The levels' own losses, detached: ``cls_AC1`` and so on, ``lmim_AC1`` and so on."""

    def logged(self) -> dict[str, Tensor]:
        """Return every value there is under its name, detached, for logs and for the search of a non-finite one."""
        terms = self._asdict()
        levels: dict[str, Tensor] = terms.pop("levels")
        return {name: term.detach() for name, term in terms.items() if term is not None} | levels


class BLANObjective(nn.Module):
    """Eq. 8: ``sum_i (l_CLS_i + alpha l_LMIM_i) + beta l_REC + gamma l_SF``.

    It holds the critics of the mutual information, so its parameters go to the optimiser beside the model's. A term
    whose weight is 0 is left out. The gradient of the fusion's loss flows into the scores of all levels.

    The reduction over attributes sets the scale of alpha, beta and gamma: with 40 attributes the paper's sum (Eqs. 4
    and 7) is 40 times the mean. Over the batch the losses are averaged.

    An unknown label has no term in Eqs. 4 and 7, and the divisors stay as they are. The losses are then the negative
    log-likelihood of the labels that are known, in which each weighs what it would weigh if all were known, so that the
    losses of equal parts of a batch average to that of the whole, on several processes too. Where few labels are known,
    alpha and beta are that much stronger beside them.

    Args:
        local_channels: Channels of A_1..A_4, ``BLAN.local_channels``.
        summary_channels: Width of T_1..T_4, ``BLAN.summary_channels``.
        alpha: Weight of LMIM.
        beta: Weight of the reconstruction.
        gamma: Weight of the fused scores' loss.
        critic_channels: Hidden width of the critics.
        attribute_reduction: "sum" (the paper's) or "mean", for the classification losses of levels and fusion.
        lmim: Whether there is the LMIM term.
        reconstruction: Whether there is the reconstruction term; ``BLAN.reconstructs`` for a given model.
        fusion: Whether there is the fusion term; not for a model without fusion.

    Raises:
        ValueError: A negative weight, an unknown reduction, or another number of levels than four.

    Reference:
        Zheng et al. 2020, Eqs. 1, 4, 5, 7 and 8.
    """

    def __init__(
        self,
        local_channels: Sequence[int],
        summary_channels: int,
        *,
        alpha: float = 0.1,
        beta: float = 0.1,
        gamma: float = 1.0,
        critic_channels: int = 512,
        attribute_reduction: str = "sum",
        lmim: bool = True,
        reconstruction: bool = True,
        fusion: bool = True,
    ) -> None:
        super().__init__()
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if not weight >= 0:
                raise ValueError(f"BLANObjective: {name} must not be negative, got {weight}. Use 0 to drop its term.")
        if attribute_reduction not in ATTRIBUTE_REDUCTIONS:
            raise ValueError(
                f"BLANObjective: attribute_reduction must be one of {ATTRIBUTE_REDUCTIONS}, "
                f"got {attribute_reduction!r}. Choose one of them."
            )
        if len(local_channels) != LEVELS:
            raise ValueError(
                f"BLANObjective: local_channels must name {LEVELS} levels, got {tuple(local_channels)}. "
                "Pass BLAN.local_channels."
            )
        self.alpha = alpha if lmim else 0.0
        self.beta = beta if reconstruction else 0.0
        self.gamma = gamma if fusion else 0.0
        self.attribute_reduction = attribute_reduction
        self.lmim = nn.ModuleList(
            LMIMLoss(channels, summary_channels, hidden_channels=critic_channels)
            for channels in (local_channels if self.alpha else ())
        )

    def reset_parameters(self) -> None:
        """Draw every weight of the critics anew."""
        for loss in cast("Iterable[LMIMLoss]", self.lmim):
            loss.reset_parameters()

    def forward(self, features: BLANFeatures, images: Tensor, labels: Tensor) -> ObjectiveTerms:
        """Compute every term in float32 at least, under autocast too.

        Args:
            features: What ``BLAN.forward_features`` returned for the images.
            images: The network's input (B, 3, H, W), the reconstruction's target.
            labels: int64 (B, N): 1, 0 or ``UNKNOWN``.

        Raises:
            TypeError: The labels are not int64.
            ValueError: The labels have another shape than (B, N), or a term's features are missing.
        """
        self._check_labels(labels, features.scores)
        levels = self._classification(features.scores, labels)
        values = {f"cls_AC{i}": loss for i, loss in enumerate(levels.detach().unbind(), start=1)}
        classification = total = levels.sum()
        lmim = reconstruction = fusion = None
        if self.alpha:
            pairs = zip(self.lmim, features.attended, features.summaries, strict=True)
            losses = torch.stack([loss(attended, summary) for loss, attended, summary in pairs])
            values |= {f"lmim_AC{i}": loss for i, loss in enumerate(losses.detach().unbind(), start=1)}
            lmim = losses.sum()
            total = total + self.alpha * lmim
        if self.beta:
            reconstruction = self._reconstruction(features.reconstruction, images)
            total = total + self.beta * reconstruction
        if self.gamma:
            fusion = self._fusion(features.fused, labels)
            total = total + self.gamma * fusion
        return ObjectiveTerms(total, classification, lmim, reconstruction, fusion, values)

    def _classification(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (K,) of scores (K, B, N, 2): Eq. 4, averaged over the batch."""
        targets = labels.expand(len(scores), *labels.shape)
        losses = F.cross_entropy(
            _precise(scores).flatten(0, 2), targets.flatten(), ignore_index=UNKNOWN, reduction="none"
        ).view_as(targets)
        each = losses.sum(-1) if self.attribute_reduction == "sum" else losses.mean(-1)
        return each.mean(-1)

    def _reconstruction(self, reconstruction: Tensor | None, images: Tensor) -> Tensor:
        if reconstruction is None:
            raise ValueError(
                f"BLANObjective: beta={self.beta} needs a reconstruction, got features without one. Call "
                "forward_features(images, reconstruct=True), or build the objective with reconstruction=False."
            )
        return F.mse_loss(_precise(reconstruction), _precise(images))

    def _fusion(self, fused: Tensor | None, labels: Tensor) -> Tensor:
        if fused is None:
            raise ValueError(
                f"BLANObjective: gamma={self.gamma} needs fused scores, got features without them. "
                "Build the objective with fusion=False for a model without fusion."
            )
        return self._classification(fused[None], labels)[0]

    @staticmethod
    def _check_labels(labels: Tensor, scores: Tensor) -> None:
        if labels.dtype != torch.int64:
            raise TypeError(
                f"BLANObjective: labels must be torch.int64, got {labels.dtype}. Convert them with .long()."
            )
        if labels.shape != scores.shape[1:3]:
            raise ValueError(
                f"BLANObjective: labels must have the scores' shape (B, N) = {tuple(scores.shape[1:3])}, "
                f"got {tuple(labels.shape)}. Give one column to each attribute of the model."
            )


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
