"""The LMIM loss against the literal concatenation of real and fake pairs."""

import timeit
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from benchmarks import peers
from benchmarks.contest import TOLERANCES, Case, Contest, Floor, contender
from blan_layers import LMIMLoss

SIZES = ((64, 64), (128, 32), (256, 16), (512, 8))
"""(C, side of the map)"""

WIDTH = 512
"""Width of the critic's hidden layers and of the summaries."""


def cases(device: torch.device) -> Iterator[Case]:
    """Yield every size, eager and compiled, and the largest map in a larger batch to measure memory."""
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
    """The loss of maps and their summaries, with the fixed negatives of evaluation mode."""
    torch.manual_seed(0)
    ours = LMIMLoss(channels, WIDTH, hidden_channels=WIDTH).to(device, case.dtype).eval()
    split = LMIMLoss(channels, WIDTH, critic=ours.critic, backend="reference").eval()
    layers = tuple(ours.parameters())
    inputs = [
        torch.randn(shape, device=device, dtype=case.dtype).requires_grad_()
        for shape in ((batch, channels, side, side), (batch, WIDTH))
    ]
    _coarsen(inputs, 1 / 2)
    _coarsen(layers, 1 / 64)

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


@torch.no_grad()
def _coarsen(tensors: Iterable[Tensor], step: float) -> None:
    """Round to multiples of a power of two that are coarse enough for float32 to sum both hidden layers exactly.

    Otherwise a unit near zero could be active for one order of summation and inactive for another, with different
    gradients that are both correct.
    """
    for tensor in tensors:
        tensor.copy_((tensor / step).round() * step)


def _products(rows: int, channels: int, like: Tensor) -> Floor:
    """Return only the matrix products of the split form and of its gradients, by the faster of two libraries."""

    def matrix(*shape: int) -> Tensor:
        return like.detach().new_ones(shape)

    local, hidden, pairs = matrix(rows, channels), matrix(rows, WIDTH), matrix(2 * rows, WIDTH)
    first, second = matrix(WIDTH, channels), matrix(WIDTH, WIDTH)
    layers = (local, first, hidden), (pairs, second, pairs)
    room = {id(tensor): torch.empty_like(tensor) for tensor in (local, hidden, pairs, first, second)}

    def multiply() -> None:
        for x, weight, d_y in layers:
            torch.mm(x, weight.t(), out=room[id(d_y)])
            torch.mm(d_y.t(), x, out=room[id(weight)])
            torch.mm(d_y, weight, out=room[id(x)])

    def convolve() -> None:
        for x, weight, d_y in layers:
            kernel, size = weight[:, :, None, None], (*weight.shape, 1, 1)
            F.conv2d(_as_map(x), kernel)
            conv2d_weight(_as_map(x), size, _as_map(d_y))
            F.conv2d(_as_map(d_y), kernel.transpose(0, 1))

    work = 3 * 2 * rows * WIDTH * (channels + 2 * WIDTH)
    faster = min((multiply, convolve), key=_least_seconds)
    return Floor("matrix products of the split form", faster, 1.0, work, "FLOP")


def _as_map(rows: Tensor) -> Tensor:
    """View rows (N, C) as a channels-last map."""
    return rows.view(8, 1, len(rows) // 8, -1).permute(0, 3, 1, 2)


def _least_seconds(step: Callable[[], None]) -> float:
    """Return the minimum time of a step."""
    return min(timeit.repeat(step, number=1, repeat=4))
