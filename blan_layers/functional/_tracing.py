"""What torch.fx needs: functions that inspect shapes and types, kept as one node, and logits that it can observe."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor
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


def observable(logits: Tensor) -> Tensor:
    """Return a gate's logits, in a traced graph from an operation that quantisation knows and observes.

    It would otherwise give what comes before a sigmoid the range of the sigmoid's results.
    """
    return logits.contiguous() if isinstance(logits, Proxy) else logits
