"""A signal to the training as the wish to save and stop."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from shared.program import handling_signals


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
        """Take the first signal as the wish to save and stop after the step; the next one ends the program at once."""
        with ExitStack() as listening:

            def note(number: int, _: FrameType | None) -> None:
                self.number = number
                listening.close()

            listening.enter_context(handling_signals(note))
            yield
