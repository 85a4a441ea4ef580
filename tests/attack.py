"""Attack the example on demand and print what held: ``python -m tests.attack [pytest options]``.

The table is the tests that carry ``@pytest.mark.attack(row, what)``, one line for each. A row is an issue's number and
the item in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

_ROOT = Path(__file__).resolve().parents[1]
_HELD = {
    "passed": Text("held", "green"),
    "failed": Text("not held", "bold red"),
    "skipped": Text("not tried", "yellow"),
}


class _Attacks:
    """Chooses the attacks among all tests, and keeps how they ended."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str]] = {}
        self.ends: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        marked = {item.nodeid: item.get_closest_marker("attack") for item in items}
        self.rows = {name: mark.args for name, mark in marked.items() if mark is not None}
        items[:] = [item for item in items if item.nodeid in self.rows]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed" or report.when == "call":
            self.ends[report.nodeid] = report.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks, print the table, and return 1 unless all that were tried held."""
    attacks, console = _Attacks(), Console()
    options = list(sys.argv[1:] if arguments is None else arguments)
    status = pytest.main(["-q", "-p", "no:xdist", str(_ROOT / "tests"), *options], plugins=[attacks])
    table = Table("row", "what was done", "test", "held")
    for name, (row, done) in sorted(attacks.rows.items(), key=lambda item: item[1]):
        end = attacks.ends.get(name, "skipped")
        table.add_row(row, Text(done), Text(name.rpartition("::")[2]), _HELD[end])
    console.print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
