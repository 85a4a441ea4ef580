"""Builds network and objective from the settings of a run, without importing training libraries."""

from collections.abc import Sequence

import torch

from blan_facial.config import Config
from blan_facial.network.baselines import build_baseline
from blan_facial.network.classifier import AttributeClassifier
from blan_facial.network.decoder import DECODERS
from blan_facial.network.encoder import STRIDES, ResNetEncoder
from blan_facial.network.joins import join_of
from blan_facial.network.model import BLAN, LEVELS, Network
from blan_facial.network.objective import Objective, build_objective
from blan_layers import AdaptiveScoreFusion

# Table 2: kernel and stride of each classifier's first convolution, channels of its two convolutions in quarters of
# the encoder's width.
_CLASSIFIERS = ((5, 4, (2, 1)), (3, 2, (4, 1)), (3, 2, (8, 4)), (3, 2, (16, 16)))


def build(config: Config, attributes: Sequence[str]) -> tuple[Network, Objective]:
    """Return the network and the objective that the settings describe, with weights drawn from the seed.

    Args:
        config: The settings.
        attributes: The attributes, by their CelebA names.

    Raises:
        ValueError: The baseline cannot be built for these attributes.
    """
    torch.manual_seed(config.seed)
    if config.model != "blan":
        return build_baseline(config, attributes)
    model = build_blan(config, len(attributes))
    channels = [classifier.conv1.in_channels for classifier in model.classifiers]  # type: ignore[union-attr]  # nn.ModuleList forgets types
    return model, build_objective(config, channels, len(attributes))  # type: ignore[arg-type]  # as above


def build_blan(config: Config, attributes: int) -> BLAN:
    """Assemble BLAN for a number of attributes."""
    widths = [config.width * 2**level for level in range(LEVELS)]
    join = join_of(config)
    encoder = ResNetEncoder(config.width, config.blocks)
    decoder = None
    if config.decoder:
        make = DECODERS[config.decoder_order]
        decoder = make(config.width, config.blocks[:-1], reconstruction=config.beta > 0)
    joins = [join.make(config, channels) for channels in widths[:-1]]
    classifiers = [
        AttributeClassifier(
            channels,
            config.image_size // to_pixels,
            channels=(max(1, first * config.width // 4), max(1, second * config.width // 4)),
            kernel_size=kernel_size,
            stride=stride,
            attributes=attributes,
            summary_channels=config.summary_channels,
            dropout=config.dropout if config.os else 0.0,
            zero_scores=config.zero_scores,
        )
        for channels, to_pixels, (kernel_size, stride, (first, second)) in zip(
            (*(join.expansion * width for width in widths[:-1]), widths[-1]), STRIDES, _CLASSIFIERS, strict=True
        )
    ]
    fusion = AdaptiveScoreFusion(LEVELS, attributes) if config.fusion else None
    return BLAN(encoder, decoder, joins, classifiers, fusion)
