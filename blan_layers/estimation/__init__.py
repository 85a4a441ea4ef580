"""Estimates of the mutual information between two variables, with their uncertainty; needs only NumPy and torch."""

from blan_layers.estimation.estimate import InformationEstimate
from blan_layers.estimation.information import information_between

__all__ = ["InformationEstimate", "information_between"]
