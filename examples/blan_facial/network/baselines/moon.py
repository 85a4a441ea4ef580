"""MOON's idea: one network for all attributes, with a loss that balances both labels of each."""

import numpy as np
import torch
from torch import Tensor, nn

from blan_facial.network.objective import over_known, precise


class DomainBalancedError(nn.Module):
    """Squared error between every attribute's margin and its label, -1 or 1, balanced over both labels.

    The margin is the difference of the two scores. The rarer label of an attribute in the training images has weight 1,
    and the other one has the ratio of their counts, so that both have the same total weight.

    Args:
        attributes: N, the number of binary attributes.
        reduction: "sum" or "mean" over the attributes.

    Shape:
        Scores (K, B, N, 2), labels (B, N) -> (K,), averaged over the known labels of the batch.

    Reference:
        Rudd, Günther and Boult, "MOON: A Mixed Objective Optimization Network for the Recognition of Facial
        Attributes", ECCV 2016, with a balanced target domain.
    """

    weights: Tensor

    def __init__(self, attributes: int, *, reduction: str = "sum") -> None:
        super().__init__()
        self.reduction = reduction
        self.register_buffer("weights", torch.ones(2, attributes))

    def balance(self, labels: np.ndarray) -> None:
        """Set the weights from the known training labels (n, N).

        An attribute with only one label keeps weight 1.
        """
        counts = np.stack([(labels == label).sum(0) for label in (0, 1)])
        weights = np.where(counts.min(0) > 0, counts.min(0) / np.maximum(counts, 1), 1.0)
        self.weights.copy_(torch.from_numpy(weights))

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of margins for labels; unknown labels are ignored."""
        margins = precise(scores).diff(dim=-1)[..., 0]
        negative, positive = (labels == label for label in (0, 1))
        errors = negative * self.weights[0] * (margins + 1).square()
        errors = errors + positive * self.weights[1] * (margins - 1).square()
        return over_known(errors, labels, self.reduction)
