"""The results of a machine: a JSON file with a section per suite."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"


class RecordError(ValueError):
    """A file that cannot store the results."""


def load(path: Path) -> dict[str, Any]:
    """Return the content of a file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def merge(path: Path, machine: Mapping[str, Any], run: Mapping[str, Any], suite: str, cases: Sequence[Any]) -> None:
    """Replace the results of a suite in a file, and keep the other suites.

    Raises:
        RecordError: The file contains results of another machine.
    """
    content = load(path) if path.exists() else {"machine": dict(machine), "suites": {}}
    if content["machine"] != dict(machine):
        raise RecordError(
            f"run: {path} must contain results of this machine, {dict(machine)}, got those of {content['machine']}. "
            "Pass another --output."
        )
    content["suites"][suite] = {"run": dict(run), "cases": list(cases)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
