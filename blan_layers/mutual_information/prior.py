"""Adversarial matching of summaries to a prior."""

import sys
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Option, said
from blan_layers._init import reset
from blan_layers._module import Module, dtype_of, known, oddity, runs_forward, width_of
from blan_layers.functional import bce_loss
from blan_layers.functional._logits import softplus
from blan_layers.functional._tracing import whole
from blan_layers.mutual_information.encoders import Perceptron

Prior: TypeAlias = Literal["uniform", "gaussian"]

PRIORS: tuple[Prior, ...] = ("uniform", "gaussian")

DISCRIMINATOR = {name: known(nn.Linear) for name in ("fc1", "fc2", "fc3")}
"""Layers of a discriminator whose weights can be read and frozen."""


class PriorTerms(NamedTuple):
    """The two terms of prior matching, both to be minimised; each has gradients only for its own side.

    Attributes:
        discriminator: Cross entropy of distinguishing prior draws from summaries, with gradients only for the
            discriminator.
        encoder: Cross entropy of summaries being classified as prior draws, with gradients only for the summaries.
    """

    discriminator: Tensor
    encoder: Tensor


class PriorMatchingLoss(Module):
    r"""Loss that matches the distribution of summaries to a prior, by a discriminator in this module.

    ``mean softplus(-d(prior)) + mean softplus(d(summary))``, minimised by the discriminator d alone, plus
    ``mean softplus(-d(summary))``, minimised by the summaries alone. The encoder's term is the non-saturating one, as
    in the authors' code. Eq. 7 of the paper has the same direction, but almost no gradient where the discriminator
    wins.

    The two sides work against each other, so that their gradients are separated: the first term has none for the
    encoder, the second none for the discriminator's weights. One backward pass of the sum and one minimising optimiser
    therefore serve both: **pass this module's parameters to the optimiser**. No gradient needs to be reversed. At the
    equilibrium the terms are 2 log 2 and log 2; the sum says little about progress.

    The uniform prior is that on the unit cube, and the summaries first pass a sigmoid, as in the authors' code. The
    Gaussian prior is the standard normal distribution. Draws come from torch's default generator, in training and in
    evaluation.

    Args:
        channels: Width D of the summaries.
        hidden_channels: Widths of the discriminator's hidden layers.
        prior: "uniform" or "gaussian".
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        global_features (B, D), prior_samples (B', D) or None -> scalar.

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, there are not two widths, ``prior`` is unknown, or an input is not (B, D) with
            B >= 1.

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        Eq. 7 and appendix A; Makhzani et al., "Adversarial autoencoders", 2015.

    Example:
        >>> import torch
        >>> loss = PriorMatchingLoss(64)
        >>> loss(torch.randn(8, 64)).shape
        torch.Size([])
    """

    needs = ("discriminator",)
    prior = Option(PRIORS)

    def __init__(
        self,
        channels: int,
        *,
        hidden_channels: tuple[int, int] = (1000, 200),
        prior: Prior = "uniform",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._channels = _checks.positive_int("channels", channels)
        _checks.placement(device, dtype)
        if not isinstance(hidden_channels, tuple | list) or len(hidden_channels) != 2:
            raise ValueError(
                said(
                    f"hidden_channels must be the widths of two layers, got {_checks.shown(hidden_channels)}. "
                    "Pass, for example, (1000, 200)."
                )
            )
        first, second = (_checks.positive_int("hidden_channels", width) for width in hidden_channels)
        self.prior = prior
        self.discriminator = Perceptron(self._channels, (first, second), 1, device=device, dtype=dtype)

    @property
    def channels(self) -> int:
        """Width of the summaries, read from the weights where possible."""
        width = width_of(getattr(self.discriminator, "fc1", self.discriminator))
        return self._channels if width is None else width

    def reset_parameters(self) -> None:
        """Reinitialise the discriminator's weights."""
        reset(self.discriminator)

    def forward(self, global_features: Tensor, prior_samples: Tensor | None = None) -> Tensor:
        """Return the sum of both terms, each with gradients only for its own side.

        ``prior_samples`` replace draws from the prior, for any prior that you can draw from; for "uniform" they lie in
        [0, 1].
        """
        discriminator, encoder = self.terms(global_features, prior_samples)
        return discriminator + encoder

    @runs_forward
    def terms(self, global_features: Tensor, prior_samples: Tensor | None = None) -> PriorTerms:
        """Return the terms of discriminator and encoder, to weight or optimise them separately."""
        self._check("global_features", global_features)
        summaries = global_features.sigmoid() if self.prior == "uniform" else global_features
        if prior_samples is not None:
            self._check("prior_samples", prior_samples)
        prior_samples = _given_or_drawn(prior_samples, self.prior, summaries)
        discriminator = bce_loss(self.discriminator(prior_samples), self.discriminator(summaries.detach()))
        return PriorTerms(discriminator, softplus(-self._held(summaries)).mean())

    def _held(self, summaries: Tensor) -> Tensor:
        """Return the discriminator's logits, without gradient for its weights."""
        net = self.discriminator
        odd = oddity(self, {"discriminator": known(Perceptron)}) or oddity(net, DISCRIMINATOR)
        if not odd:  # the same as calling it, in a form that tracers can follow
            x = summaries
            for layer in (net.fc1, net.fc2, net.fc3):
                x = torch.relu(x) if layer is not net.fc1 else x
                x = nn.functional.linear(x, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
            return x
        if _checks.traced(summaries):
            raise TypeError(
                said(
                    f"a tracer cannot freeze the weights of a discriminator that is watched or replaced, got: {odd}. "
                    "Undo that before tracing, or use torch.export."
                )
            )
        held = {
            name: nn.Parameter(p.detach(), requires_grad=False) if type(p) is nn.Parameter else p.detach()
            for name, p in net.named_parameters()
        }
        tensors = sys.modules.get("torch.distributed.tensor")
        sharded = [name for name, parameter in held.items() if tensors and isinstance(parameter, tensors.DTensor)]
        if sharded:
            raise TypeError(
                said(
                    f"the encoder's term needs discriminator weights that it can freeze, got {sharded[0]} in shards. "
                    "Leave the discriminator out of fully_shard, or shard this loss as a whole."
                )
            )
        logits: Tensor = torch.func.functional_call(net, held, (summaries,))
        return logits

    def _check(self, name: str, x: Tensor) -> None:
        _checks.floating(name, x)
        if _checks.traced(x):
            return
        if x.ndim != 2 or x.shape[1] != self.channels or x.shape[0] == 0:
            otherwise = "Pass one vector per image, of the width that the loss was built for."
            raise ValueError(
                said(
                    f"{name} must be (B, {self.channels}) with B >= 1, got shape {_checks.shape(x)}. "
                    f"{_checks.remedy_of_vectors(name, x, self.channels, otherwise)}"
                )
            )
        _checks.same_dtype(name, x, dtype_of(getattr(self.discriminator, "fc1", self.discriminator)))

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"channels={self.channels}, prior={self.prior!r}"

    if TYPE_CHECKING:

        def __call__(self, global_features: Tensor, prior_samples: Tensor | None = None) -> Tensor:
            """Call ``forward`` and its hooks."""


@whole
def _given_or_drawn(samples: Tensor | None, prior: Prior, like: Tensor) -> Tensor:
    """Return given samples of the prior, or draw as many as there are summaries."""
    if samples is not None:
        return samples
    return torch.rand_like(like) if prior == "uniform" else torch.randn_like(like)
