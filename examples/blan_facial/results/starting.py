"""Initialising a run from the weights of a finished run."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from blan_facial.config import Config
from blan_facial.network.model import Network
from blan_facial.network.weights import fault_of
from blan_facial.results.finished import FinishedRun
from blan_facial.training.checkpoint import RunError

_COMPUTING = (
    *("model", "width", "blocks", "summary_channels", "arrangement", "rdam_norm"),
    *("decoder", "encoder_features", "decoder_order", "join", "fusion"),
)
"""The settings that affect the set of weights or their use."""

_OF_SCORES = re.compile(r"classifiers\.\d+\.(fc2\.)?(weight|bias)")
"""The layers that output two scores per attribute."""


def start_from(run: FinishedRun, model: Network, attributes: Sequence[str], config: Config) -> str:
    """Initialise a model with the weights of a finished run, and return a sentence that says so.

    Args:
        run: The run.
        model: The network to initialise.
        attributes: Attributes to learn: all or some of the run's, in any order.
        config: Settings of the new run.

    Raises:
        RunError: The run has another network or lacks an attribute.
    """
    folder = run.folder
    if lacking := [name for name in attributes if name not in run.attributes]:
        raise RunError(
            f"train: --init-from needs a run with the same attributes, got none called {', '.join(lacking)} in "
            f"{folder}. Choose some of its attributes with --attributes: {', '.join(run.attributes)}."
        )
    places = [run.attributes.index(name) for name in attributes]
    alike = tuple(attributes) == run.attributes
    if config.model == "mcnn" and not alike:
        raise RunError(
            f"train: --init-from needs an MCNN run with the same attributes, since its branches depend on them, got "
            f"{len(run.attributes)} in {folder}. Learn all of them."
        )
    weights = {name: _chosen(name, value, places, len(run.attributes)) for name, value in _state(run.model).items()}
    own = _state(model)
    others = sorted(set(weights) ^ set(own))
    fault = None if others else fault_of(weights, own, exact=True)
    differing = [name for name in _COMPUTING if getattr(config, name) != getattr(run.config, name)]
    if others or fault or differing:
        if config.image_size != run.config.image_size:  # not all networks depend on it
            differing.append("image_size")
        listed = ", ".join(f"{name} {getattr(run.config, name)} (here {getattr(config, name)})" for name in differing)
        raise RunError(
            f"train: --init-from needs a run of the same network, got another in {folder}: "
            f"{listed or others or fault}. Repeat that run's options."
        )
    model.load_state_dict(weights)
    of = "all" if alike else f"{len(attributes)} of its {len(run.attributes)}"
    return (
        f"The network starts from the weights of {folder}, including the scores of {of} attributes. Critics, "
        "optimisers and the learning rate start from scratch."
    )


def _state(model: Network) -> dict[str, Tensor]:
    return dict(model.state_dict())


def _chosen(name: str, value: Tensor, places: Sequence[int], count: int) -> Tensor:
    """Return the part of a weight that belongs to the chosen attributes."""
    chosen = torch.tensor(places)
    if name == "fusion.weight":
        return value[:, chosen]
    if _OF_SCORES.fullmatch(name) and len(value) == 2 * count:
        return value.unflatten(0, (count, 2))[chosen].flatten(0, 1)
    return value
