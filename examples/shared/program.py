"""The frame of every command-line program: one-line errors, signals and exit status."""

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
from typing import Any, NoReturn, get_args, get_type_hints

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.segment import Segment

SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask a program to end; also SIGHUP, unless it does not exist (Windows) or is ignored (``nohup``)."""

if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    SIGNALS += (signal.SIGHUP,)

AS_WRITTEN = "as-written"
"""The error handler of outputs: it keeps bytes of file names and escapes characters that the encoding lacks."""

# Replacements for characters in tables that the terminal's encoding lacks.
_PLAIN = {
    **dict.fromkeys("\u2588\u2589\u258a\u258b\u2590\u2501", "#"),
    **dict.fromkeys("\u258c\u258d\u258e\u258f\u2595\u257a\u2578\u2500\u2013\u2014\u2212", "-"),
    **{"\u2026": "~", "\u2019": "'", "\u00b7": ".", "\u2022": "*"},
}
_PICTURES = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\x7f": "\u2421"}


class UserError(ValueError):
    """An error that the user can fix; programs print it in one line, without a traceback.

    Attributes:
        status: The program's exit status.
    """

    status = 1


class Interrupted(KeyboardInterrupt):
    """The program was asked to end by a signal.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Terminal(Console):
    """A console that prints names unchanged, and continues without a reader: ``train.py | head -1`` trains to its end.

    Control characters, such as an escape sequence in a file name, are replaced by visible symbols.

    Args:
        options: Options of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """Discard all output from now on, including the last."""
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
        """Render like a console, but with visible control characters."""
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
    """Run a program's work and return its exit status: that of the work, 1 after an error, 128 + n after signal n.

    Args:
        name: Name of the program in messages.
        work: Takes a console to print to, does the work, and returns a status; None means 0.
        stopped: Message after a signal.
        quiet: Print only errors, since another process prints for this one.
    """
    _open_standard_streams()
    try:
        with handling_signals(_interrupt):
            return work(Terminal(quiet=quiet)) or 0
    except KeyboardInterrupt as stop:
        Terminal(stderr=True, quiet=quiet).print(f"\n{stopped}")
        return 128 + getattr(stop, "number", signal.SIGINT)
    except (UserError, OSError) as error:
        print_error(worded(name, error))
        return error.status if isinstance(error, UserError) else 1


def worded(name: str, error: UserError | OSError) -> str:
    """Return the message of a program for an error of the user's or of the system."""
    if isinstance(error, UserError):
        return str(error)
    return f"{name}: files must be readable and outputs writable, got {error}. Fix this first."


def refuse_repeats(error: type[UserError], program: str, **lists: Sequence[object]) -> None:
    """Refuse options whose list is empty or has repeated values.

    Raises:
        UserError: There is such a list; the error has the given class.
    """
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            got = " ".join(map(str, values)) or "none"
            raise error(
                f"{program}: --{name} must name at least one value, each once, got {got}. Name one or more, none twice."
            )


def refuse_below(error: type[UserError], program: str, settings: object, **least: float) -> None:
    """Refuse settings, or lists with a value, below their least; None is allowed.

    Raises:
        UserError: There is such a setting; the error has the given class.
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        value = min(value) if isinstance(value, tuple) else value
        if value is not None and not value >= bound:  # NaN, too
            raise error(f"{program}: --{name.replace('_', '-')} must be at least {bound}, got {value}. Raise it.")


def refuse_seeds(error: type[UserError], program: str, **seeds: Sequence[int]) -> None:
    """Refuse seeds that PyTorch's or NumPy's generators do not accept.

    Raises:
        UserError: There is such a seed; the error has the given class.
    """
    for name, values in seeds.items():
        for seed in values:
            if not 0 <= seed < 2**63:
                option = f"--{name.replace('_', '-')}"
                raise error(f"{program}: {option} must be at least 0 and below 2**63, got {seed}. Give another.")


def check_given_once(program: str, arguments: Sequence[str] | None, settings: type) -> None:
    """Refuse a list option that is given more than once, since only its last values would count.

    Args:
        program: Name of the program in messages.
        arguments: The command line; None for that of the process.
        settings: The class of the program's settings, whose lists are tuples of any length.

    Raises:
        SystemExit: An option is given again.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given = [word.partition("=")[0].replace("_", "-") for word in words]
    for name, kind in get_type_hints(settings).items():
        option = f"--{name.replace('_', '-')}"
        if any(... in get_args(part) for part in (kind, *get_args(kind))) and given.count(option) > 1:
            print_error(f"{program}: {option} must be given once, got it again. Name all values after one {option}.")
            raise SystemExit(2)


def log_to_terminal(level: int) -> None:
    """Send log records of at least a level to standard error."""
    handler = RichHandler(console=Terminal(stderr=True))
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


def shown(name: str) -> str:
    """Return a name in one line, with visible symbols for non-printing characters."""
    return _visible(name).replace("\n", _PICTURES["\n"])


def print_error(message: str, console: Console | None = None) -> None:
    """Print an error without markup and without wrapping, by default to standard error."""
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
    """Return text with visible symbols for non-printing characters, except line ends."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _PICTURES.get(c, "\ufffd") for c in text)


def _open_standard_streams() -> None:
    """Make sure that printing never fails, even with closed streams.

    The descriptor of a closed stream would be reused by the next opened file, which would then receive the output.
    Characters that the encoding of standard output lacks are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=AS_WRITTEN)


@contextmanager
def handling_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle the signals that ask the program to end by a handler; the previous handlers are restored afterwards."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
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
    """End the program by an exception, so that cleanup code runs."""
    raise Interrupted(number)
