"""Sharding of weights and optimiser states over devices (FSDP), and the unsharded states for checkpoints."""

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a module's parameters over the devices: each ``nn.Sequential`` of composite modules, and then the rest.

    The parameters of a sequence are gathered only while it runs.
    """
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # the only layout that can be sharded
    for part in module.modules():
        if isinstance(part, nn.Sequential) and any(any(child.children()) for child in part):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def whole_states(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the unsharded states of a module and of its optimiser by parameter name, on the CPU.

    All processes must call this together; the first one gets the states, the others get empty ones.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(module, options=options)
    if not optimizer.state:  # torch would take a step first
        return weights, {}
    kept: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=options)
    return weights, kept.get("state", {})


def load_whole_states(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Any],
    kept: dict[str, Any],
) -> None:
    """Load the result of :func:`whole_states`, sharded like the module; the optimiser's options are unchanged."""
    options = StateDictOptions(full_state_dict=True)
    if kept:
        content: dict[str, Any] = {"state": kept, "param_groups": [{"params": list(kept)}]}
        set_optimizer_state_dict(module, optimizer, content, options=options)
    set_model_state_dict(module, weights, options=options)
