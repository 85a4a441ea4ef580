"""The results of a machine: a JSON file with a section per suite."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files import make_parent, write_json
from shared.program import UserError

RESULTS = Path(__file__).resolve().parent / "results"


class RecordError(UserError):
    """A file that cannot store the results, or contains something else."""


def no_results(path: Path, found: object) -> RecordError:
    """Return the error for a file with other content than run.py writes."""
    return RecordError(
        f"{path}: must contain results that run.py wrote, got {found}. Restore it, or remove it and measure again."
    )


def load(path: Path) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        RecordError: The file does not contain results.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter for deep nesting
        raise no_results(path, error) from error
    if not isinstance(content, dict):
        raise no_results(path, f"a {type(content).__name__}")
    for name in ("machine", "suites"):
        if not isinstance(content.get(name), dict):
            raise no_results(path, f"{content.get(name)!r} as {name}")
    return content


def prepared(path: Path, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file to which results of a machine are to be written; without a file, no results.

    Raises:
        RecordError: The file contains results of another machine, or something else.
        OSError: The file cannot be written.
    """
    make_parent(path)
    content = load(path) if path.is_file() else {"machine": dict(machine), "suites": {}}
    if content["machine"] != dict(machine):
        raise RecordError(
            f"run: {path} must contain results of this machine, {dict(machine)}, got those of {content['machine']}. "
            "Pass another --output."
        )
    return content


def merge(path: Path, machine: Mapping[str, Any], run: Mapping[str, Any], suite: str, cases: Sequence[Any]) -> None:
    """Replace the results of a suite in a file, and keep the other suites.

    Raises:
        RecordError: The file contains results of another machine, or something else.
        OSError: The file cannot be written.
    """
    content = prepared(path, machine)
    content["suites"][suite] = {"run": dict(run), "cases": list(cases)}
    write_json(path, content)
