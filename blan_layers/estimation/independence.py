"""A permutation test of independence, which is exact for any number of rows, and of blocks of any sizes."""

import numpy as np
import torch
from torch import Tensor

from blan_layers.estimation.gaussian import fit_gaussian
from blan_layers.estimation.kernels import fit_lengths
from blan_layers.estimation.parts import Labels
from blan_layers.estimation.preprocessing import Rows

SHUFFLES = 199

_ENOUGH = 5  # blocks of one size
_FREQUENCIES = 50
_WIDTHS = (1.0, 0.3)  # kernel widths, in median distances


def permutation_test(x: Tensor, y: Tensor, labels: Labels, seed: int) -> float:
    """Return the share of pairings, shuffled ones and the given one, whose statistic is at least that of the given one.

    The statistic is the largest of four sums of squared covariances, each in units of its standard deviation over the
    pairings: of whitened columns, of the lengths of rows, and of random Fourier features of Gaussian kernels with two
    widths. Whole blocks are shuffled among blocks of equal size. Of sizes that few blocks have, similar ones are made
    equal: the last rows of the larger ones do not enter the test.

    Reference:
        Gretton et al., "A kernel statistical test of independence", NeurIPS 2007; Phipson and Smyth, "Permutation
        p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9, 2010.
    """
    rng = np.random.default_rng(seed)
    rows = equalised(labels)
    x, y, blocks = x[torch.from_numpy(rows)], y[torch.from_numpy(rows)], _by_size(labels[rows])
    pairs = _features(x, y, rng)
    orders = [np.arange(len(x)), *(_shuffled(blocks, rng) for _ in range(SHUFFLES))]
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
    distance = distance[distance > 0]
    scale = width * distance.median().item() if len(distance) else 1.0  # the rows of the test may all be equal
    frequencies = rng.standard_normal((values.shape[1], _FREQUENCIES)) / scale
    phase = values @ torch.from_numpy(frequencies).float()
    return torch.cat([phase.cos(), phase.sin()], 1)


def equalised(labels: Labels) -> Rows:
    """Return the rows that remain if blocks of similar size are truncated to the same size.

    In descending order of size, blocks are taken together until there are enough of them for many orders, but none that
    is less than half as large as the first.
    """
    _, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order, start = np.argsort(-sizes, kind="stable"), 0
    kept = sizes[order]
    for end in range(1, len(order) + 1):
        least = kept[end - 1]
        following = sizes[order[end]] if end < len(order) else 0
        if following < least and (end - start >= _ENOUGH or 2 * following < kept[start]):
            kept[start:end], start = least, end
    sorted_rows = np.argsort(own, kind="stable")
    place = np.empty_like(own)
    place[sorted_rows] = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    most = np.empty_like(sizes)
    most[order] = kept
    return np.flatnonzero(place < most[own])


def _by_size(labels: Labels) -> list[Rows]:
    """Return the rows of all blocks of the same size, (blocks, size), for each size."""
    _, sizes = np.unique(labels, return_counts=True)
    rows = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    return [np.stack([rows[block] for block in np.flatnonzero(sizes == size)]) for size in np.unique(sizes)]


def _shuffled(blocks: list[Rows], rng: np.random.Generator) -> Rows:
    """Return, for each row, the row that replaces it."""
    order = np.empty(sum(rows.size for rows in blocks), dtype=np.intp)
    for rows in blocks:
        order[rows] = rows[rng.permutation(len(rows))]
    return order
