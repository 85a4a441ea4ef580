"""The suites by name: each is the module of that name."""

import importlib
from collections.abc import Iterable

import torch

from benchmarks import peers
from benchmarks.contest import Case, Contender

SUITES = ("attention", "lmim", "model")


def cases_of(suite: str, device: torch.device) -> list[Case]:
    """Return the cases of a suite on a device."""
    peers.timm()  # declares torchvision's missing operators, since packages of the example import it too
    cases: Iterable[Case] = importlib.import_module(f"benchmarks.{suite}").cases(device)
    return list(cases)


def contender_of(suite: str, label: str, name: str, device: torch.device) -> Contender:
    """Return a contender by its names in the records."""
    case = next(case for case in cases_of(suite, device) if case.label == label)
    return next(contender for contender in case.build(case).contenders if contender.name == name)
