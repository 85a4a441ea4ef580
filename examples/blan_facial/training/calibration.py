"""Measures of calibration: calibration error and log loss."""

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchmetrics.functional.classification import binary_calibration_error

BINS = 15


def calibration_errors(odds: Tensor, labels: Tensor) -> Tensor:
    """Return the calibration error of each attribute, (N,): the mean gap of probability and frequency over 15 bins.

    NaN where no label is known.
    """
    errors = []
    for p, y in zip(odds.sigmoid().T, labels.T, strict=True):
        known = (y == 0) | (y == 1)
        errors.append(binary_calibration_error(p[known], y[known], n_bins=BINS).item() if known.any() else torch.nan)
    return torch.tensor(errors, dtype=torch.float64)


def log_losses(odds: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of each attribute's known labels, in nats, (N,); NaN without one."""
    losses = softplus(-(2 * labels - 1) * odds.double())
    return torch.where((labels == 0) | (labels == 1), losses, torch.nan).nanmean(0)
