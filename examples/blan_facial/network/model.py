"""BLAN, the bi-directional ladder attentive network, and what its parts weigh."""

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from blan_facial.network.classifier import AttributeClassifier
from blan_facial.network.decoder import Decoder
from blan_facial.network.encoder import ResNetEncoder
from blan_layers import RDAM, AdaptiveScoreFusion
from blan_layers.functional.attention import Arrangement, Form

LEVELS = 4
LEVEL_NAMES = tuple(f"AC{level}" for level in range(1, LEVELS + 1))

PAPER_PARAMETERS = 38_340_000
PAPER_NOTE = (
    "The paper's Table 10 gives 38.34 M parameters, its layer tables (1 and 2) give 41.1 M with 1x1 and 42.5 M with "
    "3x3 convolutions in RDAM, without the critics, which are needed in training only; this model follows the tables."
)

# Table 2: kernel and stride of each classifier's first convolution, channels of its two convolutions in quarters of
# the encoder's width.
_CLASSIFIERS = ((5, 4, (2, 1)), (3, 2, (4, 1)), (3, 2, (8, 4)), (3, 2, (16, 16)))


class BLANOutput(NamedTuple):
    """What inference needs."""

    scores: Tensor
    """Scores of the four classifiers, (4, B, N, 2)."""
    fused: Tensor | None
    """Fused scores (B, N, 2); None without fusion."""

    @property
    def logits(self) -> Tensor:
        """The prediction (B, N, 2), before the softmax: the fused scores or, without fusion, their sum."""
        return self.scores.sum(0) if self.fused is None else self.fused


class BLANFeatures(NamedTuple):
    """What training and the report need."""

    attended: tuple[Tensor, ...]
    """A_1..A_4, each (B, C_i, H_i, W_i)."""
    summaries: tuple[Tensor, ...]
    """T_1..T_4, each (B, summary_channels)."""
    scores: Tensor
    """Scores of the four classifiers, (4, B, N, 2)."""
    fused: Tensor | None
    """Fused scores (B, N, 2); None without fusion."""
    reconstruction: Tensor | None
    """The decoder's image (B, 3, H, W) in the units of the input; None unless asked for."""
    spatial_maps: tuple[Tensor, ...] | None
    """Spatial gates of the three RDAMs, each (B, 1, H_i, W_i); None unless asked for."""


class BLAN(nn.Module):
    """Encoder, decoder, attention between them at three levels, a classifier at each of four levels, fusion.

    This is the network of inference: the critics of the mutual information are the objective's. Every ablation
    leaves out the modules it switches off. RDAM and the reconstruction follow the parts they need: without the decoder
    there is neither, without the encoder's features there is no RDAM.

    Args:
        attributes: N, the number of binary attributes.
        image_size: Pixels of the square input, a multiple of 32.
        width: Channels of the encoder's first stage; every other width in the tables scales with it.
        blocks: Residual blocks of the encoder's four stages; the decoder mirrors the first three.
        summary_channels: Width of the summaries T_i.
        dropout: Probability of dropout in the classifiers.
        decoder: Whether there is a decoder; without it A_i = E_i.
        encoder_features: Whether E_1..E_3 are classified; without them A_i = D_i for i <= 3. A_4 = E_4 in any case.
        rdam: Whether RDAM joins E_i and D_i; without it A_i = [E_i; D_i]. None: whenever both are there.
        reconstruction: Whether the decoder ends in an image. None: whenever there is a decoder.
        fusion: Whether the scores are fused by learned weights; without it their sum is the prediction.
        upsampling: The decoder's, "nearest" or "bilinear".
        arrangement: RDAM's, "channel-spatial", "spatial-channel" or "parallel".
        form: RDAM's channel gate: "cbam", or "printed" for Eq. 2 to the letter.
        conv_kernel_size: Kernel of RDAM's convolution, odd.
        conv_norm: Makes the norm after that convolution from its channels, for example ``nn.BatchNorm2d``; None: none.
        conv_activation: Makes the activation after it, for example ``nn.ReLU``; None: none.
        spatial_norm: Makes the norm before the sigmoid of RDAM's spatial gate from 1, its channels; None: none.
        initial_fusion_weight: Start of every fusion weight; None: 1/5, one share for each classifier and their sum.

    Shape:
        Images (B, 3, image_size, image_size), normalised -> ``BLANOutput``.

    Raises:
        ValueError: A size, a number of blocks or a rate out of range; parts that contradict one another; an option of
            a part that is left out.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Section 3, Tables 1 and 2.
    """

    level_names = LEVEL_NAMES

    def __init__(
        self,
        attributes: int,
        *,
        image_size: int = 256,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        summary_channels: int = 512,
        dropout: float = 0.5,
        decoder: bool = True,
        encoder_features: bool = True,
        rdam: bool | None = None,
        reconstruction: bool | None = None,
        fusion: bool = True,
        upsampling: str = "nearest",
        arrangement: Arrangement = "channel-spatial",
        form: Form = "cbam",
        conv_kernel_size: int = 3,
        conv_norm: Callable[[int], nn.Module] | None = None,
        conv_activation: Callable[[], nn.Module] | None = None,
        spatial_norm: Callable[[int], nn.Module] | None = None,
        initial_fusion_weight: float | None = None,
    ) -> None:
        super().__init__()
        _check_positive(attributes=attributes, width=width, summary_channels=summary_channels)
        _check_sizes(image_size, blocks, dropout)
        _check_parts(decoder, encoder_features, rdam, reconstruction)
        if rdam is None:
            rdam = decoder and encoder_features
        if not decoder:
            _refuse("the decoder", "--no-decoder", upsampling=upsampling)
        if not rdam:
            _refuse(
                "RDAM",
                "--no-rdam, --no-decoder and --no-encoder-features",
                arrangement=arrangement,
                form=form,
                conv_kernel_size=conv_kernel_size,
                conv_norm=conv_norm,
                conv_activation=conv_activation,
                spatial_norm=spatial_norm,
            )
        if not fusion:
            _refuse("fusion", "--no-fusion", initial_fusion_weight=initial_fusion_weight)

        self.attributes = attributes
        self.image_size = image_size
        self.summary_channels = summary_channels
        self.encoder_features = encoder_features
        widths = [width * 2**i for i in range(LEVELS)]
        concatenated = decoder and encoder_features and not rdam
        self.local_channels = (*(c * (1 + concatenated) for c in widths[:-1]), widths[-1])
        """Channels of A_1..A_4."""

        self.encoder = ResNetEncoder(width, blocks)
        self.decoder: Decoder | None = None
        if decoder:
            tail = reconstruction is not False
            self.decoder = Decoder(width, blocks[:-1], upsampling=upsampling, reconstruction=tail)
        self.rdam = nn.ModuleList(
            RDAM(
                channels,
                arrangement=arrangement,
                form=form,
                conv_kernel_size=conv_kernel_size,
                conv_norm=conv_norm,
                conv_activation=conv_activation,
                norm=spatial_norm,
            )
            for channels in (widths[:-1] if rdam else ())
        )
        self.classifiers = nn.ModuleList(
            AttributeClassifier(
                self.local_channels[level],
                image_size // (4 * 2**level),
                channels=(max(1, first * width // 4), max(1, second * width // 4)),
                kernel_size=kernel_size,
                stride=stride,
                attributes=attributes,
                summary_channels=summary_channels,
                dropout=dropout,
            )
            for level, (kernel_size, stride, (first, second)) in enumerate(_CLASSIFIERS)
        )
        self.fusion: AdaptiveScoreFusion | None = None
        if fusion:
            self.fusion = AdaptiveScoreFusion(LEVELS, attributes, initial_weight=initial_fusion_weight)

    @property
    def reconstructs(self) -> bool:
        """Whether ``forward_features(images, reconstruct=True)`` is possible."""
        return self.decoder is not None and self.decoder.tail is not None

    def reset_parameters(self) -> None:
        """Draw every weight anew."""
        for part in (self.encoder, self.decoder, *self.rdam, *self.classifiers, self.fusion):
            if part is not None:
                part.reset_parameters()

    def forward(self, images: Tensor) -> BLANOutput:
        """Score every attribute; of the decoder, only what leads to D_1 runs."""
        features = self.forward_features(images)
        return BLANOutput(features.scores, features.fused)

    def forward_features(self, images: Tensor, *, reconstruct: bool = False, maps: bool = False) -> BLANFeatures:
        """Return all that the objective and the report look at.

        Args:
            images: Normalised images (B, 3, image_size, image_size), floating point.
            reconstruct: Whether to run the decoder to its end.
            maps: Whether to keep the spatial gates of the RDAMs.

        Raises:
            TypeError: The images are not floating point.
            ValueError: The images have another shape; the model has no reconstruction, or no RDAM, to give.
        """
        self._check_images(images)
        if reconstruct and not self.reconstructs:
            raise ValueError(
                "BLAN: reconstruct=True needs a decoder with its tail, got a model without. "
                "Build it with decoder=True and reconstruction=True."
            )
        if maps and not len(self.rdam):
            raise ValueError("BLAN: maps=True needs RDAM, got a model without. Build it with rdam=True.")

        encoded = self.encoder(images)
        decoded: tuple[Tensor, ...] = () if self.decoder is None else self.decoder(encoded[-1])
        if maps:
            rdams = cast("Sequence[RDAM]", self.rdam)
            gated = [rdam.forward_with_maps(e, d) for rdam, e, d in zip(rdams, encoded[:-1], decoded, strict=True)]
            attended = (*(joined.output for joined in gated), encoded[-1])
        else:
            attended = (*self._join(encoded[:-1], decoded), encoded[-1])
        classified = [classifier(a) for classifier, a in zip(self.classifiers, attended, strict=True)]
        scores = torch.stack([level_scores for _, level_scores in classified])
        return BLANFeatures(
            attended=attended,
            summaries=tuple(summary for summary, _ in classified),
            scores=scores,
            fused=None if self.fusion is None else self.fusion(scores),
            reconstruction=self.decoder.reconstruct(decoded[0]) if reconstruct and self.decoder is not None else None,
            spatial_maps=tuple(joined.spatial_map for joined in gated) if maps else None,
        )

    def _join(self, encoded: Sequence[Tensor], decoded: Sequence[Tensor]) -> Sequence[Tensor]:
        if not decoded:
            return encoded
        if not self.encoder_features:
            return decoded
        pairs = zip(encoded, decoded, strict=True)
        if not len(self.rdam):
            return [torch.cat(pair, 1) for pair in pairs]
        return [rdam(e, d) for rdam, (e, d) in zip(self.rdam, pairs, strict=True)]

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


class ParameterTable(NamedTuple):
    """Parameters of a model, part by part."""

    rows: tuple[tuple[str, int], ...]
    """(part, parameters) of each part there is."""
    inference: int
    """Parameters of the model itself."""
    training: int
    """Parameters of the model and of the objective's critics."""
    paper: int | None = PAPER_PARAMETERS
    """What the paper's Table 10 gives; None for a model that is not BLAN."""
    note: str = PAPER_NOTE
    """Why the two differ, in a sentence."""


def parameter_table(model: nn.Module, objective: nn.Module | None = None) -> ParameterTable:
    """Count parameters part by part, with the objective's critics if it is given; for BLAN and its rivals."""
    parts = {
        **{name: getattr(model, name.lower()) for name in ("encoder", "decoder", "RDAM", "classifiers", "fusion")},
        "critics (training only)": objective,
    }
    counts = {part: _count(module) for part, module in parts.items() if module is not None}
    return ParameterTable(
        rows=tuple((part, count) for part, count in counts.items() if count),
        inference=_count(model),
        training=sum(counts.values()),
        paper=PAPER_PARAMETERS if isinstance(model, BLAN) else None,
        note=PAPER_NOTE if isinstance(model, BLAN) else "",
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"BLAN: {name} must be at least 1, got {size}. Use a positive integer.")


def _check_sizes(image_size: int, blocks: Sequence[int], dropout: float) -> None:
    if image_size < 1 or image_size % 32:
        nearest = max(32, round(image_size / 32) * 32)
        raise ValueError(f"BLAN: image size must be divisible by 32, got {image_size}. Use {nearest}, for example.")
    if len(blocks) != LEVELS or min(blocks) < 1:
        raise ValueError(
            f"BLAN: blocks must be {LEVELS} positive integers, got {tuple(blocks)}. "
            "Give the residual blocks of each stage, for example (3, 4, 6, 3)."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"BLAN: dropout must be in [0, 1), got {dropout}. Use 0.5, or 0 for none.")


def _check_parts(decoder: bool, encoder_features: bool, rdam: bool | None, reconstruction: bool | None) -> None:
    if not decoder and not encoder_features:
        raise ValueError(
            "BLAN: needs features to classify, got decoder=False and encoder_features=False. "
            "Use --no-decoder to classify the encoder's or --no-encoder-features to classify the decoder's, not both."
        )
    if rdam and not (decoder and encoder_features):
        raise ValueError(
            "BLAN: RDAM joins the features of encoder and decoder, got rdam=True with "
            f"decoder={decoder} and encoder_features={encoder_features}. "
            "Leave rdam out: --no-decoder and --no-encoder-features imply --no-rdam."
        )
    if reconstruction and not decoder:
        raise ValueError(
            "BLAN: the reconstruction is the decoder's, got reconstruction=True with decoder=False. "
            "Leave reconstruction out: --no-decoder implies that there is none."
        )


def _refuse(part: str, switches: str, **options: object) -> None:
    """Refuse options of a part that is left out, unless they have the constructor's defaults."""
    defaults = inspect.signature(BLAN).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise ValueError(
                f"BLAN: {name} is an option of {part}, got {name}={value!r} without {part}. "
                f"Leave it out, or leave out {switches}."
            )
