"""Pages of all kinds, made of a run."""

import json
import shutil
from pathlib import Path
from typing import Any

from blan_facial.data.avatars import ATTRIBUTES
from blan_facial.report.run_page import write_report
from blan_facial.tables.entries import entries
from blan_facial.tables.measures import Result
from blan_facial.tables.plan import Name, experiment
from blan_facial.tables.running import Job
from blan_facial.tables.table_page import write_table_page


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def as_baseline(run: Path) -> Path:
    """Leave of a run what a model without levels, decoder and fusion writes, and write its page."""
    change(run / "config.json", model="resnet")
    metrics = json.loads((run / "metrics.json").read_text())
    for of in (metrics["per_level"], *metrics["per_attribute"].values()):
        of |= dict.fromkeys(("AC1", "AC2", "AC3", "AC4", "fused"))
    for of in (metrics["statistics"]["mean"], *metrics["statistics"]["per_attribute"].values()):
        of |= {"columns": {"sum": of["columns"]["fused"]}, "winner": None}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "model.safetensors").unlink()
    return write_report(run, None)


def without_labels(run: Path, attribute: str) -> Path:
    """Let no label of an attribute be known, and write the page."""
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["per_attribute"][attribute] = dict.fromkeys(metrics["per_attribute"][attribute])
    of = metrics["statistics"]["per_attribute"][attribute]
    of["winner"] = None
    of["columns"] = {level: dict.fromkeys(said) for level, said in of["columns"].items()}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return write_report(run, None)


def table_page(name: Name, run: Path, folder: Path) -> Path:
    """Write the page of a table of which one run has three seeds, one has one, and the others are not finished."""
    plan = experiment(name, "avatars")
    metrics = json.loads((run / "metrics.json").read_text())
    jobs = {
        of: [Job(of.name, folder / of.name / f"seed-{seed}", (*of.options, "--seed", str(seed))) for seed in range(3)]
        for of in plan.runs
    }
    finished = [*jobs[plan.runs[0]], *(jobs[of][0] for of in plan.runs[1:2])]
    results: dict[Any, list[Result]] = {}
    for place, job in enumerate(finished):
        job.folder.mkdir(parents=True)
        (job.folder / "config.json").write_text(json.dumps(job.config.as_json() | {"attributes": list(ATTRIBUTES)}))
        ours = metrics | {"accuracy": 0.8 + place / 100}
        (job.folder / "metrics.json").write_text(json.dumps(ours))
        for cell in plan.cells.values():
            if job in jobs[cell.run]:
                results.setdefault(cell, []).append(Result(ours, job.config, job.folder))
    shutil.copy(run / "report.html", finished[0].folder)
    path = folder / f"{name}.html"
    write_table_page(path, plan, entries(plan, results), "avatars, 2 epochs, seeds 0, 1, 2", jobs)
    return path
