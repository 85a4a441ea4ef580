"""The results of a suite, as a table for the terminal."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.measure import Record


def table(suite: str, records: Sequence[Record]) -> Table:
    """Lay out every contender of every case; speed-ups are those of ours over the peer."""
    printed = Table(title=f"{suite}: medians, quartiles in brackets", title_justify="left", box=SIMPLE_HEAD)
    printed.add_column("", min_width=26)
    for column in ("ms", "speed-up of ours", "extra MiB", "whole MiB"):
        printed.add_column(column, justify="right", no_wrap=True)
    for record in records:
        printed.add_row(f"{record['subject']} {record['size']}", style="bold")
        details = [record["pass"], "compiled" * record["compiled"], record["dtype"].replace("float32", "")]
        details += [f"{record['rounds']} rounds"] if "rounds" in record else []
        printed.add_row(", ".join(filter(None, details)))
        ours = record["ours"]
        printed.add_row("  ours", *_cells(ours, ours))
        for name, peer in record["peers"].items():
            if peer["agrees"]:
                printed.add_row(f"  {name}", *_cells(peer, ours))
            else:
                printed.add_row(f"  {name} differs: {spoken_difference(peer)}", style="red")
        if floor := record.get("floor"):
            share = f"share {bracketed(floor['share'], 1, 2)}"
            printed.add_row(f"  floor: {floor['name']}", bracketed(floor["seconds"], 1e3), share, style="dim")
        printed.add_section()
    return printed


def bracketed(values: Mapping[str, float], scale: float, digits: int | None = None) -> str:
    """Return a median and its quartiles."""
    low, median, high = (values[name] * scale for name in ("low", "median", "high"))
    if digits is None:
        digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} \\[{low:.{digits}f}, {high:.{digits}f}]"


def spoken_difference(peer: Record) -> str:
    """Say how far a peer is from ours."""
    found = peer["differences"]
    return f"values {found['values']:.1e}, gradients {found['gradients']:.1e}"


def extra(entry: Record) -> float:
    """Return the memory of a step above what there was before it, in MiB."""
    value: float = entry["memory"]["peak"] - entry["memory"]["before"]
    return value


def _cells(entry: Record, ours: Record) -> list[str]:
    cells = [bracketed(entry["seconds"], 1e3) if "seconds" in entry else ""]
    cells.append(bracketed(entry["speedup"], 1, 2) if "speedup" in entry else "")
    if "memory" not in entry:
        return cells
    ratio = "" if entry is ours else f" ({extra(entry) / max(extra(ours), 1e-9):.1f}x)"
    return [*cells, f"{extra(entry):.1f}{ratio}", f"{entry['memory']['peak']:.0f}"]
