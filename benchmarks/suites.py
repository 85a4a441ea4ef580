"""The suites by name."""

from collections.abc import Callable, Iterable

import torch

from benchmarks import attention, lmim
from benchmarks.contest import Case, Contender

SUITES: dict[str, Callable[[torch.device], Iterable[Case]]] = {"attention": attention.cases, "lmim": lmim.cases}


def cases_of(suite: str, device: torch.device) -> list[Case]:
    """Return the cases of a suite on a device."""
    return list(SUITES[suite](device))


def contender_of(suite: str, label: str, name: str, device: torch.device) -> Contender:
    """Return a contender by the names that the records have."""
    case = next(case for case in cases_of(suite, device) if case.label == label)
    return next(contender for contender in case.build(case).contenders if contender.name == name)
