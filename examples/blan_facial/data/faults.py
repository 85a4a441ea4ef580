"""Collects all mistakes of a file in one message."""

from pathlib import Path

from blan_facial.data.faces import DataError

_MOST = 20
"""Maximum number of kinds of mistakes in a message; reading stops at five times as many."""


class Faults:
    """Collects the mistakes of a file; violations of the same rule in several lines count as one.

    Args:
        path: The file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, list[str]] = {}

    def add(self, fault: str, place: str = "") -> None:
        """Add a mistake (rule, value and remedy) and its place in the file.

        Raises:
            DataError: There are too many mistakes to continue reading.
        """
        self._places.setdefault(fault, []).append(place)
        if len(self._places) >= 5 * _MOST:
            self.refuse()

    def refuse(self) -> None:
        """Refuse the file if it has mistakes.

        Raises:
            DataError: There are mistakes.
        """
        if not self._places:
            return
        told = [f"{_where(places)}: {fault}" for fault, places in list(self._places.items())[:_MOST]]
        if len(self._places) == 1:
            raise DataError(f"{self.path}{told[0]}")
        more = len(self._places) - _MOST
        lines = [line.removeprefix(", ").removeprefix(": ") for line in told] + [f"and {more} more"] * (more > 0)
        raise DataError(f"{self.path}: {len(self._places)} mistakes must be corrected:\n  " + "\n  ".join(lines))


def _where(places: list[str]) -> str:
    first = places[0]
    if not first:
        return ""
    others = len(places) - 1
    return f", {first}" + (f" and {others} other{'s' * (others != 1)}" if others else "")
