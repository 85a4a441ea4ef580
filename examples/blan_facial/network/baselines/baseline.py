"""What the rivals share: BLAN's encoder, one set of scores, and the interface that the trainer knows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from blan_facial.network.encoder import ResNetEncoder
from blan_facial.network.model import LEVELS, BLANFeatures, BLANOutput
from blan_facial.network.objective import BLANObjective


class Baseline(nn.Module, ABC):
    """An encoder of BLAN's depth and width, and one head upon its last features.

    It has no levels: its scores are (1, B, N, 2), and their sum is the prediction.

    Args:
        attributes: N, the number of binary attributes.
        width: Channels of the encoder's first stage.
        blocks: Residual blocks of the encoder's four stages.

    Shape:
        Images (B, 3, H, W), normalised -> ``BLANOutput`` without fused scores.
    """

    level_names: tuple[str, ...] = ()
    decoder = None
    fusion = None
    reconstructs = False

    def __init__(self, attributes: int, *, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.attributes = attributes
        self.encoder = ResNetEncoder(width, blocks)
        self.rdam = nn.ModuleList()
        self.classifiers = nn.ModuleList()

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Score E_4 (B, 8 width, H/32, W/32): (B, N, 2)."""

    def forward(self, images: Tensor) -> BLANOutput:
        """Score every attribute."""
        return BLANOutput(self.forward_features(images).scores, None)

    def forward_features(self, images: Tensor, *, reconstruct: bool = False, maps: bool = False) -> BLANFeatures:
        """Return what the objective looks at, the scores.

        Raises:
            ValueError: A reconstruction or maps are asked for; there are none.
        """
        if reconstruct or maps:
            raise ValueError(
                f"{type(self).__name__}: has neither a reconstruction nor maps, got reconstruct={reconstruct} and "
                f"maps={maps}. Leave both out."
            )
        scores = self.classify(self.encoder(images)[-1])[None]
        return BLANFeatures((), (), scores, None, None, None)


def classification_objective(attribute_reduction: str) -> BLANObjective:
    """Return Eq. 8 with nothing left in it but the cross entropy of every attribute."""
    return BLANObjective(
        (1,) * LEVELS, 1, attribute_reduction=attribute_reduction, lmim=False, reconstruction=False, fusion=False
    )
