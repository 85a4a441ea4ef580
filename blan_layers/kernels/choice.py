"""Which way a computation takes: the plain operations, the blocked ones of the CPU, or the Triton ones of a GPU.

Predicates answer ``(supported, reason)``: the reason says why not, and is what a user reads who forced the way.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from blan_layers import _checks

Answer: TypeAlias = tuple[bool, str]

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)

AUTOMATIC: tuple[Literal["blocked", "triton"], ...] = ("blocked",)
"""The ways that "auto" takes, in this order. "triton" is not among them because no GPU has measured it yet."""

CAPABILITY = (8, 0)
"""The oldest GPUs that the kernels are compiled for in the tests; earlier ones have no bfloat16."""


def chosen_way(
    owner: str,
    backend: _checks.Backend,
    tensors: Sequence[Tensor | None],
    worthwhile: Callable[[], bool],
    refusal: str = "",
) -> _checks.Way:
    """Return the way to take; refuse a forced one that is not supported.

    Args:
        owner: Who is asked, for the message.
        backend: What the user asked for.
        tensors: What the computation reads; None stands for what is not given.
        worthwhile: Tells whether "auto" leaves the plain operations where it may.
        refusal: What else speaks against every way but "reference", if anything does.

    Raises:
        ValueError: ``backend`` names a way that is not supported.
    """
    if backend == "reference":
        return backend
    if backend == "auto":
        for way in () if refusal else AUTOMATIC:
            if PREDICATES[way](*tensors)[0] and worthwhile():
                return way
        return "reference"
    can, reason = (False, refusal) if refusal else PREDICATES[backend](*tensors)
    if not can:
        raise ValueError(
            f"{owner}: backend={backend!r} cannot be taken here, {reason}. Use backend='auto' or backend='reference'."
        )
    return backend


def supports_blocks(*tensors: Tensor | None) -> Answer:
    """Answer whether autograd functions that read storage on the CPU may take these tensors in this state."""
    given = [tensor for tensor in tensors if tensor is not None]
    if reason := _state_refusal():
        return False, reason
    if torch.is_autocast_enabled("cpu"):
        return False, "autocast is enabled"
    for tensor in given:
        if reason := _type_refusal(tensor):
            return False, reason
        if tensor.device.type != "cpu":
            return False, f"it runs on the CPU and got a tensor on {tensor.device.type}"
        if tensor.dtype not in (torch.float32, torch.float64):
            return False, f"it computes in float32 or float64 and got {tensor.dtype}"
        if tensor.dtype != given[0].dtype:
            return False, f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
        if reason := _layout_refusal(tensor):
            return False, reason
    return True, ""


def supports_triton(*tensors: Tensor | None) -> Answer:
    """Answer whether Triton's kernels may take these tensors in this state.

    Autocast is no reason against them: it brings all operands of a product to one dtype, and gates act in the map's.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if not _has_triton():
        return False, "Triton is not installed"
    if reason := _state_refusal():
        return False, reason
    for tensor in given:
        if reason := _type_refusal(tensor):
            return False, reason
        if not (tensor.is_cuda or (_interprets() and tensor.device.type == "cpu")):
            return False, f"it runs on a CUDA device and got a tensor on {tensor.device.type}"
        if tensor.device != given[0].device:
            return False, f"it runs on one device and got tensors on {given[0].device} and {tensor.device}"
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return False, f"it computes in float16, bfloat16, float32 or float64 and got {tensor.dtype}"
        if tensor.dtype != given[0].dtype and not torch.is_autocast_enabled(tensor.device.type):
            return False, f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
        if reason := _layout_refusal(tensor):
            return False, reason
        if tensor.is_cuda and (reason := _gpu_refusal(tensor.device)):
            return False, reason
    return True, ""


def capability_refusal(capability: tuple[int, int]) -> str:
    """Return what speaks against a GPU of this compute capability, if anything does."""
    if capability >= CAPABILITY:
        return ""
    asked, got = (".".join(map(str, version)) for version in (CAPABILITY, capability))
    return f"it needs a GPU of compute capability {asked} and got one of {got}"


PREDICATES: dict[Literal["blocked", "triton"], Callable[..., Answer]] = {
    "blocked": supports_blocks,
    "triton": supports_triton,
}


def _state_refusal() -> str:
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "a compiler traces the call and fuses the plain operations itself"
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform needs the plain operations"
    if forward_ad._current_level >= 0:  # the weights, which are not seen here, may carry tangents too
        return "forward-mode differentiation needs the plain operations"
    return ""


def _type_refusal(tensor: Tensor) -> str:
    return "" if type(tensor) in PLAIN_TENSORS else f"it takes plain tensors and got {type(tensor).__name__}"


def _layout_refusal(tensor: Tensor) -> str:
    return "" if tensor.layout == torch.strided else f"it takes strided tensors and got {tensor.layout}"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interprets() -> bool:
    """Tell whether Triton's kernels run on the CPU, one operation at a time."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _gpu_refusal(device: torch.device) -> str:
    return capability_refusal(torch.cuda.get_device_capability(device))
