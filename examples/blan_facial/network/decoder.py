"""BLAN's decoder, which mirrors the encoder without its last stage, up to the reconstructed image."""

from collections.abc import Sequence

from torch import Tensor, nn

from blan_facial.network.blocks import he_initialize, stage

UPSAMPLINGS = ("nearest", "bilinear")


class Decoder(nn.Module):
    """Stages 3, 2, 1 of residual blocks, each after x2 upsampling, then the layers that produce an image.

    Table 1 lists three upsamplings and one transposed convolution for a factor of 32, so a factor of two is missing.
    Here it comes first, so that each stage computes at the resolution of its encoder feature. :class:`LateDecoder`
    implements the other interpretation; both have the same parameters.

    Args:
        width: Channels of D_1; D_2 and D_3 have twice and four times as many, the input E_4 eight times.
        blocks: Blocks of stages 1, 2 and 3.
        upsampling: "nearest" or "bilinear".
        reconstruction: Whether to build the last step (4x4 transposed convolution of stride 2 to RGB, and x2).

    Shape:
        E_4 (B, 8 width, h, w) -> D_1 (B, width, 8h, 8w), D_2 (B, 2 width, 4h, 4w), D_3 (B, 4 width, 2h, 2w).

    Raises:
        ValueError: ``upsampling`` is neither of the two.

    Reference:
        Zheng et al. 2020, Table 1 (decoder).
    """

    def __init__(
        self,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6),
        *,
        upsampling: str = "nearest",
        reconstruction: bool = True,
    ) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"Decoder: upsampling must be one of {UPSAMPLINGS}, got {upsampling!r}. Choose one of them."
            )
        self.upsample = nn.Upsample(scale_factor=2, mode=upsampling)
        self.stage3 = stage(8 * width, 4 * width, blocks[2])
        self.stage2 = stage(4 * width, 2 * width, blocks[1])
        self.stage1 = stage(2 * width, width, blocks[0])
        self.to_rgb: nn.Module | None = None
        if reconstruction:
            self.to_rgb = nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1)
        he_initialize(self)

    def forward(self, deepest: Tensor) -> tuple[Tensor, ...]:
        """Return the features (D_1, D_2, D_3) decoded from E_4."""
        d3 = self.enlarge(deepest, self.stage3)
        d2 = self.enlarge(d3, self.stage2)
        return self.enlarge(d2, self.stage1), d2, d3

    def reconstruct(self, d1: Tensor) -> Tensor:
        """Return the image (B, 3, 4h, 4w), linear, in the units of the network's input, from D_1 (B, width, h, w).

        Raises:
            ValueError: The decoder was built without its last step.
        """
        if self.to_rgb is None:
            raise ValueError(
                "Decoder: a reconstruction needs the decoder's last step, got reconstruction=False. "
                "Build the decoder with reconstruction=True."
            )
        return self.enlarge(d1, self.to_rgb)

    def enlarge(self, x: Tensor, step: nn.Module) -> Tensor:
        """Double the size, then apply a step."""
        enlarged: Tensor = step(self.upsample(x))
        return enlarged


class LateDecoder(Decoder):
    """The decoder with every upsampling after its step: D_i follows the upsampling in its row of Table 1.

    The missing factor of two comes last. The blocks compute at half the resolution, which takes a quarter of the
    arithmetic: 2.24 instead of 8.96 GFLOP at 256 px.

    Reference:
        Zheng et al. 2020, Table 1 (decoder).
    """

    def enlarge(self, x: Tensor, step: nn.Module) -> Tensor:
        """Apply a step, then double the size."""
        enlarged: Tensor = self.upsample(step(x))
        return enlarged


DECODERS = {"upsample-stage": Decoder, "stage-upsample": LateDecoder}
"""The decoder for each order of upsampling and stage."""
