"""Warnings of libraries, counted instead of printed between what a program says."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console


@contextmanager
def counted(package: str, console: Console, *, shown: bool) -> Iterator[list[str]]:
    """Collect what a package warns of, by Python's warnings or by its logger; other warnings go their way.

    Args:
        package: Its name.
        console: Where warnings go that are shown.
        shown: Whether to print them and collect none.
    """
    texts: list[str] = []
    before = warnings.showwarning

    def take(text: str) -> None:
        if shown:
            console.print(f"warning: {text}", soft_wrap=True)
        else:
            texts.append(text)

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
