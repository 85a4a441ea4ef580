"""Measuring a case: first agreement, then time, then memory."""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.contest import Case, Contender, Contest, agree, differences
from benchmarks.memory import peak_in_a_process
from benchmarks.timing import Quartiles, alternate, quartiles, ratios

Record = dict[str, Any]
"""Results of a case in JSON types."""


def measure(case: Case, suite: str, device: torch.device, seconds: float, least_rounds: int, look: bool) -> Record:
    """Measure a case.

    A peer that differs from ours is neither timed nor measured for memory; its record contains the differences.

    Args:
        case: The case to measure.
        suite: Name of its suite.
        device: Device for the measurement.
        seconds: Time for all rounds; the case may require more rounds than fit.
        least_rounds: Minimum number of rounds, however long they take.
        look: Whether to leave out compiled contenders and memory.
    """
    contest = case.build(case)
    if look:
        contest = replace(contest, contenders=[each for each in contest.contenders if not each.compiled])
    else:
        torch.compiler.reset()
    ours, *others = contest.contenders
    record: Record = {
        "subject": case.subject,
        "size": case.size,
        "pass": "forward + backward" if case.differentiates else "inference",
        "compiled": case.compiled,
        "dtype": str(case.dtype).removeprefix("torch."),
        "tolerances": _named(contest.tolerances),
        "ours": {},
        "peers": {other.name: {} for other in others},
    }
    errors = differences(contest)
    for name, error in errors.items():
        record["peers"][name] |= {"agrees": agree(error, contest), "differences": _named(error)}
    measured = [ours, *(other for other in others if record["peers"][other.name].get("agrees", True))]
    if case.timed:
        _time(record, contest, measured, seconds, least_rounds, device)
    if not look and case.differentiates and not case.compiled:
        for contender in measured:
            _entry(record, contender)["memory"] = peak_in_a_process(suite, case.label, contender.name, device)
    return record


def differs(record: Record) -> bool:
    """Return whether a peer of a case differs from ours."""
    return not all(peer.get("agrees", True) for peer in record["peers"].values())


def _entry(record: Record, contender: Contender) -> Record:
    entry: Record = record["peers"].get(contender.name, record["ours"])
    return entry


def _time(
    record: Record,
    contest: Contest,
    measured: list[Contender],
    seconds: float,
    least_rounds: int,
    device: torch.device,
) -> None:
    steps: dict[str, Any] = {contender.name: contender.step for contender in measured}
    if contest.floor is not None:
        steps["floor"] = contest.floor.step
    times = alternate(steps, seconds, least_rounds, device)
    ours = times["ours"]
    record["rounds"] = len(ours)
    for contender in measured:
        entry = _entry(record, contender)
        entry["seconds"] = _plain(quartiles(times[contender.name]))
        if contender.name != "ours":
            entry["speedup"] = _plain(ratios(times[contender.name], ours))
    if (floor := contest.floor) is not None:
        part = quartiles(times["floor"])
        record["floor"] = {
            "name": floor.name,
            "seconds": _plain(Quartiles(*(floor.times * t for t in part))),
            "times": floor.times,
            "share": _plain(ratios([floor.times * t for t in times["floor"]], ours)),
            "rate": floor.work / part.median,
            "unit": f"{floor.unit}/s",
        }


def _plain(values: Quartiles) -> dict[str, float]:
    return values._asdict()


def _named(errors: tuple[float, float]) -> dict[str, float]:
    """Return the errors of values and of gradients by name."""
    return dict(zip(("values", "gradients"), errors, strict=True))
