"""``model.safetensors``: the weights of inference, the temperature, the thresholds, and a digest of all."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from blan_facial.training.checkpoint import RunError
from blan_facial.training.temperature import Temperature
from shared.files import replacing

WEIGHTS = "model.safetensors"

_ENTRY = "blan"  # the one of the metadata, as safetensors writes several in any order


def write_weights(
    path: Path, model: nn.Module, temperature: Temperature | None, thresholds: Sequence[float] | None = None
) -> None:
    """Write the weights, and the temperature and thresholds that were fitted to them."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    entry: dict[str, object] = {
        "sha256": _digest(weights, temperature, thresholds),
        "temperature": None if temperature is None else temperature._asdict(),
    }
    if thresholds is not None:
        entry["thresholds"] = list(thresholds)
    with replacing(path) as file:
        file.write(save(weights, {_ENTRY: json.dumps(entry)}))


def read_weights(path: Path) -> tuple[dict[str, Tensor], Temperature | None, tuple[float, ...] | None]:
    """Return weights, temperature and thresholds; a file of another program has no digest, and is taken as it is.

    Raises:
        RunError: There is no such file, or it is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if strange := set(metadata) - {_ENTRY, "format"}:
                raise ValueError(f"metadata called {min(strange)!r}")
            entry = json.loads(metadata.get(_ENTRY, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        written, temperature = entry.get("sha256"), entry.get("temperature")
        temperature = None if temperature is None else Temperature(**temperature)
        thresholds = None if (cuts := entry.get("thresholds")) is None else tuple(map(float, cuts))
        if thresholds is not None and not all(map(math.isfinite, thresholds)):
            raise ValueError("thresholds that are not finite")
        found = _digest(weights, temperature, thresholds)
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent}: must be a finished run, got no {path.name} in it. Finish it by train.py --resume."
        ) from error
    except (SafetensorError, OSError, AttributeError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise RunError(f"{path}: must be a whole safetensors file, got {error}. Copy it again.") from error
    if written not in (None, found):
        raise RunError(
            f"{path}: must have the SHA-256 that it was written with, {written}, got {found}. Copy it again."
        )
    return weights, temperature, thresholds


def _digest(weights: Mapping[str, Tensor], temperature: Temperature | None, thresholds: Sequence[float] | None) -> str:
    digest = hashlib.sha256(repr(temperature).encode())
    if thresholds is not None:  # which older files have not
        digest.update(repr(list(thresholds)).encode())
    for name in sorted(weights):
        digest.update(save({name: weights[name].cpu()}))  # with dtype and shape
    return digest.hexdigest()
