"""Checks whether weights from a file fit a module."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Fault(NamedTuple):
    """A violated rule, and the actual value."""

    rule: str
    got: str


def fault_of(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, exact: bool) -> Fault | None:
    """Return the fault of the first weight that does not fit, or None.

    Args:
        weights: Weights from a file; only names that the module has are checked.
        own: The module's state.
        exact: Whether dtypes must be identical; otherwise any floating dtype is accepted for a floating one.
    """
    for name in (name for name in own if name in weights):
        value, expected = weights[name], own[name]
        if value.shape != expected.shape:
            return Fault(f"{name} must have the shape {tuple(expected.shape)}", f"{tuple(value.shape)}")
        alike = value.is_floating_point() == expected.is_floating_point() and not value.is_complex()
        if value.dtype != expected.dtype if exact else not alike:
            return Fault(f"{name} must have the dtype {expected.dtype}", f"{value.dtype}")
        if not bool(value.isfinite().all()):
            return Fault(f"{name} must be finite", f"{value[~value.isfinite()][0].item()}")
        if name.endswith("running_var") and bool((value < 0).any()):
            return Fault(f"{name} contains variances, which must not be negative", f"{value.min().item():g}")
    return None
