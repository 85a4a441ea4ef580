"""Mutual information between two variables, measured with what is sure of it: NumPy and torch alone."""

from blan_layers.estimation.estimate import InformationEstimate
from blan_layers.estimation.information import information_between

__all__ = ["InformationEstimate", "information_between"]
