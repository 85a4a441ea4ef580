"""The choice of backend: plain operations, blocked ones on the CPU, or Triton kernels on a GPU.

Predicates return what prevents a backend, or "". Users who asked for that backend see this in the error.
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
    autocasts,
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
"""The backend that is used for the given tensors."""

PLAIN_TENSORS = (Tensor, torch.nn.Parameter)

AUTOMATIC: tuple[Way, ...] = ("blocked",)
"""The backends that "auto" tries, in order. "triton" is not included, because it has not been measured on a GPU."""

COMPILED = "a compiler traces the call and fuses the plain operations itself"

CAPABILITY = (8, 0)
"""The oldest compute capability that the tests compile the kernels for; earlier GPUs lack bfloat16."""


def chosen_way(
    backend: Backend,
    tensors: Sequence[Tensor | None],
    worthwhile: Callable[[], bool],
    refusal: Callable[[], str] = lambda: "",
    *,
    compiles: bool = False,
) -> Way:
    """Return the backend to use, or raise if the requested one is not available.

    Args:
        backend: What the user asked for.
        tensors: Inputs of the computation; None for those not given.
        worthwhile: Returns whether "auto" should use a faster backend where possible.
        refusal: Returns what else prevents all backends except "reference", or "".
        compiles: Whether "blocked" is an operation that compilers can call.

    Raises:
        ValueError: The requested backend is not available.
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
            said(f"backend={backend!r} is not available here: {reason}. Use backend='auto' or backend='reference'.")
        )
    return backend


def passes_of(way: Way) -> type[PlainPasses]:
    """Return the passes over a map for a backend; Triton is imported only when needed."""
    if way == "triton":
        from blan_layers.kernels.gpu.attention import TritonPasses

        return TritonPasses
    return BlockedPasses if way == "blocked" else PlainPasses


def contrast_mean_of(way: Way) -> Callable[..., Tensor]:
    """Return the version of :func:`~blan_layers.kernels.contrast.plain_contrast_mean` of a faster backend.

    It takes one more argument: whether gradients are needed.
    """
    if way == "triton":
        from blan_layers.kernels.gpu import mutual_information as triton

        return triton.contrast_loss
    return contrast_loss


def against_blocks(*tensors: Tensor | None, compiles: bool = False) -> str:
    """Return what prevents autograd functions that read these tensors' memory on the CPU.

    A compiler does not prevent them if it ``compiles`` them, that is, calls them as operations.
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
    """Return what prevents Triton's kernels for these tensors.

    Autocast does not prevent them: all operands of a product then have one dtype, and gates are applied in the map's.
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
        if tensor.dtype != given[0].dtype and not autocasts(tensor.device):
            return f"it computes in one dtype and got {given[0].dtype} and {tensor.dtype}"
        if tensor.is_cuda and (reason := _against_gpu(tensor.device)):
            return reason
    return ""


def capability_refusal(capability: tuple[int, int]) -> str:
    """Return why a GPU of this compute capability is not supported, or ""."""
    if capability >= CAPABILITY:
        return ""
    asked, got = (".".join(map(str, version)) for version in (CAPABILITY, capability))
    return f"it needs a GPU of compute capability {asked} and got one of {got}"


PREDICATES: dict[Way, Callable[..., str]] = {"blocked": against_blocks, "triton": against_triton}


def _against_state(tensors: Sequence[Tensor], compiles: bool = False) -> str:
    """Return what watches or rewrites the plain operations, so that they must run, or ""."""
    traced = is_compiled_or_traced()
    if traced and not (compiles and is_compiled()):
        return COMPILED
    if transforms_active():
        return "a torch.func transform needs the plain operations"
    if forward_mode_active():  # the weights, which are not checked here, may carry tangents too
        return "forward-mode differentiation needs the plain operations"
    if not traced:  # a compiler handles modes itself
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
    """Return whether Triton's kernels run on the CPU, one operation at a time."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _against_gpu(device: torch.device) -> str:
    return capability_refusal(torch.cuda.get_device_capability(device))
