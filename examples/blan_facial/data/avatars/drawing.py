"""Drawing many faces in parallel processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

import numpy as np

from blan_facial.data.avatars.design import ATTRIBUTES
from blan_facial.data.avatars.hard import hard_stream
from blan_facial.data.avatars.render import stream

Progress = Callable[[int, int], None]
Drawn = Literal["avatars", "avatars-hard"]
_Face: TypeAlias = tuple[np.ndarray, np.ndarray]

DRAWN: Final = {"avatars": stream, "avatars-hard": hard_stream}
"""What draws the faces of each set."""

FACES_PER_WORKER: Final = 50
"""Fewer are drawn sooner than a process starts."""

_IMPORT_ROOT: Final = Path(__file__).parents[3]


def draw_faces(
    count: int,
    *,
    seed: int,
    split: int,
    image_size: int,
    workers: int,
    progress: Progress | None = None,
    drawn_as: Drawn = "avatars",
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first faces of a split; the result is the same for any number of workers.

    The processes are programs of their own (`__main__`): they inherit no threads, import no torch, and do not run the
    user's script again, which multiprocessing's would where it has no `__main__` guard.

    Args:
        count: Number of faces n.
        seed: Seed of the data set.
        split: Number of the split.
        image_size: Side of the images in pixels.
        workers: Processes at most; one draws in this process.
        progress: Called with the number of faces drawn and `count` for each face.
        drawn_as: The set that the faces are of.

    Returns:
        Images uint8 (n, image_size, image_size, 3) and labels uint8 (n, N).

    Raises:
        RuntimeError: A process ended early.
    """
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    labels = np.empty((count, len(ATTRIBUTES)), np.uint8)
    for index, face in enumerate(_draw_all(drawn_as, seed, split, count, image_size, workers)):
        images[index], labels[index] = face
        if progress:
            progress(index + 1, count)
    return images, labels


def _draw_all(drawn_as: Drawn, seed: int, split: int, count: int, image_size: int, workers: int) -> Iterator[_Face]:
    """Yield the faces in their order."""
    workers = min(workers, count // FACES_PER_WORKER)
    if workers < 2:
        yield from DRAWN[drawn_as](seed, split, range(count), image_size)
        return
    shape = (image_size, image_size, 3)
    with ExitStack() as stack:
        pipes = [
            stack.enter_context(_worker(drawn_as, seed, split, image_size, start, count, workers))
            for start in range(workers)
        ]
        for index in range(count):
            yield _receive(pipes[index % workers], shape)


@contextmanager
def _worker(*arguments: str | int) -> Iterator[IO[bytes]]:
    """Give the output of a process that draws; it ends with the context.

    It has a session of its own, so that a terminal's interrupt is for this process alone, which then ends it.
    """
    path = os.pathsep.join(filter(None, (str(_IMPORT_ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __package__, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout
        finally:
            process.kill()


def _receive(pipe: IO[bytes], shape: tuple[int, int, int]) -> _Face:
    size = int(np.prod(shape))
    data = pipe.read(size + len(ATTRIBUTES))
    if len(data) < size + len(ATTRIBUTES):
        raise RuntimeError(
            f"load_avatars: a drawing process must send {size + len(ATTRIBUTES)} bytes per face, got {len(data)} "
            "before it ended. Its own error is above; workers=1 draws without processes."
        )
    face = np.frombuffer(data, np.uint8)
    return face[:size].reshape(shape), face[size:]
