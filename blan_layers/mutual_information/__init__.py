"""Mutual-information critics and losses."""

from blan_layers.mutual_information.critics import ConcatConvCritic, Critic, GlobalCritic
from blan_layers.mutual_information.lmim import LMIMLoss
from blan_layers.mutual_information.mine import MINEObjective
from blan_layers.mutual_information.products import BilinearCritic, DotProductCritic, SeparableCritic

__all__ = [
    "BilinearCritic",
    "ConcatConvCritic",
    "Critic",
    "DotProductCritic",
    "GlobalCritic",
    "LMIMLoss",
    "MINEObjective",
    "SeparableCritic",
]
