"""Summaries of the estimates: bias, standard deviation and root mean square error, and their tables."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from mutual_information.estimators import ESTIMATORS, EstimatorName
from mutual_information.staircase import Estimates
from mutual_information.tasks import TASKS, TaskName

SETTLED = 4
"""The summary covers the last 1 / SETTLED of the steps of each level."""

Results = Mapping[tuple[TaskName, EstimatorName], Sequence[Estimates]]
"""The estimates of each task and estimator, one array per seed."""


class Row(NamedTuple):
    """The errors of an estimator on a task at a level, in nats."""

    task: TaskName
    estimator: EstimatorName
    truth: float
    bias: float
    """Mean of the estimates minus the truth."""
    std: float
    """Standard deviation of the estimates of single batches."""
    rmse: float
    """Root of the mean squared error, which is the sum of the squares of bias and standard deviation."""


def summarise(results: Results, levels: Sequence[float]) -> list[Row]:
    """Summarise the last quarter of each level over all seeds."""
    rows = []
    for (task, estimator), runs in results.items():
        for level, truth in enumerate(levels):
            settled = np.concatenate([run[level, -max(1, run.shape[1] // SETTLED) :] for run in runs])
            errors = settled - truth
            rows.append(
                Row(
                    task,
                    estimator,
                    truth,
                    float(errors.mean()),
                    float(errors.std()),
                    float(np.sqrt(np.mean(errors**2))),
                )
            )
    return rows


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table, with a line per task and estimator."""
    levels = list(dict.fromkeys(row.truth for row in rows))
    header = ["task", "estimator", *(f"{level:g} nats" for level in levels)]
    cells = {(row.task, row.estimator, row.truth): row for row in rows}
    lines = []
    for task, estimator in dict.fromkeys((row.task, row.estimator) for row in rows):
        found = [cells[task, estimator, level] for level in levels]
        shown = [f"{_number(row.bias, '+')} ± {_number(row.std)} ({_number(row.rmse)})" for row in found]
        lines.append([TASKS[task].title, ESTIMATORS[estimator].title, *shown])
    return header, lines


def markdown(rows: Sequence[Row], caption: str) -> str:
    """Return the table and its caption as Markdown."""
    header, lines = grid(rows)
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)), "", caption]) + "\n"


def terminal(rows: Sequence[Row], caption: str) -> Table:
    """Return the table for the terminal."""
    header, lines = grid(rows)
    table = Table(title="Bias ± standard deviation (root mean square error), in nats", caption=caption, box=box.SIMPLE)
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place < 2)
    for before, line in zip([None, *lines], lines, strict=False):
        if before is not None and before[0] != line[0]:
            table.add_section()
        table.add_row(*(cell.replace(" (", "\n(") for cell in line))
    return table


def _number(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.2f}" if abs(value) < 100 else f"{value:{sign}.0e}"
