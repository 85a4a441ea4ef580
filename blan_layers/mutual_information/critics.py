"""Critics: modules that score whether a local and a global feature vector belong to the same image."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from blan_layers import _checks
from blan_layers._checks import Fixed, said
from blan_layers._init import he_normal_
from blan_layers._module import Module, check_layer, foreign_weight, known, oddity, watch, width_of
from blan_layers._torch import transforms_active
from blan_layers.functional._tracing import whole
from blan_layers.functional.mutual_information import check_pair
from blan_layers.mutual_information.encoders import PairLinear

Partners: TypeAlias = Literal["own", "all"] | Tensor
"""The summaries that a map is scored with: its own, all, or those at indices."""

PAIRS_AT_ONCE = 2**14
"""Number of pairs that all_pairs scores at once, unless a single summary gives more."""


class _Score(nn.Module):
    """The scores of a critic as a module, whose weights ``functional_call`` can replace."""

    def __init__(self, critic: "Critic") -> None:
        super().__init__()
        self.critic = critic

    def forward(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        return self.critic.score(local_codes, global_codes)


def _scored_again(critic: "Critic", local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Return the scores, to be computed again in the backward pass instead of stored.

    By then the critic may have other weights, or weights that are trained or not anew: a call of ``functional_call``
    is over, an optimiser has made a step. The tensors of this call are therefore kept, and must not have changed.
    """
    module = _Score(critic)
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    used = weights | {"local_codes": local_codes, "global_codes": global_codes}
    versions = {name: None if tensor.is_inference() else tensor._version for name, tensor in used.items()}
    copies: dict[str, Tensor] = {}

    def score(local_codes: Tensor, global_codes: Tensor) -> Tensor:
        if not copies:
            copies.update({name: x.detach().requires_grad_(x.requires_grad) for name, x in used.items()})
            return critic.score(local_codes, global_codes)
        for name, version in versions.items():
            if version is not None and used[name]._version != version:
                raise RuntimeError(
                    f"{type(critic).__name__}: tensors must not change between forward and backward, got an in-place "
                    f"change of {name.removeprefix('critic.')}. Call backward before the optimiser's step."
                )
        codes = copies["local_codes"], copies["global_codes"]
        scores: Tensor = functional_call(module, {name: copies[name] for name in weights}, codes)
        return scores

    return cast(Tensor, checkpoint(score, local_codes, global_codes, use_reentrant=False))


class Critic(Module, ABC):
    r"""Base class of critics, which encode local and global vectors and score pairs of codes.

    A subclass defines ``encode`` and ``score``. Logits can then be computed in four ways. Each is a single call of the
    module, so that hooks, compilers and sharding see it, and encodes every map and every summary once:

    - ``critic(local, global)``: every location with the summary of its own image;
    - ``critic(local, global, indices)``: every location with the summaries at ``indices``, (B, K) or (B, K, \*S);
    - ``critic(local, global, "all")``, or ``critic.all_pairs(local, global)``: every location with every summary;
    - ``critic.contrast(local, global, indices)``: the first two at once.

    All but the first accept N >= B summaries, of which the first B belong to the maps and the others are further
    candidates. A vector (B, C) is a map without spatial axes.

    Args:
        local_channels: Channels C of the map.
        global_channels: Width D of the summary.

    Shape:
        local_features (B, C, \*S), global_features (B, D) -> logits (B, \*S). With global_features (N, D): (B, K, \*S)
        for K partners, (B, N, \*S) for all.

    Raises:
        TypeError: A number is not an int, an input is not a dense floating-point tensor of the weights' dtype, or
            indices are not an int64 tensor.
        ValueError: A number is below 1, the inputs are not (B, C, \*S) and (B, D), or indices have another shape or are
            out of range. The range is checked only in eager mode on a CPU.

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

    local_channels = Fixed(_checks.positive_int)
    global_channels = Fixed(_checks.positive_int)

    takes_vectors = True
    """Whether a vector (B, C) is accepted as a map."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.local_channels = local_channels
        self.global_channels = global_channels

    @abstractmethod
    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        r"""Encode maps (B, C, \*S) with U locations as (B, U, E), and summaries (N, D) as (N, E')."""

    @abstractmethod
    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Score codes (B, U, E) with those of K summaries, (B, K, E') or, per location, (B, K, U, E'): (B, K, U)."""

    def score_at(self, local_codes: Tensor, global_codes: Tensor, indices: Tensor) -> Tensor:
        """Score codes (B, U, E) with the summaries (N, E') at ``indices``, (B, K) or (B, K, *S): (B, K, U)."""
        return self.score(local_codes, _picked(global_codes, indices))

    def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Score codes (B, U, E) with every summary (N, E'): (B, N, U), without storing activations of pairs."""
        batch = local_codes.shape[0]

        def score(chunk: Tensor) -> Tensor:
            return self.score(local_codes, chunk.expand(batch, -1, -1))

        tracing = torch.compiler.is_compiling() or _checks.traced(local_codes)  # a loop would fix the batch size
        if tracing or self._counts_calls():
            return score(global_codes)
        chunks = global_codes.split(max(1, PAIRS_AT_ONCE // max(1, batch * local_codes.shape[1])))
        if len(chunks) == 1 or not torch.is_grad_enabled() or transforms_active():  # no hooks on saved tensors
            return torch.cat([score(chunk) for chunk in chunks], 1)
        return torch.cat([_scored_again(self, local_codes, chunk.expand(batch, -1, -1)) for chunk in chunks], 1)

    def _counts_calls(self) -> bool:
        """Return whether a further call could be noticed by a hook, or change weights or buffers."""
        return any(
            (module is not self and watch(module)) or (module.training and (module._buffers or is_parametrized(module)))
            for module in self.modules()
        )

    def forward(self, local_features: Tensor, global_features: Tensor, partners: Partners = "own") -> Tensor:
        """Score every location of each map with the map's own summary, or with the summaries of its ``partners``."""
        named = isinstance(partners, str)
        if named:
            _checks.choice("partners", partners, ("own", "all"))
        if named and partners == "own":
            self.check(local_features, global_features)
        else:
            self.check_candidates(local_features, global_features)
        if not named:
            _check_indices("partners", partners, local_features, global_features)
        local, summaries = self.encode(local_features, global_features)
        if named and partners == "all":
            logits = self.score_all(local, summaries)
        elif named or _checks.traced(partners):
            logits = self.score(local, _picked(summaries, partners))
        else:
            logits = self.score_at(local, summaries, cast(Tensor, partners))
        return _located(logits, local_features, partners)

    def contrast(self, local_features: Tensor, global_features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        r"""Score every location with the map's own summary, and with the summaries at ``indices``.

        Args:
            local_features: Maps.
            global_features: Summaries; those of the maps come first.
            indices: Indices of the summaries in each map's fake pairs: one, K, or K per location.

        Shape:
            local_features (B, C, \*S), global_features (N, D), indices (B,), (B, K) or (B, K, \*S) -> logits (B, \*S)
            of real pairs, and logits of fake pairs: (B, \*S) for indices (B,), otherwise (B, K, \*S).
        """
        return contrast(self, local_features, global_features, indices)

    def all_pairs(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        r"""Score every location with every summary: entry [b, n] is map b with summary n, real pairs on the diagonal.

        A few summaries are scored at a time, and the activations of each chunk are recomputed in the backward pass:
        apart from the logits, memory grows only with B. One plain pass is used under compilers, which plan memory
        themselves, under ``torch.func``, for critics with hooks on their layers, and in training for critics with
        parametrised layers or with buffers (spectral norm, batch norm), which every call may change.

        Args:
            local_features: Maps.
            global_features: Summaries; those of the maps come first.

        Shape:
            local_features (B, C, \*S), global_features (N, D) -> logits (B, N, \*S).
        """
        return self(local_features, global_features, "all")

    def widths(self) -> tuple[int | None, int | None]:
        """Return the channels of maps and summaries, read from the weights, or None where that is impossible."""
        return self.local_channels, self.global_channels

    def first_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers that take the features: one, or one for the maps and one for the summaries."""
        return ()

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for."""
        local_channels, global_channels = self.widths()
        pair = "local_features", local_features, "global_features", global_features
        _checks.in_order(*pair, (local_channels, global_channels))
        if self.takes_vectors and isinstance(local_features, Tensor) and local_features.ndim == 2:
            if local_channels is not None and local_channels != local_features.shape[1]:
                raise ValueError(
                    said(
                        f"local_features must be (B, {local_channels}) or (B, {local_channels}, *S), "
                        f"got shape {_checks.shape(local_features)}. Build the critic for the channels of "
                        "local_features."
                    )
                )
            local_features = local_features.unsqueeze(-1)
        check_pair(local_features, global_features, local_channels, global_channels)
        if layers := self.first_layers():
            for name, features, layer in (
                ("local_features", local_features, layers[0]),
                ("global_features", global_features, layers[-1]),
            ):
                check_layer(self, layer, name, features)

    def check_candidates(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that the critic was not built for; more summaries than maps are allowed."""
        further = isinstance(local_features, Tensor) and isinstance(global_features, Tensor) and global_features.ndim
        self.check(local_features, global_features[: local_features.shape[0]] if further else global_features)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"local_channels={self.local_channels}, global_channels={self.global_channels}"

    if TYPE_CHECKING:

        def __call__(self, local_features: Tensor, global_features: Tensor, partners: Partners = "own") -> Tensor:
            """Call ``forward`` and its hooks."""


def contrast(
    critic: nn.Module, local_features: Tensor, global_features: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Return real and fake logits of a critic, or of its wrapper, in one call: see :meth:`Critic.contrast`."""
    if not _checks.traced(indices):
        _check_integers("indices", indices)
    logits: Tensor = critic(local_features, global_features, _with_own(indices))
    return _split(logits, indices)


def _check_integers(name: str, indices: object) -> None:
    """Refuse anything but an int64 tensor."""
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim == 0:
        got = type(indices).__name__
        if isinstance(indices, Tensor):
            got = f"{indices.dtype} of shape {_checks.shape(indices)}"
        raise TypeError(
            said(f"{name} must be a tensor of int64 indices, got {got}. Pass the indices of the summaries of each map.")
        )


def _check_indices(name: str, indices: object, local_features: Tensor, global_features: Tensor) -> None:
    """Refuse indices of summaries unless they are int64 (B, K) or (B, K, *S); the range is read only on a CPU."""
    if _checks.traced(indices, local_features, global_features):
        return
    _check_integers(name, indices)
    indices, batch, space = cast(Tensor, indices), local_features.shape[0], tuple(local_features.shape[2:])
    found, count = _checks.shape(indices), global_features.shape[0]
    if len(found) < 2 or found[0] != batch or found[2:] not in ((), space):
        wanted = f"({batch}, K)" + (f" or ({batch}, K, {', '.join(map(str, space))})" if space else "")
        raise ValueError(
            said(f"{name} must be {wanted}, got shape {found}. Pass K indices for each map, or for each location.")
        )
    if indices.device.type != "cpu" or not _checks.reads_values(indices) or indices.numel() == 0:
        return
    low, high = (end.item() for end in indices.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            said(
                f"{name} must be from 0 to {count - 1}, the indices of {count} summaries, got "
                f"{low if low < 0 else high}. Pass other indices, or more summaries."
            )
        )


class ConcatConvCritic(Critic):
    r"""Concat-and-convolve critic of local Deep InfoMax.

    ``fc3(relu(fc2(relu(fc1([local_u; global])))))`` at every location u: three pointwise layers of widths
    ``hidden_channels``, ``hidden_channels`` and 1.

    The first layer is linear in the concatenation. Its two halves are therefore applied separately, the global one once
    per image, and the replicated tensor of width C + D is never built. Its columns are in the order [local; global]:
    weights of the literal 1x1 convolutions fit once their kernel axes are removed. Weights start by He's rule, biases
    at zero.

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

    needs = "fc1", "fc2", "fc3"
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
        hidden = _checks.positive_int("hidden_channels", hidden_channels)
        _checks.placement(device, dtype)
        self.fc1 = PairLinear(self.local_channels + self.global_channels, hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, hidden, device=device, dtype=dtype)
        self.fc3 = nn.Linear(hidden, 1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise the weights."""
        for layer in (self.fc1, self.fc2, self.fc3):
            he_normal_(layer)

    def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the halves of the first layer, where it can be split."""
        vectors = at_locations(local_features)
        if self._splits:
            halves: tuple[Tensor, Tensor] = self.fc1(vectors, global_features)
            return halves
        return vectors, global_features

    def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
        """Add the halves of the first layer, or apply it to the pairs, and then apply the other layers."""
        first = _sums(local_codes, global_codes) if self._splits else self.fc1(_pairs(local_codes, global_codes))
        logits: Tensor = self.fc3(torch.relu(self.fc2(torch.relu(first))))
        return logits.squeeze(-1)

    @property
    def _splits(self) -> bool:
        """Whether the first layer can be split, and nothing that expects a single input watches or wraps it."""
        layer, kind = self.fc1, type(self.fc1)
        ours = issubclass(kind, PairLinear) and kind.forward is PairLinear.forward
        return ours and not watch(layer, everywhere=False) and not foreign_weight(layer)

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse features that do not fit the critic, or its first layer after pruning."""
        super().check(local_features, global_features)
        columns = width_of(self.fc1)
        if columns is None or _checks.traced(local_features, global_features):
            return
        given = local_features.shape[1], global_features.shape[1]
        if sum(given) != columns:
            raise ValueError(
                said(
                    f"the channels of local_features and global_features must add up to the {columns} columns of fc1, "
                    f"got {given[0]} + {given[1]}. Pass the features that it was pruned to."
                )
            )

    def widths(self) -> tuple[int | None, int | None]:
        """Return the widths that it was built for, as long as the first layer has as many columns."""
        both = self.local_channels, self.global_channels
        return both if width_of(self.fc1) == sum(both) else (None, None)

    def first_layers(self) -> tuple[nn.Module, ...]:
        """Return the first layer, which takes pairs."""
        return (self.fc1,)

    def plain_layers(self) -> tuple[tuple[Tensor, ...], str]:
        """Return weight and bias of each layer, or why they cannot be used: a layer is replaced or watched."""
        if odd := oddity(self, PERCEPTRON):
            return (), odd
        names = [(layer, name) for layer in ("fc1", "fc2", "fc3") for name in ("weight", "bias")]
        tensors = [self.get_submodule(layer)._parameters.get(name) for layer, name in names]
        for (layer, name), tensor in zip(names, tensors, strict=True):
            if tensor is None:
                return (), f"{layer} has no parameter {name}"
        if nn.functional.linear is not TORCH_LINEAR:
            return (), "fc1 is not applied by torch's own function"
        return tuple(cast("list[Tensor]", tensors)), ""


TORCH_LINEAR = nn.functional.linear

PERCEPTRON = {"fc1": known(PairLinear), "fc2": known(nn.Linear), "fc3": known(nn.Linear)}
"""The layers that the fused loss can replace."""


class GlobalCritic(ConcatConvCritic):
    r"""Critic of global Deep InfoMax: a perceptron of the flattened input, concatenated with the summary.

    ``fc3(relu(fc2(relu(fc1([flatten(input); global])))))``: one logit per pair of an image and a summary.

    The input is a vector, or a map of fixed size, which is flattened channel by channel. The layers, and the split of
    the first layer, are those of :class:`ConcatConvCritic`.

    Args:
        input_features: Number F of values per input: its width, or C times its number of locations.
        global_channels: Width D of the summary.
        hidden_channels: Width of both hidden layers.
        device: Device of the parameters.
        dtype: Floating dtype of the parameters.

    Shape:
        local_features (B, F), or (B, C, \*S) with F values per image; global_features (B, D) -> logits (B,).

    Raises:
        TypeError: A number is not an int, or an input is not a floating-point tensor.
        ValueError: A number is below 1, or the inputs do not have F values per image and shape (B, D).

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
        features = _checks.positive_int("input_features", input_features)
        super().__init__(features, global_channels, hidden_channels=hidden_channels, device=device, dtype=dtype)

    def forward(self, local_features: Tensor, global_features: Tensor, partners: Partners = "own") -> Tensor:
        """Score each input, flattened, with its own summary, or with those of its ``partners``."""
        maps = _checks.traced(local_features) or (isinstance(local_features, Tensor) and local_features.ndim > 1)
        return super().forward(local_features.flatten(1) if maps else local_features, global_features, partners)

    def check(self, local_features: Tensor, global_features: Tensor) -> None:
        """Refuse inputs of another size than the critic was built for."""
        features, channels = self.widths()
        pair = "local_features", local_features, "global_features", global_features
        _checks.in_order(*pair, (features, channels), flat=True)
        _checks.floating("local_features", local_features)
        if _checks.traced(local_features):
            return
        if local_features.ndim < 2 or (features is not None and features != math.prod(local_features.shape[1:])):
            raise ValueError(
                said(
                    f"local_features must have {features} values per image, got flattened shape "
                    f"{_checks.shape(local_features)}. Build the critic for the flattened size of the input."
                )
            )
        super().check(local_features.flatten(1), global_features)

    def extra_repr(self) -> str:
        """Return the arguments that repr shows."""
        return f"input_features={self.local_channels}, global_channels={self.global_channels}"


@whole
def at_locations(local_features: Tensor) -> Tensor:
    """Return maps (B, C, *S), or vectors (B, C), as (B, U, C)."""
    vectors: Tensor = rearrange(local_features, "b c ... -> b (...) c")
    return vectors


@whole
def _located(logits: Tensor, local_features: Tensor, partners: Partners) -> Tensor:
    """Return logits (B, K, U) with the spatial axes of the maps, in their own memory; own pairs lose the axis K."""
    if isinstance(partners, str) and partners == "own":
        logits = logits.squeeze(1)
    return logits.reshape(*logits.shape[:-1], *local_features.shape[2:]).clone()


@whole
def _picked(global_codes: Tensor, partners: Partners) -> Tensor:
    """Return the codes (N, E) of partners, indices (B, K) or (B, K, *S): (B, K, E) or (B, K, U, E)."""
    if isinstance(partners, str):
        return global_codes.unsqueeze(1) if partners == "own" else global_codes.expand(len(global_codes), -1, -1)
    return global_codes[rearrange(partners, "b k ... -> b k (...)") if partners.ndim > 2 else partners]


@whole
def _per_location(global_codes: Tensor) -> Tensor:
    """Return codes (B, K, E) or (B, K, U, E) with a location axis."""
    return global_codes if global_codes.ndim == 4 else global_codes.unsqueeze(2)


def _sums(local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Return the sums of codes (B, U, E) with others (B, K, E) or (B, K, U, E): (B, K, U, E)."""
    return local_codes.unsqueeze(1) + _per_location(global_codes)


@whole
def _pairs(local_codes: Tensor, global_codes: Tensor) -> Tensor:
    """Return codes (B, U, E) concatenated with others (B, K, E') or (B, K, U, E'): (B, K, U, E + E')."""
    local, summaries = local_codes.unsqueeze(1), _per_location(global_codes)
    pairs = summaries.shape[0], summaries.shape[1], local.shape[2], -1
    return torch.cat([local.expand(pairs), summaries.expand(pairs)], -1)


@whole
def _with_own(indices: Tensor) -> Tensor:
    """Prepend each map's own index to indices (B,), (B, K) or (B, K, *S): (B, 1 + K) or (B, 1 + K, *S)."""
    indices = indices.unsqueeze(1) if indices.ndim == 1 else indices
    own = torch.arange(indices.shape[0], device=indices.device)
    own = own.reshape(-1, *(1 for _ in indices.shape[1:])).expand(-1, 1, *indices.shape[2:])
    return torch.cat([own, indices], 1)


def _split(logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of real and of fake pairs, the latter with the axes of their indices, in their own memory."""
    return logits[:, 0].clone(), _fake(logits, indices)


@whole
def _fake(logits: Tensor, indices: Tensor) -> Tensor:
    return (logits[:, 1] if indices.ndim == 1 else logits[:, 1:]).clone()
