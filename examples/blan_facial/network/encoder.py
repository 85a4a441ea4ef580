"""BLAN's encoder, ResNet-34 without its head, and its published ImageNet weights."""

import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from blan_facial.network.blocks import he_initialize, stage
from blan_facial.network.weights import fault_of
from shared.program import UserError

IMAGENET_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"
"""PyTorch's URL of torchvision's ResNet-34 weights; the name ends with the first digits of the file's SHA-256."""

IMAGENET_HASH = "b627a593"

STRIDES = (4, 8, 16, 32)
"""Pixels of the image per location of E_1..E_4."""

WIDE = 16
"""Minimum number of channels for the channels-last layout, in which convolutions are fastest.

In oneDNN (PyTorch 2.13, CPU) the backward of a 1x1 convolution of stride 2 over a channels-last map of fewer channels
writes past the end of its memory.
"""

RESNET34_WIDTH = 64
RESNET34_BLOCKS = (3, 4, 6, 3)

_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError)


class EncoderWeightsError(UserError):
    """Weights that cannot be obtained or do not fit the encoder; the message states the problem and the remedy."""


class ResNetEncoder(nn.Module):
    """The convolutional part of a ResNet of BasicBlocks; parameters have the names of torchvision's ``resnet34``.

    Args:
        width: Channels of the first stage; the others have twice, four and eight times as many.
        blocks: Blocks of each of the four stages.

    Attributes:
        memory_format: Memory layout that weights and maps should have.

    Shape:
        (B, 3, H, W) -> E_1 (B, width, H/4, W/4), E_2 (B, 2 width, H/8, W/8), E_3 (B, 4 width, H/16, W/16),
        E_4 (B, 8 width, H/32, W/32).

    Reference:
        Zheng et al. 2020, Table 1 (encoder).
    """

    def __init__(self, width: int = RESNET34_WIDTH, blocks: Sequence[int] = RESNET34_BLOCKS) -> None:
        super().__init__()
        self.width = width
        self.memory_format = torch.channels_last if width >= WIDE else torch.contiguous_format
        self.blocks = tuple(blocks)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(width, width, blocks[0])
        self.layer2 = stage(width, 2 * width, blocks[1], stride=2)
        self.layer3 = stage(2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = stage(4 * width, 8 * width, blocks[3], stride=2)
        he_initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the four stages, (E_1, E_2, E_3, E_4)."""
        if self.width < WIDE:
            images = images.contiguous()  # decoded images are channels-last
        e1 = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True)))
        e2 = self.layer2(e1)
        e3 = self.layer3(e2)
        return e1, e2, e3, self.layer4(e3)


def load_encoder_weights(encoder: ResNetEncoder, source: str | Path) -> None:
    """Load ResNet-34 weights in torchvision's format: every entry except the classifier's ``fc.*`` is used.

    The encoder is either loaded completely or left unchanged.

    Args:
        encoder: An encoder of ResNet-34's width and blocks.
        source: A file (``.safetensors``, or written by ``torch.save``), or "imagenet" for PyTorch's published weights,
            which are downloaded once, kept in the ``torch.hub`` folder and checked against their hash at every use.

    Raises:
        EncoderWeightsError: The encoder is not ResNet-34's; the file is missing or unreadable; the download failed;
            entries are missing, unknown, of another shape or kind, or not finite.
    """
    if (encoder.width, encoder.blocks) != (RESNET34_WIDTH, RESNET34_BLOCKS):
        raise EncoderWeightsError(
            f"Encoder weights: need ResNet-34's width {RESNET34_WIDTH} and blocks {RESNET34_BLOCKS}, "
            f"got width {encoder.width} and blocks {encoder.blocks}. "
            "Give --encoder-weights None, or leave out --width and --blocks."
        )
    entries = _download() if source == "imagenet" else _read(Path(source))
    _load(encoder, entries, str(source))


def _download() -> object:
    kept = Path(torch.hub.get_dir(), "checkpoints", IMAGENET_URL.rpartition("/")[2])
    if kept.is_file():  # torch verifies downloads, but not existing files
        digest = hashlib.sha256(kept.read_bytes()).hexdigest()
        if not digest.startswith(IMAGENET_HASH):
            raise EncoderWeightsError(
                f"Encoder weights: {kept} must have a SHA-256 that starts with {IMAGENET_HASH}, got {digest[:8]}. "
                "Delete it, so that it is downloaded again."
            )
    try:
        return torch.hub.load_state_dict_from_url(IMAGENET_URL, map_location="cpu", check_hash=True, weights_only=True)
    except (*_UNREADABLE, HTTPException) as error:
        raise EncoderWeightsError(
            f"Encoder weights: imagenet means the file {IMAGENET_URL}, got no valid copy of it ({error}). "
            "Download it on a machine with network access and pass it as --encoder-weights FILE."
        ) from error


def _read(path: Path) -> object:
    if not path.is_file():
        raise EncoderWeightsError(
            f"Encoder weights: must be a file or imagenet, got {path}, which is not a file. Check --encoder-weights."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise EncoderWeightsError(
            f"Encoder weights: must be a state dict saved by torch.save or safetensors, got {path}, which cannot be "
            f"read ({type(error).__name__}). Download {IMAGENET_URL} again, or use another file."
        ) from error


def _load(encoder: ResNetEncoder, entries: object, source: str) -> None:
    remedy = "Use a ResNet-34 state dict in torchvision's format."
    if not isinstance(entries, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in entries.items()
    ):
        raise EncoderWeightsError(f"Encoder weights: must be a mapping of names to tensors, got {source}. {remedy}")
    weights = {name: value for name, value in entries.items() if not name.startswith("fc.")}
    own = encoder.state_dict()
    # Checkpoints older than PyTorch 0.4.1 lack the batch counts, which are not used here.
    required = [name for name in own if not name.endswith("num_batches_tracked")]
    if missing := [name for name in required if name not in weights]:
        raise EncoderWeightsError(
            f"Encoder weights: must contain all {len(required)} entries of the encoder, got {source} "
            f"without {_list(missing)}. {remedy}"
        )
    if unknown := [name for name in weights if name not in own]:
        raise EncoderWeightsError(
            f"Encoder weights: must contain only the encoder's entries and fc.*, got {source} "
            f"with {_list(unknown)}. {remedy}"
        )
    if fault := fault_of(weights, own, exact=False):
        raise EncoderWeightsError(f"Encoder weights: {fault.rule}, got {fault.got} in {source}. {remedy}")
    encoder.load_state_dict({**own, **weights}, strict=True)


def _list(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
