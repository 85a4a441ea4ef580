"""Attention modules."""

from blan_layers.attention.attention_gate import AttentionGate
from blan_layers.attention.bam import BAM
from blan_layers.attention.cbam import CBAM
from blan_layers.attention.channel import ChannelAttention, SqueezeExcitation
from blan_layers.attention.coordinate import CoordinateAttention
from blan_layers.attention.eca import ECA
from blan_layers.attention.rar import RAR
from blan_layers.attention.rdam import RDAM
from blan_layers.attention.residual import ResidualAttention, SoftMask
from blan_layers.attention.scse import SCSE
from blan_layers.attention.spatial import SpatialAttention

__all__ = [
    "BAM",
    "CBAM",
    "ECA",
    "RAR",
    "RDAM",
    "SCSE",
    "AttentionGate",
    "ChannelAttention",
    "CoordinateAttention",
    "ResidualAttention",
    "SoftMask",
    "SpatialAttention",
    "SqueezeExcitation",
]
