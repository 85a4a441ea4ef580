"""Queries of torch's private state: whether something watches or rewrites the operations that run.

Where torch no longer has the function that a query needs, the answer is True. The plain operations then run, which is
slower but never wrong.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules


def _found(owner: object, name: str) -> Callable[..., Any]:
    """Return a private function, or one that returns True where it is missing."""
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner if callable(owner) else lambda *_: True


transforms_active: Callable[[], bool] = _found(torch._C, "_are_functorch_transforms_active")
"""Return whether a torch.func transform is active."""

global_hooks_registered: Callable[[], bool] = _found(_modules, "_has_any_global_hook")
"""Return whether a hook on every module is registered."""

_dispatch_modes: Callable[[], int] = _found(torch._C, "_len_torch_dispatch_stack")
_is_batched: Callable[[Tensor], bool] = _found(torch._C, "_functorch.is_batchedtensor")
_is_legacy_batched: Callable[[Tensor], bool] = _found(torch._C, "_functorch.is_legacy_batchedtensor")


_function_modes: Callable[[], object] = _found(torch.overrides, "_get_current_function_mode_stack")


def autocasts(device: torch.device) -> bool:
    """Return whether autocast is enabled for a device; torch refuses to say so of meta tensors, which have none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def function_mode_active() -> bool:
    """Return whether a function mode is active, other than the one that sets the default device."""
    modes = _function_modes()
    if modes == []:
        return False
    of_device = getattr(sys.modules.get("torch.utils._device"), "DeviceContext", None)
    return not isinstance(modes, list) or any(type(mode) is not of_device for mode in modes)


_precision: Callable[[str, str], str] | None = getattr(torch._C, "_get_fp32_precision_getter", None)


def rounds_float32() -> bool:
    """Return whether float32 products or convolutions on the CPU may round their operands, by PyTorch's settings."""
    if _precision is None:  # before PyTorch 2.9, which has settings for each
        return torch.get_float32_matmul_precision() != "highest"
    return any(_precision("mkldnn", operation) not in ("none", "ieee") for operation in ("conv", "matmul"))


_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_HOOKS_ARE_THERE = all(name in nn.Module().__dict__ for name in _HOOKS) and hasattr(nn.Module, "_compiled_call_impl")


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward or backward hooks."""
    state = module.__dict__
    return not _HOOKS_ARE_THERE or bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


_OF_STATE = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_OF_GRADIENTS = "_backward_hooks", "_post_accumulate_grad_hooks"


def keeps_hooks(module: nn.Module) -> bool:
    """Return whether a module or one of its own parameters has hooks of any kind."""
    return (
        has_hooks(module)
        or any(getattr(module, name, True) for name in _OF_STATE)
        or any(getattr(p, name, True) for p in module._parameters.values() if p is not None for name in _OF_GRADIENTS)
    )


_fx_traces: Callable[[], bool] = next(
    (
        getattr(torch.fx._symbolic_trace, name)
        for name in ("is_fx_tracing_symbolic_tracing", "is_fx_tracing")
        if hasattr(torch.fx._symbolic_trace, name)
    ),
    lambda: False,
)
_CALLS = tuple(getattr(nn.Module, name, None) for name in ("__call__", "_call_impl", "_wrapped_call_impl"))


def called_otherwise(module: nn.Module) -> bool:
    """Return whether the call of a module class was replaced by anything other than torch.fx."""
    kind = type(module)
    if None in _CALLS:
        return True
    return (kind.__call__, kind._call_impl, kind._wrapped_call_impl) != _CALLS and not _fx_traces()


def compiled_by_itself(module: nn.Module) -> bool:
    """Return whether ``module.compile()`` was called."""
    return not _HOOKS_ARE_THERE or module._compiled_call_impl is not None


_traces: Callable[[], bool] = getattr(torch._C, "_is_tracing", None) or _found(torch.jit, "is_tracing")


def is_tracing() -> bool:
    """Return whether ``torch.jit.trace``, or the exporter built on it, is running."""
    return not torch.compiler.is_compiling() and _traces()


_is_exporting: Callable[[], bool] = _found(torch.compiler, "is_exporting")


def is_compiled() -> bool:
    """Return whether ``torch.compile`` is running; an exporter does not count, since its graphs must run without us."""
    return torch.compiler.is_dynamo_compiling() and not _is_exporting()


def is_compiled_or_traced() -> bool:
    """Return whether a compiler or ``torch.jit.trace`` is running."""
    return torch.compiler.is_compiling() or _traces()


def dispatch_mode_active() -> bool:
    """Return whether a dispatch mode is active: fake tensors, ``make_fx``, selective checkpointing, counters."""
    return bool(_dispatch_modes())


def forward_mode_active() -> bool:
    """Return whether forward-mode differentiation is active."""
    level: int = getattr(torch.autograd.forward_ad, "_current_level", 0)
    return level >= 0


def is_batched(gradient: Tensor) -> bool:
    """Return whether vmap or ``is_grads_batched=True`` computes many gradients in one backward pass."""
    return _is_batched(gradient) or _is_legacy_batched(gradient)


_backward_pass: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def backward_runs() -> bool:
    """Return whether a backward pass runs in this thread; it calls checkpointed modules again."""
    return _backward_pass() != -1


graph_is_kept: Callable[[], bool] = _found(torch._C, "_autograd._get_current_graph_task_keep_graph")
"""Return whether the backward pass that runs in this thread keeps its graph for another run."""
