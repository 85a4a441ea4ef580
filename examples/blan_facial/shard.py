"""Write CelebA into tar files: ``python examples/blan_facial/shard.py --help``."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.progress import track

from blan_facial.data.celeba import find_texts, load_celeba
from blan_facial.data.faces import SPLITS, DataError, FaceFiles
from blan_facial.data.shards import has_shards, write_shard
from shared.program import print_error

PROGRAM = "python examples/blan_facial/shard.py"
DESCRIPTION = """Write CelebA into tar files in WebDataset's format, for storage that is slow at opening many files:
000001.jpg beside 000001.json, which has its split and labels. Apart from the images, the folder written is as the
official one; train.py takes it as --data-root."""


class ShardError(ValueError):
    """Shards that cannot be written as they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to write, and where."""

    data_root: Path
    """Official folder of CelebA."""
    output: Path
    """Folder of the tar files, made if need be."""
    image_folder: Path | None = None
    """Folder of the images, if the official folder does not hold them."""
    images_per_shard: int = 4096
    """Images in a tar file."""


def write(settings: Settings, console: Console) -> int:
    """Write the shards of every split, and return how many there are.

    Raises:
        DataError: The official folder cannot be used.
        ShardError: The output folder holds tar files, or the settings are out of range.
    """
    if settings.images_per_shard < 1:
        raise ShardError(f"shard: --images-per-shard must be at least 1, got {settings.images_per_shard}. Raise it.")
    if has_shards(settings.output):
        raise ShardError(
            f"shard: the output folder must hold no tar files, got some in {settings.output}. "
            "Remove them, or give another --output."
        )
    settings.output.mkdir(parents=True, exist_ok=True)
    splits = [_open(settings, split) for split in SPLITS]
    for note in dict.fromkeys(note for faces in splits for note in faces.notes):
        console.print(note, markup=False, highlight=False)
    shards = 0
    for faces in splits:
        starts = range(0, len(faces), settings.images_per_shard)
        for number, start in enumerate(track(starts, f"{faces.split:10}", console=console, transient=True)):
            path = settings.output / f"celeba-{faces.split}-{number:06d}.tar"
            write_shard(path, _describe(faces, range(start, min(start + settings.images_per_shard, len(faces)))))
        shards += len(starts)
    for text in find_texts(settings.data_root):  # last, so that the folder is of no use until it is whole
        shutil.copyfile(text, settings.output / text.name)
    return shards


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    console = Console()
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    try:
        shards = write(settings, console)
    except (DataError, ShardError, OSError) as error:
        print_error(str(error))
        return 1
    console.print(f"{shards} tar files are in {settings.output}.", markup=False, highlight=False, soft_wrap=True)
    return 0


def _open(settings: Settings, split: str) -> FaceFiles:
    faces = load_celeba(settings.data_root, split, image_size=1, image_folder=settings.image_folder)
    if not isinstance(faces, FaceFiles):
        raise ShardError(
            f"shard: the official folder must hold images, got tar files in {settings.data_root}. "
            "Name the folder that they were made from."
        )
    return faces


def _describe(faces: FaceFiles, rows: range) -> Iterator[tuple[Path, dict[str, object]]]:
    """Yield image files, and their splits and labels as the official file has them."""
    for row in rows:
        signs = (2 * faces.labels[row] - 1).tolist()
        yield (
            faces.folder / str(faces.files[row]),
            {
                "split": faces.split,
                "labels": dict(zip(faces.attributes, signs, strict=True)),
            },
        )


if __name__ == "__main__":
    sys.exit(main())
