"""Peak memory of a step in its own process: ``python -m benchmarks.memory SUITE LABEL CONTENDER DEVICE``.

On a CPU this is the peak resident size that Linux records, which is reset before the step. The allocator is set to
return freed memory to the system at once, since the peak would otherwise include it. On CUDA it is the peak of the
allocator.
"""

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PROCESS = Path("/proc/self")
GIVES_BACK = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MEBIBYTE = 2**20


def peak_of(step: Callable[[], object], device: torch.device) -> dict[str, float | str]:
    """Return the memory before a step and at its peak, in MiB, and the method of measurement.

    A first step loads libraries and fills their caches. If the recorded peak cannot be reset, there is no first step.
    """
    if device.type == "cuda":
        step()
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return _in_mebibytes(before, torch.cuda.max_memory_allocated(device), "allocator")
    if not _resets_mark():
        before = _largest_so_far()
        step()
        return _in_mebibytes(before, _largest_so_far(), "getrusage")
    step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _resets_mark()
    before = _status("VmRSS")
    step()
    return _in_mebibytes(before, _status("VmHWM"), "VmHWM")


def peak_in_a_process(suite: str, label: str, contender: str, device: torch.device) -> dict[str, float | str]:
    """Measure a contender of a case in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", suite, label, contender, str(device)]
    paths = [str(ROOT), str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **GIVES_BACK, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])  # libraries may print as well
    return measured


def _in_mebibytes(before: int, peak: int, method: str) -> dict[str, float | str]:
    return {"before": before / MEBIBYTE, "peak": peak / MEBIBYTE, "method": method}


def _resets_mark() -> bool:
    """Reset the recorded peak resident size to the current size; return whether the system allows it."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _largest_so_far() -> int:
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


if __name__ == "__main__":
    from benchmarks.suites import contender_of

    suite, label, name, device = sys.argv[1:]
    chosen = contender_of(suite, label, name, torch.device(device))
    sys.stdout.write(f"\n{json.dumps(peak_of(chosen.step, torch.device(device)))}\n")
