"""Handling of compiled code, which does not see hooks that are registered later."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch


def eagerly() -> AbstractContextManager[object]:
    """Run compiled code uncompiled inside the block, if there can be any."""
    return torch.compiler.set_stance("force_eager") if _loaded() else nullcontext()


def forget() -> None:
    """Drop compiled code, if there can be any, so that the next call compiles the current modules."""
    if _loaded():
        torch.compiler.reset()


def _loaded() -> bool:
    return "torch._dynamo" in sys.modules
