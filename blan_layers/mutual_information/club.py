"""The contrastive log-ratio upper bound and its conditional network."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import Fixed, said
from blan_layers._init import reset, shrink_
from blan_layers._module import Module, check_layer, runs_forward, width_of
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.mutual_information.encoders import Perceptron

START = 1 / 16
"""Factor on the initial last layer, so that the first conditional is near the standard normal distribution."""

WIDEST = 10.0
"""Bound of the absolute log variance."""


class CLUB(Module):
    r"""Contrastive log-ratio upper bound of the mutual information of vectors x and y in nats, to be minimised.

    ``mean_i log q(y_i | x_i) - mean_{i, j != i} log q(y_j | x_i)``, where q(y | x) is a normal distribution whose mean
    and diagonal variance come from a perceptron in this module, ``conditional``.

    **It is an upper bound only if q is the true conditional distribution**, or close enough to it: while KL(joint, q(y
    | x) p(x)) is at most KL(product of the marginals, q(y | x) p(x)). With the true q it exceeds the information by
    KL(product, joint). For normal x and y with correlation rho it is rho^2 / (1 - rho^2), where the information is
    -log(1 - rho^2) / 2. Before the network is fitted it is near zero and not a bound.

    Training therefore alternates between two optimisers. One has this module's parameters and minimises
    ``learning_loss``, the negative mean log-likelihood of real pairs, whose gradient reaches only the network. The
    other has all other parameters and minimises the returned bound, **never with this module's parameters**: a network
    trained to make the bound small invalidates it.

    The second mean is over all other y of the batch, in time linear in the batch size. The paper's sum also includes
    each y with its own x, which makes the bound smaller by the factor (B - 1) / B. From the output of the network on,
    everything is computed in at least float32. The log variance is kept between -10 and 10 by ``10 tanh(. / 10)``.
    Weights start by He's rule, biases at zero, and the last layer is then divided by 16, so that q starts near the
    standard normal distribution.

    Args:
        x_channels: Width C of x.
        y_channels: Width D of y.
        hidden_channels: Width of the network's two hidden layers.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        x (B, C), y (B, D) -> scalar, in nats; B >= 2, or B >= 1 for ``learning_loss``.

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor of the weights' dtype.
        ValueError: A number is below 1, the inputs are not (B, C) and (B, D), or there are too few pairs.

    Reference:
        Cheng et al., "CLUB: A contrastive log-ratio upper bound of mutual information", ICML 2020, Eqs. 8 and 9,
        theorems 3.1 and 3.2, algorithm 1.

    Example:
        >>> import torch
        >>> encoder, club = torch.nn.Linear(16, 8), CLUB(8, 4)
        >>> fitting = torch.optim.Adam(club.parameters(), lr=1e-3)
        >>> training = torch.optim.Adam(encoder.parameters(), lr=1e-3)
        >>> for _ in range(3):
        ...     data, y = torch.randn(32, 16), torch.randn(32, 4)
        ...     x = encoder(data)
        ...     fitting.zero_grad()
        ...     club.learning_loss(x, y).backward()
        ...     fitting.step()
        ...     training.zero_grad()
        ...     club(x, y).backward()  # plus the loss of the task
        ...     training.step()
        >>> club.estimate(x, y).shape  # nats
        torch.Size([])
    """

    needs = ("conditional",)

    x_channels = Fixed(_checks.positive_int)
    y_channels = Fixed(_checks.positive_int)

    def __init__(
        self,
        x_channels: int,
        y_channels: int,
        *,
        hidden_channels: int = 512,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.x_channels = x_channels
        self.y_channels = y_channels
        hidden = _checks.positive_int("hidden_channels", hidden_channels)
        _checks.placement(device, dtype)
        self.conditional = Perceptron(
            self.x_channels, (hidden, hidden), 2 * self.y_channels, device=device, dtype=dtype
        )
        shrink_(self.conditional.last_layers(), START)

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        reset(self.conditional)
        shrink_(self.conditional.last_layers(), START)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the bound in nats, with gradients for x, y and the network."""
        self._check(x, y, least=2)
        return _log_ratio(*self._moments(x), y)

    @runs_forward
    def learning_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the negative mean log-likelihood of y given x in nats, with gradients only for the network.

        Its minimum is the conditional entropy of y given x.
        """
        self._check(x, y, least=1)
        return _negative_log_likelihood(*self._moments(x.detach()), y.detach())

    @runs_forward
    @torch.no_grad()
    def estimate(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the bound in nats, without gradient."""
        self._check(x, y, least=2)
        return _log_ratio(*self._moments(x), y)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of y given each x, (B, D)."""
        found = at_least_float32(self.conditional(x))
        width = self.y_channels
        return found[:, :width], WIDEST * (found[:, width:] / WIDEST).tanh()

    def _check(self, x: Tensor, y: Tensor, least: int) -> None:
        first = getattr(self.conditional, "fc1", self.conditional)
        x_channels = width_of(first) or self.x_channels
        _checks.in_order("x", x, "y", y, (x_channels, self.y_channels))
        for name, vectors, width in (("x", x, x_channels), ("y", y, self.y_channels)):
            _checks.floating(name, vectors)
            if not _checks.traced(vectors) and (vectors.ndim != 2 or vectors.shape[1] != width):
                otherwise = f"Build the bound for the width of {name}."
                raise ValueError(
                    said(
                        f"{name} must be (B, {width}), got shape {_checks.shape(vectors)}. "
                        f"{_checks.remedy_of_vectors(name, vectors, width, otherwise)}"
                    )
                )
            check_layer(self, first, name, vectors)
        if _checks.traced(x, y):
            return
        if x.shape[0] != y.shape[0]:
            raise ValueError(
                said(f"x and y must contain the same pairs, got {x.shape[0]} and {y.shape[0]} rows. Pass one y per x.")
            )
        if x.shape[0] < least:
            noun = "pair" if least == 1 else "pairs"
            raise ValueError(
                said(f"needs at least {least} {noun}, got {x.shape[0]}. Use drop_last=True in the DataLoader.")
            )

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"x_channels={self.x_channels}, y_channels={self.y_channels}"

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            """Call ``forward`` and its hooks."""


@whole
def _log_ratio(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """Return the mean log-likelihood of each x's own y, minus that of all others, computed from their moments."""
    y = at_least_float32(y)
    own = (y - mean).square()
    everyone = y.var(0, correction=0) + (y.mean(0) - mean).square()
    pairs = y.new_full((), y.shape[0])
    return ((everyone - own) * (-log_variance).exp()).sum(1).mean() / 2 * (pairs / (pairs - 1))


@whole
def _negative_log_likelihood(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    distances = (at_least_float32(y) - mean).square() * (-log_variance).exp()
    return (distances + log_variance + math.log(2 * math.pi)).sum(1).mean() / 2
