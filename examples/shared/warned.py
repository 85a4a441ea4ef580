"""Counting the warnings of libraries instead of printing them within a program's output."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console


@contextmanager
def counted(package: str, shown: Console | None = None) -> Iterator[list[str]]:
    """Collect the warnings of a package, from Python's warnings and its logger; other warnings are unaffected.

    Args:
        package: Name of the package.
        shown: Console to print them to instead of collecting them; None collects them.
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
            warnings.filterwarnings("always", module=rf"{package}\b", append=True)  # after filters that raise errors
            warnings.showwarning = show
            yield texts
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextmanager
def summed(package: str, console: Console) -> Iterator[None]:
    """Print at the end the number of warnings of a package, and the most frequent one."""
    with counted(package) as texts:
        try:
            yield
        finally:
            if texts:
                text, count = Counter(texts).most_common(1)[0]
                console.print(f"Image libraries gave {len(texts)} warnings, {count} of them: {text}", soft_wrap=True)
