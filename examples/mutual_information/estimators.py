"""Estimators by name: the objective of their critic, the estimate, and the kind of estimate.

All of them take the logits (*, N, N) of all pairs of a batch, with the real pairs on the diagonal, as ``all_pairs`` of
a critic returns them; leading axes are the locations of maps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from blan_layers import BilinearCritic, ConcatConvCritic, DotProductCritic, GlobalCritic, MINEObjective, SeparableCritic
from blan_layers import functional as F
from blan_layers.mutual_information import Critic

EstimatorName: TypeAlias = Literal["infonce", "nwj", "dv", "mine", "alpha", "jsd", "smile", "certificate"]
ObjectiveName: TypeAlias = Literal["infonce", "nwj", "dv", "mine", "alpha", "jsd"]
CriticName: TypeAlias = Literal["separable", "concat", "dot-product", "bilinear"]

Kind: TypeAlias = Literal["lower bound", "lower bound given many pairs", "no bound"]

Measure: TypeAlias = Callable[[Tensor], Tensor]
"""Maps logits (*, N, N) to a scalar."""

ALPHA = 0.01

_MAX_NORM = 5.0


@dataclass(frozen=True)
class Estimator:
    """An estimator of mutual information."""

    title: str
    objective: ObjectiveName
    """The objective that its critic maximises; estimators with the same objective can share a critic."""
    estimate: Measure
    """Returns the estimate in nats, for logits of such a critic."""
    kind: Kind
    """Whether the estimate bounds the information for any critic."""
    cap: Callable[[int], float] = lambda candidates: math.inf
    """Maximum of the estimate in nats, by the number N of candidates."""


def real(logits: Tensor) -> Tensor:
    """Return the logits (*, N) of real pairs, drawn jointly."""
    return logits.diagonal(dim1=-2, dim2=-1)


def fake(logits: Tensor) -> Tensor:
    """Return the logits (*, N - 1, N) of fake pairs, drawn independently: all but the diagonal."""
    n = logits.shape[-1]
    return logits.flatten(-2)[..., 1:].unflatten(-1, (n - 1, n + 1))[..., :-1]


def build_objective(name: ObjectiveName) -> Measure:
    """Return the objective of a critic; each critic needs its own, since MINE's keeps an average over batches."""
    if name == "mine":
        mine = MINEObjective()
        return lambda logits: mine(real(logits), fake(logits))
    return OBJECTIVES[name]


def build_critic(
    name: CriticName, channels: tuple[int, int], hidden_channels: int | None, *, maps: bool = False
) -> Critic:
    """Return a critic that initially gives all pairs the same score.

    The library's product critics start near zero, and the joint critic has He initialisation. Here the last layer of
    each starts at exactly zero, so that all climb the staircase from the same value. NWJ and MINE take exponentials of
    the logits, and a critic that starts with large scores does not recover.

    Args:
        name: One of the library's critics; "concat" is the joint critic, which sees both sides at once.
        channels: Dimensions of x, or channels if it is a map, and of y.
        hidden_channels: Width of the hidden layers, of which the bilinear critic has none; None means 256.
        maps: Whether x is a map.

    Raises:
        ValueError: A width was given for the bilinear critic.
    """
    if name == "bilinear":
        if hidden_channels is not None:
            raise ValueError(
                f"build_critic: the bilinear critic has no hidden layers, got hidden_channels={hidden_channels}. "
                "Leave it out, or choose another critic."
            )
        return _starting_at_zero(BilinearCritic(*channels))
    joint = ConcatConvCritic if maps else GlobalCritic
    kinds = {"separable": SeparableCritic, "concat": joint, "dot-product": DotProductCritic}
    return _starting_at_zero(kinds[name](*channels, hidden_channels=hidden_channels or 256))


def _starting_at_zero(critic: Critic) -> Critic:
    """Set the last layer of the critic, or of one of its encoders, to zero."""
    last = ("fc3.", "global_encoder.fc3.", "global_encoder.fc2.", "global_encoder.shortcut.", "global_encoder.weight")
    perceptron = any(name.startswith("global_encoder.fc3.") for name, _ in critic.named_parameters())
    for name, parameter in critic.named_parameters():
        if name.startswith(last) and not (perceptron and name.startswith("global_encoder.fc2.")):
            nn.init.zeros_(parameter)
    return critic


def clip(name: ObjectiveName, critic: nn.Module) -> None:
    """Clip the critic's gradient, except for MINE.

    Without clipping, the exponential of one outlier would dominate Adam's second moments for a thousand steps, during
    which the critic hardly changes. MINE's gradient is small in most batches and large in a few that keep the critic
    bounded; with clipping, the logits diverge.
    """
    if name != "mine":
        nn.utils.clip_grad_norm_(critic.parameters(), _MAX_NORM)


def score(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    r"""Return the logits (\*S, N, N) of all pairs of x (N, d) or (N, d, \*S) and y (N, d')."""
    logits: Tensor = critic.all_pairs(x, y)  # type: ignore[operator]  # a Critic
    return logits.movedim((0, 1), (-2, -1))


def _nwj(logits: Tensor) -> Tensor:
    return F.nwj_lower_bound(real(logits), fake(logits))


def _dv(logits: Tensor) -> Tensor:
    return F.dv_lower_bound(real(logits), fake(logits))


def _alpha(logits: Tensor) -> Tensor:
    return F.alpha_lower_bound(logits, 0.0, alpha=ALPHA)


def _jsd(logits: Tensor) -> Tensor:
    return F.jsd_objective(real(logits), fake(logits))


def _positive_logit(logits: Tensor) -> Tensor:
    return real(logits).mean()


def _smile(logits: Tensor) -> Tensor:
    return F.smile_estimate(real(logits), fake(logits), clip=5.0)


def _certificate(logits: Tensor) -> Tensor:
    return F.mutual_information_certificate(F.bce_loss(real(logits), fake(logits)) / 2)


OBJECTIVES: dict[ObjectiveName, Measure] = {
    "infonce": F.infonce_lower_bound,
    "nwj": _nwj,
    "dv": _dv,
    "mine": _dv,
    "alpha": _alpha,
    "jsd": _jsd,
}
"""The values of the objectives, without MINE's correction of the gradient."""

ESTIMATORS: dict[EstimatorName, Estimator] = {
    "infonce": Estimator("InfoNCE", "infonce", F.infonce_lower_bound, "lower bound", cap=math.log),
    "alpha": Estimator(f"alpha {ALPHA}", "alpha", _alpha, "lower bound", cap=lambda n: 1 + math.log((n - 1) / ALPHA)),
    "nwj": Estimator("NWJ", "nwj", _nwj, "lower bound"),
    "dv": Estimator("DV", "dv", _dv, "lower bound given many pairs"),
    "mine": Estimator("MINE", "mine", _dv, "lower bound given many pairs"),
    "jsd": Estimator("JSD, E[logit]", "jsd", _positive_logit, "no bound"),
    "smile": Estimator("SMILE, clip 5", "jsd", _smile, "no bound"),
    "certificate": Estimator("JSD, certificate", "jsd", _certificate, "lower bound"),
}
