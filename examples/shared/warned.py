"""Warnings of libraries, counted instead of printed between what a program says."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console


@contextmanager
def counted(package: str, shown: Console | None = None) -> Iterator[list[str]]:
    """Collect what a package warns of, by Python's warnings or by its logger; other warnings go their way.

    Args:
        package: Its name.
        shown: Where to print them, and to collect none; None: they are collected.
    """
    texts: list[str] = []
    before = warnings.showwarning

    def take(text: str) -> None:
        if shown is None:
            texts.append(text)
        else:
            shown.print(f"warning: {text}", soft_wrap=True)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if f"/{package}/" in filename.replace("\\", "/"):
            take(str(message))
        else:
            before(message, category, filename, lineno, file, line)

    class Taking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            take(record.getMessage())

    logger, handler = logging.getLogger(package), Taking(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    warnings.showwarning = show
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", module=rf"{package}\b", append=True)  # after what is made an error
            warnings.showwarning = show
            yield texts
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def summed(package: str, console: Console) -> Iterator[None]:
    """Say at the end how often a package warned, and of what most often."""
    with counted(package) as texts:
        try:
            yield
        finally:
            if texts:
                text, count = Counter(texts).most_common(1)[0]
                console.print(f"Image libraries gave {len(texts)} warnings, {count} of them: {text}", soft_wrap=True)
