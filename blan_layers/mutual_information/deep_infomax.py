"""Deep InfoMax: global and local mutual information and prior matching in one loss."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Checked, said
from blan_layers._init import reset
from blan_layers._module import Module
from blan_layers.functional.objectives import ObjectiveName
from blan_layers.mutual_information.critics import Critic
from blan_layers.mutual_information.global_infomax import GlobalInfoMaxLoss
from blan_layers.mutual_information.lmim import LMIMLoss
from blan_layers.mutual_information.negatives import Negatives, without
from blan_layers.mutual_information.prior import Prior, PriorMatchingLoss
from blan_layers.mutual_information.products import DotProductCritic


def _weight(name: str, value: float) -> float:
    weight = _checks.number(name, value, 1.0)
    if not 0 <= weight < math.inf:
        raise ValueError(
            said(f"{name} must be finite and at least 0, got {_checks.shown(value)}. Pass, for example, 1.0.")
        )
    return weight


class DeepInfoMaxLoss(Module):
    r"""Deep InfoMax: a weighted sum of global information, local information and prior matching.

    ``alpha global_loss(map, summary) + beta local_loss(map, summary) + gamma prior_loss(summary)``

    The three are :class:`~blan_layers.GlobalInfoMaxLoss` on the flattened map, :class:`~blan_layers.LMIMLoss` and
    :class:`~blan_layers.PriorMatchingLoss`; those with weight zero are not built. The local information is a mean over
    locations, which replaces the paper's division of beta by their number. The defaults are the paper's local model;
    its global model is alpha 1, beta 0, gamma 1. The critics and the discriminator are part of this module and are
    trained with the encoder by the same minimisation: **pass this module's parameters to the optimiser**.

    Args:
        local_channels: Channels C of the maps.
        global_channels: Width D of the summaries.
        map_size: Spatial sizes of the maps, which the global critic needs. Only for alpha above zero.
        alpha: Weight of the global information.
        beta: Weight of the local information.
        gamma: Weight of prior matching.
        objective: An objective of :class:`~blan_layers.LMIMLoss`, used for global and local information.
        negatives: Negatives of :class:`~blan_layers.LMIMLoss` that need no further options, used for both.
        local_critic: Critic of locations; None means :class:`~blan_layers.DotProductCritic`. Only for beta above zero.
        prior: "uniform" or "gaussian"; None means "uniform". Only for gamma above zero.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S), global_features (B, D), mask (B, \*S), prior_samples (B', D) -> scalar; B >= 2.

    Raises:
        TypeError: One of the three losses raises it, a weight is not a number, or ``map_size`` is not a sequence.
        ValueError: One of the three losses raises it, a weight is negative or not finite, all weights are zero, an
            option belongs to a loss with weight zero, ``map_size`` is missing, ``negatives`` is "queue" or "given", or
            ``local_critic`` has another device or dtype.
        RuntimeError: One of the three losses raises it.

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        Eq. 8 and section 4.

    Example:
        >>> import torch
        >>> loss = DeepInfoMaxLoss(16, 32, map_size=(4, 4), alpha=0.5)
        >>> loss(torch.randn(8, 16, 4, 4), torch.randn(8, 32)).shape
        torch.Size([])
    """

    alpha = Checked(_weight)
    beta = Checked(_weight)
    gamma = Checked(_weight)

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        map_size: Sequence[int] | None = None,
        alpha: float = 0.0,
        beta: float = 1.0,
        gamma: float = 0.1,
        objective: ObjectiveName = "jsd",
        negatives: Negatives = "all",
        local_critic: Critic | None = None,
        prior: Prior | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        if self.alpha == self.beta == self.gamma == 0:
            raise ValueError(said("needs a weight above zero, got alpha, beta and gamma of 0. Pass beta=1.0."))
        if negatives in ("queue", "given"):
            raise ValueError(
                said(
                    f"negatives must need no further options or features, got {negatives!r}. "
                    "Use LMIMLoss, GlobalInfoMaxLoss and PriorMatchingLoss separately."
                )
            )
        for weight, name, option in (
            ("alpha", "map_size", map_size),
            ("beta", "local_critic", local_critic),
            ("gamma", "prior", prior),
        ):
            if option is not None and getattr(self, weight) == 0:
                raise ValueError(said(f"{name} needs {weight} above zero, got {weight}=0. Drop {name}."))
        self.global_loss: GlobalInfoMaxLoss | None = None
        self.local_loss: LMIMLoss | None = None
        self.prior_loss: PriorMatchingLoss | None = None
        if self.alpha:
            if map_size is None:
                raise ValueError(said("alpha above zero needs map_size, got None. Pass the sizes of the map."))
            if not isinstance(map_size, Sequence):
                raise TypeError(
                    said(f"map_size must be a sequence of ints, got {_checks.shown(map_size)}. Pass (height, width).")
                )
            sizes = [_checks.positive_int("map_size", size) for size in map_size]
            features = _checks.positive_int("local_channels", local_channels) * math.prod(sizes)
            self.global_loss = GlobalInfoMaxLoss(
                features, global_channels, objective=objective, negatives=negatives, device=device, dtype=dtype
            )
        if self.beta:
            if local_critic is None:
                local_critic = DotProductCritic(local_channels, global_channels, device=device, dtype=dtype)
            if not isinstance(local_critic, nn.Module):
                got = type(local_critic).__name__
                raise TypeError(said(f"local_critic must be a torch.nn.Module, got {got}. Pass a built critic."))
            self.local_loss = LMIMLoss(
                local_channels, global_channels, objective=objective, negatives=negatives, critic=local_critic
            )
            _refuse_other(local_critic, device, dtype)
        if self.gamma:
            prior = "uniform" if prior is None else prior
            self.prior_loss = PriorMatchingLoss(global_channels, prior=prior, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Reinitialise all weights."""
        for part in self.children():
            reset(part)

    def forward(
        self,
        local_features: Tensor,
        global_features: Tensor,
        prior_samples: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted sum.

        ``prior_samples`` replace draws from the prior, ``mask`` weights the locations of the local information, and
        images with the same number in ``groups`` form no fake pairs with each other.
        """
        for name, part in (("alpha", self.global_loss), ("beta", self.local_loss), ("gamma", self.prior_loss)):
            if part is None and getattr(self, name):
                raise ValueError(
                    said(
                        f"{name}={getattr(self, name)} needs a loss that the constructor builds, got none. "
                        f"Pass {name} to the constructor."
                    )
                )
        for name, option, weights, value in (
            ("prior_samples", prior_samples, "gamma", self.gamma),
            ("mask", mask, "beta", self.beta),
            ("groups", groups, "alpha or beta", self.alpha + self.beta),
        ):
            if value == 0:
                words = f"{name} needs {weights} above zero, got 0. Drop {name}."
                global_features = without(option, global_features, words)
        losses = []
        if self.global_loss is not None:
            losses.append(self.alpha * self.global_loss(local_features, global_features, groups=groups))
        if self.local_loss is not None:
            losses.append(self.beta * self.local_loss(local_features, global_features, mask=mask, groups=groups))
        if self.prior_loss is not None:
            losses.append(self.gamma * self.prior_loss(global_features, prior_samples))
        return torch.stack(losses).sum()

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"

    if TYPE_CHECKING:

        def __call__(
            self,
            local_features: Tensor,
            global_features: Tensor,
            prior_samples: Tensor | None = None,
            *,
            mask: Tensor | None = None,
            groups: Tensor | None = None,
        ) -> Tensor:
            """Call ``forward`` and its hooks."""


def _refuse_other(critic: Critic, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Refuse a device or dtype that is not that of the given critic's parameters."""
    _checks.placement(device, dtype)
    wanted = torch.empty(0, device=device, dtype=dtype)
    for parameter in critic.parameters():
        for name, option, value, got in (
            ("device", device, wanted.device, parameter.device),
            ("dtype", dtype, wanted.dtype, parameter.dtype),
        ):
            if option is not None and value != got:
                raise ValueError(
                    said(
                        f"local_critic must have the {name} of the loss, {value}, got {got}. "
                        f"Convert it by local_critic.to({option!r})."
                    )
                )
