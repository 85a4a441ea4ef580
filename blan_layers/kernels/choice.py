"""Which way a computation takes: the plain operations, the blocked ones of the CPU, or the Triton ones of a GPU.

Predicates answer with what speaks against a way, "" if nothing does: a user who forced the way reads it.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.fx import Proxy

from blan_layers._checks import Backend, said
from blan_layers._torch import (
    dispatch_mode_active,
    forward_mode_active,
    function_mode_active,
    is_compiled,
    is_compiled_or_traced,
    transforms_active,
)
from blan_layers.kernels.cpu.attention import BlockedPasses
from blan_layers.kernels.cpu.mutual_information import contrast_loss
from blan_layers.kernels.passes import PlainPasses

Way: TypeAlias = Literal["reference", "blocked", "triton"]
"""What a backend comes down to, for the tensors at hand."""

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)

AUTOMATIC: tuple[Way, ...] = ("blocked",)
"""The ways that "auto" takes, in this order. "triton" is not among them because no GPU has measured it yet."""

COMPILED = "a compiler traces the call and fuses the plain operations itself"

CAPABILITY = (8, 0)
"""The oldest GPUs that the kernels are compiled for in the tests; earlier ones have no bfloat16."""


def chosen_way(
    backend: Backend,
    tensors: Sequence[Tensor | None],
    worthwhile: Callable[[], bool],
    refusal: Callable[[], str] = lambda: "",
    *,
    compiles: bool = False,
) -> Way:
    """Return the way to take; refuse a forced one that is not supported.

    Args:
        backend: What the user asked for.
        tensors: What the computation reads; None stands for what is not given.
        worthwhile: Tells whether "auto" leaves the plain operations where it may.
        refusal: Says what else speaks against every way but "reference", "" if nothing does.
        compiles: Whether "blocked" is an operation that compilers call.

    Raises:
        ValueError: ``backend`` names a way that is not supported.
    """
    if backend == "reference":
        return backend
    against: dict[Way, Callable[..., str]] = {**PREDICATES, "blocked": partial(against_blocks, compiles=compiles)}
    if backend == "auto":
        for way in AUTOMATIC:
            if not against[way](*tensors) and worthwhile() and not refusal():
                return way
        return "reference"
    if reason := against[backend](*tensors) or refusal():
        raise ValueError(
            said(f"backend={backend!r} cannot be taken here, {reason}. Use backend='auto' or backend='reference'.")
        )
    return backend


def passes_of(way: Way) -> type[PlainPasses]:
    """Return the passes over a map of a way; Triton is imported when its are asked for."""
    if way == "triton":
        from blan_layers.kernels.gpu.attention import TritonPasses

        return TritonPasses
    return BlockedPasses if way == "blocked" else PlainPasses


def contrast_mean_of(way: Way) -> Callable[..., Tensor]:
    """Return :func:`~blan_layers.kernels.contrast.plain_contrast_mean` of a way that is not the plain one.

    It takes one more argument, whether gradients are asked for.
    """
    if way == "triton":
        from blan_layers.kernels.gpu import mutual_information as triton

        return triton.contrast_loss
    return contrast_loss


def against_blocks(*tensors: Tensor | None, compiles: bool = False) -> str:
    """Say what speaks against autograd functions that read these tensors' memory on the CPU.

    A compiler does not if it ``compiles`` them, that is, calls them as operations.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if reason := _against_state(given, compiles):
        return reason
    if torch.is_autocast_enabled("cpu"):
        return "autocast is enabled"
    for tensor in given:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU and got a tensor on {tensor.device.type}"
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"it computes in float32 or float64 and got {tensor.dtype}"
        if tensor.dtype != given[0].dtype:
            return f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
    return ""


def against_triton(*tensors: Tensor | None) -> str:
    """Say what speaks against Triton's kernels for these tensors.

    Autocast does not: it brings all operands of a product to one dtype, and gates act in the map's.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if not _has_triton():
        return "Triton is not installed"
    if reason := _against_state(given):
        return reason
    for tensor in given:
        if not (tensor.is_cuda or (_interprets() and tensor.device.type == "cpu")):
            return f"it runs on a CUDA device and got a tensor on {tensor.device.type}"
        if tensor.device != given[0].device:
            return f"it runs on one device and got tensors on {given[0].device} and {tensor.device}"
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"it computes in float16, bfloat16, float32 or float64 and got {tensor.dtype}"
        if tensor.dtype != given[0].dtype and not torch.is_autocast_enabled(tensor.device.type):
            return f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
        if tensor.is_cuda and (reason := _against_gpu(tensor.device)):
            return reason
    return ""


def capability_refusal(capability: tuple[int, int]) -> str:
    """Say what speaks against a GPU of this compute capability."""
    if capability >= CAPABILITY:
        return ""
    asked, got = (".".join(map(str, version)) for version in (CAPABILITY, capability))
    return f"it needs a GPU of compute capability {asked} and got one of {got}"


PREDICATES: dict[Way, Callable[..., str]] = {"blocked": against_blocks, "triton": against_triton}


def _against_state(tensors: Sequence[Tensor], compiles: bool = False) -> str:
    """Say what watches or rewrites the plain operations, so that these have to run."""
    traced = is_compiled_or_traced()
    if traced and not (compiles and is_compiled()):
        return COMPILED
    if transforms_active():
        return "a torch.func transform needs the plain operations"
    if forward_mode_active():  # the weights, which are not seen here, may carry tangents too
        return "forward-mode differentiation needs the plain operations"
    if not traced:  # a compiler sees to modes itself
        if dispatch_mode_active():
            return "a dispatch mode sees every operation and needs the plain ones"
        if function_mode_active():
            return "a function mode sees every function and needs the plain ones"
    for tensor in tensors:
        if type(tensor) not in PLAIN_TENSORS:
            if isinstance(tensor, Proxy):
                return COMPILED
            return f"it takes plain tensors and got {type(tensor).__name__}"
        if tensor.layout != torch.strided:
            return f"it takes strided tensors and got {tensor.layout}"
    return ""


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interprets() -> bool:
    """Tell whether Triton's kernels run on the CPU, one operation at a time."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _against_gpu(device: torch.device) -> str:
    return capability_refusal(torch.cuda.get_device_capability(device))
