"""The plain baseline: a ResNet with one linear layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from blan_facial.network.baselines.baseline import Baseline
from blan_facial.network.blocks import he_initialize


class ResNet(Baseline):
    """A ResNet of BasicBlocks: global average pooling, dropout, and one linear layer for all attributes.

    With blocks (2, 2, 2, 2) or (3, 4, 6, 3) and width 64 it is ResNet-18 or ResNet-34.

    Args:
        attributes: N, the number of binary attributes.
        width: Channels of the first stage.
        blocks: Residual blocks of the four stages.
        dropout: Probability of dropping a pooled feature.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(
        self, attributes: int, *, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), dropout: float = 0.5
    ) -> None:
        super().__init__(attributes, width=width, blocks=blocks)
        self.dropout = nn.Dropout(dropout)
        self.classifiers.append(nn.Linear(8 * width, 2 * attributes))
        he_initialize(self.classifiers)

    def classify(self, features: Tensor) -> Tensor:
        """Score the pooled features."""
        scores: Tensor = self.classifiers[0](self.dropout(features.mean((2, 3))))
        return scores.unflatten(1, (self.attributes, 2))
