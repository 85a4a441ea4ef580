"""Inserting attention into existing networks, and capturing its maps."""

from blan_layers.networks.capture import capture_maps
from blan_layers.networks.insertion import Insertion, insert_attention

__all__ = ["Insertion", "capture_maps", "insert_attention"]
