"""What every program does around its work: errors in one line, signals, the exit status."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.logging import RichHandler

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a program to end; Windows has no SIGHUP."""


class UserError(ValueError):
    """A mistake that the user can fix: a program says it in one line, without a traceback.

    Attributes:
        status: The program's exit status.
    """

    status = 1


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Terminal(Console):
    """A console that goes on without a reader: ``train.py | head -1`` trains to its end."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


def run_program(
    name: str, work: Callable[[Console], int | None], *, stopped: str = "Stopped.", quiet: bool = False
) -> int:
    """Do a program's work and return its exit status: the work's own, 1 after a mistake, 128 + n after signal n.

    Args:
        name: What messages call the program.
        work: Does it, prints to the console that it is given, and returns a status; None means 0.
        stopped: What is said when a signal ended it.
        quiet: Print nothing but errors; another process speaks for this one.
    """
    try:
        with _raising_signals():
            return work(Terminal(quiet=quiet)) or 0
    except KeyboardInterrupt as stop:
        Console(stderr=True, quiet=quiet).print(f"\n{stopped}")
        return 128 + getattr(stop, "number", signal.SIGINT)
    except UserError as error:
        print_error(str(error))
        return error.status
    except OSError as error:
        print_error(f"{name}: files must be readable and outputs writable, got {error}. Fix this first.")
        return 1


def log_to_terminal(level: int) -> None:
    """Send log records of at least a level to standard error."""
    handler = RichHandler(console=Console(stderr=True))
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


def print_error(message: str, console: Console | None = None) -> None:
    """Print an error as it is, in one line whatever the terminal's width; by default to standard error."""
    console = console or Console(stderr=True)
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _raising_signals() -> Iterator[None]:
    """Raise :class:`Interrupted` where a signal would kill the process, so that what was begun is cleaned up."""

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    try:
        before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    except ValueError:  # not the main thread, where Python lets nobody catch signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
