"""Which image's summary each map is paired with to make a fake pair."""

import torch
from torch import Tensor


def shifted_indices(batch: int, device: torch.device, *, random: bool) -> Tensor:
    """Return a cyclic shift of 0 .. batch - 1 that leaves none of them in place.

    The shift is one, or, if ``random``, drawn uniformly from 1 .. batch - 1 by the device's default generator. It
    stays a tensor, so that the device is never waited for.
    """
    shift = torch.randint(1, batch, (), device=device) if random else 1
    return (torch.arange(batch, device=device) + shift) % batch
