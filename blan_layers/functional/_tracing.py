"""Functions that inspect shapes and types, which ``torch.fx`` must keep as one node."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch.fx import Proxy

P = ParamSpec("P")
R = TypeVar("R")


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Make a call of ``function`` with traced arguments a single node, which inspects them when the graph runs."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Proxy):
                node: R = argument.tracer.create_proxy("call_function", call, args, kwargs)  # type: ignore[assignment]
                return node
        return function(*args, **kwargs)

    return call
