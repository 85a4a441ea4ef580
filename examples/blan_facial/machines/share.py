"""The part of the work that one process has."""

from typing import NamedTuple


class Share(NamedTuple):
    """Which of several processes loads."""

    rank: int = 0
    processes: int = 1


WHOLE = Share()
"""All of it."""
