"""Settings and environment of a run, prepared for the page."""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from blan_facial.config import PRESETS, RESUMABLE

PROGRAM = "python examples/blan_facial/train.py"

# Settings that do not affect the results, but are needed to repeat a run.
_REPEATED = frozenset(
    {
        *("data_root", "image_folder", "labels", "columns", "unknown", "attributes"),
        *("max_steps", "extend", "skip_corrupt"),
    }
)

_ONCE = frozenset({"output", "resume", "overwrite"})  # settings of a session, not of the run

NAMES = {"time": "tested at", "python": "Python", "cuda": "CUDA"}
"""Entries of ``environment.json`` with other names on the page."""


class Setting(NamedTuple):
    """A setting, compared with the preset."""

    name: str
    value: str
    preset: str | None
    """The preset's value if it differs."""


def settings(config: Mapping[str, Any]) -> list[Setting]:
    """Return all settings, by the names of their options."""
    differing, preset = changed(config), PRESETS.get(str(config.get("preset")))
    usual = {} if preset is None else preset.as_json()
    return [
        Setting(name.replace("_", "-"), _written(value), _written(usual[name]) if name in differing else None)
        for name, value in config.items()
        if name not in _ONCE
    ]


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the preset and are needed to repeat the run."""
    preset = PRESETS.get(str(config.get("preset")))
    usual = {} if preset is None else preset.as_json()
    left_out = {"preset"} | RESUMABLE - _REPEATED
    return {name: value for name, value in config.items() if name in usual.keys() - left_out and value != usual[name]}


def command(config: Mapping[str, Any]) -> str:
    """Return the command that repeats a run."""
    words = ["--preset", str(config.get("preset"))]
    for name, value in changed(config).items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return f"{PROGRAM} {shlex.join(words)}"


def environment(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the entries of the environment of a run."""
    entries = found | found.get("packages", {})
    return [
        (NAMES.get(name, name), _written(value))
        for name, value in entries.items()
        if name != "packages" and value is not None
    ]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
