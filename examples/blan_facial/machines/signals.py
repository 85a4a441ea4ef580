"""Signals that ask training to save and stop."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from shared.program import handling_signals


class Stopped(Exception):
    """Training was stopped by a signal after saving its state; this is not an error.

    Attributes:
        number: The signal.
        step: Completed steps.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number = number
        self.step = step


class Wish:
    """A request to stop.

    Attributes:
        number: The signal, 0 before it arrives.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Treat the first signal as a request to save and stop after the step; the next ends the program at once."""
        with ExitStack() as listening:

            def note(number: int, _: FrameType | None) -> None:
                self.number = number
                listening.close()

            listening.enter_context(handling_signals(note))
            yield
