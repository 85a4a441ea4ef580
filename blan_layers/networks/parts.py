"""The parts of a network: attention of this library, and what lies outside of it."""

from collections.abc import Iterator

from torch import nn

from blan_layers._module import Module


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module is attention of this library."""
    return isinstance(module, Module) and bool(module.gates)


def attention_in(model: nn.Module, name: str = "") -> Iterator[tuple[str, Module]]:
    """Yield the attention of this library that is not inside another, by its name."""
    if isinstance(model, Module) and model.gates:
        yield name, model
    for child, module in _open_children(model):
        yield from attention_in(module, f"{name}.{child}" if name else child)


def outside_attention(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a network that are no part of this library's attention, as often as they are there."""
    if name and not is_attention(model):
        yield name, model
    for child, module in _open_children(model):
        yield from outside_attention(module, f"{name}.{child}" if name else child)


def _open_children(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module's children, of attention those alone that are networks of the user's own."""
    for name, child in model._modules.items():
        if child is not None and (not is_attention(model) or name in model.holds):  # type: ignore[operator]  # a tuple
            yield name, child
