"""Workers that are spawned, as on macOS and Windows, load what this process does."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from blan_facial.data.avatars import load_avatars
from tests.examples.celeba_folder import write_celeba_folder

SCRIPT = """
import json, multiprocessing, sys
from pathlib import Path
import torch
from blan_facial.config import parse
from blan_facial.data.splits import load_split
from blan_facial.training.loop import training_loader
from rich.console import Console

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    torch.set_num_threads(1)
    for options in json.loads(sys.argv[1]):
        loaded = []
        for workers in ("0", "1"):
            config = parse([*options, "--batch-size", "4", "--image-size", "32", "--workers", workers])
            faces = load_split(config, "train", Console(quiet=True))
            loaded.append(list(training_loader(config, faces)))
        for ours, theirs in zip(*loaded, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
        print(len(loaded[0]), "batches of", config.data)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in CelebA's format, a copy with an archive, a table and Parquet files of the same images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "data"
    root.mkdir()
    faces = load_avatars("train", image_size=32, count=16)
    images = [faces.image(index) for index in range(16)]
    celeba = write_celeba_folder(root / "celeba", images, faces.labels, faces.attributes)
    packed = write_celeba_folder(root / "packed", images, faces.labels, faces.attributes)
    with zipfile.ZipFile(packed / "img_align_celeba.zip", "w") as archive:
        for path in (packed / "img_align_celeba").iterdir():
            archive.write(path, path.name)
            path.unlink()
    (packed / "img_align_celeba").rmdir()
    files = sorted((celeba / "img_align_celeba").iterdir())
    rows = [f"{path.name},train,{place % 2}" for place, path in enumerate(files)]
    (root / "table.csv").write_text("\n".join(["image,split,A", *rows]))
    table = {"image": [path.read_bytes() for path in files], "A": [place % 2 for place in range(16)]}
    pq.write_table(pa.table(table), root / "train-0.parquet")
    return root


def test_spawned_workers_load_the_same_batches(folder: Path, tmp_path: Path, repository: Path) -> None:
    images = folder / "celeba" / "img_align_celeba"
    options = [
        ["--data", "avatars", "--images", "16"],
        ["--data", "celeba", "--data-root", str(folder / "packed")],
        ["--data", "csv", "--labels", str(folder / "table.csv"), "--data-root", str(images)],
        ["--data", "parquet", "--data-root", str(folder / "train-0.parquet")],
    ]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = f"{repository / 'examples'}:{repository}"
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, str(script), json.dumps(options)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    loaded = ((4, "avatars"), (3, "celeba"), (4, "csv"), (4, "parquet"))
    assert ended.stdout == "".join(f"{count} batches of {data}\n" for count, data in loaded)
