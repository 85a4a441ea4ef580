"""Deprecation warnings, given for at least one minor release before a removal."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def deprecated(*, since: str, removed: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function warn when it is called.

    Args:
        since: The minor version that deprecates it, such as "0.3".
        removed: The later minor version that removes it.
        instead: What to use instead.

    Raises:
        ValueError: ``removed`` is not a later minor version than ``since``.

    Example:
        >>> @deprecated(since="0.3", removed="0.4", instead="gate")
        ... def weigh(x):
        ...     return x
        >>> weigh(1)  # doctest: +SKIP
        DeprecationWarning: weigh is deprecated since 0.3 and will be removed in 0.4. Use gate.
        1
    """
    _check(since, removed)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def warning(*args: P.args, **kwargs: P.kwargs) -> R:
            warn_deprecated(function.__qualname__, since=since, removed=removed, instead=instead, stacklevel=3)
            return function(*args, **kwargs)

        return warning

    return decorate


def warn_deprecated(what: str, *, since: str, removed: str, instead: str, stacklevel: int = 3) -> None:
    """Warn of a deprecated argument, value or name; the warning points to the caller's caller."""
    _check(since, removed)
    warnings.warn(
        f"{what} is deprecated since {since} and will be removed in {removed}. Use {instead}.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def minor(version: str) -> tuple[int, int]:
    """Return the major and minor number of a version, such as (0, 3) for 0.3.1."""
    first, second = version.split(".")[:2]
    return int(first), int(second)


def _check(since: str, removed: str) -> None:
    if minor(removed) <= minor(since):
        raise ValueError(
            f"deprecated: removed must be a later minor version than since, got {removed!r} after {since!r}. "
            "Leave at least one minor release between them."
        )
