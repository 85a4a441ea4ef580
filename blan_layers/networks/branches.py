"""Where the branch of a residual block ends."""

import copy
import inspect
import operator
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx, nn

from blan_layers._checks import said
from blan_layers.networks.readings import CONVOLUTIONS

SHORTCUTS = "downsample", "shortcut", "skip", "conv_skip", "identity"
"""Attributes of residual blocks for the shortcut around their branch, which may be None or a bool."""

FLAGS = "has_skip", "use_res_connect", "has_residual"
"""Attributes that say by a bool whether there is a shortcut."""

AROUND = {"downsample", "shortcut", "skip", "identity"}
"""Words in the names of a shortcut's modules, such as "skip_bn"."""

ATTENTION = {"se", "attn", "cbam", "eca", "attention"}
"""Words in the names of a block's own attention, such as "se_module"."""

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)

SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def ends_of_branches(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the last norm or convolution of the branch of each innermost residual block."""
    named = {name: module for name, module in (("", model), *modules.items()) if _names_a_shortcut(module)}
    graphs = {name: _traced(module) for name, module in named.items()}
    blocks = {name: module for name, module in named.items() if _is_residual(module, graphs[name])}
    for name, block in blocks.items():
        inside = f"{name}." if name else ""
        if any(other != name and other.startswith(inside) for other in blocks):
            continue
        within = {other.removeprefix(inside): part for other, part in modules.items() if other.startswith(inside)}
        around, gates = (
            {part for other, part in within.items() if words & _words(other)} for words in (AROUND, ATTENTION)
        )
        parts: dict[nn.Module, str] = {}
        for other, part in within.items():
            if part not in gates and "parametrizations" not in other.split(".") and _weighs(part):
                parts.setdefault(part, other)
        branch = _in_order(name, block, graphs[name], parts, around)
        if branch and (is_norm(branch[-1]) or isinstance(branch[-1], tuple(CONVOLUTIONS))):
            yield inside + parts[branch[-1]], branch[-1]


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm."""
    return isinstance(module, NORMS) or "running_mean" in module._buffers


def _weighs(part: nn.Module) -> bool:
    return is_norm(part) or isinstance(part, tuple(CONVOLUTIONS)) or bool(not part._modules and part._parameters)


def _words(name: str) -> set[str]:
    return {*re.split(r"[\W\d_]+", name.lower())}


def _shortcuts(block: nn.Module) -> list[object]:
    own = {**block.__dict__, **block._modules}
    return [own[name] for name in SHORTCUTS if name in own]


def _is_flagged(block: nn.Module) -> bool:
    return any(getattr(block, flag, False) is True for flag in FLAGS)


def _names_a_shortcut(block: nn.Module) -> bool:
    container = isinstance(block, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    return not container and (_is_flagged(block) or bool(_shortcuts(block)))


def _is_residual(block: nn.Module, graph: fx.Graph | None) -> bool:
    """Return whether a module that names a shortcut has one."""
    if _is_flagged(block):
        return True
    if graph is None:  # False may say that there is no shortcut, or that it has no weights
        return any(shortcut is not False for shortcut in _shortcuts(block))
    return any(_may_add(node, block) for node in graph.nodes)  # a stage of blocks has a shortcut's name, and no sum


def _is_sum(node: fx.Node) -> bool:
    """Return whether a node adds two others, not a number."""
    return node.op in ("call_function", "call_method") and node.target in SUMS and len(node.all_input_nodes) == 2


def _may_add(node: fx.Node, block: nn.Module) -> bool:
    if node.op != "call_module" or len(node.all_input_nodes) < 2:
        return _is_sum(node)
    return not any(True for _ in block.get_submodule(str(node.target)).parameters())  # such as a module for sums


def _in_order(
    name: str, block: nn.Module, graph: fx.Graph | None, parts: Mapping[nn.Module, str], around: set[nn.Module]
) -> Sequence[nn.Module]:
    """Return the parts of a block's branch in the order of their calls, or of registration if it cannot be traced."""
    branch = [part for part in parts if part not in around]
    if graph is None:
        return branch
    order = {node: place for place, node in enumerate(graph.nodes)}
    call = {
        part: node
        for node in graph.nodes
        if node.op == "call_module"
        for part in block.get_submodule(str(node.target)).modules()
    }
    branch = sorted((part for part in branch if part in call), key=lambda part: order[call[part]])
    for node in reversed(graph.nodes):
        if not _is_sum(node):
            continue
        first, second = map(_before, node.all_input_nodes)
        sides = [[part for part in branch if call[part] in own] for own in (first - second, second - first)]
        longer, shorter = sorted(sides, key=len, reverse=True)
        if not longer:
            continue  # not the sum with the shortcut
        beside = shorter[-1:] if len(shorter) == len(longer) else []
        beside += [part for part in longer if call[part] not in _before(call[longer[-1]])]
        if beside:
            raise ValueError(
                said(
                    f"where='residual' needs a single branch in {name or type(block).__name__!r}, got "
                    f"{parts[beside[0]]!r} beside {parts[longer[-1]]!r}. Pass names, a regular expression or a "
                    "predicate as where."
                )
            )
        return longer
    return branch


def _before(node: fx.Node) -> set[fx.Node]:
    """Return a node and all that it is computed from."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        if (last := waiting.pop()) not in found:
            found.add(last)
            waiting.extend(last.all_input_nodes)
    return found


class _Tracer(fx.Tracer):
    """Records the calls of a block's children without running them."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Look into no child."""
        return True


def _traced(block: nn.Module) -> fx.Graph | None:
    """Return the graph of a block's forward, or None if it depends on values or sizes."""
    if "forward" in block.__dict__:
        return None
    try:
        options = inspect.signature(block.forward).parameters.values()
        defaults = {option.name: option.default for option in options if option.default is not option.empty}
        return _Tracer().trace(copy.copy(block), defaults)  # a copy, since a forward may set attributes
    except Exception:  # whatever a forward raises
        return None
