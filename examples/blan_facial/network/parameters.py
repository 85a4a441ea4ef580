"""The number of parameters of each part of a network."""

from typing import NamedTuple

from torch import nn

from blan_facial.network.model import BLAN, Network

PAPER_PARAMETERS = 38_340_000
PAPER_NOTE = (
    "The paper's Table 10 gives 38.34 M parameters. Its layer tables (1 and 2) give 41.1 M with 1x1 and 42.5 M with "
    "3x3 convolutions in RDAM, without the critics, which only training needs. This model follows the layer tables."
)


class ParameterTable(NamedTuple):
    """Parameters of a model, part by part."""

    rows: tuple[tuple[str, int], ...]
    """(part, number of parameters) of each part."""
    inference: int
    """Parameters of the model itself."""
    training: int
    """Parameters of the model and of the objective's critics."""
    paper: int | None = PAPER_PARAMETERS
    """The paper's number in Table 10; None for a model other than BLAN."""
    note: str = PAPER_NOTE
    """An explanation of the difference."""


def parameter_table(model: Network, objective: nn.Module | None = None) -> ParameterTable:
    """Count the parameters of each part, including the critics if the objective is given."""
    counts = {name: _count(part) for name, part in model.named_children()}
    if objective is not None:
        counts["critics (training only)"] = _count(objective)
    blan = isinstance(model, BLAN)
    return ParameterTable(
        rows=tuple((part, count) for part, count in counts.items() if count),
        inference=_count(model),
        training=sum(counts.values()),
        paper=PAPER_PARAMETERS if blan else None,
        note=PAPER_NOTE if blan else "",
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
