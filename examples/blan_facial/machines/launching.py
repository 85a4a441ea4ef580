"""The processes of one machine, a device each, by torch's elastic launcher: started, watched, and ended together."""

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
"""Status of a process that ends because another one is gone."""

_POLL = 0.1
_LAUNCHER = "BLAN_LAUNCHER"
_EXPLAINED = {1, *(128 + number for number in SIGNALS)}  # statuses of a process that has said why it ends


class ProcessLostError(UserError):
    """A process ended otherwise than the program ends it.

    Args:
        rank: Its number.
        count: How many there were.
        failure: What is known of its end.
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
    """Run a Python program in so many processes, and return the status of the first that failed, or 0.

    Each is told its place as torchrun tells it, and leads a session of its own, so that Ctrl-C comes to it from here
    alone. What they print is printed. As soon as one fails, torch ends the others: by SIGTERM, and 30 s later by
    SIGKILL.

    Raises:
        Interrupted: A signal came before all had started, or twice at once.
        ProcessLostError: One was killed, or ended as the program does not end.
    """
    logging.getLogger(multiprocessing.__name__).setLevel(logging.CRITICAL)  # its words are for those who know it
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
    """If :func:`launch` started this process, take the launcher's end as SIGTERM, and tell so."""
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
    """Wait until all have ended, and pass on the signals that come meanwhile: the processes decide what becomes of it.

    torch's agent, which stands above these processes, would kill them 30 s after the signal, amid a step or a save.
    """
    while True:
        try:
            if result := processes.wait(period=_POLL):
                return result
        except SignalException as stop:
            for handler in processes.subprocess_handlers.values():
                handler.proc.send_signal(stop.sigval)


def _common_status(failures: dict[int, ProcessFailure], count: int) -> int:
    """Return the status of the first process that failed by itself, if that one has said why."""
    if not failures:
        return 0
    rank = min(failures, key=lambda rank: failures[rank].exitcode == LOST)  # they are in the order of their ends
    status = _shell_status(failures[rank].exitcode)
    if status in _EXPLAINED:
        return status
    raise ProcessLostError(rank, count, failures[rank])


def _shell_status(status: int) -> int:
    """Return an exit status as shells have it."""
    return 128 - status if status < 0 else status
