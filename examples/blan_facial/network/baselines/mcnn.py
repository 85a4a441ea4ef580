"""MCNN's idea: attributes of the same part of the face share a branch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blan_facial.network.baselines.baseline import Baseline
from blan_facial.network.blocks import he_initialize

GROUPS = {
    "gender": ("Male",),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "mouth": ("Big_Lips", "Smiling", "Wearing_Lipstick", "Mouth_Slightly_Open"),
    "eyes": ("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Narrow_Eyes", "Eyeglasses"),
    "face": ("Attractive", "Blurry", "Oval_Face", "Pale_Skin", "Young", "Heavy_Makeup"),
    "around the head": (
        *("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald", "Receding_Hairline", "Bangs", "Straight_Hair"),
        *("Wavy_Hair", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"),
    ),
    "facial hair": ("5_o_Clock_Shadow", "Mustache", "No_Beard", "Sideburns", "Goatee"),
    "cheeks": ("High_Cheekbones", "Rosy_Cheeks"),
    "fat": ("Chubby", "Double_Chin"),
}
"""The paper's nine groups of CelebA's attributes."""


class MCNN(Baseline):
    """One encoder for all attributes, and a branch with its own convolution for each group of attributes.

    It has the groups and branches of the original on this project's encoder, but omits the auxiliary network that
    relates the scores of the attributes.

    Args:
        attributes: The N attributes, grouped by their CelebA names.
        width: Channels of the encoder's first stage; a branch's convolution has twice as many.
        blocks: Residual blocks of the encoder's four stages.
        summary_channels: Width of a branch's hidden layer.
        dropout: Probability of dropping an element of that layer.

    Raises:
        ValueError: An attribute is in no group.

    Reference:
        Hand and Chellappa, "Attributes for Improved Attributes: A Multi-Task Network Utilizing Implicit and Explicit
        Relationships for Facial Attribute Classification", AAAI 2017.
    """

    order: Tensor

    def __init__(
        self,
        attributes: Sequence[str],
        *,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        summary_channels: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(len(attributes), width=width, blocks=blocks)
        grouped = {name for group in GROUPS.values() for name in group}
        if strangers := [name for name in attributes if name not in grouped]:
            raise ValueError(
                f"MCNN: attributes must be in the paper's groups, which contain those of CelebA, got {strangers[0]!r}. "
                "Rename it, or train another model."
            )
        members = [[attributes.index(name) for name in group if name in attributes] for group in GROUPS.values()]
        members = [group for group in members if group]
        for group in members:
            self.classifiers.append(_Branch(8 * width, 2 * width, summary_channels, len(group), dropout))
        he_initialize(self.classifiers)
        places = torch.tensor([place for group in members for place in group])
        self.register_buffer("order", places.argsort(), persistent=False)

    def classify(self, features: Tensor) -> Tensor:
        """Score every group by its branch, and restore the order of the attributes."""
        return torch.cat([branch(features) for branch in self.classifiers], 1).index_select(1, self.order)


class _Branch(nn.Module):
    """A convolution, global average pooling, a hidden layer, and the scores of a group."""

    def __init__(self, in_channels: int, channels: int, hidden: int, attributes: int, dropout: float) -> None:
        super().__init__()
        self.attributes = attributes
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, 2 * attributes)

    def forward(self, features: Tensor) -> Tensor:
        pooled = F.relu(self.bn(self.conv(features)), inplace=True).mean((2, 3))
        scores: Tensor = self.fc2(self.dropout(F.relu(self.fc1(pooled))))
        return scores.unflatten(1, (self.attributes, 2))
