"""Adaptive score fusion (Zheng et al. 2020, section 3.3.2)."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from blan_layers import _checks, functional
from blan_layers._checks import Fixed, said
from blan_layers._init import change_parameter
from blan_layers._module import Module
from blan_layers._torch import is_tracing
from blan_layers.functional._tracing import whole


class AdaptiveScoreFusion(Module):
    r"""Learned ensemble of K classifiers' scores and of their sum.

    ``fused[b, n, c] = sum_i weight[i, n] scores_i[b, n, c] + weight[K, n] sum_i scores_i[b, n, c]``

    The weight of every level is learnt for each attribute. The result is logits: apply softmax yourself.

    The paper trains ``weight`` by SGD at a learning rate of 1e-4, at which it hardly moves. It therefore starts at 1 /
    (K + 1), where the fused prediction equals that of the summed scores. Use a larger learning rate to learn more than
    that ensemble.

    Args:
        levels: Number K of classifiers.
        attributes: Number N of attributes that each of them scores.
        initial_weight: Initial value of ``weight``: a number, or a tensor (K + 1, N); None means 1 / (K + 1).
        device: Device of the parameter.
        dtype: Floating dtype of the parameter.

    Shape:
        A sequence of K tensors (B, N, classes), or one tensor (K, B, N, classes) -> (B, N, classes).

    Raises:
        TypeError: ``levels`` or ``attributes`` is not an int, ``initial_weight`` is neither a number nor a real tensor,
            or the scores are not floating-point tensors of the weight's dtype.
        ValueError: ``levels`` or ``attributes`` is below 1, ``initial_weight`` is not finite in ``dtype`` or not of
            shape (K + 1, N), or the scores are not K levels of equal shape with N attributes.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Eq. 6.

    Example:
        >>> import torch
        >>> fusion = AdaptiveScoreFusion(4, 40)
        >>> fusion([torch.randn(8, 40, 2) for _ in range(4)]).shape
        torch.Size([8, 40, 2])
    """

    levels = Fixed(_checks.positive_int)
    attributes = Fixed(_checks.positive_int)

    def __init__(
        self,
        levels: int,
        attributes: int,
        *,
        initial_weight: float | Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.attributes = attributes
        _checks.placement(device, dtype)
        shape = (self.levels + 1, self.attributes)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        start = 1 / shape[0] if initial_weight is None else initial_weight
        self._initial_weight = _start(start, shape, self.weight.dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the weight to its initial value."""
        start = torch.from_numpy(self._initial_weight)
        change_parameter(self, "weight", lambda weight: weight.copy_(start.expand_as(weight)))

    def forward(self, scores: Tensor | Sequence[Tensor]) -> Tensor:
        """Fuse the scores of all levels into (B, N, classes) logits."""
        weight = self.weight
        return functional.score_fusion(_stacked(scores, weight), weight)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"levels={self.levels}, attributes={self.attributes}"

    if TYPE_CHECKING:

        def __call__(self, scores: Tensor | Sequence[Tensor]) -> Tensor:
            """Call ``forward`` and its hooks."""


@whole
def _stacked(scores: Tensor | Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return the scores of all levels, stacked along a first axis and checked against the weight."""
    levels, attributes = weight.shape[0] - 1, weight.shape[1]
    if scores.ndim == 0 if isinstance(scores, Tensor) else not isinstance(scores, Sequence):
        raise TypeError(
            said(
                f"scores must be a tensor or a sequence of tensors, got {type(scores).__name__}. "
                "Pass one (B, N, classes) tensor per level, or all stacked along a first axis."
            )
        )
    if not is_tracing() and len(scores) != levels:
        raise ValueError(
            said(
                f"needs the scores of {levels} levels, got {len(scores)}. "
                "Pass one (B, N, classes) tensor per level, or all stacked along a first axis."
            )
        )
    for level in () if is_tracing() else scores:
        _checks.floating("scores", level)
        _checks.same_dtype("scores", level, weight.dtype)
        if level.ndim != 3 or level.shape[1] != attributes or level.shape != scores[0].shape:
            raise ValueError(
                said(
                    f"every level's scores must have the same shape (B, {attributes}, classes), "
                    f"got shapes {_checks.shape(scores[0])} and {_checks.shape(level)}. "
                    "Build the layer for the attributes that the classifiers score."
                )
            )
    return scores if isinstance(scores, Tensor) else torch.stack(tuple(scores))


def _start(initial_weight: object, shape: tuple[int, int], dtype: torch.dtype) -> npt.NDArray[np.float64]:
    """Return a float64 copy of a user's initial weight: a number () or a weight per level and attribute (K + 1, N)."""
    if isinstance(initial_weight, Tensor) and not initial_weight.is_complex() and not initial_weight.is_meta:
        start = initial_weight.detach().to("cpu", torch.float64, copy=True).numpy()
    elif isinstance(initial_weight, Real) and not isinstance(initial_weight, bool):
        start = np.array(_checks.number("initial_weight", initial_weight, 0.5))
    else:
        raise TypeError(
            said(
                f"initial_weight must be a number or a real tensor with values, got "
                f"{type(initial_weight).__name__}. Convert it, for example by torch.as_tensor."
            )
        )
    if start.shape not in ((), shape):
        raise ValueError(
            said(
                f"initial_weight must be a number or a tensor (levels + 1, attributes) = {shape}, "
                f"got shape {start.shape}. Give each level and the sum one row."
            )
        )
    if not np.isfinite(start).all():
        raise ValueError(
            said(f"initial_weight must be finite, got {_checks.shown(initial_weight)}. Leave it out for 1 / (K + 1).")
        )
    if np.abs(start).max() > torch.finfo(dtype).max:
        raise ValueError(
            said(
                f"initial_weight must be finite in {dtype}, got {_checks.shown(initial_weight)}. "
                "Leave it out for 1 / (K + 1), or use a wider dtype."
            )
        )
    return start
