"""The results of a suite as rows of text, for the terminal and for Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from benchmarks.measure import Record


class Row(NamedTuple):
    """A contender or the floor; speed-ups are those of ours over it, with quartiles in brackets."""

    name: str
    milliseconds: str = ""
    speedup: str = ""
    extra: str = ""
    whole: str = ""


HEADER = Row("", "ms", "speed-up of ours", "extra MiB", "whole MiB")


def rows(record: Record) -> Iterator[Row]:
    """Yield a row per contender of a case, and one for its floor."""
    ours = record["ours"]
    yield _row("ours", ours, ours)
    for name, peer in record["peers"].items():
        if peer.get("agrees", True):
            yield _row(name, peer, ours)
        else:
            found = peer["differences"]
            yield Row(name, "differs", f"values {found['values']:.1e}, gradients {found['gradients']:.1e}")
    if floor := record.get("floor"):
        words = f"floor: {floor['name']}" + (f" x {floor['times']:g}" if floor["times"] != 1 else "")
        yield Row(words, bracketed(floor["seconds"], 1e3), f"share {bracketed(floor['share'], digits=2)}")


def heading(record: Record) -> str:
    """Return the name of a case without its size."""
    return ", ".join([record["subject"], record["pass"]] + [record["dtype"]] * (record["dtype"] != "float32"))


def details(record: Record) -> str:
    """Return how a case was measured."""
    words = [record["pass"], "compiled" if record["compiled"] else "eager"]
    words += [record["dtype"]] if record["dtype"] != "float32" else []
    words += [f"{record['rounds']} rounds"] if "rounds" in record else []
    return ", ".join(words)


def table(suite: str, records: Sequence[Record]) -> Table:
    """Return the table of a suite for the terminal."""
    printed = Table(title=f"{suite}: medians, quartiles in brackets", title_justify="left", box=SIMPLE_HEAD)
    printed.add_column("", min_width=34)
    for column in HEADER[1:]:
        printed.add_column(column, justify="right", no_wrap=True)
    for record in records:
        printed.add_row(f"{record['subject']} {record['size']}", style="bold")
        printed.add_row(details(record))
        for row in rows(record):
            style = "red" if row.milliseconds == "differs" else "dim" if row.name.startswith("floor") else None
            printed.add_row(f"  {row.name}", *map(Text, row[1:]), style=style)
        printed.add_section()
    return printed


def bracketed(values: Mapping[str, float], scale: float = 1.0, digits: int | None = None) -> str:
    """Return a median and its quartiles, with three digits by default."""
    low, median, high = (values[name] * scale for name in ("low", "median", "high"))
    if digits is None:
        digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def extra(entry: Record) -> float:
    """Return the peak memory of a step above the memory before it, in MiB."""
    value: float = entry["memory"]["peak"] - entry["memory"]["before"]
    return value


def memory_ratio(peer: Record, ours: Record) -> float | None:
    """Return the ratio of a peer's extra memory to ours; None if unknown."""
    if "memory" not in peer or extra(ours) <= 0:
        return None
    return extra(peer) / extra(ours)


def _row(name: str, entry: Record, ours: Record) -> Row:
    row = Row(
        name,
        bracketed(entry["seconds"], 1e3) if "seconds" in entry else "",
        bracketed(entry["speedup"], digits=2) if "speedup" in entry else "",
    )
    if "memory" not in entry:
        return row
    ratio = None if entry is ours else memory_ratio(entry, ours)
    words = "" if ratio is None else f" ({ratio:.1f}x)"
    return row._replace(extra=f"{extra(entry):.1f}{words}", whole=f"{entry['memory']['peak']:.0f}")
