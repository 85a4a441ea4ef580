"""Mutual-information critics and losses."""

from blan_layers.mutual_information.critics import ConcatConvCritic
from blan_layers.mutual_information.lmim import LMIMLoss
from blan_layers.mutual_information.mine import MINEObjective

__all__ = ["ConcatConvCritic", "LMIMLoss", "MINEObjective"]
