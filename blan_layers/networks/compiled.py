"""What ``torch.compile`` made of a network does not see hooks that come later."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch


def eagerly() -> AbstractContextManager[object]:
    """Have compiled code run uncompiled for a while, if there can be any."""
    return torch.compiler.set_stance("force_eager") if _loaded() else nullcontext()


def forget() -> None:
    """Drop compiled code, if there can be any, so that the next call compiles what there is now."""
    if _loaded():
        torch.compiler.reset()


def _loaded() -> bool:
    return "torch._dynamo" in sys.modules
