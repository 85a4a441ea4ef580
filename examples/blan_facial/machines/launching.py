"""The processes of one machine, one per device: torch's elastic launcher starts, monitors and stops them together."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    ProcessFailure,
    RunProcsResult,
    SignalException,
    SubprocessContext,
)
from torch.distributed.elastic.utils.distributed import get_free_port

from shared.program import SIGNALS, Interrupted, UserError

LOST = 75
"""Exit status of a process that ends because another one died."""

_POLL = 0.1
_LAUNCHER = "BLAN_LAUNCHER"
_EXPLAINED = {1, *(128 + number for number in SIGNALS)}  # statuses of processes that printed the reason


class ProcessLostError(UserError):
    """A process ended in a way that the program itself never ends.

    Args:
        rank: Rank of the process.
        count: Number of processes.
        failure: Its exit as recorded by torch.
    """

    def __init__(self, rank: int, count: int, failure: ProcessFailure) -> None:
        status = failure.exitcode
        how = f"was killed by {failure.signal_name()}" if status < 0 else f"ended with status {status}"
        super().__init__(
            f"train: all processes must run to the end, got process {rank} of 0 to {count - 1}, which {how}. The "
            "others were stopped; the same command with --resume continues from the last checkpoint."
        )
        self.status = _shell_status(status)


def launch(program: str, arguments: Sequence[str], count: int) -> int:
    """Run a Python program in several processes, and return the status of the first that failed, or 0.

    Each process gets the same environment variables as from torchrun, and leads its own session, so that it receives
    Ctrl-C only through this launcher. Their output is passed through. As soon as one fails, torch stops the others by
    SIGTERM, and 30 s later by SIGKILL.

    Raises:
        Interrupted: A signal arrived before all had started, or a second one arrived during the first.
        ProcessLostError: A process was killed, or ended with a status that the program does not use.
    """
    logging.getLogger(multiprocessing.__name__).setLevel(logging.CRITICAL)  # its messages are for developers
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in SIGNALS)
    place = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(get_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
        _LAUNCHER: str(os.getpid()),
    }
    processes = SubprocessContext(
        name="train",
        entrypoint=sys.executable,
        args=dict.fromkeys(range(count), (program, *arguments)),
        envs={rank: place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)},
        logs_specs=DefaultLogsSpecs(os.devnull),
    )
    try:
        processes.start()
        return _common_status(_watch(processes).failures, count)
    except SignalException as stop:
        raise Interrupted(stop.sigval) from None
    finally:
        processes.close(signal.SIGKILL)


def follow_launcher() -> bool:
    """If :func:`launch` started this process, treat the end of the launcher as SIGTERM; return whether it did."""
    launcher = os.environ.get(_LAUNCHER)
    if launcher is None:
        return False

    def wait() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    return True


def _watch(processes: SubprocessContext) -> RunProcsResult:
    """Wait until all have ended, and forward signals: the processes decide how to react.

    torch's agent would instead kill the processes 30 s after the signal, possibly during a step or a save.
    """
    while True:
        try:
            if result := processes.wait(period=_POLL):
                return result
        except SignalException as stop:
            for handler in processes.subprocess_handlers.values():
                handler.proc.send_signal(stop.sigval)


def _common_status(failures: dict[int, ProcessFailure], count: int) -> int:
    """Return the status of the process that failed first on its own, if it printed the reason."""
    if not failures:
        return 0
    rank = min(failures, key=lambda rank: failures[rank].exitcode == LOST)  # in the order in which they ended
    status = _shell_status(failures[rank].exitcode)
    if status in _EXPLAINED:
        return status
    raise ProcessLostError(rank, count, failures[rank])


def _shell_status(status: int) -> int:
    """Return an exit status in the shell's convention, 128 + n after signal n."""
    return 128 - status if status < 0 else status
