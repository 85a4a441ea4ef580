"""The LMIM loss against the literal concatenation of both pairs."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.contest import TOLERANCES, Case, Contest, Floor, contender
from blan_layers import LMIMLoss

SIZES = ((64, 64), (128, 32), (256, 16), (512, 8))
"""(C, side of the map)"""

WIDTH = 512
"""Of the critic's hidden layers and of the summaries."""


def cases(device: torch.device) -> Iterator[Case]:
    """Yield every size, eager and compiled, and the largest map once more, for its memory, in a larger batch."""
    cuda = device.type == "cuda"
    batch = 64 if cuda else 8
    for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
        for compiled in (False, True):
            for channels, side in SIZES:
                made = partial(lmim, batch=batch, channels=channels, side=side, device=device)
                yield Case("LMIM loss", _size(batch, channels, side), True, compiled, made, dtype)
    if not cuda:
        channels, side = SIZES[0]
        made = partial(lmim, batch=16, channels=channels, side=side, device=device)
        yield Case("LMIM loss", _size(16, channels, side), True, False, made, timed=False)


def _size(batch: int, channels: int, side: int) -> str:
    return f"({batch}, {channels}, {side}x{side})"


def lmim(case: Case, batch: int, channels: int, side: int, device: torch.device) -> Contest:
    """The loss of maps and their summaries, its negatives those of evaluation, which are not drawn."""
    torch.manual_seed(0)
    ours = LMIMLoss(channels, WIDTH, hidden_channels=WIDTH).to(device, case.dtype).eval()
    split = LMIMLoss(channels, WIDTH, critic=ours.critic, backend="reference").eval()
    layers = tuple(ours.parameters())
    inputs = [
        torch.randn(shape, device=device, dtype=case.dtype).requires_grad_()
        for shape in ((batch, channels, side, side), (batch, WIDTH))
    ]

    def literal(local_features: Tensor, global_features: Tensor) -> Tensor:
        return peers.literal_lmim_loss(local_features, global_features, *layers)

    def checkpointed(local_features: Tensor, global_features: Tensor) -> Tensor:
        return peers.checkpointed_lmim_loss(local_features, global_features, *layers)

    enter = partial(contender, inputs=inputs, parameters=layers, case=case, compiled=case.compiled)
    contenders = [enter("ours", ours), enter("literal", literal), enter("plain split form", split)]
    if not case.compiled:
        contenders.insert(2, enter("literal, checkpointed", checkpointed))
        if case.timed:
            contenders.insert(3, enter("literal, compiled", literal, compiled=True))
    floor = _products(batch * side * side, channels, inputs[0])
    return Contest(contenders, floor, TOLERANCES[case.dtype])


def _products(rows: int, channels: int, like: Tensor) -> Floor:
    """Return the matrix products of the split form and of its gradients, and nothing else."""

    def matrix(*shape: int) -> Tensor:
        return like.detach().new_ones(shape)

    local, hidden, pairs = matrix(rows, channels), matrix(rows, WIDTH), matrix(2 * rows, WIDTH)
    first, second = matrix(channels, WIDTH), matrix(WIDTH, WIDTH)
    d_first, d_second, d_local, d_hidden, d_pairs = (torch.empty_like(x) for x in (first, second, local, hidden, pairs))

    def multiply() -> None:
        torch.mm(local, first, out=d_hidden)
        torch.mm(pairs, second, out=d_pairs)
        torch.mm(pairs.t(), pairs, out=d_second)
        torch.mm(pairs, second.t(), out=d_pairs)
        torch.mm(local.t(), hidden, out=d_first)
        torch.mm(hidden, first.t(), out=d_local)

    work = 3 * 2 * rows * WIDTH * (channels + 2 * WIDTH)
    return Floor("matrix products of the split form", multiply, 1.0, work, "FLOP")
