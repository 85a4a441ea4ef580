"""Weights and optimiser states that several devices share (FSDP), and the whole ones that checkpoints hold."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


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


def whole(tensor: Any) -> Any:
    """Return a tensor with all its parts, which all processes must ask for together, and anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state, whole."""
    return {name: whole(tensor) for name, tensor in module.state_dict().items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state, whole."""
    content = optimizer.state_dict()
    state = {place: {name: whole(value) for name, value in of.items()} for place, of in content["state"].items()}
    return content | {"state": state}


def load_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state into a module, sharded or not."""
    module.load_state_dict({name: _like(module.state_dict()[name], tensor) for name, tensor in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a whole state into an optimiser; how its steps are computed stays this machine's affair."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shared = {
        place: {
            name: _like(parameters[place], value) if value.shape == parameters[place].shape else value
            for name, value in of.items()
        }
        for place, of in state["state"].items()
    }
    ways = [{name: group[name] for name in ("fused", "foreach") if name in group} for group in optimizer.param_groups]
    groups = [theirs | ours for theirs, ours in zip(state["param_groups"], ways, strict=True)]
    optimizer.load_state_dict({"state": shared, "param_groups": groups})


def _like(target: Tensor, value: Tensor) -> Tensor:
    """Return a whole tensor spread as another one is."""
    if not isinstance(target, DTensor):
        return value
    mesh = target.device_mesh
    return cast("Tensor", distribute_tensor(value.to(mesh.device_type), mesh, target.placements))
