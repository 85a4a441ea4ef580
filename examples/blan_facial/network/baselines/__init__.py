"""The rivals that BLAN is compared with, in its own trainer: same data, budget, metrics, checkpoints."""

from collections.abc import Sequence
from typing import TypeAlias

from blan_facial.config import Config
from blan_facial.network.baselines.baseline import Baseline, classification_objective
from blan_facial.network.baselines.mcnn import MCNN
from blan_facial.network.baselines.moon import DomainBalancedObjective
from blan_facial.network.baselines.resnet import ResNet
from blan_facial.network.model import BLAN
from blan_facial.network.objective import BLANObjective

__all__ = ["MCNN", "Baseline", "DomainBalancedObjective", "Network", "ResNet", "build_baseline"]

Network: TypeAlias = BLAN | Baseline
"""Whatever the trainer trains."""


def build_baseline(config: Config, attributes: Sequence[str]) -> tuple[Baseline, BLANObjective]:
    """Return the model that ``config.model`` names, and its objective; not for BLAN itself."""
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
    if config.model == "moon":
        return model, DomainBalancedObjective(len(attributes), attribute_reduction=config.attribute_reduction)
    return model, classification_objective(config.attribute_reduction)
