"""Attention modules."""

from blan_layers.attention.cbam import CBAM
from blan_layers.attention.channel import ChannelAttention, SqueezeExcitation
from blan_layers.attention.rdam import RDAM
from blan_layers.attention.spatial import SpatialAttention

__all__ = ["CBAM", "RDAM", "ChannelAttention", "SpatialAttention", "SqueezeExcitation"]
