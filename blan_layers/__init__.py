"""Attention modules and mutual-information losses for PyTorch networks."""

from blan_layers.attention import (
    BAM,
    CBAM,
    ECA,
    RAR,
    RDAM,
    SCSE,
    AttentionGate,
    ChannelAttention,
    CoordinateAttention,
    ResidualAttention,
    SoftMask,
    SpatialAttention,
    SqueezeExcitation,
)
from blan_layers.fusion import AdaptiveScoreFusion
from blan_layers.mutual_information import (
    CLUB,
    BilinearCritic,
    ConcatConvCritic,
    CosineCritic,
    DeepInfoMaxLoss,
    DotProductCritic,
    GlobalCritic,
    GlobalInfoMaxLoss,
    LMIMLoss,
    MINEObjective,
    PriorMatchingLoss,
    SeparableCritic,
)
from blan_layers.networks import Insertion, capture_maps, insert_attention

__version__ = "0.2.0"

__all__ = [
    "BAM",
    "CBAM",
    "CLUB",
    "ECA",
    "RAR",
    "RDAM",
    "SCSE",
    "AdaptiveScoreFusion",
    "AttentionGate",
    "BilinearCritic",
    "ChannelAttention",
    "ConcatConvCritic",
    "CoordinateAttention",
    "CosineCritic",
    "DeepInfoMaxLoss",
    "DotProductCritic",
    "GlobalCritic",
    "GlobalInfoMaxLoss",
    "Insertion",
    "LMIMLoss",
    "MINEObjective",
    "PriorMatchingLoss",
    "ResidualAttention",
    "SeparableCritic",
    "SoftMask",
    "SpatialAttention",
    "SqueezeExcitation",
    "capture_maps",
    "insert_attention",
]
