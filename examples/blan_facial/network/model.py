"""BLAN, the bi-directional ladder attentive network, assembled from its parts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blan_facial.network.classifier import AttributeClassifier
from blan_facial.network.decoder import Decoder
from blan_facial.network.encoder import STRIDES, ResNetEncoder
from blan_layers import AdaptiveScoreFusion

LEVELS = 4
LEVEL_NAMES = tuple(f"AC{level}" for level in range(1, LEVELS + 1))


class Features(NamedTuple):
    """The outputs of a network for images."""

    scores: Tensor
    """Scores of the K classifiers, (K, B, N, 2)."""
    fused: Tensor | None = None
    """Fused scores (B, N, 2); None without fusion."""
    attended: tuple[Tensor, ...] = ()
    """BLAN's A_1..A_4, each (B, C_i, H_i, W_i)."""
    summaries: tuple[Tensor, ...] = ()
    """BLAN's T_1..T_4, each (B, summary_channels)."""
    reconstruction: Tensor | None = None
    """The decoder's image (B, 3, H, W) in the units of the input; None unless requested."""

    @property
    def logits(self) -> Tensor:
        """The prediction (B, N, 2), before the softmax: the fused scores or, without fusion, their sum."""
        return self.scores.sum(0) if self.fused is None else self.fused


class Network(nn.Module, ABC):
    """A network for the trainer: BLAN or a baseline."""

    level_names: tuple[str, ...] = ()
    """Names of the levels; empty if one classifier gives all scores."""
    reconstructs = False
    """Whether ``model(images, reconstruct=True)`` is supported."""
    encoder: ResNetEncoder
    fusion: AdaptiveScoreFusion | None

    @property
    @abstractmethod
    def attributes(self) -> int:
        """N, the number of attributes."""

    @abstractmethod
    def forward(self, images: Tensor, *, reconstruct: bool = False) -> Features:
        """Return the features of normalised images (B, 3, H, W), with the reconstruction if requested."""


class BLAN(Network):
    """Encoder, decoder, a join of the two at three levels, a classifier at each of four levels, and fusion.

    ``E = encoder(x)``, ``D = decoder(E_4)``, ``A_i = join_i(E_i, D_i)`` for i <= 3, ``A_4 = E_4``,
    ``T_i, s_i = classifier_i(A_i)``, ``fusion(s)``.

    An ablation replaces a part: a join that uses one of its two maps, no decoder, or no fusion. This is the network for
    inference; the critics for mutual information belong to the objective. :func:`blan_facial.network.builder.build`
    makes the parts from the settings of a run.

    Args:
        encoder: Returns E_1..E_4.
        decoder: Returns D_1, D_2, D_3 and the reconstruction. If None, the joins get E_i twice.
        joins: Three modules ``(E_i, D_i) -> A_i``.
        classifiers: Four modules ``A_i -> (T_i, s_i)``.
        fusion: Fuses the scores. If None, their sum is the prediction.

    Shape:
        Normalised images (B, 3, S, S), with the size S that the classifiers are built for -> ``Features``.

    Raises:
        ValueError: There are not three joins and four classifiers.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Section 3, Tables 1 and 2.
    """

    level_names = LEVEL_NAMES

    def __init__(
        self,
        encoder: ResNetEncoder,
        decoder: Decoder | None,
        joins: Iterable[nn.Module],
        classifiers: Iterable[AttributeClassifier],
        fusion: AdaptiveScoreFusion | None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.joins = nn.ModuleList(joins)
        self.classifiers = nn.ModuleList(classifiers)
        self.fusion = fusion
        if (len(self.joins), len(self.classifiers)) != (LEVELS - 1, LEVELS):
            raise ValueError(
                f"BLAN: needs {LEVELS - 1} joins and {LEVELS} classifiers, got {len(self.joins)} and "
                f"{len(self.classifiers)}. Level {LEVELS} has a classifier but no join."
            )

    @property
    def attributes(self) -> int:
        """N, the number of attributes."""
        return int(self.classifiers[0].attributes)  # type: ignore[arg-type]  # nn.ModuleList forgets types

    @property
    def image_size(self) -> int:
        """Pixels of the square input."""
        return STRIDES[0] * int(self.classifiers[0].in_size)  # type: ignore[arg-type]  # nn.ModuleList forgets types

    @property
    def reconstructs(self) -> bool:  # type: ignore[override]  # a constant where it depends on nothing
        """Whether ``model(images, reconstruct=True)`` is supported."""
        return self.decoder is not None and self.decoder.to_rgb is not None

    def forward(self, images: Tensor, *, reconstruct: bool = False) -> Features:
        """Return features and scores; the decoder's last step runs only if a reconstruction is requested.

        Raises:
            TypeError: The images are not floating point.
            ValueError: The images have another shape, or the model has no reconstruction.
        """
        self._check_images(images)
        encoded = self.encoder(images)
        decoded = encoded[:-1] if self.decoder is None else self.decoder(encoded[-1])
        attended = [join(e, d) for join, e, d in zip(self.joins, encoded[:-1], decoded, strict=True)]
        attended.append(encoded[-1])
        summaries, scores = zip(
            *(classifier(a) for classifier, a in zip(self.classifiers, attended, strict=True)), strict=True
        )
        stacked = torch.stack(scores)
        return Features(
            scores=stacked,
            fused=None if self.fusion is None else self.fusion(stacked),
            attended=tuple(attended),
            summaries=summaries,
            reconstruction=self._reconstruct(decoded[0]) if reconstruct else None,
        )

    def _reconstruct(self, d1: Tensor) -> Tensor:
        if self.decoder is None:
            raise ValueError(
                "BLAN: reconstruct=True needs a decoder, got a model without one. Build it with a decoder, or leave "
                "reconstruct out."
            )
        return self.decoder.reconstruct(d1)

    def _check_images(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(
                f"BLAN: images must be floating point, got {images.dtype}. Pass them through normalize first."
            )
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"BLAN: images must have the shape (B, 3, {size}, {size}), got {tuple(images.shape)}. "
                "Resize the images, or build the model with their image_size."
            )
