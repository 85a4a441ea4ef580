"""What makes weights of a file unfit for a module."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Fault(NamedTuple):
    """A rule that a weight breaks, and what it has instead."""

    rule: str
    got: str


def fault_of(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, exact: bool) -> Fault | None:
    """Return what is wrong with the first unfit weight, or None.

    Args:
        weights: Of a file; only those that the module has are looked at.
        own: The module's own.
        exact: Whether dtypes must be the same, or another floating dtype may stand for a floating one.
    """
    for name in (name for name in own if name in weights):
        value, expected = weights[name], own[name]
        if value.shape != expected.shape:
            return Fault(f"{name} must have the shape {tuple(expected.shape)}", f"{tuple(value.shape)}")
        alike = value.is_floating_point() == expected.is_floating_point() and not value.is_complex()
        if value.dtype != expected.dtype if exact else not alike:
            return Fault(f"{name} must be of the dtype {expected.dtype}", f"{value.dtype}")
        if not bool(value.isfinite().all()):
            return Fault(f"{name} must be finite", f"{value[~value.isfinite()][0].item()}")
        if name.endswith("running_var") and bool((value < 0).any()):
            return Fault(f"{name} holds variances, which must not be negative", f"{value.min().item():g}")
    return None
