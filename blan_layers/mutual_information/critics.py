"""Critics: modules that score how well a local feature vector and a global one belong together."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blan_layers import _checks
from blan_layers._init import he_normal_
from blan_layers.functional.mutual_information import check_pair, project_pair, score_sums

PAIRS_AT_ONCE = 2**14
"""How many pairs all_pairs scores at once, if one summary does not already make more."""


class Critic(nn.Module, ABC):
    r"""What scores pairs of a local and a global vector: an encoder of each, and a score of two codes.

    A subclass says ``encode`` and ``score``; the three ways of asking for logits follow, and each encodes every map and
    every summary once:

    - ``critic(local, global)``: every location with its own image's summary;
    - ``critic.contrast(local, global, indices)``: that, and every location with the summaries at ``indices``;
    - ``critic.all_pairs(local, global)``: every location with every summary.

    The last two take N >= B summaries, of which the first B belong to the maps and the rest are further candidates.
    A vector (B, C) stands for a map without spatial axes.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.

    Shape:
        local_features (B, C, \*S), global_features (B, D) -> logits (B, \*S).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not (B, C, \*S) and (B, D).

    Example:
        >>> import torch
        >>> class Cosine(Critic):
        ...     def encode(self, local_features, global_features):
        ...         unit = torch.nn.functional.normalize
        ...         return unit(local_features.flatten(2).mT, dim=-1), unit(global_features, dim=-1)
        ...     def score(self, local_codes, global_codes):
        ...         per_location = global_codes if global_codes.ndim == 4 else global_codes.unsqueeze(2)
        ...         return (local_codes.unsqueeze(1) * per_location).sum(-1)
        >>> Cosine(8, 8).all_pairs(torch.randn(4, 8, 5, 5), torch.randn(4, 8)).shape
        torch.Size([4, 4, 5, 5])
    """

    takes_vectors = True
    """Whether a vector (B, C) may stand for a map."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()
        owner = type(self).__name__
        self.local_channels = _checks.positive_int(owner, "local_channels", local_channels)
        self.global_channels = _checks.positive_int(owner, "global_channels", global_channels)

    @abstractmethod
    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        r"""Encode maps (B, C, \*S) as (B, U, E), U their number of locations, and summaries (N, D) as (N, E')."""

    @abstractmethod
    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Score codes (B, U, E) with K summaries' (B, K, E'), or at each location others' (B, K, U, E'): (B, K, U)."""

    def score_at(self, local_codes: Tensor, global_codes: Tensor, indices: Tensor) -> Tensor:
        """Score codes (B, U, E) with the summaries (N, E') at ``indices``, (B, K) or (B, K, U): (B, K, U)."""
        return self.score(local_codes, global_codes[indices])

    def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Score codes (B, U, E) with every summary (N, E'): (B, N, U), keeping the activations of no pair."""
        batch, locations, _ = local_codes.shape

        def score(chunk: Tensor) -> Tensor:
            return self.score(local_codes, chunk.expand(batch, *chunk.shape))

        if torch.compiler.is_compiling():  # a loop whose length depends on the batch would fix its size
            return score(global_codes)
        chunks = global_codes.split(max(1, PAIRS_AT_ONCE // max(1, batch * locations)))
        return torch.cat([_recomputed(score, chunk) if len(chunks) > 1 else score(chunk) for chunk in chunks], 1)

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        """Score every location of each map with the map's own summary."""
        self.check(local_features, global_features)
        local, own = self.encode(local_features, global_features)
        return self.score(local, own.unsqueeze(1)).reshape(self.locations(local_features))

    def contrast(self, local_features: Tensor, global_features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        r"""Score every location with the map's own summary, and with those at ``indices``.

        Args:
            local_features: Maps.
            global_features: Summaries, those of the maps first.
            indices: Whose summaries make each map's fake pairs: one, K of them, or K at each location.

        Shape:
            local_features (B, C, \*S), global_features (N, D), indices (B,), (B, K) or (B, K, \*S)
            -> logits (B, \*S) of real pairs, and of fake ones (B, \*S) for indices (B,), (B, K, \*S) for others.
        """
        self.check_candidates(local_features, global_features)
        shape = self.locations(local_features)
        local, summaries = self.encode(local_features, global_features)
        positive = self.score(local, summaries[: shape[0], None]).reshape(shape)
        if indices.ndim == 1:
            return positive, self.score_at(local, summaries, indices.unsqueeze(1)).reshape(shape)
        negative = self.score_at(local, summaries, indices.flatten(2) if indices.ndim > 2 else indices)
        return positive, negative.reshape(shape[0], indices.shape[1], *shape[1:])

    def all_pairs(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        r"""Score every location with every summary: at [b, n], map b with summary n, real pairs on the diagonal.

        Pairs are scored a few summaries at a time, and what a chunk computed is not kept but computed again in the
        backward: beyond the logits, memory grows with B alone. Compilers, which plan memory themselves, and
        ``torch.func`` get one plain pass.

        Args:
            local_features: Maps.
            global_features: Summaries, those of the maps first.

        Shape:
            local_features (B, C, \*S), global_features (N, D) -> logits (B, N, \*S).
        """
        self.check_candidates(local_features, global_features)
        shape = self.locations(local_features)
        logits = self.score_all(*self.encode(local_features, global_features))
        return logits.reshape(shape[0], global_features.shape[0], *shape[1:])

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for."""
        owner = type(self).__name__
        if self.takes_vectors and isinstance(local_features, Tensor) and local_features.ndim == 2:
            if local_features.shape[1] != self.local_channels:
                raise ValueError(
                    f"{owner}: local_features must be (B, {self.local_channels}) or (B, {self.local_channels}, *S), "
                    f"got shape {_checks.shape(local_features)}. Build the critic for the channels of local_features."
                )
            local_features = local_features.unsqueeze(-1)
        check_pair(owner, local_features, global_features, self.local_channels, self.global_channels)

    def locations(self, local_features: Tensor) -> tuple[int, ...]:
        r"""Return the shape (B, \*S) of the logits."""
        return local_features.shape[0], *local_features.shape[2:]

    def check_candidates(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for; there may be more summaries than maps."""
        further = isinstance(local_features, Tensor) and isinstance(global_features, Tensor) and global_features.ndim
        self.check(local_features, global_features[: local_features.shape[0]] if further else global_features)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"local_channels={self.local_channels}, global_channels={self.global_channels}"


class ConcatConvCritic(Critic):
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

    takes_vectors = False

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int = 512,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(local_channels, global_channels)
        hidden = _checks.positive_int(type(self).__name__, "hidden_channels", hidden_channels)
        self.fc1 = nn.Linear(self.local_channels + self.global_channels, hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, hidden, device=device, dtype=dtype)
        self.fc3 = nn.Linear(hidden, 1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for layer in (self.fc1, self.fc2, self.fc3):
            he_normal_(layer)

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the halves of the first layer."""
        w1, b1, *_ = self.layers
        local, per_image = project_pair(local_features, global_features, w1, b1)
        return local.flatten(1, -2), per_image

    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Add the halves of the first layer and apply the layers that follow."""
        per_location = global_codes if global_codes.ndim == 4 else global_codes.unsqueeze(2)
        _, _, *later = self.layers
        return score_sums(local_codes.unsqueeze(1) + per_location, *later)

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Weight and bias of each layer, from the first to the last."""
        return tuple(tensor for layer in (self.fc1, self.fc2, self.fc3) for tensor in (layer.weight, layer.bias))


class GlobalCritic(ConcatConvCritic):
    r"""Critic of global Deep InfoMax: the whole input, flattened and concatenated with the summary, in a perceptron.

    ``fc3(relu(fc2(relu(fc1([flatten(input); global])))))``: a number for each pair of an image and a summary.

    The input is a vector, or a map, flattened channel by channel, so that its size is fixed. It is the map-vector and
    the vector-vector twin of :class:`ConcatConvCritic`, with the same layers and the same split of the first.

    Args:
        input_features: Numbers F in an input: its width, or C times its locations.
        global_channels: Width D of the summary.
        hidden_channels: Width of both hidden layers.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        input_features (B, F) or (B, C, \*S) of C times its locations = F, global_features (B, D) -> logits (B,).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs are not of F numbers each and (B, D).

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        figure 2; Poole et al., "On variational bounds of mutual information", ICML 2019 (joint critic).

    Example:
        >>> import torch
        >>> critic = GlobalCritic(64 * 4 * 4, 512)
        >>> critic(torch.randn(2, 64, 4, 4), torch.randn(2, 512)).shape
        torch.Size([2])
    """

    takes_vectors = True

    def __init__(
        self,
        input_features: int,
        global_channels: int,
        *,
        hidden_channels: int = 512,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        features = _checks.positive_int("GlobalCritic", "input_features", input_features)
        super().__init__(features, global_channels, hidden_channels=hidden_channels, device=device, dtype=dtype)

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the halves of the first layer to the flattened inputs and to the summaries."""
        return super().encode(local_features.flatten(1).unsqueeze(-1), global_features)

    def locations(self, local_features: Tensor) -> tuple[int, ...]:
        """Return the shape (B,) of the logits."""
        return local_features.shape[:1]

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for."""
        _checks.floating("GlobalCritic", "local_features", local_features)
        if local_features.ndim < 2 or math.prod(local_features.shape[1:]) != self.local_channels:
            raise ValueError(
                f"GlobalCritic: local_features must hold {self.local_channels} numbers an image, got shape "
                f"{_checks.shape(local_features)}. Build the critic for the flattened size of the input."
            )
        super().check(local_features.flatten(1), global_features)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"input_features={self.local_channels}, global_channels={self.global_channels}"


def _recomputed(score: Callable[[Tensor], Tensor], chunk: Tensor) -> Tensor:
    """Score a chunk and keep none of its activations."""
    if (
        not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
    ):  # which take no hooks on what is kept
        return score(chunk)
    logits: Tensor = checkpoint(score, chunk, use_reentrant=False)
    return logits
