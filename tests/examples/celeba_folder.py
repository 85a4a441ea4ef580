"""Writes faces in CelebA's official formats."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_celeba_folder(
    root: Path,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    attributes: Sequence[str],
    *,
    partition: Sequence[int] | None = None,
    newline: str = "\n",
    missing: Collection[int] = (),
    nested: bool = False,
) -> Path:
    """Write a folder that `load_celeba` reads.

    Args:
        root: The folder, made if need be.
        images: n RGB uint8 arrays (height, width, 3).
        labels: 0 or 1, (n, N).
        attributes: N names.
        partition: 0, 1 or 2 per image; by default the first 6 of every 8 images train, then one is for validation and
            one for the test.
        newline: Line end of both text files.
        missing: Indices of images that get rows in both text files and no image.
        nested: Whether to write `Anno/`, `Eval/` and `Img/` as the official download has them.

    Returns:
        `root`.
    """
    anno, evaluation, image_folder = (root / name if nested else root for name in ("Anno", "Eval", "Img"))
    image_folder /= "img_align_celeba"
    for folder in (anno, evaluation, image_folder):
        folder.mkdir(parents=True, exist_ok=True)
    if partition is None:
        partition = [max(0, index % 8 - 5) for index in range(len(images))]
    names = [f"{index + 1:06d}.jpg" for index in range(len(images))]
    for index, (name, image) in enumerate(zip(names, images, strict=True)):
        if index not in missing:
            Image.fromarray(image).save(image_folder / name, quality=95)
    signs = 2 * labels.astype(int) - 1
    rows = [f"{name} {' '.join(f'{sign:2d}' for sign in row)}" for name, row in zip(names, signs, strict=True)]
    _write(anno / "list_attr_celeba.txt", [str(len(names)), " ".join(attributes) + " ", *rows], newline)
    parts = [f"{name} {part}" for name, part in zip(names, partition, strict=True)]
    _write(evaluation / "list_eval_partition.txt", parts, newline)
    return root


def _write(path: Path, lines: Sequence[str], newline: str) -> None:
    path.write_text("".join(line + newline for line in lines), encoding="utf-8", newline="")
