"""Critics that score a pair by the inner product of two codes, so that all pairs cost one matrix product."""

import torch
from einops import rearrange
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._init import he_normal_, reset
from blan_layers._module import weight_of, width_of
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.mutual_information.critics import Critic, at_locations
from blan_layers.mutual_information.encoders import Perceptron, ResidualEncoder


class ProductCritic(Critic):
    """A critic whose logit is the inner product of what its two encoders make of a local and of a global vector.

    The product, and so the logit, is in float32 at least.
    """

    local_encoder: nn.Module
    global_encoder: nn.Module

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        reset(self.local_encoder)
        reset(self.global_encoder)

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the map location by location, and the summaries."""
        return self.local_encoder(at_locations(local_features)), self.global_encoder(global_features)

    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Multiply the codes."""
        return _products(local_codes, global_codes)

    def score_at(self, local_codes: Tensor, global_codes: Tensor, indices: Tensor) -> Tensor:
        """Multiply the codes; where each location has partners of its own, pick them from the logits of all pairs."""
        if _checks.traced(indices) or indices.ndim == 2:
            return super().score_at(local_codes, global_codes, indices)
        logits = self.score_all(local_codes, global_codes)
        return logits.gather(1, rearrange(indices, "b k ... -> b k (...)"))

    def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Multiply all codes at once: there is no activation beside the logits."""
        if type(self).score is not ProductCritic.score or "score" in self.__dict__:  # another score than the product
            return super().score_all(local_codes, global_codes)
        return _all_products(local_codes, global_codes)

    def first_layers(self) -> tuple[nn.Module, ...]:
        """Return the first layers of the encoders."""
        return getattr(self.local_encoder, "fc1", self.local_encoder), getattr(
            self.global_encoder, "fc1", self.global_encoder
        )

    def widths(self) -> tuple[int | None, int | None]:
        """Return the widths of the encoders' first layers."""
        local, summary = self.first_layers()
        return width_of(local), width_of(summary)


@whole
def _products(local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Multiply codes (B, U, E) with others (B, K, E) or (B, K, U, E): (B, K, U)."""
    partners = "bke" if global_codes.ndim == 3 else "bkue"
    return _precise_product(f"bue,{partners}->bku", local_codes, global_codes)


@whole
def _all_products(local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Multiply codes (B, U, E) with all others (N, E): (B, N, U)."""
    return _precise_product("bue,ne->bnu", local_codes, global_codes)


def _precise_product(axes: str, local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Multiply codes in float32 at least, since the products of halves that are large pass their range."""
    device = local_codes.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _precise_product(axes, local_codes, global_codes)
    return torch.einsum(axes, at_least_float32(local_codes), at_least_float32(global_codes))


class DotProductCritic(ProductCritic):
    r"""Encode-and-dot-product critic of Deep InfoMax.

    ``<local_encoder(local_u), global_encoder(global)>``, where
    ``local_encoder(x) = layer_norm(fc2(relu(fc1(x))) + shortcut(x))`` acts at every location, a residual network of 1x1
    convolutions, and ``global_encoder`` is the same perceptron without the norm.

    The shortcuts start as the identity with noise of 0.01, the other weights by He's rule. The authors' code has batch
    norm inside the encoders too, which lets a logit depend on the other images of the batch; it is left out.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.
        hidden_channels: Width of the hidden layers and of the codes.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S) or (B, C), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not (B, C, \*S) and (B, D).

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        appendix A.2 (encode-and-dot-product).

    Example:
        >>> import torch
        >>> critic = DotProductCritic(64, 512, hidden_channels=256)
        >>> critic.all_pairs(torch.randn(2, 64, 16, 16), torch.randn(2, 512)).shape
        torch.Size([2, 2, 16, 16])
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int = 2048,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(local_channels, global_channels)
        hidden = _checks.positive_int("hidden_channels", hidden_channels)
        _checks.floating_dtype(dtype)
        self.local_encoder = ResidualEncoder(self.local_channels, hidden, norm=True, device=device, dtype=dtype)
        self.global_encoder = ResidualEncoder(self.global_channels, hidden, norm=False, device=device, dtype=dtype)


class SeparableCritic(ProductCritic):
    r"""Separable critic: the inner product of what two perceptrons make of the local and of the global vector.

    ``<local_encoder(local_u), global_encoder(global)>``, each encoder a perceptron with two hidden layers and ReLU.
    Weights start by He's rule, biases at zero.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.
        hidden_channels: Width of the hidden layers.
        embedding_channels: Width of the codes.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S) or (B, C), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not (B, C, \*S) and (B, D).

    Reference:
        Poole et al., "On variational bounds of mutual information", ICML 2019, section 3 (separable critic).

    Example:
        >>> import torch
        >>> critic = SeparableCritic(20, 20)
        >>> critic.all_pairs(torch.randn(8, 20), torch.randn(8, 20)).shape
        torch.Size([8, 8])
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int = 512,
        embedding_channels: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(local_channels, global_channels)
        hidden = _checks.positive_int("hidden_channels", hidden_channels)
        _checks.floating_dtype(dtype)
        width = _checks.positive_int("embedding_channels", embedding_channels)
        self.local_encoder = Perceptron(self.local_channels, (hidden, hidden), width, device=device, dtype=dtype)
        self.global_encoder = Perceptron(self.global_channels, (hidden, hidden), width, device=device, dtype=dtype)


class BilinearCritic(ProductCritic):
    r"""Bilinear critic.

    ``<local_u, W global>``, W (C, D) the weight of ``global_encoder``. It starts by He's rule.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S) or (B, C), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not (B, C, \*S) and (B, D).

    Reference:
        Van den Oord et al., "Representation learning with contrastive predictive coding", 2018, Eq. 3, whose logit is
        ``z^T W c``.

    Example:
        >>> import torch
        >>> BilinearCritic(64, 512)(torch.randn(2, 64, 16, 16), torch.randn(2, 512)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(local_channels, global_channels)
        _checks.floating_dtype(dtype)
        self.local_encoder = nn.Identity()
        self.global_encoder = nn.Linear(global_channels, local_channels, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew."""
        he_normal_(self.global_encoder)

    def widths(self) -> tuple[int | None, int | None]:
        """Return the sides of the weight."""
        weight = weight_of(self.global_encoder)
        return (None, None) if weight is None else (weight.shape[0], weight.shape[1])
