"""Adaptive score fusion, Eq. 6 of BLAN."""

from torch import Tensor

from blan_layers import _checks
from blan_layers._checks import said
from blan_layers.functional._tracing import whole


@whole
def score_fusion(scores: Tensor, weight: Tensor) -> Tensor:
    r"""Combine the scores of K classifiers, and their sum, into one set of logits.

    ``fused[b, n, c] = sum_i weight[i, n] scores[i, b, n, c] + weight[K, n] sum_i scores[i, b, n, c]``

    Equivalently, the scores of classifier i are weighted by ``weight[i] + weight[K]``. The paper's softmax is left to
    the loss or the prediction, so that it is applied only once.

    Args:
        scores: Scores of each classifier, stacked.
        weight: A weight per classifier and attribute; the last row contains those of the sum.

    Shape:
        scores (K, B, N, classes), weight (K + 1, N) -> (B, N, classes).

    Raises:
        TypeError: ``scores`` or ``weight`` is not a floating-point tensor, or their dtypes differ.
        ValueError: ``scores`` does not have 4 dimensions, or ``weight`` is not (K + 1, N).

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Eq. 6.

    Example:
        >>> import torch
        >>> scores = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)  # two classifiers, one image, attribute and class
        >>> score_fusion(scores, torch.tensor([[0.5], [0.25], [0.1]]))  # 0.5 * 1 + 0.25 * 2 + 0.1 * 3
        tensor([[[1.3000]]])
    """
    _check(scores, weight)
    return ((weight[:-1] + weight[-1])[:, None, :, None] * scores).sum(0)


def _check(scores: Tensor, weight: Tensor) -> None:
    _checks.floating("scores", scores)
    _checks.floating("weight", weight)
    if _checks.traced(scores):
        return
    _checks.same_dtype("scores", scores, weight.dtype)
    if scores.ndim != 4:
        raise ValueError(
            said(
                f"scores must have 4 dimensions (K, B, N, classes), got {scores.ndim} in shape "
                f"{_checks.shape(scores)}. Stack the classifiers' (B, N, classes) scores."
            )
        )
    levels, _, attributes, _ = scores.shape
    if weight.ndim != 2 or weight.shape[0] != levels + 1 or weight.shape[1] != attributes:
        raise ValueError(
            said(
                f"weight must be (K + 1, N) = ({levels + 1}, {attributes}) for scores of shape "
                f"{_checks.shape(scores)}, got {_checks.shape(weight)}. Give each classifier and the sum one row."
            )
        )
