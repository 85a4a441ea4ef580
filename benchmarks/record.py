"""The results of a machine: one JSON file, a part of it for each suite."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"


class RecordError(ValueError):
    """A file that cannot take the results."""


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def merge(path: Path, machine: Mapping[str, Any], run: Mapping[str, Any], suite: str, cases: Sequence[Any]) -> None:
    """Put the results of a suite in the place of those that the file held, and keep its other suites.

    Raises:
        RecordError: The file holds results of another machine.
    """
    content = load(path) if path.exists() else {"machine": dict(machine), "suites": {}}
    if content["machine"] != dict(machine):
        raise RecordError(
            f"run: {path} must hold results of this machine, {dict(machine)}, got those of {content['machine']}. "
            "Pass another --output."
        )
    content["suites"][suite] = {"run": dict(run), "cases": list(cases)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
