"""Mutate the files that the example reads, and print what came of it: ``python -m tests.fuzz --seconds 60``.

A mutation is read, or refused by an error of the program's own. Anything else is a fault: another exception, the death
of the process, more than 30 seconds, more than 4 GiB. Each mutation is a function of reader and seed, so that
``--reader NAME --first SEED --mutations 1`` makes a fault again.
"""

import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

Reader = Literal["celeba", "csv", "columns", "mat", "parquet", "image", "weights", "checkpoint", "config"]

PATIENCE = 30.0
"""Seconds that a mutation may take."""
MOST_BYTES = 4 * 2**30
"""Of address space beyond what the process has when it begins."""

_ABSURD = (
    b"\xff" * 8,
    b"\x00" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"99999999999999999999",
    b"-1",
    b"nan",
    b'"',
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to mutate, and for how long."""

    reader: tuple[Reader, ...] = get_args(Reader)
    """Readers to try; all by default."""
    seconds: float = 60.0
    """Begin no mutation of a reader after its share of these."""
    mutations: int = 3000
    """Most mutations of each reader."""
    first: int = 0
    """Seed of the first mutation; the others follow."""


@dataclass
class Outcome:
    """What came of a reader's mutations."""

    read: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Seeds, and what happened."""


class Target(NamedTuple):
    """A valid file, and how it is read."""

    file: Path
    read: Callable[[], object]


def fuzz(reader: Reader, *, seconds: float, mutations: int, first: int = 0) -> Outcome:
    """Read mutations of a reader's file, in a process that may die of them."""
    outcome, seed, began = Outcome(), first, time.monotonic()
    while seed < first + mutations and time.monotonic() - began < seconds:
        seed = _until_it_dies(reader, range(seed, first + mutations), began + seconds, outcome) + 1
    return outcome


def _until_it_dies(reader: Reader, seeds: range, end: float, outcome: Outcome) -> int:
    """Read mutations until they are done, time is over or the process is; return the last seed."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_mutate, args=(reader, seeds, theirs), daemon=True)
    process.start()
    theirs.close()
    last = seeds.start - 1
    try:
        ours.recv()  # the valid file was read
        for seed in seeds:
            last = seed
            if not ours.poll(PATIENCE):
                outcome.faults.append((seed, f"did not end in {PATIENCE:.0f} s"))
                return last
            said = ours.recv()
            if said is None:
                outcome.read += 1
            elif said == "refused":
                outcome.refused += 1
            else:
                outcome.faults.append((seed, said))
            if time.monotonic() > end:
                return seeds.stop
    except EOFError:
        process.join(PATIENCE)
        code = process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        outcome.faults.append((last, f"the process ended by {name}"))
    finally:
        process.kill()
        process.join()
    return last


def _mutate(reader: Reader, seeds: range, connection: Connection) -> None:
    """Read the valid file, then one mutation for each seed, and send what came of it."""
    from shared.program import UserError

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        os.environ["HF_HUB_OFFLINE"] = "1"
        target = TARGETS[reader](Path(folder))
        target.read()
        valid = target.file.read_bytes()
        connection.send(None)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, resource.RLIM_INFINITY))
        for seed in seeds:
            target.file.write_bytes(mutated(valid, random.Random(f"{reader} {seed}")))
            try:
                target.read()
                connection.send(None)
            except UserError:
                connection.send("refused")
            except BaseException as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                words = " ".join(str(error).split())[:120]
                connection.send(f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {words}")


def mutated(valid: bytes, chance: random.Random) -> bytes:
    """Return the bytes after one to four changes: flips, cuts, repeats, swaps, and numbers that no file means."""
    data = bytearray(valid)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        stretch = slice(place, place + chance.choice((1, 8, 64, 512)))
        kind = chance.randrange(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = chance.randrange(256)
        elif kind == 2:
            del data[stretch]
        elif kind == 3:
            data[place:place] = data[stretch] * chance.choice((1, 100))
        elif kind == 4:
            absurd = chance.choice(_ABSURD)
            data[place : place + len(absurd)] = absurd
        elif kind == 5:
            del data[place:]
        else:
            data[place:place] = chance.randbytes(chance.choice((1, 16)))
    return bytes(data)


def _celeba(folder: Path) -> Target:
    from blan_facial.data.celeba import load_celeba
    from tests.examples.celeba_folder import write_celeba_folder

    images = [np.full((8, 8, 3), 30 * index, np.uint8) for index in range(8)]
    labels = np.arange(16).reshape(8, 2) % 3 % 2
    write_celeba_folder(folder / "celeba", images, labels, ("Smiling", "Bald"))
    return Target(
        folder / "celeba" / "list_attr_celeba.txt", lambda: load_celeba(folder / "celeba", "train", image_size=8)
    )


def _csv(folder: Path) -> Target:
    from blan_facial.data.table import read_table

    file = folder / "faces.csv"
    rows = (f"{index}.png,{'train' if index % 3 else 'test'},{index % 2},p{index}\n" for index in range(40))
    file.write_text("image,split,Smiling,person\n" + "".join(rows))
    return Target(file, lambda: read_table(file))


def _columns(folder: Path) -> Target:
    from blan_facial.data.columns import read_columns

    file = folder / "columns.json"
    file.write_text(
        '{"image": "file", "person": "id", "split": {"column": "file", "train": ["a/*"], "test": ["b/*"]},'
        ' "attributes": {"Male": {"column": "gender", "yes": ["M"]}, "Senior": {"column": "age", "at_least": 60}},'
        ' "categories": {"race": []}}'
    )
    return Target(file, lambda: read_columns(file))


def _mat(folder: Path) -> Target:
    from blan_facial.data.lfwa import load_lfwa
    from tests.examples.test_lfwa import write_attributes, write_images

    write_attributes(folder)
    write_images(folder / "lfw")
    return Target(folder / "lfw_att_40.mat", lambda: load_lfwa(folder, "train", image_size=8, partition="all"))


def _parquet(folder: Path) -> Target:
    from blan_facial.data.parquet import load_parquet
    from tests.examples.test_parquet import cells, write

    root = folder / "copy"
    file = write(root / "train.parquet", image=cells(0, 90, 200, 30), Smiling=[1, -1, 1, -1], Bald=[1, 1, -1, -1])

    def read() -> None:
        faces = load_parquet(root, "train", image_size=8)
        for index in range(len(faces)):
            faces.image(index)

    return Target(file, read)


def _image(folder: Path) -> Target:
    from PIL import Image

    from blan_facial.data.table import load_csv, read_table

    pixels = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "face.jpg")
    (folder / "faces.csv").write_text("image,split,Smiling\nface.jpg,train,1\n")
    table = read_table(folder / "faces.csv")
    return Target(folder / "face.jpg", lambda: load_csv(table, folder, "train", image_size=8).image(0))


def _run(folder: Path, name: str) -> Target:
    from blan_facial.results.finished import load_run
    from tests.examples.run_folder import SMALL, write_run

    write_run(folder / "run", *SMALL)
    return Target(folder / "run" / name, lambda: load_run(folder / "run"))


def _weights(folder: Path) -> Target:
    return _run(folder, "model.safetensors")


def _config(folder: Path) -> Target:
    return _run(folder, "config.json")


def _checkpoint(folder: Path) -> Target:
    from blan_facial.training.checkpoint import read_checkpoint
    from tests.examples.test_checkpoint import CONFIG, DATA, write

    return Target(write(folder), lambda: read_checkpoint(folder, CONFIG, DATA))


TARGETS: dict[Reader, Callable[[Path], Target]] = {
    "celeba": _celeba,
    "csv": _csv,
    "columns": _columns,
    "mat": _mat,
    "parquet": _parquet,
    "image": _image,
    "weights": _weights,
    "checkpoint": _checkpoint,
    "config": _config,
}


def _rows(settings: Settings, console: Console) -> Iterator[tuple[Reader, Outcome]]:
    for reader in settings.reader:
        with console.status(f"mutating: {reader}"):
            share = settings.seconds / len(settings.reader)
            yield reader, fuzz(reader, seconds=share, mutations=settings.mutations, first=settings.first)


def main(arguments: list[str] | None = None) -> int:
    """Mutate, print the table, and return 1 if there was a fault."""
    settings = tyro.cli(Settings, args=arguments, prog="python -m tests.fuzz", description=__doc__)
    console, faults = Console(), 0
    table = Table("reader", "mutations", "read", "refused", "faults", "first seeds of each fault")
    for reader, outcome in _rows(settings, console):
        faults += len(outcome.faults)
        first = {words: seed for seed, words in reversed(outcome.faults)}
        told = "\n".join(f"{seed}: {words}" for words, seed in list(first.items())[::-1][:8])
        counts = (outcome.read, outcome.refused, len(outcome.faults))
        table.add_row(reader, f"{sum(counts):,}", *(f"{count:,}" for count in counts), Text(told))
    console.print(table)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
