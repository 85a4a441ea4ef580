"""What every program does around its work."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.table import Table

from blan_facial import evaluate, experiments, predict, train
from deep_infomax import compare
from mutual_information import held_out, measure, repeated
from segmentation import train as segmentation
from shared.parallel import each
from shared.program import SIGNALS, Terminal, UserError, print_error, run_program

PROGRAM = "import sys; from shared.program import *; sys.exit(run_program('it', lambda terminal: {work}))"


def started(work: str, repository: Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PROGRAM.format(work=work)]
    return subprocess.run(command, cwd=repository / "examples", capture_output=True, **options)  # type: ignore[call-overload]  # a keyword by name is any of its overloads


@pytest.mark.parametrize(
    ("program", "option", "arguments"),
    [
        (train, "--attributes", []),
        (predict, "--attributes", ["run", "a.png"]),
        (evaluate, "--attributes", ["run"]),
        (experiments, "--seeds", ["table4"]),
        (compare, "--ways", []),
        (compare, "--labels", []),
        (compare, "--seeds", []),
        (segmentation, "--kinds", []),
        (segmentation, "--seeds", []),
        (held_out, "--levels", []),
        (measure, "--tasks", []),
        (measure, "--estimators", []),
        (measure, "--levels", []),
        (repeated, "--tasks", []),
    ],
)
def test_a_list_that_is_given_twice_is_refused(
    program: ModuleType, option: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        program.main([*arguments, option, "1", f"{option}=2"])
    assert status.value.code == 2
    name = program.__name__.rpartition(".")[2]
    text = f"error: {name}: {option} must be given once, got it again. Name all values after one {option}.\n"
    assert capsys.readouterr().err == text


def test_the_status_is_the_work_s(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: Terminal) -> None:
        raise UserError("it: a rule, got [b]this[/b]. Remedy.")

    def fail(_: Terminal) -> None:
        raise PermissionError(13, "Permission denied", "file")

    assert run_program("it", lambda _: None) == 0
    assert run_program("it", lambda _: 7) == 7
    assert run_program("it", refuse) == 1  # type: ignore[arg-type]  # a terminal is a console
    assert run_program("it", fail) == 1  # type: ignore[arg-type]  # as above
    assert capsys.readouterr().err == (
        "error: it: a rule, got [b]this[/b]. Remedy.\n"
        "error: it: files must be readable and outputs writable, got [Errno 13] Permission denied: 'file'. "
        "Fix this first.\n"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_counted_as_shells_do_and_cleaned_up_after(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before, cleaned = signal.getsignal(number), []

    def work(_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    assert run_program("it", work, stopped="Stopped; nothing was written.") == 128 + number
    assert cleaned
    assert capsys.readouterr().err == "\nStopped; nothing was written.\n"
    assert signal.getsignal(number) == before


def test_a_hangup_that_nohup_has_ignored_does_not_end_the_work(repository: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.format(work="signal.raise_signal(signal.SIGHUP) or 7")]
    done = subprocess.run(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command], cwd=repository / "examples")
    assert done.returncode == 7


@pytest.mark.attack("15.10", "names that would steer the terminal")
def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[/nope]")
    table.add_row(":smile: [red]x \x1b[2J")
    Terminal().print(table)
    print_error("\x1b]0;title\x07 \udcff [/nope]")
    captured = capsys.readouterr()
    assert "[/nope]" in captured.out
    assert ":smile: [red]x ␛[2" in captured.out  # whose width rich does not count
    assert captured.err == "error: ␛]0;title␇ � [/nope]\n"


@pytest.mark.attack("15.11", "train.py | head -1")
def test_a_reader_that_goes_away_does_not_end_the_work(repository: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    mark = tmp_path / "done"
    work = f"(terminal.print('x' * 10**6), open({str(mark)!r}, 'w').close(), 0)[-1]"
    with os.fdopen(write, "wb") as stdout:
        command = [sys.executable, "-c", PROGRAM.format(work=work)]
        done = subprocess.run(command, cwd=repository / "examples", stdout=stdout, stderr=subprocess.PIPE)
    assert mark.exists()
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.attack("15.11", "the terminal is closed")
def test_a_terminal_that_was_closed_does_not_end_the_work(repository: Path) -> None:
    controller, terminal = pty.openpty()
    os.close(controller)
    command = [sys.executable, "-c", PROGRAM.format(work="(terminal.print('x'), print_error('y'), 7)[-1]")]
    with os.fdopen(terminal, "wb") as closed:
        assert subprocess.run(command, cwd=repository / "examples", stdout=closed, stderr=closed).returncode == 7


@pytest.mark.attack("15.11", "an ASCII terminal")
def test_an_ascii_terminal_gets_what_it_can_show(repository: Path) -> None:
    done = started("terminal.print('± é 顔')", repository, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout == b"\\xb1 \\xe9 \\u9854\n"


@pytest.mark.attack("15.11", "closed standard streams")
def test_closed_streams_are_no_files_of_ours(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    work = f"(terminal.print('spilt'), open({str(path)!r}, 'w').fileno())[1]"
    command = [sys.executable, "-c", PROGRAM.format(work=work)]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command], cwd=repository / "examples")
    assert done.returncode > 2
    assert path.read_bytes() == b""


@pytest.mark.attack("15.13", "a table on an ASCII or cp1252 terminal")
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_table_is_printed_with_plain_characters_where_there_are_no_others(encoding: str, repository: Path) -> None:
    work = "(lambda t, T: (t.add_row('a' * 90, '\\u2588\\u2588\\u258c', '\\u6027'), terminal.print(t)))(T('x', 'y'), T)"
    work = work.replace("(T('x', 'y'), T)", "(__import__('rich.table').table.Table('x', 'y', 'z'), None)")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "60"}
    ended = started(f"{work} and None", repository, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    printed = ended.stdout.decode(encoding)
    assert "##-" in printed
    assert "\\u6027" in printed
    assert "+--" in printed
    assert "\\u25" not in printed


def holds_interrupts(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_hold_ctrl_c_from_their_first_import_on() -> None:
    """While they import, they would answer it with a traceback."""
    assert [*each(holds_interrupts, [1, 2], 2)] == [True, True]
    assert not holds_interrupts(0)


def test_a_worker_that_is_killed_ends_the_work_with_an_error() -> None:
    with pytest.raises(UserError, match=r"^worker processes must not be killed before their work is done, got one"):
        list(each(os._exit, [1, 1, 1], 2))
