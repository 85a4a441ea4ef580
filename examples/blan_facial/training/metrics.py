"""Metrics of a model: for each attribute and level, and for the fused scores."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torchmetrics.functional.classification import binary_stat_scores

from blan_facial.data.faces import UNKNOWN, DataError
from blan_facial.data.loading import FaceLoader, normalize
from blan_facial.machines.processes import Processes
from blan_facial.network.model import LEVEL_NAMES, Network
from blan_facial.training.intervals import Units
from blan_facial.training.scaling import Scaling, fit_scaling, scaled
from blan_facial.training.statistics import average_precision, statistics
from blan_facial.training.thresholds import Criterion, fit_thresholds, rates_at


class Scores:
    """Collects the predictions of every level, of their sum and of their fusion, and computes metrics.

    Args:
        attributes: The N attributes.
        levels: Names of the K levels; () for a model without levels, which has a single set of scores.
        fused: Whether there are fused scores.
    """

    def __init__(self, attributes: tuple[str, ...], *, levels: tuple[str, ...] = LEVEL_NAMES, fused: bool) -> None:
        self.attributes = attributes
        self.levels = levels
        self.names = (*levels, "sum", *(("fused",) if fused else ()))
        self._odds: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, scores: Tensor, fused: Tensor | None, labels: Tensor) -> None:
        """Add a batch: scores (K, B, N, 2), fused (B, N, 2) or None, labels (B, N): 1, 0 or UNKNOWN."""
        logits = torch.stack([*scores[: len(self.levels)], scores.sum(0), *(() if fused is None else (fused,))])
        self._odds.append(logits.float().diff(dim=-1)[..., 0].cpu())
        self._labels.append(labels.cpu())

    def gather(self, processes: Processes, indices: Tensor) -> Tensor:
        """Gather the predictions of all processes in the first one, and return the images' indices in that order."""
        shares = processes.collect((indices, self._odds, self._labels))
        indices, order = torch.cat([share[0] for share in shares]).sort()
        odds, labels = ([part for share in shares for part in share[n]] for n in (1, 2))
        if len(order):
            self._odds = [torch.cat(odds, 1)[:, order]]
            self._labels = [torch.cat(labels)[order]]
        return indices

    def compute(self) -> dict[str, Any]:
        """Return accuracies as fractions, laid out as in ``metrics.json``.

        The prediction comes from the fused scores or, without fusion, from the summed scores. ``majority`` is the
        accuracy of always answering with the more frequent label of this split. ``balanced`` is the mean of the
        accuracies on positives and on negatives; if the split has only one of them, it is the accuracy on that one.
        Unknown labels are ignored. An attribute without known labels is None everywhere and left out of the means. The
        mean average precision leaves out attributes that no image has.

        Raises:
            DataError: No label is known.
        """
        labels = torch.cat(self._labels).T
        if bool((labels == UNKNOWN).all()):
            raise DataError("evaluate: needs at least one known label, got none. Label some images of the split.")
        predictions = (torch.cat(self._odds, 1) > 0).byte().mT
        rates = {name: _rates(level, labels) for name, level in zip(self.names, predictions, strict=True)}
        accuracy, balanced, majority = rates[self.names[-1]]
        columns = {name: rates[name][0] if name in rates else None for name in (*LEVEL_NAMES, "sum", "fused")}
        return {
            "accuracy": accuracy.nanmean().item(),
            "majority_accuracy": majority.nanmean().item(),
            "balanced_accuracy": balanced.nanmean().item(),
            "per_level": {
                name: None if column is None else column.nanmean().item() for name, column in columns.items()
            },
            "per_attribute": {
                attribute: {
                    "accuracy": _defined(accuracy[n]),
                    "majority": _defined(majority[n]),
                    "balanced": _defined(balanced[n]),
                }
                | {name: None if column is None else _defined(column[n]) for name, column in columns.items()}
                for n, attribute in enumerate(self.attributes)
            },
            "average_precision": average_precision(torch.cat(self._odds, 1)[-1].sigmoid(), torch.cat(self._labels)),
        }

    def statistics(self, units: Units, scaling: Scaling | None = None) -> dict[str, Any]:
        """Return average precision, calibration, intervals and best levels, as in ``metrics.json``."""
        return statistics(
            torch.cat(self._odds, 1),
            torch.cat(self._labels),
            self.names,
            self.attributes,
            levels=len(self.levels),
            units=units,
            scaling=scaling,
        )

    def thresholds(self, criterion: Criterion) -> tuple[float, ...]:
        """Return the threshold of each attribute, as log-odds, that maximises the criterion on these images."""
        return fit_thresholds(torch.cat(self._odds, 1)[-1], torch.cat(self._labels), criterion)

    def at(self, thresholds: Sequence[float], scaling: Scaling | None) -> dict[str, Any]:
        """Return the metrics of the predictions at other thresholds than 0.5, as in ``metrics.json``."""
        accuracy, balanced = rates_at(torch.cat(self._odds, 1)[-1], torch.cat(self._labels), thresholds)
        cuts = torch.tensor(thresholds, dtype=torch.float64)
        probabilities = scaled(cuts, scaling).sigmoid().tolist()
        return {
            "accuracy": accuracy.nanmean().item(),
            "balanced_accuracy": balanced.nanmean().item(),
            "per_attribute": {
                attribute: {
                    "threshold": probabilities[n],
                    "accuracy": _defined(accuracy[n]),
                    "balanced": _defined(balanced[n]),
                }
                for n, attribute in enumerate(self.attributes)
            },
        }

    def scaling(self) -> Scaling | None:
        """Return the scaling that calibrates the prediction on these images; None if it cannot be fitted."""
        return fit_scaling(torch.cat(self._odds, 1)[-1], torch.cat(self._labels))


def evaluate(
    fabric: Fabric,
    model: Network,
    loader: FaceLoader,
    *,
    processes: Processes | None = None,
    in_full: bool = False,
    scaling: Scaling | None = None,
    thresholds: Sequence[float] | None = None,
    columns: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the accuracies of a model on all images of a split, without changing its training mode.

    Several processes share the images and must call this together; the first gets the result, the others {}.

    Args:
        fabric: Device and precision.
        model: The model.
        loader: This process's images.
        processes: The processes that share the images; None if this one has them all.
        in_full: Whether to add :meth:`Scores.statistics`, which takes longer than the accuracies.
        scaling: The run's scaling, for the calibrated probabilities.
        thresholds: Thresholds of the attributes as log-odds; metrics at these thresholds are added. None for 0.5 only.
        columns: Indices of the faces' attributes among the model's; None if they are the same.
    """
    processes = processes or Processes(fabric)
    scores, indices = _scored(fabric, model, loader, processes, columns)
    if not processes.first:
        return {}
    metrics = {"images": len(indices)} | scores.compute()
    if in_full:
        groups = loader.dataset.faces.groups
        units = Units.of_images(len(indices), None if groups is None else groups[indices.numpy()])
        metrics |= scores.statistics(units, scaling)
    if thresholds is not None:
        metrics["at_thresholds"] = scores.at(thresholds, scaling)
    return metrics


def calibrate(
    fabric: Fabric, model: Network, loader: FaceLoader, processes: Processes, criterion: Criterion | None = None
) -> tuple[Scaling | None, tuple[float, ...] | None]:
    """Return the scaling of a model on a split that it was not trained on, and its thresholds as log-odds.

    The scaling is None if it cannot be fitted (see :func:`fit_scaling`), and the thresholds are None without a
    criterion. Several processes must call this together; only the result in the first is valid.
    """
    scores, _ = _scored(fabric, model, loader, processes)
    if not processes.first:
        return None, None
    return scores.scaling(), None if criterion is None else scores.thresholds(criterion)


@torch.no_grad()
def _scored(
    fabric: Fabric, model: Network, loader: FaceLoader, processes: Processes, columns: Sequence[int] | None = None
) -> tuple[Scores, Tensor]:
    """Return the scores of all images of a split, gathered in the first process, and the images' indices."""
    scores = Scores(loader.dataset.faces.attributes, levels=model.level_names, fused=model.fusion is not None)
    training = model.training
    model.eval()
    indices = []
    with processes.together():
        for batch in loader:
            indices.append(batch.indices)
            if not len(batch.images):
                continue
            with fabric.autocast():
                output = model(normalize(fabric.to_device(batch.images)))
            every = slice(None) if columns is None else list(columns)
            fused = None if output.fused is None else output.fused[:, every]
            scores.update(output.scores.float()[:, :, every], fused, batch.labels)
    model.train(training)
    mine = torch.cat([torch.empty(0, dtype=torch.int64), *indices])
    none = not int(processes.numbers(len(mine)).sum())
    with processes.together():
        if none:
            raise DataError(
                "evaluate: needs at least one image that decodes, got none. Restore the split's image files."
            )
    return scores, scores.gather(processes, mine)


def _rates(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return accuracy, balanced accuracy and majority accuracy, (N,) each, of predictions and labels (N, images).

    They are NaN for attributes without known labels.
    """
    counts = torch.stack(
        [binary_stat_scores(*attribute, ignore_index=UNKNOWN) for attribute in zip(predictions, labels, strict=True)]
    )
    hits, false_alarms, rejections, _, positives = counts.double().unbind(-1)
    negatives = false_alarms + rejections
    total = positives + negatives
    recalls = torch.stack([hits / positives, rejections / negatives])
    return (hits + rejections) / total, recalls.nanmean(0), torch.maximum(positives, negatives) / total


def _defined(value: Tensor) -> float | None:
    return None if value.isnan() else value.item()
