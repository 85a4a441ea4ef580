"""The levels of a trained BLAN: the information between maps and summaries, which LMIM maximises, and linear probes."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import track
from torch import Tensor

from blan_facial.config import Config
from blan_facial.data.faces import SPLITS, FaceDataset
from blan_facial.data.labelled import has_label
from blan_facial.data.loading import FaceLoader, normalize
from blan_facial.data.splits import load_splits
from blan_facial.machines.devices import make_fabric
from blan_facial.network.model import LEVEL_NAMES, Network
from blan_facial.results.finished import load_run
from blan_facial.results.run_folder import read_object, read_settings
from blan_facial.results.weights_file import file_digest
from blan_facial.tables.cells import DRAWN
from blan_facial.tables.sources import data_digest
from blan_facial.training.loop import evaluation_loader
from blan_facial.training.statistics import average_precision
from blan_layers.estimation import information_between
from shared.files import write_json
from shared.parallel import each
from shared.probe import Known, choose_probe
from shared.program import UserError

SEED = 0
MOST = 4000
"""Maximum number of test images between whose maps and summaries the information is measured."""


class Level(NamedTuple):
    """What a level holds."""

    information: float
    """Mutual information between the map at a random location and the summary, on test images, in nats."""
    probe: float | None
    """Mean average precision, on test images, of linear probes of the map's mean over space."""


def levels_of(folders: Sequence[Path], workers: int, console: Console) -> dict[Path, dict[str, Any]]:
    """Return the levels of finished runs by name; those that were not measured before are, and kept in the folders."""
    paths = {folder: _path(folder) for folder in folders}
    missing = [place for place in paths.items() if not place[1].is_file()]
    if missing:
        done = each(_measure, missing, min(workers, len(missing)))
        for _ in track(done, "measuring levels", len(missing), console=console, transient=True):
            pass
    return {folder: read_object(path, "levels") for folder, path in paths.items()}


def _measure(place: tuple[Path, Path]) -> None:
    """Measure the levels of the run in a folder, and write them to a file."""
    folder, path = place
    finished = load_run(folder)
    config = finished.config.on_one_device()
    splits, fabric = load_splits(config, Console(quiet=True)), make_fabric(config)
    known = torch.from_numpy(has_label(splits.train))
    validation = cast("FaceDataset", splits.validation)  # without which no epoch could have been chosen
    read = partial(_read, fabric, finished.model.to(fabric.device))
    parts = [read(evaluation_loader(config, faces)) for faces in (splits.train, validation, splits.test)]
    found = {}
    for level, name in enumerate(LEVEL_NAMES):
        (train, labels), (held_out, truth), (tested, answers) = ((maps[level], labels) for maps, labels in parts)
        probe = choose_probe(Known(train.means[known], labels[known]), Known(held_out.means, truth)).probe
        precision = average_precision(probe.logits(tested.means).sigmoid(), answers)
        found[name] = Level(information(tested.local, tested.summary), precision)._asdict()
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)


class _Maps(NamedTuple):
    """What a level gives for the images of a split, with a row per image."""

    means: Tensor
    """The map's mean over space, (n, C_i)."""
    local: Tensor
    """The map at a random location, (n, C_i)."""
    summary: Tensor
    """(n, summary_channels)."""


@torch.no_grad()
def _read(fabric: Fabric, model: Network, loader: FaceLoader) -> tuple[list[_Maps], Tensor]:
    """Return the maps of every level, and the labels (n, N)."""
    random = torch.Generator().manual_seed(SEED)
    batches: list[list[_Maps]] = []
    labels = []
    for batch in loader:
        if len(batch.images):  # else all are corrupt
            with fabric.autocast():
                output = model(normalize(fabric.to_device(batch.images)))
            pairs = zip(output.attended, output.summaries, strict=True)
            batches.append([_maps(attended, summary, random) for attended, summary in pairs])
            labels.append(batch.labels)
    levels = [_Maps(*map(torch.cat, zip(*level, strict=True))) for level in zip(*batches, strict=True)]
    return levels, torch.cat(labels)


def _maps(attended: Tensor, summary: Tensor, random: torch.Generator) -> _Maps:
    vectors = attended.float().flatten(2).cpu()
    places = torch.randint(vectors.shape[2], (len(vectors), 1, 1), generator=random)
    local = vectors.gather(2, places.expand(-1, vectors.shape[1], -1))[:, :, 0]
    return _Maps(vectors.mean(2), local, summary.float().cpu())


def information(local: Tensor, summary: Tensor) -> float:
    """Return the information between the rows of two matrices, without columns that add none, in nats.

    Raises:
        UserError: There are too few rows to measure it.
    """
    x, y = (np.unique(side[:, side.std(0) > 0].numpy(), axis=1) for side in (local[:MOST], summary[:MOST]))
    try:
        return information_between(x, y, seed=SEED).value if x.size and y.size else 0.0
    except ValueError as error:
        raise UserError(
            f"experiments: the test split must have more images to measure information, got {len(local)} ({error}) "
            "Use more of them."
        ) from error


def _path(folder: Path) -> Path:
    """Return the file of a run's levels, whose name depends on the weights and, unless drawn, on the data."""
    key = file_digest(folder)
    config = Config.from_json(read_settings(folder)[0])
    if config.data not in DRAWN:
        key = hashlib.sha256(f"{key} {data_digest(config, *SPLITS)}".encode()).hexdigest()
    return folder / "evaluation" / f"levels-{key[:12]}.json"
