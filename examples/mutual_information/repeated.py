"""Measure known information on repeated fresh draws: ``python examples/mutual_information/repeated.py``."""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console

from blan_layers.estimation import information_between
from mutual_information.tasks import common_scale_information, correlation
from shared.files import locked, make_parent, replacing, write_json
from shared.parallel import each
from shared.program import UserError, check_given_once, refuse_below, refuse_repeats, refuse_seeds, run_program

PROGRAM = "python examples/mutual_information/repeated.py"
DESCRIPTION = """Measure tasks with known information by information_between on fresh draws, and write bias, spread
and coverage to a page. Existing results are not measured again."""

HERE = Path(__file__).resolve().parent
HEADING = "# Repeated measurements of known information"

Array: TypeAlias = npt.NDArray[Any]


class Task(NamedTuple):
    """Pairs with known information."""

    title: str
    rows: int
    information: float
    draw: Callable[[int, np.random.Generator], tuple[Array, Array]]
    discrete: Literal["x", "both"] | None = None


class Case(NamedTuple):
    """A draw of a task."""

    task: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; by default all."""
    repetitions: int = 20
    """Number of draws per task."""
    first_seed: int = 0
    """Seed of the first draw; the others follow."""
    workers: int = min(2, os.cpu_count() or 1)
    """Number of simultaneous measurements, with one thread each."""
    seconds: float = math.inf
    """Seconds after which no further measurement is started."""
    results: Path = HERE / "repeated.json"
    """JSON file of all measurements."""
    page: Path = HERE / "repeated.md"
    """Markdown page that summarises them."""

    def check(self) -> None:
        """Refuse invalid settings.

        Raises:
            UserError: A name is unknown or repeated, a number is out of range, or an output would replace another file.
        """
        if self.tasks:
            refuse_repeats(UserError, "repeated", tasks=self.tasks)
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"repeated: --tasks must be among {', '.join(TASKS)}, got {name}. Name one of those.")
        refuse_below(UserError, "repeated", self, repetitions=1, workers=1, seconds=0)
        refuse_seeds(UserError, "repeated", first_seed=(self.first_seed, self.first_seed + self.repetitions - 1))
        if os.path.realpath(self.results) == os.path.realpath(self.page):
            raise UserError(f"repeated: --page must not be the file of --results, got {self.page}. Name another.")
        if self.page.is_file():
            with self.page.open("rb") as file:
                if file.read(len(HEADING)) not in (b"", HEADING.encode()):
                    raise UserError(
                        "repeated: --page must name a page that this program wrote, or a new one, got "
                        f"{self.page}. Name another."
                    )


def _gaussian(dimensions: int, rho: float, correlated: int | None = None) -> Callable[..., tuple[Array, Array]]:
    def draw(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
        x, noise = rng.standard_normal((2, rows, dimensions))
        rhos = np.where(np.arange(dimensions) < (dimensions if correlated is None else correlated), rho, 0.0)
        return x, rhos * x + np.sqrt(1 - rhos**2) * noise

    return draw


def _long_tailed(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x, y = _gaussian(1, 0.9)(rows, rng)
    return np.exp(3 * x), y**5


def _outlier(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x, y = _gaussian(1, 0.8)(rows, rng)
    x[rng.integers(rows)] = 1e8
    return x, y


def _student(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x, y = _gaussian(5, 0.0)(rows, rng)
    scale = np.sqrt(3 / rng.chisquare(3, (rows, 1)))
    return scale * x, scale * y


def _turned(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x, y = _gaussian(25, correlation(1.292, 25))(rows, rng)
    return x, y @ np.linalg.qr(rng.standard_normal((25, 25)))[0]


def _band(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.uniform(size=(rows, 1))
    return x, x + rng.uniform(-0.1, 0.1, (rows, 1))


def _near(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.standard_normal((rows, 1))
    return x, x + 0.001 * rng.standard_normal((rows, 1))


def _cell(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.integers(5, size=rows)
    return np.array(list("abcde"))[x], x + rng.uniform(0, 2, rows)


def _confused(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x, y = rng.integers(4, size=(2, rows))
    names = np.array(list("abcd"))
    return names[x], names[np.where(rng.random(rows) < 0.6, x, y)]


def _counts(rows: int, rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.integers(10, size=rows)
    return x, x + rng.integers(3, size=rows)


def _entropy(weights: Iterable[float]) -> float:
    """Return the entropy in nats of outcomes with these weights."""
    shares = np.array([*weights], dtype=float)
    shares /= shares.sum()
    return float(-(shares * np.log(shares)).sum())


TASKS: dict[str, Task] = {
    "independent": Task("independent 5x5 Gaussians", 1000, 0.0, _gaussian(5, 0.0)),
    "long-tailed": Task("exp(3 a) and b^5, correlation 0.9", 4000, -math.log(1 - 0.81) / 2, _long_tailed),
    "outlier": Task("1x1 Gaussians, one value of 1e8", 1000, -math.log(1 - 0.64) / 2, _outlier),
    "student": Task("5x5 Student t, 3 degrees of freedom", 4000, common_scale_information(3, 5, 5), _student),
    "two pairs": Task("25x25 Gaussians, two pairs correlated", 4000, -math.log(1 - 0.64), _gaussian(25, 0.8, 2)),
    "dense": Task("25x25 Gaussians, every column correlated", 4000, 1.292, _turned),
    "gaussian 1": Task("1x1 Gaussians", 4000, -math.log(1 - 0.36) / 2, _gaussian(1, 0.6)),
    "gaussian 2": Task("2x2 Gaussians", 4000, -math.log(1 - 0.49), _gaussian(2, 0.7)),
    "gaussian 3": Task("3x3 Gaussians", 4000, -1.5 * math.log(1 - 0.64), _gaussian(3, 0.8)),
    "gaussian 10": Task("10x10 Gaussians", 4000, -5 * math.log(1 - 0.25), _gaussian(10, 0.5)),
    "band": Task("x uniform, y = x + uniform noise of +-0.1", 4000, math.log(5) + 0.1, _band),
    "near": Task("y = x + 0.001 e", 4000, math.log1p(1e6) / 2, _near),
    "cell": Task(
        "x one of five categories, y uniform from x to x + 2", 4000, math.log(5) - 0.8 * math.log(2), _cell, "x"
    ),
    "confused": Task(
        "four categories each, equal with probability 0.7",
        4000,
        math.log(4) - _entropy([0.7, 0.1, 0.1, 0.1]),
        _confused,
        "both",
    ),
    "counts": Task(
        "x from 0 to 9, y = x + 0, 1 or 2",
        4000,
        _entropy(Counter(x + added for x in range(10) for added in range(3)).values()) - math.log(3),
        _counts,
    ),
}


def measure(case: Case) -> dict[str, Any]:
    """Draw pairs and measure their information."""
    task = TASKS[case.task]
    x, y = task.draw(task.rows, np.random.default_rng([case.seed, *case.task.encode()]))
    started = time.perf_counter()
    found = information_between(x, y, discrete=task.discrete, seed=case.seed)
    names = ("value", "low", "high", "p_value", "saturated", "others")
    kept = {name: getattr(found, name) for name in names}
    return {"task": case.task, "seed": case.seed, **kept, "seconds": time.perf_counter() - started}


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return the page that summarises all measurements."""
    lines = [
        HEADING,
        "",
        "`information_between` with its defaults on fresh draws, one row per task (categories with `discrete=`). Bias "
        "and standard deviation are those of the value, in nats; covered says how often the 95 % interval contained "
        "the truth; p <= 0.05 how often the permutation test found dependence. Root mean square errors are compared "
        "with those of the nearest-neighbour estimate (Kraskov et al., k = 3) and the Gaussian one (canonical "
        "correlation) on the same draws, also on normal scores. Some constants of the estimator were chosen with a "
        "few of these draws in view; `--first-seed` selects others.",
        "",
        "| task | pairs | truth | draws | bias | deviation | lowest | covered | p <= 0.05 | saturated | error "
        "| neighbours' | Gaussian's | seconds |",
        f"| --- |{' ---: |' * 13}",
    ]
    for name, task in TASKS.items():
        found = [result for result in results if result["task"] == name]
        if found:
            lines.append(_line(task, found))
    seconds = sum(result["seconds"] for result in results)
    return "\n".join(
        [
            *lines,
            "",
            f"Written by `{PROGRAM}`; {len(results)} measurements on one thread each, {seconds:,.0f} s in total, "
            "while other work ran on the machine.",
            "",
        ]
    )


def _line(task: Task, found: Sequence[dict[str, Any]]) -> str:
    truth, count = task.information, len(found)
    values = np.array([result["value"] for result in found])
    errors = [
        math.sqrt(np.mean((np.array(numbers, dtype=float) - truth) ** 2))  # None, which JSON has for NaN, becomes NaN
        for numbers in (values, *([r["others"][other] for r in found] for other in ("neighbours", "gaussian")))
    ]
    covered = sum(result["low"] <= truth <= result["high"] for result in found)
    told = sum(result["p_value"] <= 0.05 for result in found)
    cells = [
        task.title,
        f"{task.rows:,}",
        f"{truth:.3f}",
        f"{count}",
        f"{values.mean() - truth:+.3f}",
        f"{values.std(ddof=1) if count > 1 else 0:.3f}",
        f"{values.min():.3f}",
        f"{covered} of {count}",
        f"{told} of {count}",
        f"{sum(result['saturated'] for result in found)} of {count}",
        *(f"{error:.3f}" for error in errors),
        f"{np.median([result['seconds'] for result in found]):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _existing(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(results, list) and all(
            result["task"] in TASKS and isinstance(result["seed"], int) for result in results
        )
        page(results)  # which needs the other keys
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits:
        raise UserError(
            f"repeated: --results must name a file that this program wrote, or a new one, got {path}. Name another."
        )
    return results


def run(settings: Settings, console: Console) -> None:
    """Run the missing measurements, and write results and page after each."""
    settings.check()
    for output in (settings.results, settings.page):
        make_parent(output)
    with locked(settings.results.with_name(f".{settings.results.name}.lock")) as ours:
        if not ours:
            raise UserError(
                f"repeated: --results must be free, got {settings.results}, to which another run writes. "
                "Wait for it, or name another."
            )
        _measure_missing(settings, console)


def _measure_missing(settings: Settings, console: Console) -> None:
    started = time.perf_counter()
    results = _existing(settings.results)
    done = {Case(result["task"], result["seed"]) for result in results}
    names = settings.tasks or tuple(TASKS)
    seeds = range(settings.first_seed, settings.first_seed + settings.repetitions)
    todo = [Case(name, seed) for seed in seeds for name in names]
    todo = [case for case in todo if case not in done]
    size = settings.workers
    for start in range(0, len(todo), 4 * size):
        if time.perf_counter() - started > settings.seconds:
            break
        for result in each(measure, todo[start : start + 4 * size], settings.workers):
            results.append(result)
            console.print(f"{result['task']}, seed {result['seed']}: {result['value']:.3f}, {result['seconds']:.1f} s")
            _write(settings, results)
    _write(settings, results)  # even if nothing was missing


def _write(settings: Settings, results: list[dict[str, Any]]) -> None:
    results.sort(key=lambda result: (list(TASKS).index(result["task"]), result["seed"]))
    write_json(settings.results, results)
    with replacing(settings.page) as file:
        file.write(page(results).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("repeated", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("repeated", partial(run, settings), stopped="Stopped; what was measured is kept.")


if __name__ == "__main__":
    sys.exit(main())
