"""Pictures, written into a run's output folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from blan_facial.baselines import Network
from blan_facial.data.faces import FaceDataset
from blan_facial.files import replacing
from blan_facial.report.chart import accuracy_figure
from blan_facial.report.pictures import attention_figure, faces_figure, reconstructions_figure
from blan_facial.report.sample import Sample, draw_sample
from blan_facial.report.sheet import style

FACES = 24


def write_pictures(
    folder: Path,
    model: Network,
    faces: FaceDataset,
    metrics: Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[Path]:
    """Write what a person looks at: the same pictures for the same arguments, each whole or not at all.

    Args:
        folder: An existing folder. ``faces.png``, ``attention.png`` if the model has RDAM, ``reconstructions.png`` if
            it reconstructs, and ``accuracy.png`` go into it.
        model: The trained model; it is shown the faces in evaluation mode and left in the mode it was in.
        faces: The data set that the faces are chosen from; corrupt images are passed over.
        metrics: What ``metrics.json`` holds.
        device: Where the model is.
        seed: Seed of the choice of faces.

    Returns:
        The files written.

    Raises:
        ValueError: The model does not fit the data set.
        OSError: A file cannot be written.
    """
    sample = draw_sample(model, faces, FACES, device=device, seed=seed)
    written = []
    with style():
        for name, figure in _figures(sample, metrics):
            path = folder / name
            with replacing(path) as file:
                figure.savefig(file, format="png", dpi=figure.dpi, facecolor="white")
            written.append(path)
    return written


def _figures(sample: Sample | None, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    if sample is not None:
        yield "faces.png", faces_figure(sample)
        if sample.spatial_maps:
            yield "attention.png", attention_figure(sample)
        if sample.reconstructions is not None:
            yield "reconstructions.png", reconstructions_figure(sample)
    yield "accuracy.png", accuracy_figure(metrics)
