"""Contests: contenders whose results must agree before they are timed, and a floor for their time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Results: TypeAlias = Sequence[Tensor]
"""Results of a step: its output, then the gradients of its inputs and of every parameter."""

TOLERANCES = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (2 * torch.finfo(torch.bfloat16).eps, 8 * torch.finfo(torch.bfloat16).eps),
}
"""Tolerances of values and of gradients, relative to the largest magnitude of the tensor."""


def _as_they_are(results: Results) -> Results:
    return results


@dataclass(frozen=True)
class Contender:
    """One implementation of the computation.

    Attributes:
        name: Name in the tables.
        step: The function that is timed.
        in_our_layout: Rearranges the results of a step to the order of ours.
        compiled: Whether it is compiled by ``torch.compile``.
        compared: Computes the results to compare, if they differ from what the step returns.
        computes_less: Whether it omits work. It is then not a peer, but shows the cost of the omitted work.
    """

    name: str
    step: Callable[[], Results]
    in_our_layout: Callable[[Results], Results] = _as_they_are
    compiled: bool = False
    compared: Callable[[], Results] | None = None
    computes_less: bool = False

    def results(self) -> Results:
        """Compute the results that are compared with others'."""
        return self.in_our_layout((self.compared or self.step)())


@dataclass(frozen=True)
class Floor:
    """Work that no implementation can avoid; it is timed together with the contenders.

    Attributes:
        name: Description.
        step: Does a part of that work.
        times: Number of such parts.
        work: Amount of work of one part, in ``unit``.
        unit: "FLOP" or "B".
    """

    name: str
    step: Callable[[], object]
    times: float = 1.0
    work: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Contest:
    """Contenders on the same inputs, ours first.

    Attributes:
        contenders: Ours, then its peers.
        floor: Lower bound of their time, or None.
        tolerances: Tolerances of values and of gradients.
    """

    contenders: Sequence[Contender]
    floor: Floor | None = None
    tolerances: tuple[float, float] = TOLERANCES[torch.float32]


@dataclass(frozen=True)
class Case:
    """A row of the tables.

    Attributes:
        subject: Name of the computation.
        size: Description of the size of the inputs.
        differentiates: Whether the step includes the backward pass.
        compiled: Whether all contenders are compiled.
        build: Builds the contest.
        dtype: Dtype of inputs and weights.
        timed: Whether to measure time; otherwise only memory is measured.
        least_rounds: Minimum number of rounds, however long they take.
    """

    subject: str
    size: str
    differentiates: bool
    compiled: bool
    build: Callable[["Case"], Contest] = field(repr=False, compare=False)
    dtype: torch.dtype = torch.float32
    timed: bool = True
    least_rounds: int = 15

    @property
    def label(self) -> str:
        """The key of the results."""
        words = [self.subject, self.size, "forward + backward" if self.differentiates else "inference"]
        words += ["compiled"] if self.compiled else []
        words += [] if self.dtype == torch.float32 else [str(self.dtype).removeprefix("torch.")]
        return ", ".join(words)


def differences(contest: Contest) -> Mapping[str, tuple[float, float]]:
    """Return the errors of each peer's values and gradients relative to ours, scaled by the largest magnitude."""
    ours, *others = contest.contenders
    expected = ours.results()
    errors = {}
    for peer in (other for other in others if not other.computes_less):
        each = [_difference(a, b) for a, b in zip(expected, peer.results(), strict=True)]
        errors[peer.name] = (each[0], max(each[1:], default=0.0))
    return errors


def agree(errors: tuple[float, float], contest: Contest) -> bool:
    """Return whether values and gradients are within the tolerances; NaN is not."""
    return all(error <= tolerance for error, tolerance in zip(errors, contest.tolerances, strict=True))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double().reshape(ours.shape)
    largest = max(ours.abs().max().item(), theirs.abs().max().item())
    return (ours - theirs).abs().max().item() / largest if largest else 0.0


def contender(
    name: str,
    call: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    parameters: Iterable[Tensor],
    case: Case,
    *,
    cotangent: Tensor | None = None,
    compiled: bool = False,
    in_our_layout: Callable[[Results], Results] = _as_they_are,
) -> Contender:
    """Return a contender whose step calls ``call(*inputs)`` and computes the gradients if the case includes them.

    Args:
        name: Name in the tables.
        call: A module or a function.
        inputs: Its arguments.
        parameters: Parameters whose gradients are computed too.
        case: The case, which determines whether gradients are computed.
        cotangent: The gradient of its output; None for a scalar.
        compiled: Whether it is compiled by ``torch.compile``.
        in_our_layout: Rearranges its results to the order of ours.
    """
    function = torch.compile(call, dynamic=False) if compiled else call
    leaves = [*inputs, *parameters]

    def infer() -> Results:
        with torch.no_grad():
            return [function(*inputs)]

    def differentiate() -> Results:
        output = function(*inputs)
        return [output, *torch.autograd.grad(output, leaves, cotangent)]

    return Contender(name, differentiate if case.differentiates else infer, in_our_layout, compiled)
