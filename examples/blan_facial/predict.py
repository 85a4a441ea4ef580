"""Predict the attributes of images: ``python examples/blan_facial/predict.py --help``.

Of the example it imports no more than the model needs, so that one picture is answered at once.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Literal, NamedTuple

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from blan_facial.data.attributes import choose
from blan_facial.data.faces import (
    MAX_PIXELS,
    LargeImageError,
    PixelLimitError,
    decode_face,
    decode_picture,
    limit_pixels,
)
from blan_facial.data.image_file import LARGE, FileKindError, read_image_file
from blan_facial.prediction.arrays import resized
from blan_facial.prediction.cropping import FaceCropper
from blan_facial.prediction.predictor import Predictor
from blan_facial.prediction.sources import LIST, SUFFIXES, Problem, Source, Sources, reason
from blan_facial.prediction.writing import WRITERS
from blan_facial.results.finished import load_run
from shared.files import refuse_inputs, replacing
from shared.program import AS_WRITTEN, Terminal, UserError, print_error, run_program
from shared.warned import counted

PROGRAM = "python examples/blan_facial/predict.py"
DESCRIPTION = """Predict the attributes of images by a finished run, of which config.json and model.safetensors are
read. Says of each attribute how probable it is, whether it is predicted, and which level spoke most for that answer."""


_LONGEST = 2048  # pixels of a picture out of which a face is cut
_READERS = min(8, os.cpu_count() or 1)  # threads that decode


class PredictionError(UserError):
    """Options that cannot be served."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to predict, of which images, and where it goes."""

    run: tyro.conf.Positional[Path]
    """Output folder of a finished run."""
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Images, folders that are searched for images, or - for a list on standard input, a path a line, which is answered
    as it comes."""
    format: Literal["table", "csv", "jsonl"] = "table"
    """A table for each image, CSV with a line for each image and attribute, or JSON with a line for each image."""
    output: Path | None = None
    """File for the answers, written whole or not at all; by default they are printed."""
    annotate: Path | None = None
    """Folder for a picture of each image with its answers."""

    crop: Literal["none", "faces"] = "none"
    """What of an image is answered for: all of it, or the largest face that OpenCV finds in it (extra crop)."""
    attributes: tuple[str, ...] = ()
    """Answer these only; by default all that the model knows."""
    threshold: float | None = None
    """An attribute is predicted above this probability; by default the run's own thresholds, or 0.5 if it has none."""
    root: Path | None = None
    """Refuse images outside this folder, links followed; relative paths start there."""
    max_pixels: int = MAX_PIXELS
    """Refuse images of more pixels, before they are decoded."""
    batch_size: int = 32
    """Images at a time."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    verbose: bool = False
    """Print what image libraries warn of, which is counted otherwise."""

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            PredictionError: A number is out of its range, or a folder cannot be what it is asked to be.
        """
        if not self.paths:
            raise PredictionError("predict: needs images, got no path. Name files, folders or - for a list.")
        if self.paths.count(LIST) > 1:
            raise PredictionError("predict: standard input is one list, got - more than once. Give it once.")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise PredictionError(
                f"predict: --threshold must be in (0, 1), got {self.threshold}. Use 0.5, for example."
            )
        for name in ("max_pixels", "batch_size"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise PredictionError(f"predict: {option} must be at least 1, got {getattr(self, name)}. Raise it.")
        if self.root is not None and not self.root.is_dir():
            raise PredictionError(f"predict: --root must be a folder, got {self.root}. Name one, or leave it out.")
        if self.output is not None:
            folders = filter(Path.is_dir, self.paths)
            found = (path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
            refuse_inputs("predict", "--output", self.output, chain(self.paths, self.run.glob("*"), found))
        if self.annotate is not None:
            for path in filter(Path.is_dir, self.paths):
                if self.annotate.resolve().is_relative_to(path.resolve()):
                    raise PredictionError(
                        f"predict: --annotate must lie outside the folders that are read, got {self.annotate} in "
                        f"{path}. Name another."
                    )


def run(settings: Settings, stream: IO[str], errors: Console, *, watched: bool) -> bool:
    """Answer for all images, and return whether there was an answer for each.

    Args:
        settings: What to do.
        stream: Where the answers go.
        errors: Where errors, progress and the count of images go.
        watched: Whether a person sees the answers come, so that progress would be in the way.

    Raises:
        PredictionError: The model does not know an attribute, or this machine lacks the accelerator.
        RunError: The folder is no finished run's.
    """
    limit_pixels(settings.max_pixels)
    finished = load_run(settings.run)
    predict = Predictor(
        finished.model,
        finished.attributes,
        asked=_asked(settings.attributes, finished.attributes),
        threshold=finished.probabilities if settings.threshold is None else settings.threshold,
        scaling=finished.scaling,
        device=_device(settings.accelerator),
    )
    sources = Sources(settings.paths, sys.stdin.buffer, root=settings.root)
    fitted = settings.threshold is None and finished.thresholds is not None
    writer = WRITERS[settings.format](stream, scaled=finished.scaling is not None, fitted=fitted)
    annotator, longest = None, None
    if settings.annotate is not None:
        from blan_facial.prediction.annotating import PICTURE, Annotator  # draws, which takes long to import

        settings.annotate.mkdir(parents=True, exist_ok=True)
        annotator, longest = Annotator(settings.annotate), PICTURE
    cropper = None
    if settings.crop == "faces":
        cropper = FaceCropper()
    read = partial(_read, image_size=finished.config.image_size, longest=longest, cropper=cropper)
    done = failed = 0
    progress = _progress(errors, shown=errors.is_terminal and not watched)
    readers = ThreadPoolExecutor(_READERS)
    with counted("PIL", errors if settings.verbose else None) as warned, readers, progress as show:
        for batch in sources.batches(settings.batch_size):
            faces: list[_Face] = []
            for found, result in zip(batch, readers.map(read, batch), strict=True):
                result = result or read(found, large=True)  # one at a time
                if isinstance(result, Problem):
                    print_error(result.message, errors)
                    failed += 1
                elif result is not None:
                    faces.append(result)
            if not faces:
                continue
            for face, answers in zip(faces, predict(np.stack([face.image for face in faces])), strict=True):
                picture = None
                if annotator is not None and face.picture is not None:
                    picture = annotator.write(face.source.name, face.picture, answers)
                writer.write(face.source.path, answers, picture)
            stream.flush()
            done += len(faces)
            show(done)
    if warned:
        errors.print(f"Image libraries warned {len(warned)} times; --verbose shows of what.", soft_wrap=True)
    if failed or sources.skipped or settings.output is not None:
        errors.print(_summary(done, sources.skipped, failed), highlight=False, soft_wrap=True)
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("predict", partial(_answer, settings))


def _answer(settings: Settings, _: Console) -> int:
    """Answer to where the settings say, and return 1 if an image had no answer or nobody reads on."""
    settings.check()
    try:
        with _opened(settings.output) as stream:
            watched = settings.output is None and stream.isatty()
            return int(not run(settings, stream, Terminal(stderr=True), watched=watched))
    except BrokenPipeError:  # whoever read the answers has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Face(NamedTuple):
    """An image that decoded."""

    source: Source
    image: np.ndarray
    picture: np.ndarray | None
    """In its own proportions, where it is to be annotated."""


def _read(
    found: Source | Problem, *, image_size: int, longest: int | None, cropper: FaceCropper | None, large: bool = False
) -> _Face | Problem | None:
    """Read and decode an image; return None for one that takes much memory, unless it may."""
    if isinstance(found, Problem):
        return found
    path, remedy = found.path, "Replace the file, or leave it out."
    try:
        if path.stat().st_size > LARGE and not large:
            return None
        data = read_image_file(path)
        picture = None if longest is None else decode_picture(data, longest, large=large)
        if cropper is None:
            return _Face(found, decode_face(data, image_size, large=large), picture)
        face, _ = cropper(decode_picture(data, _LONGEST, enlarge=False, large=large))
        if face is None:
            return Problem(f"{path}: must show a face for --crop faces, got none. Leave it out, or --crop.")
        return _Face(found, resized(face, image_size), picture)
    except LargeImageError:
        return None
    except FileKindError as error:
        return Problem(f"{path}: must be an image file, got {reason(error)}. {remedy}")
    except OSError as error:
        return Problem(f"{path}: must be readable, got {reason(error)}. {remedy}")
    except PixelLimitError as error:
        return Problem(f"{path}: must be small enough to decode, got {error}. Raise --max-pixels if you trust it.")
    except ValueError as error:
        return Problem(f"{path}: must be an image that decodes as a whole, got {error}. {remedy}")


def _asked(names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the attributes to answer, spelled as the model has them."""
    asked, lacking = choose(names, known)
    if lacking:
        raise PredictionError(
            f"predict: --attributes must be the model's, got {lacking[0]!r}. It has {', '.join(known)}."
        )
    return asked or known


def _device(accelerator: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[accelerator]:
        raise PredictionError(f"predict: --accelerator {accelerator} must be there, got none. Leave the option out.")
    return torch.device(accelerator)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Open what the answers are written to; the bytes of file names that are no UTF-8 pass through."""
    if output is None:
        yield sys.stdout
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", errors=AS_WRITTEN, newline="")
        try:
            yield stream
        finally:
            stream.detach()


@contextmanager
def _progress(console: Console, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show how many images are done and how fast."""
    columns = (SpinnerColumn(), TextColumn("{task.completed} images, {task.fields[speed]:.0f} a second"))
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task, started = bar.add_task("", total=None, speed=0.0), time.perf_counter()
        yield lambda done: bar.update(task, completed=done, speed=done / (time.perf_counter() - started))


def _summary(done: int, skipped: int, failed: int) -> str:
    parts = [f"{done} image{'s' * (done != 1)} answered"]
    if skipped:
        parts.append(f"{skipped} other file{'s' * (skipped != 1)} in folders skipped")
    if failed:
        parts.append(f"{failed} refused")
    return ", ".join(parts) + "."


if __name__ == "__main__":
    sys.exit(main())
