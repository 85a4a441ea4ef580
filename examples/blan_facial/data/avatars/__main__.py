"""A process that draws every n-th face and writes each to its output: pixels, then labels.

It is a program of its own and no fork or spawned copy of its parent, so it neither inherits threads nor imports torch.
"""

import signal
import sys

from blan_facial.data.avatars.drawing import DRAWN


def main() -> None:
    """Draw the faces that the command line asks for: set, seed, split, image size, first and last index, step."""
    if hasattr(signal, "SIGPIPE"):  # end without a traceback when the parent is gone
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    seed, split, image_size, start, stop, step = map(int, sys.argv[2:])
    for image, labels in DRAWN[sys.argv[1]](seed, split, range(start, stop, step), image_size):
        sys.stdout.buffer.write(image.tobytes() + labels.tobytes())


if __name__ == "__main__":
    main()
