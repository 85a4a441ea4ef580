"""What is compared: contenders that must agree before their times are, and the floor that none can pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Results: TypeAlias = Sequence[Tensor]
"""What a step gives: its output first, then the gradients of its inputs and of every parameter."""

TOLERANCES = {
    torch.float64: (1e-10, 1e-9),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (2 * torch.finfo(torch.bfloat16).eps, 8 * torch.finfo(torch.bfloat16).eps),
}
"""Of values and of gradients, relative to the largest magnitude of the tensor."""


def _as_they_are(results: Results) -> Results:
    return results


@dataclass(frozen=True)
class Contender:
    """One way to compute what all compute.

    Attributes:
        name: What the tables call it.
        step: Computes; this is what is timed.
        in_our_layout: Puts the results of a step into the order that ours has them in.
        compiled: Whether it goes through ``torch.compile``.
        compared: Computes what is compared, where that is not what the step returns.
        computes_less: Whether it leaves work out and is no peer: it shows how far ours is from doing nothing.
    """

    name: str
    step: Callable[[], Results]
    in_our_layout: Callable[[Results], Results] = _as_they_are
    compiled: bool = False
    compared: Callable[[], Results] | None = None
    computes_less: bool = False

    def results(self) -> Results:
        """Compute what is compared with that of others."""
        return self.in_our_layout((self.compared or self.step)())


@dataclass(frozen=True)
class Floor:
    """Work that no way of computing can leave out; timed among the contenders.

    Attributes:
        name: What it is.
        step: Does a part of that work.
        times: How many such parts there are.
        work: What one part counts in ``unit``.
        unit: "FLOP" or "B".
    """

    name: str
    step: Callable[[], object]
    times: float = 1.0
    work: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Contest:
    """Contenders on the same inputs; the first one is ours.

    Attributes:
        contenders: Ours, then its peers.
        floor: What bounds them, or None.
        tolerances: Of values and of gradients.
    """

    contenders: Sequence[Contender]
    floor: Floor | None = None
    tolerances: tuple[float, float] = TOLERANCES[torch.float32]


@dataclass(frozen=True)
class Case:
    """A row of the tables.

    Attributes:
        subject: What is computed.
        size: Of the inputs, in words.
        differentiates: Whether the backward pass belongs to the step.
        compiled: Whether all contenders are compiled.
        build: Makes the contest.
        dtype: Of inputs and weights.
        timed: Whether there is time to measure, or memory alone.
        least_rounds: Rounds that are measured however long they take.
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
        """The name under which results are kept."""
        words = [self.subject, self.size, "forward + backward" if self.differentiates else "inference"]
        words += ["compiled"] if self.compiled else []
        words += [] if self.dtype == torch.float32 else [str(self.dtype).removeprefix("torch.")]
        return ", ".join(words)


def differences(contest: Contest) -> Mapping[str, tuple[float, float]]:
    """Return how far each peer's values and gradients are from ours, relative to the largest magnitude of each."""
    ours, *others = contest.contenders
    expected = ours.results()
    errors = {}
    for peer in (other for other in others if not other.computes_less):
        each = [_difference(a, b) for a, b in zip(expected, peer.results(), strict=True)]
        errors[peer.name] = (each[0], max(each[1:], default=0.0))
    return errors


def agree(errors: tuple[float, float], contest: Contest) -> bool:
    """Tell whether values and gradients are within the tolerances; what is not a number is not."""
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
    """Return a contender whose step calls ``call(*inputs)``, with its gradients where the case asks for them.

    Args:
        name: What the tables call it.
        call: A module or a function.
        inputs: What it is called with.
        parameters: What else it is differentiated by.
        case: Says whether there are gradients.
        cotangent: The gradient of its output; None for a scalar.
        compiled: Whether it goes through ``torch.compile``.
        in_our_layout: Puts its results into the order that ours has them in.
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
