"""The base class of the baselines: BLAN's encoder, and one set of scores from its last features."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from blan_facial.network.encoder import ResNetEncoder
from blan_facial.network.model import Features, Network


class Baseline(Network):
    """An encoder with BLAN's depth and width, and a single head on its last features.

    It has no levels: its scores are (1, B, N, 2), and their sum is the prediction.

    Args:
        attributes: N, the number of binary attributes.
        width: Channels of the encoder's first stage.
        blocks: Residual blocks of the encoder's four stages.

    Shape:
        Normalised images (B, 3, H, W) -> ``Features`` with scores only.
    """

    fusion = None

    def __init__(self, attributes: int, *, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self._attributes = attributes
        self.encoder = ResNetEncoder(width, blocks)
        self.classifiers = nn.ModuleList()

    @property
    def attributes(self) -> int:
        """N, the number of attributes."""
        return self._attributes

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Score E_4 (B, 8 width, H/32, W/32): (B, N, 2)."""

    def forward(self, images: Tensor, *, reconstruct: bool = False) -> Features:
        """Score every attribute.

        Raises:
            ValueError: A reconstruction is requested, which the model lacks.
        """
        if reconstruct:
            raise ValueError(
                f"{type(self).__name__}: has no reconstruction, got reconstruct=True. Leave reconstruct out."
            )
        return Features(self.classify(self.encoder(images)[-1])[None])
