"""Global mutual information maximisation."""

import torch
from torch import Tensor, nn

from blan_layers import _checks
from blan_layers._checks import Fixed, said
from blan_layers._torch import has_hooks
from blan_layers.functional.objectives import ObjectiveName
from blan_layers.mutual_information.critics import Critic, GlobalCritic
from blan_layers.mutual_information.infomax import InfoMaxLoss, Pairs, Positives, Reduction, refuse_beside_critic
from blan_layers.mutual_information.negatives import Negatives


class GlobalInfoMaxLoss(InfoMaxLoss):
    r"""Loss that maximises the mutual information between whole inputs and their summaries: global Deep InfoMax.

    ``mean_b softplus(-critic(input[b], global[b])) + mean_b softplus(critic(input[b], global[b']))``

    It is :class:`~blan_layers.LMIMLoss` for inputs without locations: vectors, or maps that are flattened. Objectives,
    negatives, positives, groups, ``gather`` and ``estimate`` are described there. The critic is part of this module:
    **pass this module's parameters to the optimiser**.

    Args:
        input_features: Number F of values per input: its width, or C times its number of locations.
        global_channels: Width D of the summaries.
        hidden_channels: Width of the critic's hidden layers; None means 512. Cannot be combined with ``critic``.
        objective: An objective of :class:`~blan_layers.LMIMLoss`.
        negatives: Negatives of :class:`~blan_layers.LMIMLoss`, except "per-location".
        num_negatives: Number K of fake pairs per input; None means 1. Must be below the batch size. Only for negatives
            that are drawn.
        queue_size: Number of summaries in the queue. Required for "queue", and only allowed there.
        gather: Whether the summaries of all processes are candidates. Only for "all" and "queue".
        symmetric: Whether summaries also identify their inputs. Only for "infonce" with negatives "all".
        positives: "own", or "groups" for all summaries of an image's group. Only for "infonce" with "all" or "queue".
        critic: A critic of vectors (B, F) and (B, D) to use instead of :class:`~blan_layers.GlobalCritic`.
        reduction: "mean" or "sum" for a scalar, "none" for the loss of each input (B,).
        device: Device of the critic's parameters.
        dtype: Floating dtype of the critic's parameters.

    Shape:
        local_features (B, F) or (B, C, \*S), global_features (B, D), mask and groups (B,), negative_features (B, K, D)
        -> scalar, or (B,) for ``reduction="none"``.

    Raises:
        TypeError: In the cases of :class:`~blan_layers.LMIMLoss`.
        ValueError: In the cases of :class:`~blan_layers.LMIMLoss`, or ``negatives`` is "per-location".
        RuntimeError: In the cases of :class:`~blan_layers.LMIMLoss`.

    Reference:
        Hjelm et al., "Learning deep representations by mutual information estimation and maximization", ICLR 2019,
        section 3.1.

    Example:
        >>> import torch
        >>> loss = GlobalInfoMaxLoss(64 * 4 * 4, 128, objective="infonce", negatives="all")
        >>> loss(torch.randn(8, 64, 4, 4), torch.randn(8, 128)).shape
        torch.Size([])
        >>> from blan_layers import CosineCritic
        >>> options = {"objective": "infonce", "negatives": "all", "symmetric": True}
        >>> clip = GlobalInfoMaxLoss(64, 128, critic=CosineCritic(64, 128, learnt_temperature=True), **options)
        >>> clip(torch.randn(8, 64), torch.randn(8, 128)).shape
        torch.Size([])
    """

    input_features = Fixed(_checks.positive_int)
    global_channels = Fixed(_checks.positive_int)

    def __init__(
        self,
        input_features: int,
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
        self.input_features = input_features
        self.global_channels = global_channels
        if negatives == "per-location":
            raise ValueError(
                said("negatives must suit inputs without locations, got 'per-location'. Use 'derangement'.")
            )
        if critic is None:
            hidden = 512 if hidden_channels is None else _checks.positive_int("hidden_channels", hidden_channels)
            critic = GlobalCritic(input_features, global_channels, hidden_channels=hidden, device=device, dtype=dtype)
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
        """Return the loss, the inputs weighted by ``mask`` (boolean or non-negative weights) if given.

        If ``groups`` are given, no input forms a fake pair with one of the same number; with ``positives="groups"``
        these form real pairs. ``negative_features`` are the summaries of the fake pairs, for negatives "given".
        """
        inputs, pairs = self._prepared(
            local_features, global_features, mask, groups, negative_features, random=self.training
        )
        return self._loss(inputs, pairs, mask)

    def _prepared(
        self,
        local_features: Tensor,
        global_features: Tensor,
        mask: Tensor | None,
        groups: Tensor | None,
        negative_features: Tensor | None,
        *,
        random: bool,
    ) -> tuple[Tensor, Pairs]:
        """Flatten the inputs first."""
        vectors = isinstance(local_features, Tensor) and local_features.ndim < 2
        inputs = local_features if vectors or not hasattr(local_features, "flatten") else local_features.flatten(1)
        return super()._prepared(inputs, global_features, mask, groups, negative_features, random=random)

    def _check_features(self, local_features: Tensor, global_features: Tensor) -> None:
        critic = self.critic
        widths: tuple[int | None, int | None] = self.input_features, self.global_channels
        if has_hooks(critic):
            widths = None, None  # a hook may change the inputs
        elif isinstance(critic, Critic) and (critic.local_channels, critic.global_channels) == widths:
            widths = critic.widths()
        pair = "local_features", local_features, "global_features", global_features
        _checks.in_order(*pair, widths, flat=True)
        for name, vectors, width in (
            ("local_features", local_features, widths[0]),
            ("global_features", global_features, widths[1]),
        ):
            _checks.floating(name, vectors)
            if _checks.traced(vectors):
                return
            if vectors.ndim != 2 or (width is not None and width != vectors.shape[1]):
                otherwise = f"Build the loss for the size of {name}."
                raise ValueError(
                    said(
                        f"{name} must have {width} values per image, got flattened shape "
                        f"{_checks.shape(vectors)}. {_checks.remedy_of_vectors(name, vectors, width, otherwise)}"
                    )
                )
        remedy = "Pass one global vector per input"
        _checks.same_images("local_features", local_features, "global_features", global_features, remedy)
