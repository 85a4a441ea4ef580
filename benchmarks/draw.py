"""Draw the charts and write the tables for the results of all machines: ``python benchmarks/draw.py --help``."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

if not __package__:  # run as a script, from anywhere
    sys.path[:1] = [str(ROOT), str(ROOT / "examples")]

import matplotlib
import tyro
from rich.console import Console

from benchmarks.chart import chart
from benchmarks.machine import hardware_of, title_of
from benchmarks.record import RESULTS, load, no_results
from benchmarks.table import HEADER, details, heading, memory_ratio, rows
from shared.files import replacing
from shared.program import run_program
from shared.sheet import style

MARKED = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)

Contents = Mapping[Path, Mapping[str, Any]]
"""The content of each results file."""


@dataclass(frozen=True)
class Options:
    """Draw the chart of each file in benchmarks/results, and write the tables of all into the pages that show them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    tyro.cli(Options, args=arguments, prog="python benchmarks/draw.py")
    return run_program("draw", run)


def run(_: Console) -> None:
    """Draw the charts and write the tables.

    Raises:
        RecordError: A file does not contain results.
    """
    contents = all_results()
    if not contents:
        raise no_results(RESULTS, "none")
    for path, content in contents.items():
        try:
            pages({path: content})  # alone, so that an error names the file
            if not any(_eager({path: content})):
                raise ValueError("no case")
            draw(path.with_suffix(".svg"), content)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise no_results(path, repr(error)) from error
    for path, page in pages(contents).items():
        with replacing(path) as file:
            file.write(page.encode())


def draw(path: Path, content: Mapping[str, Any]) -> None:
    """Draw the chart of a machine; the same results give the same bytes."""
    with style(), replacing(path) as file:
        matplotlib.rcParams["svg.hashsalt"] = path.stem
        chart(content).savefig(file, format="svg", metadata={"Date": None})


def all_results() -> Contents:
    """Return the results of all machines."""
    return {path: load(path) for path in sorted(RESULTS.glob("*.json"))}


def pages(contents: Contents) -> dict[Path, str]:
    """Return the pages that contain tables, updated with these results."""
    tables = {
        ROOT / "README.md": f"{sentence(contents)}\n",
        ROOT / "docs" / "speed.md": short_tables(contents),
        ROOT / "benchmarks" / "README.md": full_tables(contents),
    }
    return {path: marked(path.read_text(encoding="utf-8"), table) for path, table in tables.items()}


def marked(page: str, table: str) -> str:
    """Replace the text between the markers of a page by a table."""
    return MARKED.sub(lambda marks: f"{marks[1]}{table}{marks[2]}", page)


def sentence(contents: Contents) -> str:
    """Return the README's sentence: the worst and the best speed-up over all eager steps and machines."""
    speedups: dict[str, list[float]] = {}
    for record in _eager(contents):
        peer = record["peers"][next(iter(record["peers"]))]
        if "speedup" in peer:
            speedups.setdefault(record["pass"], []).append(peer["speedup"]["median"])
    words = {"forward + backward": "training", "inference": "inference"}
    ranges = ", ".join(f"{_range(values, 2)} in {words.get(name, name)}" for name, values in speedups.items())
    count = len({hardware_of(content["machine"]) for content in contents.values()})
    machines = f"{count} machine{'s' * (count != 1)}"
    return f"Measured on {machines}, times as fast as the same step written by hand, from worst to best: {ranges}."


def short_tables(contents: Contents) -> str:
    """Return the table of every eager step against its first peer, over all machines, and their pictures."""
    lines = [["", "against", "times faster", "memory, times less"], ["---", "---", "---:", "---:"]]
    records = _eager(contents)
    for words in dict.fromkeys(map(heading, records)):
        group = [record for record in records if heading(record) == words]
        peer = next(iter(group[0]["peers"]))
        pairs = [(record["ours"], record["peers"][peer]) for record in group]
        faster = [theirs["speedup"]["median"] for _, theirs in pairs if "speedup" in theirs]
        leaner = [ratio for ours, theirs in pairs if (ratio := memory_ratio(theirs, ours)) is not None]
        lines.append([words, peer, _range(faster, 2), _range(leaner, 1)])
    titles = "; ".join(title_of(content["machine"]) for content in contents.values())
    pictures = [
        f"![Times faster than the peers: {title_of(content['machine'])}](../benchmarks/results/{path.stem}.svg)\n"
        for path, content in contents.items()
    ]
    return "\n".join([f"Measured on {titles}.\n", f"{_markdown(lines)}\n", *pictures])


def full_tables(contents: Contents) -> str:
    """Return the tables of all measurements on each machine."""
    parts = []
    for content in contents.values():
        machine = content["machine"]
        parts.append(f"### {title_of(machine)}\n")
        parts.append(f"{_listed({**machine, **machine['caches']}, without=('caches',))}.\n")
        for suite, results in content["suites"].items():
            run = results["run"]
            parts.append(f"#### {suite}\n")
            parts.append(f"{_listed({**run, **run['versions']}, without=('versions',))}.\n")
            lines = [list(HEADER), ["---", *("---:" for _ in HEADER[1:])]]
            for record in results["cases"]:
                lines.append(
                    [f"**{record['subject']} {record['size']}**, {details(record)}", *("" for _ in HEADER[1:])]
                )
                lines += [list(row) for row in rows(record)]
            parts.append(f"{_markdown(lines)}\n")
    return "\n".join(parts)


def _eager(contents: Contents) -> list[dict[str, Any]]:
    suites = [results for content in contents.values() for results in content["suites"].values()]
    return [record for results in suites for record in results["cases"] if not record["compiled"]]


def _range(values: list[float], digits: int) -> str:
    if not values:
        return ""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _listed(values: Mapping[str, Any], without: tuple[str, ...]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if name not in without)


def _markdown(lines: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
