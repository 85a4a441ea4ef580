"""What every program does around its work: errors in one line, signals, the exit status."""

import codecs
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment

SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a program to end: SIGHUP too, unless there is none (Windows) or it is ignored (``nohup``)."""

if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    SIGNALS += (signal.SIGHUP,)

AS_WRITTEN = "as-written"
"""The error handler of outputs: bytes of file names as they are, what the encoding lacks as Python writes it."""

# What tables are drawn with, where the terminal's encoding lacks it.
_PLAIN = {
    **dict.fromkeys("\u2588\u2589\u258a\u258b\u2590\u2501", "#"),
    **dict.fromkeys("\u258c\u258d\u258e\u258f\u2595\u257a\u2578\u2500\u2013\u2014\u2212", "-"),
    **{"\u2026": "~", "\u2019": "'", "\u00b7": ".", "\u2022": "*"},
}
_PICTURES = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\x7f": "\u2421"}


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
    """A console that prints names as they are, and goes on without a reader: ``train.py | head -1`` trains to its end.

    What would steer the terminal (an escape sequence in the name of a file) is printed as a picture of it.

    Args:
        options: Those of a console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """Print nothing more, and let what was printed last go nowhere."""
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal was closed
                raise
            self.on_broken_pipe()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as a console does, with visible control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else segment._replace(text=self._printed(segment.text))

    def _printed(self, text: str) -> str:
        text = _visible(text)
        if text.isascii() or self.encoding.startswith("utf"):
            return text
        return "".join(_PLAIN.get(c, c) if not _encodes(c, self.encoding) else c for c in text)


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
    _open_standard_streams()
    try:
        with handling_signals(_interrupt):
            return work(Terminal(quiet=quiet)) or 0
    except KeyboardInterrupt as stop:
        Terminal(stderr=True, quiet=quiet).print(f"\n{stopped}")
        return 128 + getattr(stop, "number", signal.SIGINT)
    except UserError as error:
        print_error(str(error))
        return error.status
    except OSError as error:
        print_error(f"{name}: files must be readable and outputs writable, got {error}. Fix this first.")
        return 1


def refuse_repeats(error: type[UserError], program: str, **lists: Sequence[object]) -> None:
    """Refuse a list that names nothing, or something twice, by its option.

    Raises:
        UserError: There is one; of the class that is given.
    """
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            got = " ".join(map(str, values)) or "none"
            raise error(
                f"{program}: --{name} must name at least one value, each once, got {got}. Name one or more, none twice."
            )


def log_to_terminal(level: int) -> None:
    """Send log records of at least a level to standard error."""
    handler = RichHandler(console=Terminal(stderr=True))
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


def shown(name: str) -> str:
    """Return a name in one line, with a picture for each character that does not print."""
    return _visible(name).replace("\n", _PICTURES["\n"])


def print_error(message: str, console: Console | None = None) -> None:
    """Print an error as it is, in one line whatever the terminal's width; by default to standard error."""
    console = console or Terminal(stderr=True)
    console.print("error: ", style="bold red", end="")
    console.print(shown(message), markup=False, highlight=False, soft_wrap=True)


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _as_written(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    run = error.object[error.start : error.end]
    written = (
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else c.encode("ascii", "backslashreplace") for c in run
    )
    return b"".join(written), error.end


codecs.register_error(AS_WRITTEN, _as_written)


def _visible(text: str) -> str:
    """Return text with a picture for each character that does not print, but for the end of a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _PICTURES.get(c, "\ufffd") for c in text)


def _open_standard_streams() -> None:
    """See to it that printing never fails, whatever the streams are.

    A closed stream's number would be given to the next file that is opened, which would be printed into. What the
    encoding of standard output lacks is printed as Python writes it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=AS_WRITTEN)


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Give a handler the signals that ask the program to end; afterwards those take them that did before."""
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody catch signals
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """End the program by an exception, so that what was begun is cleaned up."""
    raise Interrupted(number)
