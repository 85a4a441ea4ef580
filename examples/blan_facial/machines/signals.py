"""SIGINT and SIGTERM as the wish to save and stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """A signal asked training to stop, and its state is saved: no error.

    Attributes:
        number: The signal.
        step: Steps done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number
        self.step = step


class Wish:
    """Whether a signal came.

    Attributes:
        number: The signal, 0 before it came.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM as the wish to save and stop after the step, the second as what it is."""
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody catch signals
            yield
            return
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, _: FrameType | None) -> None:
            self.number = number
            signal.signal(number, handlers[signal.Signals(number)])

        try:
            for number in handlers:
                signal.signal(number, note)
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
