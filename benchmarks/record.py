"""The results of a machine: one JSON file, a part of it for each suite."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def merge(path: Path, machine: Mapping[str, Any], run: Mapping[str, Any], suites: Mapping[str, Sequence[Any]]) -> None:
    """Put the results of suites in the place of those that the file held, and keep its other suites.

    Raises:
        ValueError: The file holds results of another machine.
    """
    content = load(path) if path.exists() else {"machine": dict(machine), "suites": {}}
    if content["machine"] != dict(machine):
        raise ValueError(
            f"run: {path} must hold results of this machine, got those of {content['machine']}. Pass another --output."
        )
    content["suites"] |= {name: {"run": dict(run), "cases": list(cases)} for name, cases in suites.items()}
    write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place first, then in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
