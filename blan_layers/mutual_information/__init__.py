"""Mutual-information critics and losses."""

from blan_layers.mutual_information.critics import ConcatConvCritic
from blan_layers.mutual_information.lmim import LMIMLoss

__all__ = ["ConcatConvCritic", "LMIMLoss"]
