"""Critics by a perceptron of x and y together, which resolve sharp edges that products of two encodings blur."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from blan_layers.estimation.bounds import shown
from blan_layers.estimation.gaussian import LEAST_LOGIT, GaussianCritic
from blan_layers.estimation.perceptrons import LEAST_GAIN, Pairs, encoded

JOINT_COLUMNS = 3
"""Maximum number of columns of x and y together: few, so that few hidden units and few fake pairs suffice."""
MOST_STEPS = 600

HIDDEN, BATCH, FAKES = 32, 128, 16
RATE = 2e-2
EVERY, WATCHED = 50, 256
"""Steps between evaluations on the stopping pairs, and the number of these pairs."""
HOPELESS = 200
"""Steps after which training stops if no part has gained ``LEAST_GAIN``."""

_WARM_UP = 25
_SPREAD = 3.0  # standard deviation of the first layer's weights, so that its units bend within the data
_REACH = 6.0  # standard deviations
_LEAST_DEVIATION = 1e-6
_AT_ONCE = 1 << 16  # pairs


class JointCritic(NamedTuple):
    r"""Gaussian logits plus a correction by one perceptron of both sides.

    Its inputs are x, y and the residuals :math:`(v - \rho u) / \sqrt{1 - \rho^2}` of the canonical variables, clamped
    to 6 standard deviations. The residuals bring a narrow dependence to unit scale.
    """

    base: GaussianCritic
    seen: GaussianCritic
    """The critic whose canonical variables the perceptron was trained with."""
    weights: list[Tensor]
    """Weight and bias of the first two layers and weight of the third; empty if there is no correction."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        base = self.base.logits(x, y)
        if not self.weights:
            return base
        left, right = _sides(self.seen, x, y)
        rows = max(1, _AT_ONCE // len(y))
        added = [
            _through(self.weights, _inputs(part[:, None].expand(-1, len(y), -1), right, x.shape[1], y.shape[1])[None])
            for part in left.split(rows)
        ]
        return base.add_(torch.cat([part[0] for part in added])).clamp_(min=LEAST_LOGIT)


def train_joint(
    fit: Sequence[Pairs],
    stopping: Sequence[Pairs],
    bases: Sequence[GaussianCritic],
    seed: int,
    progress: Callable[[float], None] = lambda done: None,
) -> list[JointCritic]:
    """Return, for each part, the best critic on its stopping pairs over all steps, including the start.

    The start is the base of the part. The loss is InfoNCE of each real pair and 16 fake pairs with the same x. All
    parts must have the same number of pairs to fit.

    Args:
        fit: The training pairs of each part.
        stopping: The pairs of each part that select among steps.
        bases: The critic of each part that the perceptron corrects.
        seed: Seed of initial weights and batches.
        progress: Called with the completed share.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = fit[0][0].shape[1], fit[0][1].shape[1]
    left, right = (
        torch.stack(sides) for sides in zip(*(_sides(b, *p) for b, p in zip(bases, fit, strict=True)), strict=True)
    )
    codes = encoded(bases, [torch.stack([pairs[s] for pairs in fit]) for s in (0, 1)])
    weights = _start(len(fit), sum(widths) + left.shape[2] - widths[0], generator)
    optimizer = torch.optim.Adam(weights, RATE)
    watched = [(x[:WATCHED], y[:WATCHED]) for x, y in stopping]
    chosen = [JointCritic(base, base, []) for base in bases]
    start = [shown(critic, pairs) for critic, pairs in zip(chosen, watched, strict=True)]
    best = list(start)
    rows = left.shape[1]
    size = min(BATCH, rows)
    partners = torch.arange(min(FAKES + 1, size))
    for step in range(1, MOST_STEPS + 1):
        real = torch.randperm(rows, generator=generator)[:size]
        others = real[(torch.arange(size)[:, None] + partners) % size]
        base = (codes[0][:, real, None] * codes[1][:, others]).sum(-1).clamp_(min=LEAST_LOGIT).float()
        inputs = _inputs(left[:, real, None].expand(-1, -1, len(partners), -1), right[:, others], *widths)
        logits = base + _through(weights, inputs)
        optimizer.zero_grad()
        (logits.logsumexp(-1) - logits[..., 0]).mean(1).sum().backward()
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / _WARM_UP) * math.cos(math.pi / 2 * step / MOST_STEPS)
        optimizer.step()
        if step % EVERY:
            continue
        progress(step / MOST_STEPS)
        for part, (base_critic, pairs) in enumerate(zip(bases, watched, strict=True)):
            critic = JointCritic(base_critic, base_critic, [w[part : part + 1].detach().clone() for w in weights])
            reached = shown(critic, pairs)
            if reached > best[part]:
                best[part], chosen[part] = reached, critic
        if step >= HOPELESS and all(b < s + LEAST_GAIN for b, s in zip(best, start, strict=True)):
            break
    return chosen


def _sides(critic: GaussianCritic, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of each side, followed by its summand of the residuals, in float64."""
    deviation = torch.sqrt(1 - critic.kept**2).clamp(min=_LEAST_DEVIATION)
    x, y = x.double(), y.double()
    u, v = critic.canonical(0, x), critic.canonical(1, y)
    return torch.cat([x, -critic.kept / deviation * u], -1), torch.cat([y, v / deviation], -1)


def _inputs(left: Tensor, right: Tensor, of_x: int, of_y: int) -> Tensor:
    """Return the inputs of the perceptron for paired sides (..., d + r) and (..., d' + r)."""
    right = right.expand(*left.shape[:-1], -1)
    residual = (left[..., of_x:] + right[..., of_y:]).clamp_(-_REACH, _REACH)
    return torch.cat([left[..., :of_x], right[..., :of_y], residual], -1).float()


def _start(models: int, columns: int, generator: torch.Generator) -> list[Tensor]:
    """Return the same initial weights for every model. The last layer is zero, and so is the correction."""
    drawn = partial(torch.randn, generator=generator, dtype=torch.float32)
    first, bias = (_SPREAD * drawn(1, ins, HIDDEN) for ins in (columns, 1))
    second = drawn(1, HIDDEN, HIDDEN) * math.sqrt(2 / HIDDEN)
    zeros = second.new_zeros(1, 1, HIDDEN), second.new_zeros(1, HIDDEN, 1)
    return [w.repeat(models, 1, 1).requires_grad_() for w in (first, bias, second, *zeros)]


def _through(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Return the corrections (models, a, b) of the logits, from inputs (models, a, b, columns)."""
    steps, ramps = torch.baddbmm(weights[1], inputs.flatten(1, 2), weights[0]).chunk(2, -1)
    hidden = silu(torch.baddbmm(weights[3], torch.cat([steps.tanh(), silu(ramps)], -1), weights[2]))
    return (hidden @ weights[4]).view(inputs.shape[:3])
