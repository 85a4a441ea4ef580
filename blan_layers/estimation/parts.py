"""Blocks of dependent rows, the parts of the folds, and the detection of copies and serial dependence."""

import math
import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blan_layers._checks import said
from blan_layers.estimation.arrays import Array, Side, as_array, is_missing
from blan_layers.estimation.preprocessing import Rows

LEAST_BLOCKS = 20

Labels = npt.NDArray[np.intp]

_DISTINCT = 0.99  # share of distinct rows above which a side counts as continuous
_REPEATED = 20  # rows above which chance no longer explains
_FAR = 10  # times as often as others
_FEW_COLUMNS = 3  # of x and y together, in which rounded values can be dense


class Part(NamedTuple):
    """The rows of a fold: for fitting critics, for selecting among them, and for the measurement."""

    fit: Rows
    stopping: Rows
    measured: Rows


def block_labels(blocks: Any, rows: int) -> Labels:
    """Return the block number of each row, from 0: stretches of a series, or the given groups."""
    if isinstance(blocks, bool):
        raise TypeError(said(f"blocks must be an int or an array of labels, got {blocks!r}. Pass, for example, 50."))
    try:
        length = operator.index(blocks)
    except TypeError:
        labels = _group_labels(blocks, rows)
    else:
        if length < 1:
            raise ValueError(said(f"blocks must be at least 1, got {length}. Pass the number of rows of a block."))
        labels = np.arange(rows) // min(length, rows)
    count = int(labels.max()) + 1
    if count < LEAST_BLOCKS:
        raise ValueError(
            said(
                f"needs at least {LEAST_BLOCKS} blocks for training and held-out estimates, got {count}. "
                "Make them shorter, or collect more pairs."
            )
        )
    return labels


def _group_labels(blocks: Any, rows: int) -> Labels:
    given = as_array("blocks", blocks, True)
    if given.shape != (rows,):
        raise ValueError(
            said(f"blocks must have one label for each of the {rows} rows, got shape {given.shape}. Pass (n,).")
        )
    missing = np.array([is_missing(value) for value in given.tolist()])
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(
            said(f"blocks must have a label for each row, got {given[row]} in row {row}. Leave out such rows.")
        )
    try:
        return np.unique(given, return_inverse=True)[1].astype(np.intp)
    except TypeError:
        raise TypeError(said(f"blocks must have labels of one type, got dtype {given.dtype}. Use strings.")) from None


def copies(x: Side, y: Side) -> Labels | None:
    """Return labels that are equal for copies of the same row, or None without copies.

    Rows that are equal by chance are not copies, such as rounded numbers, counts and categories. They are copies if the
    values of a side that is not rounded do not repeat once equal rows are removed, if all rows occur a multiple of the
    same number of times, or if equal rows are more frequent than rows that differ by one step. Nor are the rows of an
    atom, which a distribution of numbers may have, such as zeros in both x and y: as many of them as there are usually
    copies of a row share a label.
    """
    both, numbers = np.concatenate([x.values, y.values], 1), [side for side in (x, y) if not side.discrete]
    rows, first, labels, counts = np.unique(both, axis=0, return_index=True, return_inverse=True, return_counts=True)
    labels, usual, atoms = labels.reshape(-1), int(np.median(counts)), _atoms(counts)
    multiple = len(rows) >= _REPEATED and np.gcd.reduce(counts) > 1
    rows, first, repeated = rows[~atoms], first[~atoms], int((counts[~atoms] > 1).sum())
    if not repeated or not numbers:
        return None
    fine = max((len(np.unique(side.values[first], axis=0)) for side in numbers if not _rounded(side)), default=0)
    lonely = repeated >= _REPEATED and rows.shape[1] <= _FEW_COLUMNS and repeated > _adjacent(rows)
    if fine < _DISTINCT * len(rows) and not multiple and not lonely:
        return None
    for atom in np.flatnonzero(atoms):
        own = np.flatnonzero(labels == atom)
        labels[own] = labels.max() + 1 + np.arange(len(own)) // usual
    return np.unique(labels, return_inverse=True)[1]


def _rounded(side: Side) -> bool:
    """Return whether the values of each column that repeat mostly have a neighbour at the smallest distance of two."""
    return all(_is_rounded(column) for column in side.values.T)


def _is_rounded(column: Array) -> bool:
    values, counts = np.unique(column, return_counts=True)
    gaps = np.diff(values)
    if not len(gaps) or counts.max() == 1:
        return False
    one = gaps < 1.01 * gaps.min()
    beside = np.append(one, False) | np.append(False, one)
    return bool(beside[counts > 1].mean() >= 0.5)


def _atoms(counts: Labels) -> npt.NDArray[np.bool_]:
    """Return which rows occur too often for copies: few rows, and far more often than the others.

    If few rows are repeated at all, less is far.
    """
    often = np.asarray(counts > np.median(counts) * np.clip((counts > 1).sum(), 2, _FAR), dtype=bool)
    return often if often.sum() < _REPEATED else np.zeros_like(often)


def _adjacent(rows: Array) -> int:
    """Return the number of pairs (ordered) of different rows (n, d) whose values are equal or adjacent in each column.

    Values that repeat because they are rounded have adjacent values nearby: equal rows are at most half as frequent.
    """
    code = np.zeros(len(rows), dtype=np.int64)
    steps = np.zeros(1, dtype=np.int64)
    for column in rows.T:
        values, place = np.unique(column, return_inverse=True)
        base = len(values) + 2  # with room for a step beyond either end
        code = code * base + place.reshape(-1) + 1
        steps = (steps[:, None] * base + np.arange(-1, 2)).ravel()
    return sum(int(np.isin(code + step, code).sum()) for step in steps if step)


def folds(labels: Labels, number: int, rng: np.random.Generator) -> list[Part]:
    """Return the parts of each fold; no block is split, and every row is measured once.

    Of the blocks that a fold does not measure, a fifth selects among critics, and the others are used for fitting.

    Raises:
        ValueError: A block is too large.
    """
    place, within = _cut(labels, number, rng), []
    for fold in range(number):
        rest = np.flatnonzero(place != fold)
        inner = _cut(labels[rest], 5, rng)
        within.append(Part(rest[inner > 0], rest[inner == 0], np.flatnonzero(place == fold)))
    size, watched, measured = (min(len(part[kind]) for part in within) for kind in (0, 1, 2))
    if min(size, watched, measured) < 2:
        raise ValueError(
            said(
                f"rows that belong together must be few enough to be divided into {number} folds, got "
                f"{np.bincount(labels).max():,} of {len(labels):,} together. Divide the largest block, or leave copies "
                "out."
            )
        )
    return [
        Part(rng.permutation(part.fit)[:size], rng.permutation(part.stopping)[:watched], rng.permutation(part.measured))
        for part in within
    ]


def _cut(labels: Labels, number: int, rng: np.random.Generator) -> Labels:
    """Return the part of each row, from 0 to number - 1; parts have about equal sizes and split no block."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = rng.permutation(len(counts))
    middle = np.cumsum(counts[order]) - counts[order] / 2
    share = np.empty(len(counts), dtype=np.intp)
    share[order] = np.minimum(middle * number / len(labels), number - 1).astype(np.intp)
    return share[inverse]


class Serial(NamedTuple):
    """Correlations of rows one or two apart, in x and in y."""

    x: float
    y: float
    length: int
    """Number of rows after which the correlation is gone."""


def serial_dependence(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Serial | None:
    """Return the largest correlations of rows one or two apart, if they are beyond chance on both sides."""
    rows = len(x)
    found = []
    for side in (x, y):
        centred = (side - side.mean(0)) / np.maximum(side.std(0), 1e-12)
        lagged = np.stack([(centred[lag:] * centred[:-lag]).mean(0) for lag in (1, 2)])
        lag, column = np.unravel_index(np.abs(lagged).argmax(), lagged.shape)
        if abs(lagged[lag, column]) < max(4.5 / math.sqrt(rows), 0.1):
            return None
        found.append((float(lagged[lag, column]), _length(centred[:, column])))
    return Serial(found[0][0], found[1][0], max(found[0][1], found[1][1]))


def _length(column: npt.NDArray[np.float64]) -> int:
    """Return the first lag from which two correlations in a row are below a twentieth, of either sign."""
    rows = len(column)
    spectrum = np.fft.rfft(column, 2 * rows)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:rows] / rows
    low = np.flatnonzero(np.maximum(np.abs(correlation[:-1]), np.abs(correlation[1:])) < 0.05)
    return int(low[0]) if len(low) else rows
