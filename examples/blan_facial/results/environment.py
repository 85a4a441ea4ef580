"""The environment of a run: versions, device and commit, stored with its results."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("blan-layers", "torch", "lightning", "numpy", "triton", "torchmetrics", "pillow")
"""The packages that affect a run's results or its speed."""


def environment(device: torch.device | str) -> dict[str, Any]:
    """Describe this process in JSON types.

    Args:
        device: Device of the run.
    """
    device = torch.device(device)
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }


def cores() -> int:
    """Return the number of cores that this process may use; on macOS, the number of cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit(folder: Path) -> str | None:
    """Return the commit of a folder's files, with a ``+`` if they have been changed; None outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
