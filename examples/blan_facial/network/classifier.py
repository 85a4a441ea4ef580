"""The attribute classifier AC_i at the end of each level of BLAN."""

from torch import Tensor, nn
from torch.nn import functional as F

from blan_facial.network.blocks import he_initialize


class AttributeClassifier(nn.Module):
    """Two Conv-BN-ReLU units and two linear layers that give two scores per attribute from the features of one level.

    The first linear layer's output is the summary T that LMIM pairs with the features; ReLU and dropout follow it.

    Args:
        in_channels: Channels of the attended features A.
        in_size: Pixels of the square map A.
        channels: Channels of the two convolutions.
        kernel_size: Odd kernel of the first convolution; the second one's is 1.
        stride: Stride of the first convolution.
        attributes: N, the number of attributes.
        summary_channels: Width of T.
        dropout: Probability of dropping an element between T and the scores.
        zero_scores: Whether the last layer is initialised to zero, so that all scores start at zero.

    Shape:
        A (B, in_channels, in_size, in_size) -> T (B, summary_channels), scores (B, N, 2).

    Reference:
        Zheng et al. 2020, Section 3.3 and Table 2.
    """

    def __init__(
        self,
        in_channels: int,
        in_size: int,
        *,
        channels: tuple[int, int],
        kernel_size: int,
        stride: int,
        attributes: int,
        summary_channels: int = 512,
        dropout: float = 0.5,
        zero_scores: bool = False,
    ) -> None:
        super().__init__()
        self.in_size = in_size
        self.attributes = attributes
        padding = kernel_size // 2
        out_size = (in_size - 1) // stride + 1
        self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.conv2 = nn.Conv2d(channels[0], channels[1], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels[1])
        self.fc1 = nn.Linear(channels[1] * out_size**2, summary_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(summary_channels, 2 * attributes)
        he_initialize(self)
        if zero_scores:
            nn.init.zeros_(self.fc2.weight)

    def forward(self, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summary T and the scores."""
        maps = F.relu(self.bn1(self.conv1(attended)), inplace=True)
        maps = F.relu(self.bn2(self.conv2(maps)), inplace=True)
        summary = self.fc1(maps.flatten(1))
        scores = self.fc2(self.dropout(F.relu(summary)))
        return summary, scores.unflatten(1, (self.attributes, 2))
