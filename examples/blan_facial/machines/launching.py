"""The processes of one machine, a device each: started, watched, and ended together."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from shared.program import UserError

LOST = 75
"""Status of a process that ends because another one is gone."""

GRACE = 10.0
"""Seconds that the others have to end by themselves once one has failed."""

_POLL = 0.05
_LIFELINE = "BLAN_LIFELINE"

_Process: TypeAlias = "subprocess.Popen[bytes]"


class ProcessLostError(UserError):
    """A process ended otherwise than the program ends it.

    Args:
        rank: Its number.
        count: How many there were.
        status: Its exit status, as ``subprocess`` has it.
    """

    def __init__(self, rank: int, count: int, status: int) -> None:
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"end with status {status}"
        super().__init__(
            f"train: all processes must run to their end, got number {rank} of 0 to {count - 1} {how}. The others were "
            "stopped; the same command with --resume goes on from the last checkpoint."
        )
        self.status = 128 - status if status < 0 else status


def launch(command: Sequence[str], count: int) -> int:
    """Run a command in so many processes, and return the status with which all of them ended.

    Each is told its place as torchrun tells it, and leads a group of its own, so that Ctrl-C comes to it from here
    alone. What the command prints is what the processes print.

    Raises:
        ProcessLostError: One was killed, or ended as none of the others did.
    """
    place = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
        _LIFELINE: "1",
    }
    processes: list[_Process] = []
    with _forwarding_signals(processes) as forwarded, _ended(processes):
        for rank in map(str, range(count)):
            environment = os.environ | place | {"RANK": rank, "LOCAL_RANK": rank}
            processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True))
        return _common_status(_watch(processes), forwarded)


def follow_launcher() -> bool:
    """If our launcher started this process, take its end as SIGTERM, and tell so."""
    if os.environ.get(_LIFELINE) is None:
        return False

    def wait() -> None:
        while os.read(0, 1):  # nothing is written there: it ends with the launcher
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    return True


def _watch(processes: Sequence[_Process]) -> list[int]:
    """Wait until all have ended, those that go on after a failure for a while only, and return how they did."""
    deadline = None
    while True:
        statuses = [process.poll() for process in processes]  # of all, since only what is asked is known
        if None not in statuses or (deadline is not None and time.monotonic() > deadline):
            return [LOST if status is None else status for status in statuses]
        if deadline is None and any(statuses):
            deadline = time.monotonic() + GRACE
        time.sleep(_POLL)


def _common_status(statuses: Sequence[int], forwarded: set[int]) -> int:
    """Return the status in which all agree that were not carried along by others."""
    own = {status: rank for rank, status in reversed([*enumerate(statuses)]) if status != LOST}
    killed = min(own, default=LOST)
    if killed < 0:
        if -killed in forwarded:
            return 128 - killed
        raise ProcessLostError(own[killed], len(statuses), killed)
    failure = max(own, default=LOST)
    if LOST in statuses and failure < 128:  # above it are those that a signal asked to end
        raise ProcessLostError(own.get(failure, 0), len(statuses), failure)
    return failure


@contextmanager
def _forwarding_signals(processes: Sequence[_Process]) -> Iterator[set[int]]:
    """Pass SIGINT and SIGTERM on to all processes, which decide what becomes of it; yield those that were."""
    forwarded: set[int] = set()

    def forward(number: int, _: FrameType | None) -> None:
        forwarded.add(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield forwarded
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended(processes: Sequence[_Process]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
