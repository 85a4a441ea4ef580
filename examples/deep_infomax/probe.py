"""Linear probes of an encoder's summaries."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deep_infomax.faces import Faces, Splits
from shared.probe import PENALTIES, Known, balanced_accuracy, choose_probe


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


def measure(encoder: nn.Module, labelled: Faces, splits: Splits, penalties: Sequence[float] = PENALTIES) -> Score:
    """Fit probes to the labelled faces, choose one on validation faces, and measure it on test faces."""
    train, validation, test = (
        Known(extract(encoder, faces.images), faces.labels) for faces in (labelled, splits.validation, splits.test)
    )
    chosen = choose_probe(train, validation, penalties)
    answers = chosen.probe.predict(test.features)
    by_attribute = balanced_accuracy(answers, test.labels)
    accuracy = (answers == test.labels.bool()).float().mean()
    return Score(chosen.validation, by_attribute.mean().item(), accuracy.item(), chosen.penalty, by_attribute.tolist())


def extract(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the summaries of images, in evaluation mode and without gradients."""
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(part).summary for part in images.split(256)])
