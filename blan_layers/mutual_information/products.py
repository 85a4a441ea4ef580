"""Critics that score a pair by the inner product of two codes, so that all pairs cost one matrix product."""

import math
import sys
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Checked, said
from blan_layers._init import change_parameter, he_normal_, reset, shrink_
from blan_layers._module import weight_of, width_of
from blan_layers._torch import autocasts
from blan_layers.functional._precision import at_least_float32
from blan_layers.functional._tracing import whole
from blan_layers.mutual_information.critics import Critic, at_locations
from blan_layers.mutual_information.encoders import Perceptron, ResidualEncoder

START = 1 / 64
"""Scale, with one over the root of the codes' width, that gives the first logits a standard deviation near 0.025."""


class ProductCritic(Critic):
    """A critic whose logit is the inner product of its two encoders' codes of a local and a global vector.

    The product, and so the logit, is in at least float32. The codes of the summaries start small, so that the first
    logits of standardised features are near zero for any width, also if map and summary are the same vector. Otherwise
    they would be of order 10, and objectives with exponentials would keep the critic from learning.
    """

    needs = "local_encoder", "global_encoder"

    local_encoder: nn.Module
    global_encoder: nn.Module

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        reset(self.local_encoder)
        reset(self.global_encoder)
        self._start_near_zero()

    def _start_near_zero(self) -> None:
        """Scale the initial codes of the summaries down."""
        encoder = self.global_encoder
        if isinstance(encoder, Perceptron | ResidualEncoder):
            last = encoder.last_layers()
            root = math.sqrt(len(last[0].weight))
            shrink_(last, START / root)
            if isinstance(encoder, ResidualEncoder):  # both shortcuts pass the same channels, whose products add up
                shrink_([encoder.shortcut], min(1.0, root / min(encoder.shortcut.weight.shape)))

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Encode every location of the maps, and the summaries."""
        return self.local_encoder(at_locations(local_features)), self.global_encoder(global_features)

    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Multiply the codes."""
        return _products(local_codes, global_codes)

    def score_at(self, local_codes: Tensor, global_codes: Tensor, indices: Tensor) -> Tensor:
        """Multiply the codes; if partners differ by location, pick them from the logits of all pairs."""
        if _checks.traced(indices) or indices.ndim == 2:
            return super().score_at(local_codes, global_codes, indices)
        logits = self.score_all(local_codes, global_codes)
        return logits.gather(1, rearrange(indices, "b k ... -> b k (...)"))

    def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Multiply all codes at once, since there are no activations besides the logits."""
        if type(self).score is not ProductCritic.score or "score" in self.__dict__:  # a subclass with another score
            return super().score_all(local_codes, global_codes)
        return _all_products(local_codes, global_codes)

    def first_layers(self) -> tuple[nn.Module, ...]:
        """Return the first layers of the encoders."""
        return getattr(self.local_encoder, "fc1", self.local_encoder), getattr(
            self.global_encoder, "fc1", self.global_encoder
        )

    def widths(self) -> tuple[int | None, int | None]:
        """Return the input widths of the encoders' first layers."""
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
    """Multiply codes in at least float32, since products in half precision could overflow."""
    if autocasts(local_codes.device):
        with torch.autocast(local_codes.device.type, enabled=False):
            return _precise_product(axes, local_codes, global_codes)
    return torch.einsum(axes, at_least_float32(local_codes), at_least_float32(global_codes))


class DotProductCritic(ProductCritic):
    r"""Encode-and-dot-product critic of Deep InfoMax.

    ``<local_encoder(local_u), global_encoder(global)>``, where
    ``local_encoder(x) = layer_norm(fc2(relu(fc1(x))) + shortcut(x))`` is applied at every location (a residual network
    of 1x1 convolutions), and ``global_encoder`` is the same network without the norm.

    The shortcuts start as the identity with noise between -0.01 and 0.01, the other weights by He's rule. The last
    layers of the summary's encoder are then divided by 64 times the square root of the code width E, which gives the
    first logits of standardised features a standard deviation near 0.025. As both shortcuts pass the same channels,
    that of the summary is instead divided by 64 times ``min(D, E)`` where this is more, so that the first logits are
    small for dependent features, too. The authors' code also has batch norm inside the encoders, which makes a logit
    depend on the other images of the batch; it is left out here.

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
        _checks.placement(device, dtype)
        self.local_encoder = ResidualEncoder(self.local_channels, hidden, norm=True, device=device, dtype=dtype)
        self.global_encoder = ResidualEncoder(self.global_channels, hidden, norm=False, device=device, dtype=dtype)
        self._start_near_zero()


class SeparableCritic(ProductCritic):
    r"""Separable critic: the inner product of two perceptrons' outputs for the local and the global vector.

    ``<local_encoder(local_u), global_encoder(global)>``, where each encoder is a perceptron with two hidden layers and
    ReLU. Weights start by He's rule, biases at zero. The last layer of the summary's encoder is then divided by 64
    times the square root of its width, which gives the first logits of standardised features a standard deviation near
    0.025.

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
        _checks.placement(device, dtype)
        width = _checks.positive_int("embedding_channels", embedding_channels)
        self.local_encoder = Perceptron(self.local_channels, (hidden, hidden), width, device=device, dtype=dtype)
        self.global_encoder = Perceptron(self.global_channels, (hidden, hidden), width, device=device, dtype=dtype)
        self._start_near_zero()


class BilinearCritic(ProductCritic):
    r"""Bilinear critic.

    ``<local_u, W global>``, where W (C, D) is the weight of ``global_encoder``. It starts by He's rule, divided by 64
    times the square root of C, which gives the first logits of standardised features a standard deviation near 0.025.

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
        _checks.placement(device, dtype)
        self.local_encoder = nn.Identity()
        self.global_encoder = nn.Linear(global_channels, local_channels, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weight."""
        he_normal_(self.global_encoder)
        shrink_([self.global_encoder], START / math.sqrt(self.local_channels))

    def widths(self) -> tuple[int | None, int | None]:
        """Return the shape of the weight."""
        weight = weight_of(self.global_encoder)
        return (None, None) if weight is None else (weight.shape[0], weight.shape[1])

    def first_layers(self) -> tuple[nn.Module, ...]:
        """Return the one layer, whose codes of the summaries the maps are multiplied by."""
        return (self.global_encoder,)


COLDEST = 0.01
"""The lowest temperature that can be learnt, as in CLIP."""


def _temperature(name: str, value: float) -> float:
    temperature = _checks.number(name, value, 0.07)
    if not sys.float_info.min <= temperature < math.inf:
        raise ValueError(said(f"{name} must be finite and above zero, got {value!r}. Pass 0.07."))
    return temperature


class CosineCritic(ProductCritic):
    r"""Cosine critic: the cosine of linear embeddings of both vectors, divided by a temperature.

    ``cos(local_encoder(local_u), global_encoder(global)) / temperature``, the logits of NT-Xent and CLIP.

    A vector whose embedding is zero scores 0, with a finite gradient. A learnt temperature is stored as the parameter
    ``logit_scale`` (1,), the negative log of the temperature, as in CLIP. The scale is at most 100: a parameter above
    log 100 is reflected to the same distance below, so that its gradient leads back.

    Weights start by He's rule, biases at zero. Then the second half of the local embedding is set to a small multiple
    of its first half, and the first half of the global embedding to one of its second half. Each is large where the
    other is small, so that the first logits of any features are between -0.05 and 0.05, while the small halves receive
    gradients of full size.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.
        embedding_channels: Width E of the embeddings, 2 or more.
        temperature: Divisor of the cosine, above zero. If it is learnt, this is the initial value, at least 0.01.
        learnt_temperature: Whether the temperature is a parameter.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, C, \*S) or (B, C), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, ``temperature`` is not a number, ``learnt_temperature`` is not a bool, or an
            input is not a floating-point tensor.
        ValueError: A number is below 1, ``embedding_channels`` is below 2, ``temperature`` is out of range, or the
            inputs are not (B, C, \*S) and (B, D).

    Reference:
        Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, Eq. 1
        (NT-Xent); Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021,
        section 2.3 to 2.5 (CLIP: linear embeddings, the learnt temperature and its bound).

    Example:
        >>> import torch
        >>> critic = CosineCritic(64, 512, learnt_temperature=True)
        >>> critic.all_pairs(torch.randn(2, 64), torch.randn(2, 512)).shape
        torch.Size([2, 2])
        >>> [name for name, _ in critic.named_parameters()]  # doctest: +NORMALIZE_WHITESPACE
        ['logit_scale', 'local_encoder.weight', 'local_encoder.bias', 'global_encoder.weight', 'global_encoder.bias']
    """

    temperature = Checked(_temperature)
    learnt_temperature = Checked(_checks.flag)

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        embedding_channels: int = 128,
        temperature: float = 0.07,
        learnt_temperature: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(local_channels, global_channels)
        width = _checks.positive_int("embedding_channels", embedding_channels)
        if width < 2:
            raise ValueError(said("embedding_channels must be at least 2, got 1. Pass, for example, 128."))
        _checks.placement(device, dtype)
        self.temperature = temperature
        self.learnt_temperature = learnt_temperature
        if learnt_temperature and self.temperature < COLDEST:
            raise ValueError(
                said(f"temperature must be finite and at least {COLDEST}, got {temperature!r}. Pass 0.07.")
            )
        if learnt_temperature:
            self.logit_scale = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.local_encoder = nn.Linear(self.local_channels, width, device=device, dtype=dtype)
        self.global_encoder = nn.Linear(self.global_channels, width, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weights, and the temperature if it is learnt."""
        he_normal_(self.local_encoder)
        he_normal_(self.global_encoder)
        half = len(cast(nn.Linear, self.local_encoder).weight) // 2
        short = min(0.5, self.temperature / 50)  # logits are at most 2 short / temperature, for odd widths sqrt(5)
        change_parameter(
            self.local_encoder,
            "weight",
            lambda weight: weight[half:].copy_(weight[:half].repeat(2, 1)[: len(weight) - half]).mul_(short),
        )
        change_parameter(
            self.global_encoder, "weight", lambda weight: weight[:half].copy_(weight[half : 2 * half]).mul_(short)
        )
        if self.learnt_temperature:
            change_parameter(self, "logit_scale", lambda scale: scale.fill_(-math.log(self.temperature)))

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Embed every location and the summaries as unit vectors, those of summaries divided by the temperature."""
        local, summaries = super().encode(local_features, global_features)
        if not self.learnt_temperature:
            return _unit(local), _unit(summaries) / self.temperature
        return _unit(local), _unit(summaries) * _bounded_exp(self.logit_scale)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        learnt = ", learnt_temperature=True" if self.learnt_temperature else ""
        return f"{super().extra_repr()}, temperature={self.temperature}{learnt}"


@whole
def _unit(codes: Tensor) -> Tensor:
    """Return codes (..., E) divided by their norm, in at least float32; zero vectors stay zero.

    They are first divided by their largest absolute value, so that no square leaves the floating range. The result is
    independent of that divisor, which therefore needs no gradient.
    """
    codes = at_least_float32(codes)
    largest = codes.detach().abs().amax(-1, keepdim=True)
    codes = codes / largest.masked_fill(largest == 0, 1)
    square = codes.square().sum(-1, keepdim=True)
    return codes * square.masked_fill(square == 0, 1).rsqrt()


@whole
def _bounded_exp(logit_scale: Tensor) -> Tensor:
    """Return exp of the parameter, in at least float32, reflected at the bound."""
    log_scale, bound = at_least_float32(logit_scale), -math.log(COLDEST)
    return torch.where(log_scale > bound, 2 * bound - log_scale, log_scale).exp()
