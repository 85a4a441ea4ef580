"""Local mutual information maximisation, Eq. 5 of BLAN."""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._init import reset
from blan_layers.functional._logits import softplus
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional.mutual_information import check_pair, contrast_sum, contrasts_in_blocks
from blan_layers.mutual_information.critics import ConcatConvCritic
from blan_layers.mutual_information.negatives import shifted_indices

Objective: TypeAlias = Literal["bce", "jsd"]
Negatives: TypeAlias = Literal["shift"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
Estimator: TypeAlias = Literal["jsd", "positive_logit"]


class LMIMLoss(nn.Module):
    r"""Loss that maximises the mutual information between a map's locations and its image's summary.

    ``mean_{b,u} softplus(-critic(local_u[b], global[b])) + mean_{b,u} softplus(critic(local_u[b], global[b']))``

    Every map is scored at each of its locations u with its own summary and with another image's, b' being never b: the
    summaries are shifted cyclically, in training by a random number drawn from torch's default generator, in evaluation
    by one. Gradients reach the critic, the map and the summary. The critic is held here: **give this module's
    parameters to the optimiser**, and move it to the device of the features.

    ``objective="bce"`` is the paper's binary cross entropy, 2 log 2 for a critic that tells nothing; ``"jsd"`` is the
    same minus 2 log 2, so that minus the loss is Deep InfoMax's Jensen-Shannon bound. Their gradients are equal.

    From the logits on everything is computed in float32 at least. Under ``reduction="mean"`` and a mask, both terms are
    weighed means: the mask's weights at the map's locations, divided by their sum. What stands in the map where the
    mask is zero is never looked at, so that it may even be NaN.

    Args:
        local_channels: Channels C of the maps.
        global_channels: Width D of the summaries.
        hidden_channels: Width of the critic's hidden layers; None means 512. Refused together with ``critic``.
        objective: "bce" or "jsd".
        negatives: "shift", the cyclic shift.
        critic: A module (local_features (B, C, \*S), global_features (B, D)) -> logits (B, \*S) to use instead of
            :class:`ConcatConvCritic`. One that also has ``contrast(local_features, global_features, indices)``, as
            that class has, is asked for real and fake logits together.
        reduction: "mean" and "sum" give a scalar, "none" the loss at each location (B, \*S).
        backend: "auto", "reference" (plain operations, differentiable any number of times) or "blocked" (one pass over
            blocks of locations that keeps no activation, differentiable once; for :class:`ConcatConvCritic` itself and
            a scalar loss).
        device: Device of the critic's parameters.
        dtype: Floating dtype of the critic's parameters.

    Shape:
        local_features (B, C, \*S), global_features (B, D), mask (B, \*S) -> scalar, or (B, \*S) for "none"; B >= 2.

    Raises:
        TypeError: A number is not an int, ``critic`` is not a module, an input is not a floating-point tensor, or the
            mask is neither boolean nor floating-point.
        ValueError: A number is below 1, a name is unknown, ``critic`` comes with ``hidden_channels``, ``device`` or
            ``dtype``, the inputs are not (B, C, \*S) and (B, D), the batch is of fewer than 2 images, or the mask has
            another shape, negative or non-finite weights, or, where it divides, no finite sum above zero, or
            ``backend`` cannot be taken. The mask's values are looked at in eager mode alone.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Eq. 5; Hjelm et al., "Learning deep representations by mutual information estimation and
        maximization", ICLR 2019, Eq. 4 and appendix A.2.

    Example:
        >>> import torch
        >>> loss = LMIMLoss(64, 512)
        >>> features, summary = torch.randn(8, 64, 16, 16), torch.randn(8, 512)
        >>> loss(features, summary).shape
        torch.Size([])
        >>> loss.estimate(features, summary) <= 1.3863  # nats
        tensor(True)
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int | None = None,
        objective: Objective = "bce",
        negatives: Negatives = "shift",
        critic: nn.Module | None = None,
        reduction: Reduction = "mean",
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        owner = "LMIMLoss"
        self.local_channels = _checks.positive_int(owner, "local_channels", local_channels)
        self.global_channels = _checks.positive_int(owner, "global_channels", global_channels)
        _checks.choice(owner, "objective", objective, ("bce", "jsd"))
        _checks.choice(owner, "negatives", negatives, ("shift",))
        _checks.choice(owner, "reduction", reduction, ("mean", "sum", "none"))
        _checks.choice(owner, "backend", backend, _checks.BACKENDS)
        self.backend = backend
        self.objective = objective
        self.negatives = negatives
        self.reduction = reduction
        if critic is None:
            hidden = 512 if hidden_channels is None else _checks.positive_int(owner, "hidden_channels", hidden_channels)
            critic = ConcatConvCritic(
                local_channels, global_channels, hidden_channels=hidden, device=device, dtype=dtype
            )
        else:
            self._refuse_beside_critic(hidden_channels=hidden_channels, device=device, dtype=dtype)
            if not isinstance(critic, nn.Module):
                raise TypeError(
                    f"{owner}: critic must be a torch.nn.Module, got {type(critic).__name__}. "
                    "Pass an instance that maps (local_features, global_features) to logits."
                )
        self.critic = critic

    @staticmethod
    def _refuse_beside_critic(**options: object) -> None:
        for name, value in options.items():
            if value is not None:
                raise ValueError(
                    f"LMIMLoss: {name} belongs to the critic that LMIMLoss would build, got {name}={value!r} beside "
                    f"critic=. Give it to the critic's own constructor."
                )

    def reset_parameters(self) -> None:
        """Draw the critic's weights anew, where it knows how."""
        reset(self.critic)

    def forward(self, local_features: Tensor, global_features: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the loss, weighed by ``mask`` (boolean or non-negative weights) if there is one."""
        local_features, indices = self._pairs(local_features, global_features, mask, random=self.training)
        if layers := self._layers_for_blocks(local_features, global_features, mask):
            weights = self._weights(mask, local_features, divides=self.reduction == "mean")
            total = contrast_sum(local_features, global_features, indices, weights, *layers)
            return self._reduced(total, local_features, weights)
        positive, negative = self._logits(local_features, global_features, indices)
        weights = self._weights(mask, positive, divides=self.reduction == "mean")
        loss = softplus(-positive) + softplus(negative)
        if self.objective == "jsd":
            loss = loss - 2 * math.log(2)
        if self.reduction == "mean":
            return _mean(loss, weights)
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
        estimator: Estimator = "jsd",
    ) -> Tensor:
        r"""Estimate the mutual information per location in nats, without gradient, on negatives as in evaluation.

        A critic of your own with dropout or batch norm is run in the mode it is in: call ``eval()`` first.

        Args:
            local_features: Maps.
            global_features: Summaries.
            mask: Boolean or non-negative weights of the locations.
            estimator: "jsd" is ``2 log 2 - bce``: in expectation, over images that the critic was not fitted to, a
                lower bound for every critic, which never passes 2 log 2 = 1.386. "positive_logit" is the mean logit of
                the real pairs: the mutual information for an optimal critic, and no bound.

        Shape:
            local_features (B, C, \*S), global_features (B, D), mask (B, \*S) -> scalar.

        Raises:
            TypeError: As in :meth:`forward`.
            ValueError: As in :meth:`forward`, or ``estimator`` is unknown.
        """
        _checks.choice("LMIMLoss.estimate", "estimator", estimator, ("jsd", "positive_logit"))
        local_features, indices = self._pairs(local_features, global_features, mask, random=False)
        positive, negative = self._logits(local_features, global_features, indices)
        weights = self._weights(mask, positive, divides=True)
        if estimator == "jsd":
            return 2 * math.log(2) - _mean(softplus(-positive) + softplus(negative), weights)
        return _mean(at_least_float32(positive), weights)

    def _layers_for_blocks(
        self, local_features: Tensor, global_features: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...] | None:
        """Return the critic's layers if the pass over blocks is to be taken."""
        critic = self.critic if type(self.critic) is ConcatConvCritic else None
        layers = None if critic is None else critic.layers
        features = local_features, global_features
        if not contrasts_in_blocks("LMIMLoss", *features, mask, layers, self.reduction, self.backend):
            return None
        if critic is not None:  # one that was built for other channels says so, as without blocks
            critic.check(*features)
        return layers

    def _reduced(self, total: Tensor, local_features: Tensor, weights: Tensor | None) -> Tensor:
        """Return the loss of this objective and reduction from the sum of the binary cross entropy."""
        count = local_features[:, 0].numel() if weights is None else weights.sum()
        offset = 2 * math.log(2) if self.objective == "jsd" else 0.0
        return total / count - offset if self.reduction == "mean" else total - offset * count

    def _pairs(
        self, local_features: Tensor, global_features: Tensor, mask: Tensor | None, *, random: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the maps, zero where the mask is, and whose summary makes each image's fake pairs."""
        owner = "LMIMLoss"
        check_pair(owner, local_features, global_features, self.local_channels, self.global_channels)
        batch = local_features.shape[0]
        if batch < 2:
            raise ValueError(
                f"{owner}: needs at least 2 images to form negative pairs, got a batch of {batch}. "
                "Use drop_last=True in the DataLoader."
            )
        if mask is not None:
            self._check_mask(mask, (batch, *local_features.shape[2:]))
            local_features = local_features.masked_fill((mask == 0).unsqueeze(1), 0)  # whatever stands there, NaN too
        return local_features, shifted_indices(batch, local_features.device, random=random)

    def _logits(self, local_features: Tensor, global_features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the critic's logits of the real pairs and of the fake ones, each (B, *S)."""
        owner = "LMIMLoss"
        if callable(contrast := getattr(self.critic, "contrast", None)):
            positive, negative = contrast(local_features, global_features, indices)
        else:
            positive = self.critic(local_features, global_features)
            negative = self.critic(local_features, global_features[indices])
        locations = (local_features.shape[0], *local_features.shape[2:])
        for logits in (positive, negative):
            _checks.floating(owner, "the critic's logits", logits)
            if logits.shape != locations:
                raise ValueError(
                    f"{owner}: the critic must return logits (B, *S) = {locations}, got shape "
                    f"{_checks.shape(logits)}. Score every location once."
                )
        return positive, negative

    @staticmethod
    def _check_mask(mask: object, locations: tuple[int, ...]) -> None:
        owner = "LMIMLoss"
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

    @staticmethod
    def _weights(mask: Tensor | None, logits: Tensor, *, divides: bool) -> Tensor | None:
        """Return the mask as weights in the precision of the loss, after checking their values."""
        if mask is None:
            return None
        owner = "LMIMLoss"
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


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()
