"""Drawing many faces in parallel processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, cast

import numpy as np

from blan_facial.data.avatars.design import ATTRIBUTES
from blan_facial.data.avatars.render import stream

Progress = Callable[[int, int], None]

_IMPORT_ROOT: Final = Path(__file__).parents[3]
_FACES_PER_WORKER: Final = 50  # fewer are drawn sooner than a process starts


def draw_faces(
    count: int, *, seed: int, split: int, image_size: int, workers: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first faces of a split; the result is the same for any number of workers.

    Args:
        count: Number of faces n.
        seed: Seed of the data set.
        split: Number of the split.
        image_size: Side of the images in pixels.
        workers: Processes at most; one draws in this process.
        progress: Called with the number of faces drawn and `count` after each face.

    Returns:
        Images uint8 (n, image_size, image_size, 3) and labels uint8 (n, N).

    Raises:
        RuntimeError: A worker ended early.
    """
    shape = (image_size, image_size, 3)
    images = np.empty((count, *shape), np.uint8)
    labels = np.empty((count, len(ATTRIBUTES)), np.uint8)
    workers = max(1, min(workers, count // _FACES_PER_WORKER))
    with ExitStack() as stack:
        if workers == 1:
            faces = stream(seed, split, range(count), image_size)
        else:
            pipes = [
                stack.enter_context(_Worker(seed, split, image_size, start, count, workers)) for start in range(workers)
            ]
            faces = (_receive(pipes[index % workers], shape) for index in range(count))
        for index, (image, attributes) in enumerate(faces):
            images[index], labels[index] = image, attributes
            if progress:
                progress(index + 1, count)
    return images, labels


class _Worker:
    """The output of a process that draws; the process ends with the context."""

    def __init__(self, *arguments: int) -> None:
        path = os.pathsep.join(filter(None, (str(_IMPORT_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __package__, *map(str, arguments)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )

    def __enter__(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdout)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _receive(pipe: IO[bytes], shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    size = int(np.prod(shape))
    data = pipe.read(size + len(ATTRIBUTES))
    if len(data) < size + len(ATTRIBUTES):
        raise RuntimeError(
            f"load_avatars: a drawing process must send {size + len(ATTRIBUTES)} bytes a face, got {len(data)} before "
            "it ended. Its own error stands above; workers=1 draws without processes."
        )
    face = np.frombuffer(data, np.uint8)
    return face[:size].reshape(shape), face[size:]
