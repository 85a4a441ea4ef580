"""The share of the work of one process."""

from typing import NamedTuple


class Share(NamedTuple):
    """Rank of a process, and the number of processes that share the data."""

    rank: int = 0
    processes: int = 1


WHOLE = Share()
"""The share of a single process: everything."""
