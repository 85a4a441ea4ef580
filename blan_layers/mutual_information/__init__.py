"""Mutual-information critics and losses."""

from blan_layers.mutual_information.club import CLUB
from blan_layers.mutual_information.critics import ConcatConvCritic, Critic, GlobalCritic
from blan_layers.mutual_information.deep_infomax import DeepInfoMaxLoss
from blan_layers.mutual_information.global_infomax import GlobalInfoMaxLoss
from blan_layers.mutual_information.lmim import LMIMLoss
from blan_layers.mutual_information.mine import MINEObjective
from blan_layers.mutual_information.prior import PriorMatchingLoss
from blan_layers.mutual_information.products import BilinearCritic, CosineCritic, DotProductCritic, SeparableCritic

__all__ = [
    "CLUB",
    "BilinearCritic",
    "ConcatConvCritic",
    "CosineCritic",
    "Critic",
    "DeepInfoMaxLoss",
    "DotProductCritic",
    "GlobalCritic",
    "GlobalInfoMaxLoss",
    "LMIMLoss",
    "MINEObjective",
    "PriorMatchingLoss",
    "SeparableCritic",
]
