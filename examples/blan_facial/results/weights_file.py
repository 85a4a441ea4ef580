"""``model.safetensors``: the inference weights, the scaling, the thresholds, and a digest of everything."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blan_facial.training.checkpoint import RunError
from blan_facial.training.scaling import Scaling
from shared.files import replacing

WEIGHTS = "model.safetensors"

_ENTRY = "blan"  # a single metadata entry, since safetensors writes several in any order


def write_weights(
    path: Path, model: nn.Module, scaling: Scaling | None, thresholds: Sequence[float] | None = None
) -> None:
    """Write the weights with their scaling and thresholds."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    entry: dict[str, object] = {
        "sha256": _digest(weights, scaling, thresholds),
        "scaling": None if scaling is None else scaling._asdict(),
    }
    if thresholds is not None:
        entry["thresholds"] = list(thresholds)
    with replacing(path) as file:
        file.write(save(weights, {_ENTRY: json.dumps(entry)}))


def file_digest(folder: Path) -> str:
    """Return a digest of the weights file of a run, which differs for other weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], Scaling | None, tuple[float, ...] | None]:
    """Return weights, scaling and thresholds; a file of another program, without a digest, is not verified.

    Raises:
        RunError: The file is missing or has been damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if strange := set(metadata) - {_ENTRY, "format"}:
                raise ValueError(f"metadata called {min(strange)!r}")
            entry = json.loads(metadata.get(_ENTRY, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        written = entry.get("sha256")
        scaling = None if (fitted := entry.get("scaling")) is None else _scaling(**fitted)
        thresholds = None if (cuts := entry.get("thresholds")) is None else tuple(map(float, cuts))
        if thresholds is not None and not all(map(math.isfinite, thresholds)):
            raise ValueError("thresholds that are not finite")
        found = _digest(weights, scaling, thresholds)
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent}: must be a finished run, got no {path.name} in it. Finish it with train.py --resume."
        ) from error
    except (SafetensorError, OSError, AttributeError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{path}: must be a whole safetensors file, got {error}. Copy it again.") from error
    if entry.get("temperature") is not None:
        raise RunError(
            f"{path}: must contain a scale and a shift for each attribute, got the single temperature of an older "
            "version. Train the run again, or use the version that wrote it."
        )
    if written not in (None, found):
        raise RunError(
            f"{path}: must have the SHA-256 {written} with which it was written, got {found}. Copy it again."
        )
    return weights, scaling, thresholds


def _scaling(scale: Sequence[float], shift: Sequence[float], images: int) -> Scaling:
    found = Scaling(tuple(map(float, scale)), tuple(map(float, shift)), images)
    if not all(map(math.isfinite, found.scale + found.shift)) or not all(value > 0 for value in found.scale):
        raise ValueError("a scaling that is not finite, or not positive")
    return found


def _digest(weights: Mapping[str, Tensor], scaling: Scaling | None, thresholds: Sequence[float] | None) -> str:
    digest = hashlib.sha256(repr(scaling).encode())
    if thresholds is not None:  # older files have none
        digest.update(repr(list(thresholds)).encode())
    for name in sorted(weights):
        digest.update(save({name: weights[name].cpu()}))  # with dtype and shape
    return digest.hexdigest()
