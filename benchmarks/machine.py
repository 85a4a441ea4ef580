"""Description of the machine and the software of a measurement."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import blan_layers

ROOT = Path(__file__).resolve().parents[1]
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ALLOCATOR = re.compile(r"LD_PRELOAD|MALLOC_\w+|GLIBC_TUNABLES")
"""Environment variables that decide how tensors on the CPU get their memory."""


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine; runs are comparable if the descriptions are equal."""
    described: dict[str, Any] = {
        "cpu": _of_processor("model name") or platform.processor() or platform.machine(),
        "family": _of_processor("cpu family"),
        "model": _of_processor("model"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "caches": _caches(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1)}
    elif settings := sorted(f"{k}={v}" for k, v in os.environ.items() if ALLOCATOR.fullmatch(k) and v):
        described["allocator"] = " ".join(settings)
    return described


def name_of(described: dict[str, Any]) -> str:
    """Return the name of a machine's file, from its GPU, or from its CPU, threads and allocator."""
    title = title_of(described)
    digest = "" if title.isascii() else hashlib.sha256(title.encode()).hexdigest()[:8]
    return re.sub(r"[^a-z0-9]+", "-", f"{title} {digest}".lower()).strip("-")


def title_of(described: Mapping[str, Any]) -> str:
    """Return a readable name of a machine and, where they are set, of its allocator's settings."""
    return ", ".join(filter(None, [hardware_of(described), described.get("allocator")]))


def hardware_of(described: Mapping[str, Any]) -> str:
    """Return a readable name of a machine; generations of a CPU may share a name and differ in family and model."""
    if "gpu" in described:
        return str(described["gpu"])
    kind = f" (family {described['family']}, model {described['model']})" if described.get("family") else ""
    return f"{described['cpu']}{kind}, {described['threads']} threads"


def circumstances() -> dict[str, Any]:
    """Describe a run: date, commit, versions, and load of the machine before it."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!*.md")),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"blan-layers": blan_layers.__version__, "python": platform.python_version()}
        | {name: version for name in ("torch", "triton", "timm") if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _of_processor(key: str) -> str | None:
    """Return an entry of the first processor in Linux's /proc/cpuinfo, None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), None)


def _caches() -> dict[str, str]:
    """Return the size of each of a core's caches, if the system reports it."""
    found = {}
    for cache in sorted(CACHES.glob("index*")):
        try:
            level, kind, size = ((cache / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found
