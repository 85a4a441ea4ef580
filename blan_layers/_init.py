"""He initialisation, from which every weight of the library starts, and resetting."""

import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from blan_layers._checks import said


def he_normal_(layer: nn.Module) -> None:
    """Draw a layer's weight from N(0, 2 / fan_in) and set its bias, if it has one, to zero (He et al. 2015)."""
    change_parameter(layer, "weight", lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
    if getattr(layer, "bias", None) is not None:
        change_parameter(layer, "bias", nn.init.zeros_)


def shrink_(layers: Iterable[nn.Module], factor: float) -> None:
    """Multiply the weights of layers by a factor."""
    for layer in layers:
        change_parameter(layer, "weight", lambda weight: weight.mul_(factor))


@torch.no_grad()
def change_parameter(layer: nn.Module, name: str, change_: Callable[[Tensor], object]) -> None:
    """Change a parameter of a layer in place, or set the value of one that is parametrised."""
    if parametrize.is_parametrized(layer, name):
        value = getattr(layer, name).clone()
        change_(value)
        setattr(layer, name, value)
    elif isinstance(parameter := layer._parameters.get(name), Tensor):
        distributed = sys.modules.get("torch.distributed.tensor")
        if distributed is not None and isinstance(parameter, distributed.DTensor):  # some operations need all of it
            value = parameter.full_tensor().clone()
            change_(value)
            parameter.copy_(distributed.distribute_tensor(value, parameter.device_mesh, parameter.placements))
        else:
            change_(parameter)
    else:
        raise ValueError(
            said(
                f"{name} must be a parameter to be set, got one that {type(layer).__name__} computes. Use "
                "torch.nn.utils.parametrizations, or remove what computes it before the reset."
            )
        )


def reset(module: nn.Module) -> None:
    """Reset a module and its submodules by their ``reset_parameters``; an outer module's comes last."""
    for child in reversed(list(module.modules())):
        if callable(reset_parameters := getattr(child, "reset_parameters", None)):
            reset_parameters()
