"""A memory of summaries: candidates from earlier batches."""

import torch
from torch import Tensor

from blan_layers._module import Module


class SummaryQueue(Module):
    """The last ``size`` summaries that came in, without gradient; the oldest go first.

    Its state is two buffers of fixed shape: ``stored`` (size, channels) and ``seen``, how many ever came in. It is read
    and written by calls, so that who moves its buffers about is told.
    """

    stored: Tensor
    seen: Tensor

    def __init__(
        self, size: int, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("stored", torch.zeros(size, channels, device=device, dtype=dtype))
        self.register_buffer("seen", torch.zeros((), device=device, dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Forget all."""
        self.stored.zero_()
        self.seen.zero_()

    def forward(self, summaries: Tensor, *, store: bool = False) -> tuple[Tensor, Tensor]:
        """Return summaries (N, channels) with those of the queue behind them, and which places hold one, (size,).

        With ``store`` the summaries are taken in, the last of more than there is room for, and returned alone.
        """
        candidates = summaries
        if store:
            self._push(summaries)
        else:
            candidates = torch.cat([summaries, self.stored.to(summaries.dtype)])
        return candidates, torch.arange(self.stored.shape[0], device=self.stored.device) < self.seen

    @torch.no_grad()
    def _push(self, summaries: Tensor) -> None:
        count, size = summaries.shape[0], self.stored.shape[0]
        latest = summaries[max(0, count - size) :]
        first = self.seen + count - latest.shape[0]
        places = (first + torch.arange(latest.shape[0], device=self.stored.device)) % size
        self.stored.index_copy_(0, places, latest.to(self.stored.dtype))
        self.seen += count

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"size={self.stored.shape[0]}, channels={self.stored.shape[1]}"
