"""Precision: from the logits on, everything is computed in at least float32."""

import torch
from torch import Tensor

from blan_layers._torch import autocasts
from blan_layers.functional._tracing import whole


@whole
def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, any other tensor unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one device in the dtype of its autocast, as a matrix product would cast them."""
    device = tensors[0].device
    if not autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device.type)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)
