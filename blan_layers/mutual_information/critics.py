"""Critics: modules that score how well a local feature vector and a global one belong together."""

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._init import he_normal_
from blan_layers.functional.mutual_information import check_pair, project_pair, score_projections


class ConcatConvCritic(nn.Module):
    r"""Concat-and-convolve critic of local Deep InfoMax.

    ``fc3(relu(fc2(relu(fc1([local_u; global])))))`` at every location u: three pointwise layers of widths
    ``hidden_channels``, ``hidden_channels`` and 1.

    The first layer is linear in the concatenation, so that its halves are applied apart, the global one once per image,
    and the replicated tensor of width C + D never exists. Its columns stand in the order [local; global]: weights of
    the literal 1x1 convolutions fit by a view. Weights start by He's rule, biases at zero.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.
        hidden_channels: Width of both hidden layers.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not (B, C, \*S) and (B, D).

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        appendix A.2; Zheng et al., "BLAN", Pattern Recognition 100, 2020, section 3.3.1.

    Example:
        >>> import torch
        >>> critic = ConcatConvCritic(64, 512)
        >>> critic(torch.randn(2, 64, 16, 16), torch.randn(2, 512)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int = 512,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        owner = "ConcatConvCritic"
        self.local_channels = _checks.positive_int(owner, "local_channels", local_channels)
        self.global_channels = _checks.positive_int(owner, "global_channels", global_channels)
        hidden = _checks.positive_int(owner, "hidden_channels", hidden_channels)
        self.fc1 = nn.Linear(self.local_channels + self.global_channels, hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, hidden, device=device, dtype=dtype)
        self.fc3 = nn.Linear(hidden, 1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for layer in (self.fc1, self.fc2, self.fc3):
            he_normal_(layer)

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        """Score every location of each map with the map's own summary."""
        self.check(local_features, global_features)
        w1, b1, *later = self.layers
        local, per_image = project_pair(local_features, global_features, w1, b1)
        return score_projections(local, per_image, *later)

    def contrast(self, local_features: Tensor, global_features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Score every location with the map's own summary, and with that of the image at ``indices`` (B,).

        Both maps of logits (B, *S) share one projection of the map and one of the summaries.
        """
        self.check(local_features, global_features)
        w1, b1, *later = self.layers
        local, per_image = project_pair(local_features, global_features, w1, b1)
        return score_projections(local, per_image, *later), score_projections(local, per_image[indices], *later)

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Weight and bias of each layer, from the first to the last."""
        return tuple(tensor for layer in (self.fc1, self.fc2, self.fc3) for tensor in (layer.weight, layer.bias))

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for."""
        check_pair("ConcatConvCritic", local_features, global_features, self.local_channels, self.global_channels)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"local_channels={self.local_channels}, global_channels={self.global_channels}"
