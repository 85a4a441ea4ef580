"""Pictures, written into a run's output folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from blan_facial.report.chart import accuracy_figure
from blan_facial.report.pictures import attention_figure, faces_figure, reconstructions_figure
from blan_facial.report.sample import Sample
from shared.files import replacing
from shared.sheet import style


def write_pictures(folder: Path, sample: Sample | None, metrics: Mapping[str, Any]) -> list[Path]:
    """Write what a person looks at: the same pictures for the same arguments, each whole or not at all.

    Args:
        folder: An existing folder. ``faces.png``, ``attention.png`` if the model has RDAM, ``reconstructions.png`` if
            it reconstructs, and ``accuracy.png`` go into it.
        sample: Faces and what the model says of them; None if there are none to show.
        metrics: What ``metrics.json`` holds.

    Returns:
        The files written.

    Raises:
        OSError: A file cannot be written.
    """
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
