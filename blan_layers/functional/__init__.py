"""The library's computations: tensors in, tensors out, no parameters."""

from blan_layers.functional import reference
from blan_layers.functional.attention import channel_attention, dual_attention, spatial_attention
from blan_layers.functional.fusion import score_fusion
from blan_layers.functional.mutual_information import bce_loss, concat_conv_logits, jsd_objective

__all__ = [
    "bce_loss",
    "channel_attention",
    "concat_conv_logits",
    "dual_attention",
    "jsd_objective",
    "reference",
    "score_fusion",
    "spatial_attention",
]
