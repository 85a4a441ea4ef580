"""The figures that the paper reports, read from one file."""

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("published.json")


@cache
def published() -> dict[tuple[str, str, str], float | str]:
    """Return every published value by (table, row, column)."""
    values = json.loads(FILE.read_text(encoding="utf-8"))["values"]
    return {(value["table"], value["row"], value["column"]): value["value"] for value in values}
