"""A permutation test of independence, which is exact for any number of rows."""

import numpy as np
import torch
from torch import Tensor

from blan_layers.estimation.gaussian import fit_gaussian
from blan_layers.estimation.kernels import fit_lengths
from blan_layers.estimation.parts import Labels
from blan_layers.estimation.preprocessing import Rows

SHUFFLES = 199

_FREQUENCIES = 50
_WIDTHS = (1.0, 0.3)  # kernel widths, in median distances


def permutation_test(x: Tensor, y: Tensor, labels: Labels, seed: int) -> float:
    """Return the share of pairings, shuffled ones and the given one, whose statistic is at least that of the given one.

    The statistic is the largest of four sums of squared covariances, each in units of its standard deviation over the
    pairings: of whitened columns, of the lengths of rows, and of random Fourier features of Gaussian kernels with two
    widths. Whole blocks are shuffled; a block that replaces a longer or shorter one is repeated or truncated.

    Reference:
        Gretton et al., "A kernel statistical test of independence", NeurIPS 2007; Phipson and Smyth, "Permutation
        p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9, 2010.
    """
    rng = np.random.default_rng(seed)
    pairs = _features(x, y, rng)
    orders = [np.arange(len(x)), *(_shuffled(labels, rng) for _ in range(SHUFFLES))]
    shown = torch.empty(len(orders), len(pairs), dtype=torch.float32)
    for place, order in enumerate(orders):
        index = torch.from_numpy(order)
        for number, (left, right) in enumerate(pairs):
            shown[place, number] = (left.T @ right[index]).square().sum()
    largest = ((shown - shown.mean(0)) / shown.std(0).clamp(min=1e-30)).amax(1)
    return (largest >= largest[0]).sum().item() / len(largest)


def _features(x: Tensor, y: Tensor, rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    gaussian = fit_gaussian(x, y)
    lengths = fit_lengths(gaussian, x, y)
    sides = []
    for side, values in enumerate((x, y)):
        white = ((values.double() - gaussian.mean[side]) @ gaussian.white[side]).float()
        waves = [_waves(values, width, rng) for width in _WIDTHS]
        sides.append([f - f.mean(0) for f in (white, lengths.of(side, values), *waves)])
    return list(zip(*sides, strict=True))


def _waves(values: Tensor, width: float, rng: np.random.Generator) -> Tensor:
    some = values[torch.from_numpy(rng.permutation(len(values))[:500])]
    distance = torch.pdist(some)
    if not distance.any():  # almost all rows are equal
        distance = torch.pdist(values.unique(dim=0)[:500])
    scale = width * distance[distance > 0].median().item()
    frequencies = rng.standard_normal((values.shape[1], _FREQUENCIES)) / scale
    phase = values @ torch.from_numpy(frequencies).float()
    return torch.cat([phase.cos(), phase.sin()], 1)


def _shuffled(labels: Labels, rng: np.random.Generator) -> Rows:
    """Return, for each row, the row that replaces it."""
    count = int(labels.max()) + 1
    if count == len(labels):
        return rng.permutation(len(labels))
    rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    order = np.empty(len(labels), dtype=np.intp)
    for old, new in zip(rows, rng.permutation(count), strict=True):
        order[old] = np.resize(rows[new], len(old))
    return order
