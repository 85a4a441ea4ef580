"""Where half precision ends: at the logits."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor in float32, any other as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
