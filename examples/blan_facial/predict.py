"""Predict the attributes of images: ``python examples/blan_facial/predict.py --help``.

It imports only what the model needs, so that a single picture is answered quickly.
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
from itertools import chain, filterfalse
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
from blan_facial.data.image_file import LARGE, FileKindError, leaves, read_image_file
from blan_facial.prediction.arrays import resized
from blan_facial.prediction.cropping import FaceCropper
from blan_facial.prediction.predictor import Predictor
from blan_facial.prediction.sources import LIST, SUFFIXES, Problem, Source, Sources, reason
from blan_facial.prediction.writing import WRITERS
from blan_facial.results.finished import load_run
from shared.files import refuse_inputs, replacing
from shared.program import AS_WRITTEN, Terminal, UserError, check_given_once, print_error, run_program
from shared.warned import counted

PROGRAM = "python examples/blan_facial/predict.py"
DESCRIPTION = """Predict the attributes of images with a finished run, from its config.json and
model.safetensors. Shows the probability of each attribute, whether it is predicted, and the level that
contributed most."""


_LONGEST = 2048  # pixels of a picture from which a face is cropped
_READERS = min(8, os.cpu_count() or 1)  # decoding threads


class PredictionError(UserError):
    """Options that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to predict, for which images, and where to write it."""

    run: tyro.conf.Positional[Path]
    """Output folder of a finished run."""
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Images, folders to search for images, or - for a list on standard input, one path per line, which is processed as
    it arrives."""
    format: Literal["table", "csv", "jsonl"] = "table"
    """A table per image, CSV with one line per image and attribute, or JSON with one line per image."""
    output: Path | None = None
    """Output file, written completely or not at all; by default the predictions are printed."""
    annotate: Path | None = None
    """Folder for a picture of each image with its predictions; existing files stay, and a name that is taken is
    numbered."""

    crop: Literal["none", "faces"] = "none"
    """Predict for the whole image, or for the largest face that OpenCV finds in it (extra crop)."""
    attributes: tuple[str, ...] = ()
    """Attributes to predict; by default all attributes of the model."""
    threshold: float | None = None
    """Probability above which an attribute is predicted; by default the run's thresholds, or 0.5 if it has none."""
    root: Path | None = None
    """Refuse images outside this folder, after following links; relative paths start there."""
    max_pixels: int = MAX_PIXELS
    """Refuse images with more pixels, before decoding them."""
    batch_size: int = 32
    """Images per batch."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type for the computation."""
    verbose: bool = False
    """Print the warnings of image libraries instead of only counting them."""

    def check(self) -> None:
        """Refuse invalid options.

        Raises:
            PredictionError: A number is out of range, or a folder is not suitable.
        """
        if not self.paths:
            before = " before --attributes, which takes all words after it" if self.attributes else ""
            raise PredictionError(f"predict: needs images, got no path. Name files, folders or - for a list{before}.")
        if self.paths.count(LIST) > 1:
            raise PredictionError(
                "predict: - stands for standard input, which is one list, got it more than once. Give it once."
            )
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
            files, folders = filterfalse(Path.is_dir, self.paths), filter(Path.is_dir, self.paths)
            found = (path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
            refuse_inputs("predict", "--output", self.output, chain([self.run], files, found))
        if self.annotate is not None:
            for path in filter(Path.is_dir, self.paths):
                if not leaves(path, self.annotate):
                    raise PredictionError(
                        f"predict: --annotate must lie outside the folders that are read, got {self.annotate} in "
                        f"{path}. Name another."
                    )


def run(settings: Settings, stream: IO[str], errors: Console, *, watched: bool) -> bool:
    """Predict for all images, and return whether all of them had a prediction.

    Args:
        settings: What to predict, and how.
        stream: Where the predictions are written.
        errors: Where errors, progress and the count of images are printed.
        watched: Whether the predictions appear on a terminal, where progress would be in the way.

    Raises:
        DataError: An attribute is named again.
        PredictionError: The model lacks an attribute, or this machine lacks the accelerator.
        RunError: The folder does not contain a finished run.
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
        from blan_facial.prediction.annotating import PICTURE, Annotator  # drawing takes long to import

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
            if settings.output is not None:  # a list is known only now
                read_now = (found.path for found in batch if isinstance(found, Source))
                refuse_inputs("predict", "--output", settings.output, read_now)
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
        errors.print(f"Image libraries gave {len(warned)} warnings; --verbose shows them.", soft_wrap=True)
    if failed or sources.skipped or settings.output is not None:
        errors.print(_summary(done, sources.skipped, failed), highlight=False, soft_wrap=True)
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    check_given_once("predict", arguments, Settings)
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("predict", partial(_answer, settings))


def _answer(settings: Settings, _: Console) -> int:
    """Write the predictions, and return 1 if an image had none or the reader closed the pipe."""
    settings.check()
    try:
        with _opened(settings.output) as stream:
            watched = settings.output is None and stream.isatty()
            return int(not run(settings, stream, Terminal(stderr=True), watched=watched))
    except BrokenPipeError:  # the reader of the predictions closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Face(NamedTuple):
    """A decoded image."""

    source: Source
    image: np.ndarray
    picture: np.ndarray | None
    """The image in its own proportions, if it is to be annotated."""


def _read(
    found: Source | Problem, *, image_size: int, longest: int | None, cropper: FaceCropper | None, large: bool = False
) -> _Face | Problem | None:
    """Read and decode an image; return None for one that needs much memory, unless ``large``."""
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
            return Problem(f"{path}: must show a face for --crop faces, got none. Leave out this image, or --crop.")
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
        return Problem(f"{path}: must be an image that decodes completely, got {error}. {remedy}")


def _asked(names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the attributes to predict, in the spelling of the model."""
    asked, lacking = choose(names, known)
    if lacking:
        raise PredictionError(
            f"predict: --attributes must be attributes of the model, got {lacking[0]!r}. It has {', '.join(known)}."
        )
    return asked or known


def _device(accelerator: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[accelerator]:
        raise PredictionError(
            f"predict: --accelerator {accelerator} is not available here, got no such device. Leave the option out."
        )
    return torch.device(accelerator)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    """Open the output; bytes of file names that are not UTF-8 are passed through."""
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
    """Show the number of processed images and the speed."""
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
