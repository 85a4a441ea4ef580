"""A table as a web page: values with their spread, the paper's values, and the runs behind them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from blan_facial.config import Config
from blan_facial.data.attributes import spoken
from blan_facial.network.model import LEVEL_NAMES
from blan_facial.report.charts import Bar, levels, rounded
from blan_facial.report.pages import write_page
from blan_facial.report.pictures import multiples
from blan_facial.report.provenance import Setting, settings
from blan_facial.report.scores import Axis, Strip, style_of
from blan_facial.results.run_folder import REPORT
from blan_facial.tables.cells import Experiment, Run
from blan_facial.tables.curves import curves, sheet
from blan_facial.tables.entries import Entry, Ours
from blan_facial.tables.layout import caption, halves, written
from blan_facial.tables.running import Job
from shared.files import replacing

UNITS = {"parameters": "millions", "ms/image": "milliseconds", "epoch kept": "epochs", "seconds": "of training"}
"""Units of the columns that are not in percent."""


class Line(NamedTuple):
    """A row of a chart."""

    name: str
    strip: Strip
    ours: Ours
    paper: float | None


class Panel(NamedTuple):
    """The chart of a column."""

    title: str
    unit: str
    axis: Axis
    lines: tuple[Line, ...]


class Seed(NamedTuple):
    """A run with one seed."""

    name: str
    accuracy: float | None
    """None for an unfinished run."""
    link: str | None
    """Path of its report relative to the page; None if there is none."""


def write_table_page(
    path: Path, plan: Experiment, entries: Sequence[Entry], budget: str, jobs: Mapping[Run, Sequence[Job]]
) -> None:
    """Write the page and, for Fig. 3 and tables with curves, a picture next to it.

    Args:
        path: Path of the page, in a folder above those of the runs.
        plan: The table.
        entries: Its cells.
        budget: Description of what all rows have in common.
        jobs: All runs, seed by seed.
    """
    runs = [(run.name, " ".join(run.options), [_seed(path.parent, job) for job in of]) for run, of in jobs.items()]
    cells, shown = {(entry.row, entry.column): entry for entry in entries}, halves(plan, entries)
    charts = _multiples(plan, cells) if plan.name == "figure3" else []
    if charts:
        note = f"{budget}: mean and sample standard deviation, in percent; each attribute has its own scale."
        with replacing(path.with_suffix(".png")) as file:
            file.write(multiples(note, [(attribute, drawing) for attribute, drawing, *_ in charts]))
    drawings = curves(plan, entries)
    if drawings:
        with replacing(path.with_suffix(".png")) as file:
            file.write(sheet(plan.title, f"{budget}: mean ± sample standard deviation.", drawings))
    write_page(
        path,
        "experiment.html.j2",
        title=plan.title,
        name=plan.name,
        budget=budget,
        paper_data=plan.paper_data,
        caption=caption(plan, entries, budget),
        panels=[] if plan.name == "figure3" else _panels(plan, cells),
        multiples=charts,
        curves=drawings,
        columns=shown,
        rows=[
            (spoken(row), [(owner, getattr(cells[row, column], owner)) for column, owner in shown]) for row in plan.rows
        ],
        written=written,
        seeds=[entry for entry in entries if entry.ours is not None and len(entry.ours.values) > 1],
        runs=runs,
        finished=sum(seed.accuracy is not None for *_, seeds in runs for seed in seeds),
        wanted=sum(len(seeds) for *_, seeds in runs),
        settings=_common([job.config for of in jobs.values() for job in of]),
    )


def _panels(plan: Experiment, cells: Mapping[tuple[str, str], Entry]) -> list[Panel]:
    """Return a chart for every column with numbers of ours."""
    panels = []
    for column in plan.columns:
        entries = [cells[row, column] for row in plan.rows]
        measured = [(entry, entry.ours) for entry in entries if entry.ours and isinstance(entry.ours.mean, float)]
        if not measured:
            continue
        papers = [_number(entry.paper) for entry, _ in measured]
        values = [value for _, ours in measured for value in (*ours.values, *_span(ours))] + papers
        axis = Axis(*rounded(*(side(value for value in values if isinstance(value, float)) for side in (min, max))))
        lines = []
        for (entry, ours), paper in zip(measured, papers, strict=True):
            low, high = (axis.place(edge) for edge in _span(ours))
            seeds = tuple(at for value in ours.values if (at := axis.place(_number(value))) is not None)
            strip = Strip(axis.place(_number(ours.mean)) or 0.0, low, high, None, "whole", seeds, axis.place(paper))
            lines.append(Line(spoken(entry.row), strip, ours, paper))
        panels.append(Panel(column, UNITS.get(column, "percent"), axis, tuple(lines)))
    return panels


def _multiples(plan: Experiment, cells: Mapping[tuple[str, str], Entry]) -> list[tuple[str, Markup, str, str]]:
    """Return for every measured attribute its chart, our best level and the paper's."""
    found = []
    for row in plan.rows:
        measured = [(level, ours) for level in LEVEL_NAMES if (ours := cells[row, level].ours) is not None]
        if measured:
            bars = [Bar(level, float(ours.mean), *_span(ours), style_of(level)) for level, ours in measured]
            best = cells[row, "best level"]
            found.append((spoken(row), levels(spoken(row), bars), str(best.ours or ""), str(best.paper or "")))
    return found


def _span(ours: Ours) -> tuple[float, float]:
    mean, spread = float(ours.mean), ours.spread or 0.0
    return mean - spread, mean + spread


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _seed(folder: Path, job: Job) -> Seed:
    metrics = job.metrics()
    report = job.folder / REPORT
    link = quote(report.relative_to(folder).as_posix()) if metrics is not None and report.is_file() else None
    return Seed(job.folder.name.replace("-", " "), None if metrics is None else metrics["accuracy"], link)


def _common(configs: Sequence[Config]) -> list[Setting]:
    """Return the settings that all runs share."""
    plain: list[dict[str, Any]] = [config.as_json() for config in configs]
    return settings({name: value for name, value in plain[0].items() if all(of[name] == value for of in plain)})
