"""The baselines for comparison with BLAN, in the same trainer: same data, budget, metrics and checkpoints."""

from collections.abc import Sequence

from torch import nn

from blan_facial.config import Config
from blan_facial.network.baselines.baseline import Baseline
from blan_facial.network.baselines.mcnn import MCNN
from blan_facial.network.baselines.moon import DomainBalancedError
from blan_facial.network.baselines.resnet import ResNet
from blan_facial.network.objective import Classification, CrossEntropy, Objective

__all__ = ["MCNN", "Baseline", "DomainBalancedError", "ResNet", "build_baseline"]


def build_baseline(config: Config, attributes: Sequence[str]) -> tuple[Baseline, Objective]:
    """Return the baseline that ``config.model`` names, and its objective."""
    dropout = config.dropout if config.os else 0.0
    model: Baseline
    if config.model == "mcnn":
        model = MCNN(
            attributes,
            width=config.width,
            blocks=config.blocks,
            summary_channels=config.summary_channels,
            dropout=dropout,
        )
    else:
        model = ResNet(len(attributes), width=config.width, blocks=config.blocks, dropout=dropout)
    loss: nn.Module = CrossEntropy(config.attribute_reduction, balanced=len(attributes) if config.balance else None)
    if config.model == "moon":
        loss = DomainBalancedError(len(attributes), reduction=config.attribute_reduction)
    return model, Objective([Classification(loss)])
