"""What the library asks torch in private: whether something watches or rewrites the operations that it runs.

Every question is answered yes where torch no longer has the function that answered it. The plain operations are then
taken, which is slower and never wrong.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules


def _found(owner: object, name: str) -> Callable[..., Any]:
    """Return a private function, or one that answers yes where it is missing."""
    for part in name.split("."):
        owner = getattr(owner, part, None)
    return owner if callable(owner) else lambda *_: True


transforms_active: Callable[[], bool] = _found(torch._C, "_are_functorch_transforms_active")
"""Tells whether a torch.func transform runs."""

global_hooks_registered: Callable[[], bool] = _found(_modules, "_has_any_global_hook")
"""Tells whether a hook on every module is registered."""

_dispatch_modes: Callable[[], int] = _found(torch._C, "_len_torch_dispatch_stack")
_is_batched: Callable[[Tensor], bool] = _found(torch._C, "_functorch.is_batchedtensor")
_is_legacy_batched: Callable[[Tensor], bool] = _found(torch._C, "_functorch.is_legacy_batchedtensor")


_function_modes: Callable[[], object] = _found(torch.overrides, "_get_current_function_mode_stack")


def function_mode_active() -> bool:
    """Tell whether a mode sees every function of torch; one that sets the default device changes none of ours."""
    modes = _function_modes()
    if modes == []:
        return False
    of_device = getattr(sys.modules.get("torch.utils._device"), "DeviceContext", None)
    return not isinstance(modes, list) or any(type(mode) is not of_device for mode in modes)


_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_HOOKS_ARE_THERE = all(name in nn.Module().__dict__ for name in _HOOKS) and hasattr(nn.Module, "_compiled_call_impl")


def has_hooks(module: nn.Module) -> bool:
    """Tell whether a module has hooks that see its calls or its gradients."""
    state = module.__dict__
    return not _HOOKS_ARE_THERE or bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
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
    """Tell whether a class of modules was given another way of being called, by others than torch.fx."""
    kind = type(module)
    if None in _CALLS:
        return True
    return (kind.__call__, kind._call_impl, kind._wrapped_call_impl) != _CALLS and not _fx_traces()


def compiled_by_itself(module: nn.Module) -> bool:
    """Tell whether ``module.compile()`` was called."""
    return not _HOOKS_ARE_THERE or module._compiled_call_impl is not None


_traces: Callable[[], bool] = getattr(torch._C, "_is_tracing", None) or _found(torch.jit, "is_tracing")


def is_tracing() -> bool:
    """Tell whether ``torch.jit.trace``, or the exporter that is built on it, runs."""
    return not torch.compiler.is_compiling() and _traces()


_is_exporting: Callable[[], bool] = _found(torch.compiler, "is_exporting")


def is_compiled() -> bool:
    """Tell whether ``torch.compile`` runs, and not an exporter, whose graphs are to stand without this library."""
    return torch.compiler.is_dynamo_compiling() and not _is_exporting()


def is_compiled_or_traced() -> bool:
    """Tell whether a compiler or ``torch.jit.trace`` runs."""
    return torch.compiler.is_compiling() or _traces()


def dispatch_mode_active() -> bool:
    """Tell whether a mode sees every operation: fake tensors, ``make_fx``, selective checkpointing, counters."""
    return bool(_dispatch_modes())


def forward_mode_active() -> bool:
    """Tell whether forward-mode differentiation runs."""
    level: int = getattr(torch.autograd.forward_ad, "_current_level", 0)
    return level >= 0


def is_batched(gradient: Tensor) -> bool:
    """Tell whether vmap, or ``is_grads_batched=True``, runs a backward pass for many gradients at once."""
    return _is_batched(gradient) or _is_legacy_batched(gradient)


_backward_pass: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def backward_runs() -> bool:
    """Tell whether a backward pass runs in this thread, which calls modules again where a checkpoint was."""
    return _backward_pass() != -1


graph_is_kept: Callable[[], bool] = _found(torch._C, "_autograd._get_current_graph_task_keep_graph")
"""Tells whether the backward pass that runs in this thread keeps its graph, so that it may run again."""
