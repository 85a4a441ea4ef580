"""A memory of summaries: candidates from earlier batches."""

from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blan_layers._checks import said
from blan_layers._module import Module
from blan_layers._torch import backward_runs, transforms_active
from blan_layers.functional._tracing import whole

NO_GROUP = torch.iinfo(torch.int64).min
"""The group of a summary stored without one, which matches no other group."""


def check_first_run(state: str) -> None:
    """Refuse to read in a backward pass what the forward pass has already updated; a compiled call is not noticed."""
    if not torch.compiler.is_compiling() and backward_runs():
        raise RuntimeError(
            said(
                f"must run once per batch in training, since it updates its {state}, got a second run in the backward "
                "pass. Call it outside torch.utils.checkpoint."
            )
        )


def updated(state: str, update: Callable[[], object]) -> None:
    """Update state, or refuse where a ``torch.func`` transform is applied to the batch but not to the state."""
    if torch.compiler.is_compiling() or not transforms_active():
        update()
        return
    try:
        update()
    except RuntimeError as error:
        raise RuntimeError(
            said(
                f"cannot update its {state} in training from inside torch.func, got state outside the transform. "
                "Call eval() first, or compute the loss outside torch.func."
            )
        ) from error


class Remembered(NamedTuple):
    """Candidates.

    Attributes:
        summaries: Those of the call, then those of the queue: (N + size, channels).
        filled: Which entries of the queue contain a summary, (size,).
        groups: Group of each candidate, or None if the call had none.
    """

    summaries: Tensor
    filled: Tensor
    groups: Tensor | None


class SummaryQueue(Module):
    """The last ``size`` stored summaries, without gradient, and their groups; the oldest are replaced first.

    Its state is three buffers of fixed shape: ``stored`` (size, channels), ``seen``, the number of summaries ever
    stored, and ``groups`` (size,). It is read and written by calls, so that hooks which move its buffers run. An old
    state without groups loads with summaries that belong to no group.
    """

    stored: Tensor
    seen: Tensor
    groups: Tensor

    def __init__(
        self, size: int, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(size, channels, device=device, dtype=dtype))
        self.register_buffer("seen", torch.zeros((), device=device, dtype=torch.int64))
        self.register_buffer("groups", torch.full((size,), NO_GROUP, device=device, dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Empty the queue."""
        self.stored.zero_()
        self.seen.zero_()
        self.groups.fill_(NO_GROUP)

    def forward(self, summaries: Tensor, groups: Tensor | None = None, *, store: bool = False) -> Remembered:
        """Return summaries (N, channels) and their groups (N,), followed by those of the queue.

        With ``store`` they are stored (only the last ``size`` if there are more) and returned without those of the
        queue. In training, a second run by activation checkpointing is refused, as is a transform of ``torch.func``.
        """
        if self.training:
            check_first_run("queue")
        candidates, all_groups = summaries, groups
        if store:
            updated("queue", lambda: self._push(summaries, groups))
        else:
            candidates = torch.cat([summaries, self.stored.to(summaries.dtype)])
            all_groups = _joined(groups, self.groups)
        filled = torch.arange(self.stored.shape[0], device=self.stored.device) < self.seen
        return Remembered(candidates, filled, all_groups)

    @torch.no_grad()
    def _push(self, summaries: Tensor, groups: Tensor | None) -> None:
        count, size = summaries.shape[0], self.stored.shape[0]
        latest = summaries[max(0, count - size) :]
        first = self.seen + count - latest.shape[0]
        places = (first + torch.arange(latest.shape[0], device=self.stored.device)) % size
        self.stored.index_copy_(0, places, latest.to(self.stored.dtype))
        self.groups.index_copy_(0, places, _numbers(groups, summaries)[max(0, count - size) :])
        self.seen += count

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Any], prefix: str, *others: Any) -> None:
        if isinstance(stored := state_dict.get(f"{prefix}stored"), Tensor):  # else nothing of a queue is loaded
            groups = torch.full(self.groups.shape, NO_GROUP, device=stored.device)
            state_dict.setdefault(f"{prefix}groups", groups)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"size={self.stored.shape[0]}, channels={self.stored.shape[1]}"


@whole
def all_but_last(groups: Tensor | None, count: int) -> Tensor | None:
    """Return groups without the last ``count``, or None without groups."""
    return None if groups is None else groups[:-count]


@whole
def _joined(groups: Tensor | None, stored: Tensor) -> Tensor | None:
    return None if groups is None else torch.cat([groups, stored])


@whole
def _numbers(groups: Tensor | None, summaries: Tensor) -> Tensor:
    """Return the group of each summary in the form in which it is stored."""
    if groups is None:
        return torch.full(summaries.shape[:1], NO_GROUP, device=summaries.device)
    return groups
