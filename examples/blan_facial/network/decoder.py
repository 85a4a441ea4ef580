"""BLAN's decoder: the encoder mirrored, without its last stage, up to the reconstructed image."""

from collections.abc import Sequence

from torch import Tensor, nn

from blan_facial.network.blocks import he_initialize, stage

UPSAMPLINGS = ("nearest", "bilinear")


class Decoder(nn.Module):
    """Stages 3, 2, 1 of residual blocks, each after a x2 upsampling, then the way back to an image.

    Table 1 prints the upsampling below the blocks; here it comes before each stage and once more after stage 1, the
    reading in which D_i meets E_i at its resolution and the transposed convolution ends at the size of the input.

    Args:
        width: Channels of D_1; D_2 and D_3 have twice and four times as many, the input E_4 eight times.
        blocks: Blocks of stages 1, 2 and 3.
        upsampling: "nearest" or "bilinear".
        reconstruction: Whether to build the tail (x2 upsampling, 4x4 transposed convolution of stride 2 to RGB).

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
        self.tail: nn.Sequential | None = None
        if reconstruction:
            to_rgb = nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1)
            self.tail = nn.Sequential(nn.Upsample(scale_factor=2, mode=upsampling), to_rgb)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every weight anew (He initialisation)."""
        he_initialize(self)

    def forward(self, deepest: Tensor) -> tuple[Tensor, ...]:
        """Return the features (D_1, D_2, D_3) decoded from E_4."""
        d3 = self.stage3(self.upsample(deepest))
        d2 = self.stage2(self.upsample(d3))
        return self.stage1(self.upsample(d2)), d2, d3

    def reconstruct(self, d1: Tensor) -> Tensor:
        """Return the image (B, 3, 4h, 4w), linear, in the units of the network's input, from D_1 (B, width, h, w).

        Raises:
            ValueError: The decoder was built without its tail.
        """
        if self.tail is None:
            raise ValueError(
                "Decoder: a reconstruction needs the decoder's tail, got reconstruction=False. "
                "Build the model with reconstruction."
            )
        image: Tensor = self.tail(d1)
        return image
