"""From the settings of a run to its model and objective; light enough for a program that only predicts."""

from collections.abc import Sequence

import torch
from torch import nn

from blan_facial.config import Config
from blan_facial.network.baselines import Network, build_baseline
from blan_facial.network.model import BLAN
from blan_facial.network.objective import BLANObjective


def build(config: Config, attributes: Sequence[str]) -> tuple[Network, BLANObjective]:
    """Return the model and the objective that the settings describe, their weights drawn from the seed.

    Args:
        config: The settings.
        attributes: The attributes, by their CelebA names.

    Raises:
        ValueError: The settings contradict one another.
    """
    torch.manual_seed(config.seed)
    if config.model != "blan":
        return build_baseline(config, attributes)
    rdam = config.rdam and config.decoder and config.encoder_features
    norm = nn.BatchNorm2d if config.rdam_norm and rdam else None
    model = BLAN(
        len(attributes),
        image_size=config.image_size,
        width=config.width,
        blocks=config.blocks,
        summary_channels=config.summary_channels,
        dropout=config.dropout if config.os else 0.0,
        decoder=config.decoder,
        encoder_features=config.encoder_features,
        rdam=None if config.rdam else False,
        reconstruction=None if config.beta else False,
        fusion=config.fusion,
        arrangement=config.arrangement,
        conv_norm=norm,
        spatial_norm=norm,
    )
    objective = BLANObjective(
        model.local_channels,
        model.summary_channels,
        alpha=config.alpha,
        beta=config.beta,
        gamma=config.gamma,
        critic_channels=config.critic_channels,
        attribute_reduction=config.attribute_reduction,
        lmim=config.lmim,
        reconstruction=model.reconstructs,
        fusion=model.fusion is not None,
    )
    return model, objective
