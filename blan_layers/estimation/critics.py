"""The critic of a part: a weighted sum of candidates, with weights fitted on its stopping pairs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blan_layers.estimation.bounds import Critic, infonce, shown
from blan_layers.estimation.gaussian import SHRINKAGES, GaussianCritic, fit_gaussian
from blan_layers.estimation.joint import JOINT_COLUMNS, JointCritic, train_joint
from blan_layers.estimation.kernels import BANDWIDTHS, MOST_COLUMNS, MOST_PAIRS, KernelCritic, Lengths, fit_lengths
from blan_layers.estimation.perceptrons import Pairs, PerceptronCritic, train_perceptrons

MOST_STOPPING = 1024
"""Maximum number of stopping pairs used for the choice."""

_ITERATIONS = 30
_CERTAIN = 2.0  # standard errors


class LengthCritic(NamedTuple):
    """A critic of the distances of rows from the centre."""

    lengths: Lengths
    critic: KernelCritic

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        return self.critic.logits(self.lengths.of(0, x), self.lengths.of(1, y))


class Weighted(NamedTuple):
    """A weighted sum of critics; without critics, its logits are zero."""

    critics: Sequence[Critic]
    weights: Sequence[float]

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logits (n, m) of all pairs."""
        total = x.new_zeros(len(x), len(y))
        for critic, weight in zip(self.critics, self.weights, strict=True):
            if weight:
                total.add_(critic.logits(x, y), alpha=weight)
        return total


def fit_critics(
    fit: Sequence[Pairs], stopping: Sequence[Pairs], seed: int, progress: Callable[[float], None]
) -> list[Weighted]:
    """Return the critic of each part.

    Four candidates are fitted: a Gaussian critic, whose correlations are shrunk as far as the stopping pairs suggest;
    the same plus a correction by perceptrons, one of both sides for up to ``JOINT_COLUMNS`` columns and one of each
    side for more; kernels around the pairs, if there are few columns; and kernels around the lengths of x and y, if
    either has several columns. Their logits are summed with the non-negative weights that maximise the estimate on the
    stopping pairs. Unless that estimate exceeds 0 by more than two standard errors, all weights are 0, which is the
    uninformative start. Finally, candidates that need no training are refitted with the stopping pairs included.
    """
    stopping = [(x[:MOST_STOPPING], y[:MOST_STOPPING]) for x, y in stopping]
    gaussians = [_best_gaussian(*pairs) for pairs in zip(fit, stopping, strict=True)]
    perceptrons = _trained(fit, stopping, [gaussian for gaussian, _ in gaussians], seed, progress)
    return [
        _weigh(pairs, watched, gaussian, share, perceptron)
        for pairs, watched, (gaussian, share), perceptron in zip(fit, stopping, gaussians, perceptrons, strict=True)
    ]


def _trained(
    fit: Sequence[Pairs],
    stopping: Sequence[Pairs],
    bases: Sequence[GaussianCritic],
    seed: int,
    progress: Callable[[float], None],
) -> Sequence[PerceptronCritic | JointCritic]:
    if fit[0][0].shape[1] + fit[0][1].shape[1] <= JOINT_COLUMNS:
        return train_joint(fit, stopping, bases, seed, progress)
    return train_perceptrons(fit, stopping, bases, seed, progress)


def _weigh(
    fit: Pairs, stopping: Pairs, gaussian: GaussianCritic, share: float, perceptron: PerceptronCritic | JointCritic
) -> Weighted:
    known: Pairs = (torch.cat([fit[0], stopping[0]]), torch.cat([fit[1], stopping[1]]))
    critics: list[Critic] = [gaussian, perceptron]
    again = fit_gaussian(*known).shrunk(share).truncated(int(gaussian.kept.count_nonzero()))
    refitted: list[Critic] = [again, perceptron._replace(base=again)]
    if fit[0].shape[1] + fit[1].shape[1] <= MOST_COLUMNS:
        kernel = _best_kernel(fit, stopping)
        critics.append(kernel)
        refitted.append(_kernel(known, kernel.bandwidth))
    if max(fit[0].shape[1], fit[1].shape[1]) > 1:
        lengths = fit_lengths(gaussian, *fit)
        kernel = _best_kernel(*((lengths.of(0, x), lengths.of(1, y)) for x, y in (fit, stopping)))
        critics.append(LengthCritic(lengths, kernel))
        lengths = fit_lengths(again, *known)
        refitted.append(
            LengthCritic(lengths, _kernel((lengths.of(0, known[0]), lengths.of(1, known[1])), kernel.bandwidth))
        )
    return Weighted(refitted, _best_weights(torch.stack([critic.logits(*stopping) for critic in critics])))


def _best_gaussian(fit: Pairs, stopping: Pairs) -> tuple[GaussianCritic, float]:
    gaussian = fit_gaussian(*fit)
    candidates = [gaussian.shrunk(share) for share in SHRINKAGES]
    return max(zip(candidates, SHRINKAGES, strict=True), key=lambda pair: shown(pair[0], stopping))


def _best_kernel(fit: Pairs, stopping: Pairs) -> KernelCritic:
    return max((_kernel(fit, bandwidth) for bandwidth in BANDWIDTHS), key=lambda critic: shown(critic, stopping))


def _kernel(known: Pairs, bandwidth: float) -> KernelCritic:
    return KernelCritic(known[0][:MOST_PAIRS], known[1][:MOST_PAIRS], bandwidth)


def _best_weights(logits: Tensor) -> list[float]:
    """Return the best weights of critics from their logits (C, M, M); InfoNCE is concave in the weights."""
    roots = logits.new_full((len(logits), 1, 1), len(logits) ** -0.5, requires_grad=True)
    optimizer = torch.optim.LBFGS([roots], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -infonce((roots.square() * logits).sum(0)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    weights = roots.detach().square()
    shown = infonce((weights * logits).sum(0))
    certain = shown.mean() > _CERTAIN * shown.std() / len(shown) ** 0.5
    return weights.flatten().tolist() if certain else [0.0] * len(logits)
