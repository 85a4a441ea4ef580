"""The library's computations as functions of tensors, without parameters."""

from blan_layers.functional import reference
from blan_layers.functional.attention import channel_attention, dual_attention, spatial_attention
from blan_layers.functional.bounds import (
    club_upper_bound,
    dv_lower_bound,
    nwj_lower_bound,
    smile_estimate,
    tuba_lower_bound,
)
from blan_layers.functional.certificate import mutual_information_certificate
from blan_layers.functional.contrastive import (
    alpha_lower_bound,
    infonce_lower_bound,
    supervised_contrastive_loss,
)
from blan_layers.functional.fusion import score_fusion
from blan_layers.functional.mine import mine_objective
from blan_layers.functional.mutual_information import concat_conv_logits
from blan_layers.functional.objectives import bce_loss, f_divergence_objective, jsd_objective

__all__ = [
    "alpha_lower_bound",
    "bce_loss",
    "channel_attention",
    "club_upper_bound",
    "concat_conv_logits",
    "dual_attention",
    "dv_lower_bound",
    "f_divergence_objective",
    "infonce_lower_bound",
    "jsd_objective",
    "mine_objective",
    "mutual_information_certificate",
    "nwj_lower_bound",
    "reference",
    "score_fusion",
    "smile_estimate",
    "spatial_attention",
    "supervised_contrastive_loss",
    "tuba_lower_bound",
]
