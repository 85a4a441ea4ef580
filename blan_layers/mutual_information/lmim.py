"""Local mutual information maximisation, Eq. 5 of BLAN."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import BACKENDS, Fixed, Option
from blan_layers._module import known, oddity
from blan_layers._torch import has_hooks
from blan_layers.functional.mutual_information import check_pair, contrast_mean, contrast_way
from blan_layers.functional.objectives import ObjectiveName
from blan_layers.mutual_information.critics import ConcatConvCritic, Critic
from blan_layers.mutual_information.infomax import InfoMaxLoss, Positives, Reduction, refuse_beside_critic
from blan_layers.mutual_information.negatives import Negatives

CRITIC = {"critic": known(ConcatConvCritic, methods=("forward", "contrast", "encode", "score", "score_at"))}
"""The critic whose loss can be computed in one pass."""


class LMIMLoss(InfoMaxLoss):
    r"""Loss that maximises the mutual information between a map's locations and its image's summary.

    ``mean_{b,u} softplus(-critic(local_u[b], global[b])) + mean_{b,u} softplus(critic(local_u[b], global[b']))``

    Every map is scored, at each of its locations u, with its own summary and with the summary of another image b',
    never b itself. By default the summaries are shifted cyclically: in training by a random number drawn from torch's
    default generator, in evaluation by one. Gradients reach the critic, the map and the summary. The critic is part of
    this module: **pass this module's parameters to the optimiser**, and move it to the device of the features.

    ``objective="bce"`` is the paper's binary cross entropy, 2 log 2 for an uninformative critic. ``"jsd"`` is the same
    minus 2 log 2, so that the negative loss is Deep InfoMax's Jensen-Shannon bound. Their gradients are equal.

    From the logits on, everything is computed in at least float32. With ``reduction="mean"`` and a mask, both terms are
    weighted means over the locations of the map. Values of the map where the mask is zero are ignored, even if they are
    NaN.

    ``negatives`` selects the fake pairs of each map:

    - "shift": with the images K cyclic shifts away;
    - "derangement": by K permutations without fixed points, all equally likely; in evaluation by shifts;
    - "per-location": by K such permutations per location, as in the code of Deep InfoMax;
    - "all": with every other image of the batch;
    - "queue": with every other image of the batch and the last ``queue_size`` summaries of earlier training batches,
      without gradient. In evaluation the queue is read but not updated. Keep it much smaller than the data set, so that
      an image is not paired with an earlier summary of itself;
    - "given": with ``negative_features`` (B, K, D), K summaries of your choice per map, for example hard ones.

    ``groups`` numbers the identities or classes of the images. Images of the same group then form no fake pairs
    ("derangement", "per-location", "all" and "queue", which also stores the groups of its summaries). The fake pairs of
    each map have the same total weight as its real pair.

    The values of ``objective``, where p is a real logit, q a fake logit, E a mean and I the information in nats:

    =================  ===================================  ======================  =============================
    objective          loss                                 its best critic         minus the loss
    =================  ===================================  ======================  =============================
    bce                E softplus(-p) + E softplus(q)       log r                   lower bound of 2 JS - 2 log 2
    jsd                the same - 2 log 2                   log r                   lower bound of 2 JS, and of I
    nwj                -E p + E exp(q - 1)                  1 + log r               lower bound of I
    infonce            -log N - E log softmax(all)[own]     log r + c per location  lower bound of I
    dv                 -E p + log E exp(q)                  log r + any constant    of I, for many fake pairs
    mine               the same, a running mean's gradient  log r + any constant    of I, for many fake pairs
    rkl                E exp(-p) + E (q - 1)                log r                   lower bound of KL(Q, P)
    chi_squared        -E p + E (q + q^2 / 4)               2 (r - 1)               lower bound of E_Q (r - 1)^2
    squared_hellinger  -E (1 - exp(-p)) + E (exp(q) - 1)    log(r) / 2              of E_Q (sqrt(r) - 1)^2
    wasserstein        -E p + E q                           the steepest allowed    no bound
    =================  ===================================  ======================  =============================

    r is the density ratio of real to fake pairs, P is the distribution of real pairs, Q that of fake pairs, and JS
    their Jensen-Shannon divergence. The f-divergences "gan" and "kl" are "bce" and "nwj". Bias and variance are
    described in :mod:`blan_layers.functional.objectives`. Objectives that need more than logits (TUBA, alpha, SMILE,
    CLUB) are functions in :mod:`blan_layers.functional`, for the logits of a critic's ``contrast`` or ``all_pairs``.

    "infonce" identifies each location's own summary among N candidates and therefore needs negatives "all", "queue" or
    "given". With ``symmetric`` its loss is the mean of both directions: in the second, each summary identifies its own
    map among all maps, location by location. This is the loss of CLIP minus log N. With ``positives="groups"`` every
    summary of a map's group forms a real pair with it, as in supervised contrastive learning: the loss is then the mean
    over these positives, outside the log, among all candidates. For NT-Xent, stack both views, ``z = cat([a, b])``, use
    the other view as the summary, ``cat([b, a])``, and pass ``groups`` that number the images, so that no view is
    paired with itself.

    In training, a call updates the queue and the running mean of "mine". Such a loss must run outside
    ``torch.utils.checkpoint``, which would call it a second time, and outside the transforms of ``torch.func``, unless
    they get its buffers as well. All processes store the same queue with ``gather``; without it,
    DistributedDataParallel replaces their queues by that of the first process.

    Exponentials continue along their tangent where they would overflow. "dv" and "mine" support only
    ``reduction="mean"``.

    With several processes, each has its own maps. ``gather`` makes the summaries of all processes candidates, with
    gradients. For a symmetric loss, a few numbers per summary and location are exchanged as well, but never maps.
    DistributedDataParallel averages gradients over processes. For batches of equal size, the gradients of the mean loss
    are then those of a single process on the joined batch. With batches of different sizes or a mask, each process
    takes its own mean; with "dv" and "mine" it always takes the logarithm of its own mean. With ``reduction="sum"`` the
    gradients are divided by the number of processes. Without DistributedDataParallel, average the gradients yourself.

    Args:
        local_channels: Channels C of the maps.
        global_channels: Width D of the summaries.
        hidden_channels: Width of the critic's hidden layers; None means 512. Cannot be combined with ``critic``.
        objective: A name from the table above.
        negatives: A name from the list above.
        num_negatives: Number K of fake pairs per location; None means 1. Must be below the batch size. Only for
            negatives that are drawn.
        queue_size: Number of summaries in the queue. Required for "queue", and only allowed there.
        gather: Whether the summaries of all processes are candidates. Only for "all" and "queue".
        symmetric: Whether summaries also identify their maps. Only for "infonce" with negatives "all".
        positives: "own", or "groups" for all summaries of an image's group. Only for "infonce" with "all" or "queue".
        critic: A module (local_features (B, C, \*S), global_features (B, D)) -> logits (B, \*S) to use instead of
            :class:`ConcatConvCritic`. If it has ``contrast(local_features, global_features, indices)``, this computes
            real and fake logits together. All negatives except "shift" and "derangement" with ``num_negatives=1`` need
            a :class:`~blan_layers.mutual_information.Critic`.
        reduction: "mean" or "sum" for a scalar, "none" for the loss at each location (B, \*S).
        backend: "auto", "reference" (plain operations), "blocked" (one pass over blocks of locations that stores no
            activations, for a scalar loss with a :class:`ConcatConvCritic` whose layers nothing watches or replaces) or
            "triton" (the same on a GPU); all give the same results.
        device: Device of the critic's parameters.
        dtype: Floating dtype of the critic's parameters.

    Shape:
        local_features (B, C, \*S), global_features (B, D), mask (B, \*S), groups (B,), negative_features (B, K, D) ->
        scalar, or (B, \*S) for ``reduction="none"``. B >= 2, counted over all processes with ``gather``; B = 1 is
        enough with a non-empty queue or negatives "given".

    Raises:
        TypeError: A number is not an int, ``critic`` is not a module, an input is not a floating-point tensor, the mask
            is neither boolean nor floating-point, or ``groups`` are not integers.
        ValueError: A number is below 1, a name is unknown, options are incompatible, ``critic`` is combined with
            ``hidden_channels``, ``device`` or ``dtype``, the inputs are not (B, C, \*S) and (B, D), the batch has fewer
            than 2 images or no more than ``num_negatives``, the mask has the wrong shape, negative or non-finite
            weights or, for a mean, no finite sum above zero, ``groups`` have the wrong shape or leave an image without
            a partner, ``groups`` or ``negative_features`` are missing where an option needs them or given where none
            does, or ``backend`` is not available here. Values of mask and groups are checked only in eager mode.
        RuntimeError: In training, activation checkpointing calls a loss with a queue or "mine" a second time, or
            ``torch.func`` transforms it but not its buffers. Under ``torch.compile`` a second call is not noticed.

    Reference:
        Zheng et al., "BLAN: Bi-directional ladder attentive network for facial attribute prediction", Pattern
        Recognition 100, 2020, Eq. 5; Hjelm et al., "Learning deep representations by mutual information estimation and
        maximization", ICLR 2019, Eq. 4 and appendix A.2. For ``symmetric`` Radford et al., "Learning transferable
        visual models from natural language supervision", ICML 2021, figure 3; for ``positives`` Khosla et al.,
        "Supervised contrastive learning", NeurIPS 2020, Eq. 2.

    Example:
        >>> import torch
        >>> loss = LMIMLoss(64, 512)
        >>> features, summary = torch.randn(8, 64, 16, 16), torch.randn(8, 512)
        >>> loss(features, summary).shape
        torch.Size([])
        >>> loss.estimate(features, summary) <= 1.3863  # nats
        tensor(True)
    """

    local_channels = Fixed(_checks.positive_int)
    global_channels = Fixed(_checks.positive_int)
    backend = Option(BACKENDS)

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        *,
        hidden_channels: int | None = None,
        objective: ObjectiveName = "bce",
        negatives: Negatives = "shift",
        num_negatives: int | None = None,
        queue_size: int | None = None,
        gather: bool = False,
        symmetric: bool = False,
        positives: Positives = "own",
        critic: Critic | nn.Module | None = None,
        reduction: Reduction = "mean",
        backend: _checks.Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            objective=objective,
            negatives=negatives,
            num_negatives=num_negatives,
            queue_size=queue_size,
            gather=gather,
            symmetric=symmetric,
            positives=positives,
            reduction=reduction,
        )
        self.local_channels = local_channels
        self.global_channels = global_channels
        self.backend = backend
        if critic is None:
            hidden = 512 if hidden_channels is None else _checks.positive_int("hidden_channels", hidden_channels)
            critic = ConcatConvCritic(
                local_channels, global_channels, hidden_channels=hidden, device=device, dtype=dtype
            )
        else:
            refuse_beside_critic({"hidden_channels": hidden_channels, "device": device, "dtype": dtype})
        self._hold(critic, self.global_channels, queue_size)

    def forward(
        self,
        local_features: Tensor,
        global_features: Tensor,
        *,
        mask: Tensor | None = None,
        groups: Tensor | None = None,
        negative_features: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, weighted by ``mask`` (boolean or non-negative weights) if given.

        If ``groups`` are given, no image forms a fake pair with one of the same number; with ``positives="groups"``
        these form real pairs. ``negative_features`` are the summaries of the fake pairs, for negatives "given".
        """
        local_features, pairs = self._prepared(
            local_features, global_features, mask, groups, negative_features, random=self.training
        )
        layers, odd = self._layers(mask)
        way = contrast_way(self.backend, local_features, global_features, layers, lambda: odd)
        if way == "reference" or pairs.indices is None:
            return self._loss(local_features, pairs, mask)
        cast(ConcatConvCritic, self.critic).check(local_features, global_features)
        weights = self._weights(mask, local_features, divides=self.reduction == "mean")
        locations = local_features[:, 0].numel()
        offset = 2 * math.log(2) if self.objective == "jsd" else 0.0
        if self.reduction == "sum":
            total = contrast_mean(way, local_features, pairs.summaries, pairs.indices, weights, layers, 1)
            return total - offset * (locations if weights is None else weights.sum())
        if weights is not None:
            weights, locations = weights / weights.sum(), 1
        return contrast_mean(way, local_features, pairs.summaries, pairs.indices, weights, layers, locations) - offset

    def _layers(self, mask: Tensor | None) -> tuple[tuple[Tensor, ...], str]:
        """Return the critic's layers for a loss in one pass, or why one pass is impossible."""
        if not self._one_each or self.objective not in ("bce", "jsd"):
            return (), "it supports only 'bce' and 'jsd' with one negative per map"
        if self.reduction == "none":
            return (), "it needs a scalar loss and got reduction='none'"
        if isinstance(mask, Tensor) and mask.requires_grad:
            return (), "it has no gradient for the mask"
        if odd := oddity(self, CRITIC):
            return (), f"it supports only ConcatConvCritic, and {odd}"
        layers, odd = cast(ConcatConvCritic, self.critic).plain_layers()
        return layers, f"critic.{odd}" if odd else ""

    def _check_features(self, local_features: Tensor, global_features: Tensor) -> None:
        critic = self.critic
        widths: tuple[int | None, int | None] = self.local_channels, self.global_channels
        if has_hooks(critic):
            widths = None, None  # a hook may change the inputs
        elif isinstance(critic, Critic) and (critic.local_channels, critic.global_channels) == widths:
            widths = critic.widths()
        check_pair(local_features, global_features, *widths)
