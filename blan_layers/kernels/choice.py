"""Which way a computation takes: the plain differentiable operations, or the blocked ones of the CPU.

Predicates answer ``(supported, reason)``: the reason says why not, and is what a user reads who forced the way.
"""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from blan_layers import _checks

Answer: TypeAlias = tuple[bool, str]

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)


def takes_blocks(owner: str, backend: _checks.Backend, supported: Answer, worthwhile: bool) -> bool:
    """Tell whether the blocked way is to be taken; refuse a forced one that is not supported.

    Args:
        owner: Who is asked, for the message.
        backend: What the user asked for.
        supported: What a predicate answered.
        worthwhile: Whether "auto" takes the way where it is supported.

    Raises:
        ValueError: ``backend`` is "blocked" and that is not supported.
    """
    can, reason = supported
    if backend == "blocked" and not can:
        raise ValueError(
            f"{owner}: backend='blocked' cannot be taken here, {reason}. Use backend='auto' or backend='reference'."
        )
    return can and (backend == "blocked" or (backend == "auto" and worthwhile))


def supports_blocks(*tensors: Tensor | None) -> Answer:
    """Answer whether autograd functions that read storage on the CPU may take these tensors in this state."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False, "a compiler traces the call and fuses the plain operations itself"
    if torch._C._are_functorch_transforms_active():
        return False, "a torch.func transform needs the plain operations"
    if forward_ad._current_level >= 0:  # the weights, which are not seen here, may carry tangents too
        return False, "forward-mode differentiation needs the plain operations"
    if torch.is_autocast_enabled("cpu"):
        return False, "autocast is enabled"
    given = [tensor for tensor in tensors if tensor is not None]
    for tensor in given:
        if type(tensor) not in PLAIN_TENSORS:
            return False, f"it takes plain tensors and got {type(tensor).__name__}"
        if tensor.device.type != "cpu":
            return False, f"it runs on the CPU and got a tensor on {tensor.device.type}"
        if tensor.dtype not in (torch.float32, torch.float64):
            return False, f"it computes in float32 or float64 and got {tensor.dtype}"
        if tensor.dtype != given[0].dtype:
            return False, f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
        if tensor.layout != torch.strided:
            return False, f"it takes strided tensors and got {tensor.layout}"
    return True, ""
