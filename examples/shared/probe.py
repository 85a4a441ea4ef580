r"""Linear probes: logistic regressions on frozen features.

A probe of one attribute minimises ``mean_i w_i softplus(-(2 y_i - 1) (f_i . v + c)) + penalty / 2 |v|^2`` over features
f that are standardised on the labelled faces. The weights w give each label half of the total, so that the probe
optimises balanced accuracy, the mean of the recalls of both labels. All attributes are fitted at once, but
independently of each other.

If all labelled faces have the same label of an attribute, the probe always answers with that label, which gives half of
the balanced accuracy. If one label is missing among the tested faces, its recall is left out of the mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deep_infomax.faces import Faces, Splits

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""The candidate penalties; one for all attributes is chosen on validation faces."""


class Score(NamedTuple):
    """The result of a probe."""

    validation: float
    """Balanced accuracy on validation faces, averaged over the attributes."""
    test: float
    """Balanced accuracy on test faces, averaged over the attributes."""
    accuracy: float
    """Plain accuracy on test faces, averaged over the attributes."""
    penalty: float
    """The chosen penalty."""
    by_attribute: list[float]
    """Balanced accuracy of each attribute on test faces."""


class Probe(NamedTuple):
    """A linear map from features to the logits of all attributes."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Return whether each face has each attribute, bool (n, N)."""
        return (features - self.mean) / self.scale @ self.weight + self.bias > 0


def measure(encoder: nn.Module, labelled: Faces, splits: Splits, penalties: Sequence[float] = PENALTIES) -> Score:
    """Fit probes to the labelled faces, choose one on validation faces, and measure it on test faces."""
    known, validation, test = (extract(encoder, faces.images) for faces in (labelled, splits.validation, splits.test))
    probes = [fit_probe(known, labelled.labels, penalty) for penalty in penalties]
    found = [balanced_accuracy(probe.predict(validation), splits.validation.labels).mean().item() for probe in probes]
    best = max(range(len(probes)), key=found.__getitem__)
    answers = probes[best].predict(test)
    by_attribute = balanced_accuracy(answers, splits.test.labels)
    accuracy = (answers == splits.test.labels.bool()).float().mean()
    return Score(found[best], by_attribute.mean().item(), accuracy.item(), penalties[best], by_attribute.tolist())


def extract(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the summaries of images, in evaluation mode and without gradients."""
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(part).summary for part in images.split(256)])


def fit_probe(features: Tensor, labels: Tensor, penalty: float) -> Probe:
    """Fit a probe to features (n, D) and labels (n, N)."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    known, weights = (features - mean) / scale, label_weights(labels)
    weight = torch.zeros(features.shape[1], labels.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        errors = weighted_cross_entropy(known @ weight + bias, labels, weights)
        total = errors.mean(0).sum() + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return Probe(mean, scale, weight.detach(), bias.detach())


def label_weights(labels: Tensor) -> Tensor:
    """Return weights (n, N) that give each label of an attribute half of the total."""
    share = labels.mean(0)
    return 0.5 / torch.where(labels.bool(), share, 1 - share)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted binary cross entropy of every label, (n, N)."""
    return weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def balanced_accuracy(answers: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the recalls of both labels for each attribute, (N,)."""
    right = answers == labels.bool()
    recalls = [(right & chosen).sum(0) / chosen.sum(0) for chosen in (labels.bool(), ~labels.bool())]
    return torch.stack(recalls).nanmean(0)
