"""What the tests of the faster ways share."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.cases import CASES, Case

CHOOSING = [case for case in CASES if "backend" in inspect.signature(case.factory).parameters]
"""The cases of modules that choose between ways."""


def built(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    module = case.factory(device="cpu", dtype=dtype, backend=backend)
    for parameter in module.parameters():  # biases start at zero, where they could hide
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def with_gradients(run: Callable[..., Tensor], module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    output = run(*inputs)
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)
    return [output, *torch.autograd.grad((output * weight).sum(), [*inputs, *module.parameters()])]


def in_blocks(output: Tensor) -> bool:
    """Tell whether a blocked operation stands in the output's graph."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return any(type(node).__name__ in ("GateBackward", "ContrastLossBackward") for node in seen)


def saved_sizes(run: Callable[[], object]) -> list[int]:
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return list(seen.values())
