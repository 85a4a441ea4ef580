"""The running mean of mutual information neural estimation."""

import math
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blan_layers import _checks, functional
from blan_layers._checks import Checked
from blan_layers._module import Module
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional.mine import checked_momentum
from blan_layers.mutual_information.memory import check_first_run, updated


class MINEObjective(Module):
    r"""Donsker-Varadhan bound in nats with the gradient of mutual information neural estimation, to be maximised.

    ``mean positive_logits - log mean exp(negative_logits)``

    In training, the gradient of the second term divides by a running mean of exp(negative_logits) instead of the mean
    of the batch, which would bias it. The module stores the log of the running mean. In evaluation it is not updated,
    and the gradient is that of the value. There are no parameters; use one object per critic. The running mean keeps
    its dtype when the module is cast to half precision. Under DistributedDataParallel each process divides by a running
    mean that includes its own batch, and all processes continue with the running mean of the first process. Call it
    outside ``torch.utils.checkpoint`` and the transforms of ``torch.func`` in training.

    Args:
        momentum: Weight of a batch in the running mean, above 0 and at most 1; 1 gives the gradient of the value.
        device: Device of the running mean.
        dtype: Floating dtype of the running mean; half precision becomes float32.

    Shape:
        positive_logits and negative_logits of any two shapes, weights of the shapes of their logits -> scalar.

    Raises:
        TypeError: ``momentum`` is not a number, logits are not floating-point tensors, or weights are neither boolean
            nor floating-point.
        ValueError: ``momentum`` is not above 0 and at most 1, logits are empty, or weights have the wrong shape, a
            negative value or no finite sum above zero.
        RuntimeError: In training, activation checkpointing calls it a second time, or ``torch.func`` transforms the
            call but not the running mean. Under ``torch.compile`` a second call is not noticed.

    Reference:
        Belghazi et al., "Mutual information neural estimation", ICML 2018, section 3.2.

    Example:
        >>> import torch
        >>> objective = MINEObjective()
        >>> objective(torch.full((4,), 3.0), torch.ones(4, 2))
        tensor(2.)
        >>> objective.running_log_mean
        tensor(1.)
    """

    running_log_mean: Tensor
    momentum = Checked(checked_momentum)

    def __init__(
        self,
        *,
        momentum: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _checks.placement(device, dtype)
        self.momentum = momentum
        dtype = torch.promote_types(torch.get_default_dtype() if dtype is None else dtype, torch.float32)
        self.register_buffer("running_log_mean", torch.full((), -math.inf, device=device, dtype=dtype))

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Any], prefix: str, *others: Any) -> None:
        name = f"{prefix}running_log_mean"
        if isinstance(mean := state_dict.get(name), Tensor):  # which assign=True would take as it is
            state_dict[name] = at_least_float32(mean)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def reset_parameters(self) -> None:
        """Reset the running mean."""
        self.running_log_mean.fill_(-math.inf)

    def forward(
        self,
        positive_logits: Tensor,
        negative_logits: Tensor,
        *,
        positive_weights: Tensor | None = None,
        negative_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the bound in nats, with weighted means if weights are given."""
        if not self.training:
            return functional.dv_lower_bound(
                positive_logits, negative_logits, positive_weights=positive_weights, negative_weights=negative_weights
            )
        check_first_run("running mean")
        step = functional.mine_objective(
            positive_logits,
            negative_logits,
            self.running_log_mean,
            momentum=self.momentum,
            positive_weights=positive_weights,
            negative_weights=negative_weights,
        )
        updated("running mean", lambda: self.running_log_mean.copy_(step.running_log_mean))
        return step.value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MINEObjective":
        """Apply device moves and wider dtypes, but not half precision, where the running mean would stop changing."""
        exact = self.running_log_mean
        nn.Module._apply(self, fn, recurse)
        if torch.finfo(self.running_log_mean.dtype).bits < 32:
            self.running_log_mean = exact.to(self.running_log_mean.device)
        return self

    def extra_repr(self) -> str:
        """Return the argument that repr shows."""
        return f"momentum={self.momentum}"

    if TYPE_CHECKING:

        def __call__(
            self,
            positive_logits: Tensor,
            negative_logits: Tensor,
            *,
            positive_weights: Tensor | None = None,
            negative_weights: Tensor | None = None,
        ) -> Tensor:
            """Call ``forward`` and its hooks."""
