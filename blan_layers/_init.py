"""He initialisation, from which every weight of the library starts, and resetting."""

from collections.abc import Iterable

import torch
from torch import nn


def he_normal_(layer: nn.Module) -> None:
    """Draw a layer's weight from N(0, 2 / fan_in) and set its bias, if it has one, to zero (He et al. 2015)."""
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if bias is not None:
        nn.init.zeros_(bias)


def shrink_(layers: Iterable[nn.Module], factor: float) -> None:
    """Multiply the weights of layers by a factor."""
    with torch.no_grad():
        for layer in layers:
            layer.get_parameter("weight").mul_(factor)


def reset(module: nn.Module) -> None:
    """Reset a module and its submodules by their ``reset_parameters``; an outer module's comes last."""
    for child in reversed(list(module.modules())):
        if callable(reset_parameters := getattr(child, "reset_parameters", None)):
            reset_parameters()
