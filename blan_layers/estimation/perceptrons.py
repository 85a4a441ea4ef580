"""Separable critics, trained at once for several parts of the data and several weight decays."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blan_layers.estimation.bounds import infonce
from blan_layers.estimation.gaussian import LEAST_LOGIT, GaussianCritic

DECAYS = (1.0, 5.0)
"""Weight decays. They are strong because critics memorise thousands of pairs."""

MOST_STEPS = 500

HIDDEN, EMBEDDING, BATCH = 64, 32, 128
RATE = 3e-3
EVERY, PATIENCE, LEAST_GAIN = 25, 4, 0.002
"""Steps between evaluations on the stopping pairs, evaluations without gain before stopping, and that gain."""

_WARM_UP = 25
_START = 0.02  # initial scale of the last layer of y's encoder, so that logits start near the base's

Pairs = tuple[Tensor, Tensor]


class PerceptronCritic(NamedTuple):
    """Gaussian logits plus a correction by two perceptrons."""

    base: GaussianCritic
    weights: list[Tensor]
    """Weight and bias of the three layers for x, then for y; empty if there is no correction."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        base = self.base.logits(x, y)
        if not self.weights:
            return base
        left, right = (_encode(self.weights[6 * s : 6 * s + 6], z[None]) for s, z in enumerate((x, y)))
        return base.add_(left[0] @ right[0].T).clamp_(min=LEAST_LOGIT)


def train_perceptrons(
    fit: Sequence[Pairs],
    stopping: Sequence[Pairs],
    bases: Sequence[GaussianCritic],
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[PerceptronCritic]:
    """Return, for each part, the best critic on its stopping pairs over all decays and steps, including the start.

    The start is the base of the part. All parts must have the same number of pairs to fit.

    Args:
        fit: The training pairs of each part.
        stopping: The pairs of each part that select among critics.
        bases: The critic of each part that the perceptrons correct.
        seed: Seed of initial weights and batches.
        progress: Called with the completed share.
    """
    generator = torch.Generator().manual_seed(seed)
    each = len(DECAYS)
    data, watched = ([torch.stack([pairs[s] for pairs in parts]) for s in (0, 1)] for parts in (fit, stopping))
    offsets = [encoded(bases, parts) for parts in (data, watched)]
    watched = [side.repeat_interleave(each, 0) for side in watched]
    of_watched = _products(*offsets[1]).repeat_interleave(each, 0)
    weights = _start(len(fit) * each, [side.shape[2] for side in data], generator)
    keep = 1 - RATE * data[0].new_tensor(DECAYS).repeat(len(fit))[:, None, None]
    optimizer = torch.optim.Adam(weights, RATE)
    best = infonce(of_watched).mean(-1)
    chosen, improved = [w.detach().clone() for w in weights], torch.zeros(len(best), dtype=torch.bool)
    size, waited, order = min(BATCH, data[0].shape[1]), 0, torch.empty(0, dtype=torch.long)
    for step in range(1, MOST_STEPS + 1):
        if len(order) < size:
            order = torch.randperm(data[0].shape[1], generator=generator)
        batch, order = order[:size], order[size:]
        base = _products(*(side[:, batch] for side in offsets[0]))
        batches = (side[:, batch].repeat_interleave(each, 0) for side in data)
        logits = (_logits(weights, *batches) + base.repeat_interleave(each, 0)).clamp(min=LEAST_LOGIT)
        optimizer.zero_grad()
        (-(infonce(logits).mean(-1) + infonce(logits.mT).mean(-1)).sum() / 2).backward()
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / _WARM_UP)
        optimizer.step()
        with torch.no_grad():
            for matrix in weights[::2]:
                matrix.mul_(keep)
            if step % EVERY:
                continue
            progress(step / MOST_STEPS)
            shown = infonce((_logits(weights, *watched) + of_watched).clamp_(min=LEAST_LOGIT)).mean(-1)
            better = shown > best
            waited = 0 if (shown > best + LEAST_GAIN).any() else waited + 1
            best, improved = shown.maximum(best), improved | better
            for old, new in zip(chosen, weights, strict=True):
                old.copy_(torch.where(better[:, None, None], new, old))
            if waited == PATIENCE:
                break
    winners = best.view(len(fit), each).argmax(1) + each * torch.arange(len(fit))
    return [
        PerceptronCritic(base, [w[m : m + 1] for w in chosen] if improved[m] else [])
        for base, m in zip(bases, winners.tolist(), strict=True)
    ]


def _start(models: int, columns: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Return initial weights by He's rule, the same for every model."""
    weights = []
    for width in columns:
        for number, (ins, outs) in enumerate(((width, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, EMBEDDING))):
            gain = 2.0 if number < 2 else 0.5 / math.sqrt(EMBEDDING)
            matrix = torch.randn(1, ins, outs, generator=generator, dtype=torch.float32) * math.sqrt(gain / ins)
            weights += [matrix.repeat(models, 1, 1), matrix.new_zeros(models, 1, outs)]
    weights[10].mul_(_START)
    return [w.requires_grad_() for w in weights]


def _encode(weights: Sequence[Tensor], values: Tensor) -> Tensor:
    hidden = torch.baddbmm(weights[1], values, weights[0]).relu()
    hidden = torch.baddbmm(weights[3], hidden, weights[2]).relu()
    return torch.baddbmm(weights[5], hidden, weights[4])


def _logits(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    return _encode(weights[:6], x) @ _encode(weights[6:], y).mT


def encoded(bases: Sequence[GaussianCritic], sides: Sequence[Tensor]) -> list[Tensor]:
    """Return the codes of both sides (parts, n, columns) under the Gaussian critic of each part."""
    return [
        torch.stack([base.encode(s, side.double()) for base, side in zip(bases, sides[s], strict=True)]) for s in (0, 1)
    ]


def _products(left: Tensor, right: Tensor) -> Tensor:
    return (left @ right.mT).clamp_(min=LEAST_LOGIT).float()
