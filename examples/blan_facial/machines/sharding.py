"""Weights and optimiser states that several devices share (FSDP), and the whole ones that checkpoints hold."""

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
    """Spread a module's parameters over the devices: each ``nn.Sequential`` of composite modules, and then the rest.

    While the module runs, the parameters of a sequence are whole for as long as it needs them.
    """
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # the one layout that can be cut
    for part in module.modules():
        if isinstance(part, nn.Sequential) and any(any(child.children()) for child in part):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def whole_states(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a module's state and what its optimiser keeps for each parameter, by name and whole, on the CPU.

    All processes call this together; the first one gets the states, the others nothing.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(module, options=options)
    if not optimizer.state:  # torch would let it take a step first
        return weights, {}
    kept: dict[str, Any] = get_optimizer_state_dict(module, optimizer, options=options)
    return weights, kept.get("state", {})


def load_whole_states(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Any],
    kept: dict[str, Any],
) -> None:
    """Load what :func:`whole_states` returned, sharded as the module is; the optimiser's options stay as they are."""
    options = StateDictOptions(full_state_dict=True)
    if kept:
        content: dict[str, Any] = {"state": kept, "param_groups": [{"params": list(kept)}]}
        set_optimizer_state_dict(module, optimizer, content, options=options)
    set_model_state_dict(module, weights, options=options)
