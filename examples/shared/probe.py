r"""Linear probes: logistic regressions on frozen features.

A probe of one attribute minimises ``mean_i w_i softplus(-(2 y_i - 1) (f_i . v + c)) + penalty / 2 |v|^2`` over rows i
with a known label, for features f that are standardised over all rows. The weights w give each label half of the total,
so that the probe optimises balanced accuracy, the mean of the recalls of both labels. All attributes are fitted at
once, but independently of each other.

Labels are 1, 0 or -1, which means unknown. If all known labels of an attribute are the same, the probe always answers
with that label, which gives half of the balanced accuracy. If one label is missing among the tested rows, its recall is
left out of the mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""The candidate penalties; one for all attributes is chosen on validation rows."""


class Known(NamedTuple):
    """Features float32 (n, D) and labels (n, N)."""

    features: Tensor
    labels: Tensor


class Probe(NamedTuple):
    """A linear map from features to the logits of all attributes."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of every attribute, (n, N)."""
        return (features - self.mean) / self.scale @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """Return whether each row has each attribute, bool (n, N)."""
        return self.logits(features) > 0


class Chosen(NamedTuple):
    """The probe that was chosen on validation rows."""

    probe: Probe
    penalty: float
    validation: float
    """Its balanced accuracy on them, averaged over the attributes."""


def choose_probe(train: Known, validation: Known, penalties: Sequence[float] = PENALTIES) -> Chosen:
    """Fit a probe with each penalty, and return the one with the best balanced accuracy on validation rows."""
    probes = [fit_probe(*train, penalty) for penalty in penalties]
    found = [
        balanced_accuracy(probe.predict(validation.features), validation.labels).nanmean().item() for probe in probes
    ]
    best = max(range(len(probes)), key=found.__getitem__)
    return Chosen(probes[best], penalties[best], found[best])


def fit_probe(features: Tensor, labels: Tensor, penalty: float) -> Probe:
    """Fit a probe to features (n, D) and labels (n, N)."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    standardised, weights = (features - mean) / scale, label_weights(labels)
    known = (labels >= 0).sum(0).clamp_min(1)
    weight = torch.zeros(features.shape[1], labels.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = weighted_cross_entropy(standardised @ weight + bias, labels.float(), weights)
        total = (errors.sum(0) / known).sum() + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return Probe(mean, scale, weight.detach(), bias.detach())


def label_weights(labels: Tensor) -> Tensor:
    """Return weights (n, N) that give each label of an attribute half of the total, and unknown labels none."""
    positive, known = labels == 1, labels >= 0
    share = positive.sum(0) / known.sum(0).clamp_min(1)
    return known * (0.5 / torch.where(positive, share, 1 - share))


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted binary cross entropy of every label, (n, N)."""
    return weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def balanced_accuracy(answers: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the recalls of both labels for each attribute, (N,); NaN if none of its labels is known."""
    recalls = [((answers == value) & (labels == value)).sum(0) / (labels == value).sum(0) for value in (1, 0)]
    return torch.stack(recalls).nanmean(0)
