"""A finished run, rebuilt from its ``config.json`` and ``model.safetensors``; nothing is unpickled."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blan_facial.config import Config
from blan_facial.network.builder import build
from blan_facial.network.model import Network
from blan_facial.network.parameters import ParameterTable, parameter_table
from blan_facial.network.weights import fault_of
from blan_facial.results.run_folder import CONFIG, read_settings
from blan_facial.results.weights_file import WEIGHTS, read_weights
from blan_facial.training.checkpoint import RunError
from blan_facial.training.scaling import Scaling, scaled

_DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_)


class FinishedRun(NamedTuple):
    """A finished run: its model, settings and calibration."""

    folder: Path
    config: Config
    attributes: tuple[str, ...]
    """The N attributes, in the order of the model's scores."""
    model: Network
    """The trained model, on the CPU, in evaluation mode."""
    parameters: ParameterTable
    """Parameter counts for inference and for training."""
    scaling: Scaling | None
    """Calibration of the log-odds; None for an uncalibrated run."""
    thresholds: tuple[float, ...] | None
    """The uncalibrated log-odds above which each attribute is predicted; None for a run without fitted thresholds."""

    @property
    def probabilities(self) -> tuple[float, ...] | float:
        """The probabilities, calibrated like the run's, above which attributes are predicted."""
        if self.thresholds is None:
            return 0.5
        cuts = torch.tensor(self.thresholds, dtype=torch.float64)
        return tuple(scaled(cuts, self.scaling).sigmoid().tolist())


def load_run(folder: Path) -> FinishedRun:
    """Rebuild the model of a run, without drawing initial weights.

    Args:
        folder: The run's output folder.

    Raises:
        RunError: The folder does not contain a finished run, or its files do not match each other.
    """
    settings, attributes = read_settings(folder)
    try:
        config = dataclasses.replace(Config.from_json(settings), attributes=attributes)
        config.check()
        with _NothingDrawn(), torch.random.fork_rng(devices=[]):
            model, objective = build(config, attributes)
    except (ValueError, RuntimeError, MemoryError) as error:  # the last two if memory is lacking
        raise RunError(f"{folder / CONFIG}: must contain valid settings of a run, got an error: {error}") from error
    own = model.state_dict()
    weights, scaling, thresholds = read_weights(folder / WEIGHTS)
    fitted = {} if thresholds is None else {"threshold": thresholds}
    fitted |= {} if scaling is None else {"scale": scaling.scale, "shift": scaling.shift}
    for name, values in fitted.items():
        if len(values) != len(attributes):
            raise RunError(
                f"{folder / WEIGHTS}: must contain a {name} for each of {len(attributes)} attributes, got "
                f"{len(values)}. Use {CONFIG} and {WEIGHTS} of the same run."
            )
    _check_weights(folder / WEIGHTS, weights, own)
    model.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    # The same layout as in training, so that the scores are bitwise identical.
    model.eval().to(memory_format=model.encoder.memory_format)  # type: ignore[call-overload]  # torch types Module.to without it
    return FinishedRun(folder, config, attributes, model, parameter_table(model, objective), scaling, thresholds)


class _NothingDrawn(TorchFunctionMode):
    """Skips the initialisation of weights in constructors, since weights from a file replace them."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def _check_weights(path: Path, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    remedy = f"Use {CONFIG} and {path.name} of the same run."
    for name in own:
        if name not in weights:
            raise RunError(f"{path}: must contain all weights of the model in {CONFIG}, got none for {name}. {remedy}")
    if unknown := sorted(set(weights) - set(own)):
        raise RunError(f"{path}: must contain only weights of the model in {CONFIG}, got {unknown[0]} too. {remedy}")
    if fault := fault_of(weights, own, exact=True):
        raise RunError(f"{path}: {fault.rule}, got {fault.got}. {remedy}")
