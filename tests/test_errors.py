"""Every message of the library, by its text."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blan_layers.functional as F
from blan_layers import (
    BAM,
    CBAM,
    CLUB,
    ECA,
    RAR,
    RDAM,
    SCSE,
    AdaptiveScoreFusion,
    AttentionGate,
    BilinearCritic,
    ChannelAttention,
    ConcatConvCritic,
    CoordinateAttention,
    CosineCritic,
    DeepInfoMaxLoss,
    DotProductCritic,
    GlobalCritic,
    GlobalInfoMaxLoss,
    LMIMLoss,
    MINEObjective,
    PriorMatchingLoss,
    ResidualAttention,
    SeparableCritic,
    SoftMask,
    SpatialAttention,
    insert_attention,
)

X = torch.zeros(2, 8, 5, 6)
T = torch.zeros(2, 4)


def loss(**options: Any) -> LMIMLoss:
    return LMIMLoss(8, 4, hidden_channels=3, **options)


def masked(mask: Any, **options: Any) -> Tensor:
    return loss(**options)(X, T, mask=mask)


def afterwards(module: Any, **options: Any) -> Any:
    """Set options that a module was not built with."""
    for name, value in options.items():
        setattr(module, name, value)
    return module


class PooledCritic(nn.Module):
    """Forgets to score every location."""

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        return local_features.flatten(1).sum(1) + global_features.sum(1)


MLP = torch.zeros(4, 8), None, torch.zeros(8, 4), None
LATER = torch.zeros(3), torch.zeros(3, 3), torch.zeros(3), torch.zeros(1, 3), torch.zeros(1)


class Plain(Tensor):
    """A subclass as others make them to name what a tensor holds."""


VALUE_ERRORS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: RDAM(8, resize=nn.Upsample(2)),  # type: ignore[arg-type]
        "RDAM: resize must be one of None, 'nearest', 'bilinear', got Upsample(size=2, mode='nearest'). "
        "Pass one of those.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, prior=PriorMatchingLoss(4)),  # type: ignore[arg-type]
        "DeepInfoMaxLoss: prior must be one of 'uniform', 'gaussian', got a PriorMatchingLoss. Pass one of those.",
    ),
    (
        lambda: CBAM(8, pools=nn.AdaptiveAvgPool2d(1)),  # type: ignore[arg-type]
        "CBAM: pools must be a sequence of 'avg', 'max' or both, each once, got AdaptiveAvgPool2d(output_size=1). "
        "Pass ('avg', 'max'), ('avg',) or ('max',).",
    ),
    (
        lambda: CBAM(8, arrangement=np.array(["parallel"])),  # type: ignore[arg-type]
        "CBAM: arrangement must be one of 'channel-spatial', 'spatial-channel', 'parallel', got "
        "array(['parallel'], dtype='<U8'). Pass one of those.",
    ),
    (
        lambda: CBAM(8, device="gpu"),
        "CBAM: device must be a torch.device or its name, got 'gpu'. Pass, for example, 'cuda'.",
    ),
    (
        lambda: MINEObjective(device=-1),  # type: ignore[arg-type]
        "MINEObjective: device must be a torch.device or its name, got -1. Pass, for example, 'cuda'.",
    ),
    (
        lambda: F.channel_attention(X, torch.zeros(4, 8), torch.zeros(8), torch.zeros(8, 4), torch.zeros(4)),
        "channel_attention: b1 must be (4,), one value for each output of its layer, got shape (8,). "
        "Pass the bias of that layer, or None.",
    ),
    (
        lambda: F.dual_attention(X, *MLP, torch.zeros(1, 2, 3, 3), torch.zeros(6)),
        "dual_attention: bias must be (1,), one value for each output of its layer, got shape (6,). "
        "Pass the bias of that layer, or None.",
    ),
    (
        lambda: F.concat_conv_logits(X, T, torch.zeros(3, 12), *LATER[:2], torch.zeros(3, 3), *LATER[3:]),
        "concat_conv_logits: b2 must be (3,), one value for each output of its layer, got shape (3, 3). "
        "Pass the bias of that layer, or None.",
    ),
    (
        lambda: masked(nn.Parameter(torch.zeros(2, 5, 6))),
        "LMIMLoss: mask must have a finite sum above zero to take a mean over, got 0 for a mask of shape (2, 5, 6). "
        "Skip the batch, scale the weights, or use reduction='sum'.",
    ),
    (
        lambda: masked(torch.zeros(2, 5, 6).as_subclass(Plain)),
        "LMIMLoss: mask must have a finite sum above zero to take a mean over, got 0 for a mask of shape (2, 5, 6). "
        "Skip the batch, scale the weights, or use reduction='sum'.",
    ),
    (
        lambda: F.mutual_information_certificate(nn.Parameter(torch.tensor(-0.5))),
        "mutual_information_certificate: mean_bce must be at least 0, got -0.5. "
        "Pass bce_loss(positive_logits, negative_logits) / 2.",
    ),
    (
        lambda: ChannelAttention(0),
        "ChannelAttention: channels must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CBAM(8, reduction_ratio=4, hidden_channels=2),
        "CBAM: takes reduction_ratio or hidden_channels, got both (4 and 2). Drop one of them.",
    ),
    (
        lambda: ChannelAttention(8, reduction_ratio=0),
        "ChannelAttention: reduction_ratio must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: ChannelAttention(8, form="paper"),  # type: ignore[arg-type]
        "ChannelAttention: form must be one of 'cbam', 'printed', got 'paper'. Pass one of those.",
    ),
    (
        lambda: ChannelAttention(8, pools=("avg", "std")),  # type: ignore[arg-type]
        "ChannelAttention: pools must be a sequence of 'avg', 'max' or both, each once, got ('avg', 'std'). "
        "Pass ('avg', 'max'), ('avg',) or ('max',).",
    ),
    (
        lambda: ChannelAttention(8, pools="avg"),  # type: ignore[arg-type]
        "ChannelAttention: pools must be a sequence of 'avg', 'max' or both, each once, got 'avg'. "
        "Pass ('avg', 'max'), ('avg',) or ('max',).",
    ),
    (
        lambda: ChannelAttention(8, pools=("max",), form="printed"),
        "ChannelAttention: form='printed' needs both pools, got ('max',). Pass pools=('avg', 'max').",
    ),
    (
        lambda: SpatialAttention(6),
        "SpatialAttention: kernel_size must be odd to keep the size of the map, got 6. Use 5 or 7.",
    ),
    (
        lambda: SpatialAttention(spatial_dims=4),
        "SpatialAttention: spatial_dims must be one of 1, 2, 3, got 4. Pass one of those.",
    ),
    (
        lambda: CBAM(8, arrangement="serial"),  # type: ignore[arg-type]
        "CBAM: arrangement must be one of 'channel-spatial', 'spatial-channel', 'parallel', got 'serial'. "
        "Pass one of those.",
    ),
    (
        lambda: RDAM(8, conv_kernel_size=2),
        "RDAM: conv_kernel_size must be odd to keep the size of the map, got 2. Use 1 or 3.",
    ),
    (
        lambda: ChannelAttention(4)(X),
        "ChannelAttention: x must have 4 channels (B, 4, *S), got 8 in shape (2, 8, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: ChannelAttention(8)(X[:, :, 0, 0]),
        "ChannelAttention: x must have at least 3 dimensions (B, 8, *S), got 2 in shape (2, 8). "
        "Features (B, C) have no locations: give them some by x[:, :, None].",
    ),
    (
        lambda: ChannelAttention(8)(X[:, :, :0]),
        "ChannelAttention: x must have at least one channel and one location, got shape (2, 8, 0, 6). "
        "Use a larger input or fewer downsampling steps.",
    ),
    (
        lambda: SpatialAttention(spatial_dims=2)(X[0]),
        "SpatialAttention: x must have 4 dimensions (B, C, H, W), got 3 in shape (8, 5, 6). "
        "Add the batch axis, x.unsqueeze(0); tokens (B, N, C) become a map by x.transpose(1, 2).unflatten(2, (H, W)).",
    ),
    (
        lambda: CBAM(8, spatial_dims=3)(X),
        "CBAM: x must have 5 dimensions (B, 8, D, H, W), got 4 in shape (2, 8, 5, 6). "
        "Add the batch axis, for example x.unsqueeze(0), or whichever axis is missing.",
    ),
    (
        lambda: RDAM(8)(X, X[:, :4]),
        "RDAM: decoder_features must have 8 channels (B, 8, H, W), got 4 in shape (2, 4, 5, 6). "
        "Build the layer for the channels of decoder_features.",
    ),
    (
        lambda: RDAM(8)(X, X[:1]),
        "RDAM: encoder_features and decoder_features must contain the same images, got batches of 2 and 1. "
        "Pass one decoder_features per image of encoder_features.",
    ),
    (
        lambda: RDAM(8)(X, X[..., :3]),
        "RDAM: encoder_features and decoder_features must have the same spatial sizes, "
        "got shapes (2, 8, 5, 6) and (2, 8, 5, 3). Resize one of them first, or build RDAM with resize='nearest'.",
    ),
    (
        lambda: AttentionGate(8, 0),
        "AttentionGate: gating_channels must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: AttentionGate(8, 4, spatial_dims=4),
        "AttentionGate: spatial_dims must be one of 1, 2, 3, got 4. Pass one of those.",
    ),
    (
        lambda: AttentionGate(8, 4)(X, X),
        "AttentionGate: gating must have 4 channels (B, 4, H, W), got 8 in shape (2, 8, 5, 6). "
        "Build the layer for the channels of gating.",
    ),
    (
        lambda: AttentionGate(8, 4)(X, X[0, :4]),
        "AttentionGate: gating must have 4 dimensions (B, 4, H, W), got 3 in shape (4, 5, 6). "
        "Add the batch axis, for example gating.unsqueeze(0), or whichever axis is missing.",
    ),
    (
        lambda: AttentionGate(8, 8)(X, X[:1]),
        "AttentionGate: skip and gating must contain the same images, got batches of 2 and 1. "
        "Pass one gating map per skip.",
    ),
    (
        lambda: RAR(8, steps=0),
        "RAR: steps must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: RAR(8, conv_kernel_size=4),
        "RAR: conv_kernel_size must be odd to keep the size of the map, got 4. Use 3 or 5.",
    ),
    (
        lambda: RAR(8, decoder_channels=4)(X, X),
        "RAR: decoder_features must have 4 channels (B, 4, H, W), got 8 in shape (2, 8, 5, 6). "
        "Build the layer for the channels of decoder_features.",
    ),
    (
        lambda: RAR(8)(X, X[..., :3]),
        "RAR: encoder_features and decoder_features must have the same spatial sizes, "
        "got shapes (2, 8, 5, 6) and (2, 8, 5, 3). Resize one of them first.",
    ),
    (
        lambda: SoftMask(8, depth=0),
        "SoftMask: depth must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: SoftMask(8, depth=1, form="softmax"),  # type: ignore[arg-type]
        "SoftMask: form must be one of 'mixed', 'channel', 'spatial', got 'softmax'. Pass one of those.",
    ),
    (
        lambda: SoftMask(4, depth=1)(X),
        "SoftMask: x must have 4 channels (B, 4, H, W), got 8 in shape (2, 8, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: ResidualAttention(nn.Conv2d(8, 8, 3), SoftMask(8, depth=1))(X[:, :4]),
        "ResidualAttention: x must have 8 channels (B, 8, H, W), got 4 in shape (2, 4, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: ResidualAttention(nn.MaxPool2d(2), nn.Sigmoid())(X),
        "ResidualAttention: mask(x) must have the sizes of trunk(x), or 1 in their place, got shapes "
        "(2, 8, 5, 6) and (2, 8, 2, 3). Give both the same stride and channels.",
    ),
    (
        lambda: ResidualAttention(nn.Identity(), nn.Flatten())(X),
        "ResidualAttention: mask(x) must have the sizes of trunk(x), or 1 in their place, got shapes "
        "(2, 240) and (2, 8, 5, 6). Give both the same stride and channels.",
    ),
    (
        lambda: F.channel_attention(X[:, :5], *MLP),
        "channel_attention: x must have 8 channels (B, 8, *S), got 5 in shape (2, 5, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: F.spatial_attention(X, torch.zeros(1, 2, 3, 4)),
        "spatial_attention: weight must be (1, 2, *kernel) with 1 to 3 odd kernel sizes, got shape (1, 2, 3, 4). "
        "Use kernel sizes such as 3, 5 or 7.",
    ),
    (
        lambda: F.dual_attention(X, *MLP, torch.zeros(1, 2, 3, 3), residual=X[:1]),
        "dual_attention: x and residual must contain the same images, got batches of 2 and 1. "
        "Pass one residual per image of x.",
    ),
    (
        lambda: loss(objective="nce"),
        "LMIMLoss: objective must be one of 'bce', 'jsd', 'nwj', 'rkl', 'chi_squared', 'squared_hellinger', "
        "'wasserstein', 'infonce', 'dv', 'mine', got 'nce'. Pass one of those.",
    ),
    (
        lambda: loss(negatives="shuffle"),
        "LMIMLoss: negatives must be one of 'shift', 'derangement', 'per-location', 'all', 'queue', 'given', got "
        "'shuffle'. Pass one of those.",
    ),
    (
        lambda: loss(reduction="max"),
        "LMIMLoss: reduction must be one of 'mean', 'sum', 'none', got 'max'. Pass one of those.",
    ),
    (
        lambda: loss().estimate(X, T, estimator="mine"),  # type: ignore[arg-type]
        "LMIMLoss.estimate: estimator must be one of 'jsd', 'positive_logit', 'certificate', 'nwj', 'dv', 'smile', "
        "'infonce', got 'mine'. Pass one of those.",
    ),
    (
        lambda: LMIMLoss(8, 4, hidden_channels=3, critic=ConcatConvCritic(8, 4)),
        "LMIMLoss: hidden_channels is for the critic that the loss builds, got hidden_channels=3 together with "
        "critic=. Pass it to the critic's constructor.",
    ),
    (
        lambda: loss()(X[:1], T[:1]),
        "LMIMLoss: needs at least 2 images to form negative pairs, got a batch of 1. "
        "Use drop_last=True in the DataLoader.",
    ),
    (
        lambda: loss()(X[:0], T[:0]),
        "LMIMLoss: needs at least 2 images to form negative pairs, got a batch of 0. "
        "Use drop_last=True in the DataLoader.",
    ),
    (
        lambda: loss()(X, torch.zeros(3, 4)),
        "LMIMLoss: local_features and global_features must contain the same images, got batches of 2 and 3. "
        "Pass one global vector per map.",
    ),
    (
        lambda: loss()(X, torch.zeros(2, 5)),
        "LMIMLoss: global_features must be (B, 4), got shape (2, 5). "
        "Pass one vector per image, of the width that the critic was built for.",
    ),
    (
        lambda: ConcatConvCritic(8, 4)(X, torch.zeros(2, 4, 1)),
        "ConcatConvCritic: global_features must be (B, 4), got shape (2, 4, 1). "
        "Remove the axes of size 1 with global_features.flatten(1).",
    ),
    (
        lambda: loss(num_negatives=2, negatives="all"),
        "LMIMLoss: num_negatives needs negatives 'shift', 'derangement' or 'per-location', got negatives='all'. "
        "Pass one of those, or drop it.",
    ),
    (
        lambda: loss(num_negatives=0),
        "LMIMLoss: num_negatives must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: loss(num_negatives=2)(X, T),
        "LMIMLoss: num_negatives must be below the batch, got 2 for a batch of 2. "
        "Use a larger batch, or negatives='all'.",
    ),
    (
        lambda: loss(objective="infonce"),
        "LMIMLoss: objective='infonce' needs negatives 'all', 'queue' or 'given', got negatives='shift'. "
        "Pass one of those, or drop it.",
    ),
    (
        lambda: loss(gather=True),
        "LMIMLoss: gather=True needs negatives 'all' or 'queue', got negatives='shift'. Pass one of those, or drop it.",
    ),
    (
        lambda: loss(queue_size=8),
        "LMIMLoss: queue_size needs negatives 'queue', got negatives='shift'. Pass that, or drop it.",
    ),
    (
        lambda: loss(negatives="queue"),
        "LMIMLoss: negatives='queue' needs queue_size, got None. Pass, for example, 4096.",
    ),
    (
        lambda: loss(objective="dv", reduction="none"),
        "LMIMLoss: objective='dv' is not a sum over locations, got reduction='none'. "
        "Use reduction='mean', or another objective.",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=PooledCritic(), negatives="all"),
        "LMIMLoss: negatives='all' needs a blan_layers.mutual_information.Critic, got "
        "PooledCritic. Subclass it, or use a single negative of 'shift' or 'derangement'.",
    ),
    (
        lambda: loss(objective="nwj", backend="blocked")(X, T),
        "LMIMLoss: backend='blocked' is not available here: it supports only 'bce' and 'jsd' with one negative per "
        "map. Use backend='auto' or backend='reference'.",
    ),
    (
        lambda: loss().estimate(X, T, estimator="infonce"),
        "LMIMLoss.estimate: estimator='infonce' needs negatives 'all', 'queue' or 'given', got 'shift'. "
        "Build the loss with one of those.",
    ),
    (
        lambda: loss(objective="dv").estimate(X, T, estimator="positive_logit"),
        "LMIMLoss.estimate: estimator='positive_logit' needs a critic trained towards the log density ratio, got "
        "objective='dv'. Use 'certificate', or train with 'bce', 'jsd', 'nwj' or 'rkl'.",
    ),
    (
        lambda: loss().estimate(X, T, reduction="sum"),  # type: ignore[arg-type]
        "LMIMLoss.estimate: reduction must be one of 'mean', 'none', got 'sum'. Pass one of those.",
    ),
    (
        lambda: loss()(X, T, groups=torch.tensor([0, 1])),
        "LMIMLoss: groups needs negatives that support groups, got negatives='shift'. "
        "Use 'derangement', 'per-location', 'all' or 'queue'.",
    ),
    (
        lambda: loss(negatives="all")(X, T, groups=torch.tensor([3, 3])),
        "LMIMLoss: needs at least 2 groups, got one group of all 2 images. Draw batches from several groups.",
    ),
    (
        lambda: loss(negatives="all")(X, T, groups=torch.tensor([3])),
        "LMIMLoss: groups must have a number for every image, shape (2,), got (1,). Pass one integer per image.",
    ),
    (
        lambda: loss(negatives="derangement")(torch.zeros(3, 8, 2), torch.zeros(3, 4), groups=torch.tensor([0, 0, 1])),
        "LMIMLoss: groups must be at most half of the batch to be paired with others, got one of 2 in a batch of 3. "
        "Use negatives='all', or draw batches from more groups.",
    ),
    (
        lambda: loss(symmetric=True, negatives="all"),
        "LMIMLoss: symmetric=True needs objective 'infonce', got objective='bce'. Pass that, or drop it.",
    ),
    (
        lambda: loss(symmetric=True, objective="infonce", negatives="queue", queue_size=4),
        "LMIMLoss: symmetric=True needs negatives 'all', got negatives='queue'. Pass that, or drop it.",
    ),
    (
        lambda: loss(positives="others"),
        "LMIMLoss: positives must be one of 'own', 'groups', got 'others'. Pass one of those.",
    ),
    (
        lambda: loss(positives="groups", objective="nwj", negatives="all"),
        "LMIMLoss: positives='groups' needs objective 'infonce', got objective='nwj'. Pass that, or drop it.",
    ),
    (
        lambda: loss(positives="groups", objective="infonce", negatives="given"),
        "LMIMLoss: positives='groups' needs negatives 'all' or 'queue', got negatives='given'. "
        "Pass one of those, or drop it.",
    ),
    (
        lambda: loss(positives="groups", objective="infonce", negatives="all")(X, T),
        "LMIMLoss: positives='groups' needs groups, got none. Pass the group of each image.",
    ),
    (
        lambda: loss(negatives="given")(X, T),
        "LMIMLoss: negatives='given' needs negative_features, got none. "
        "Pass K further summaries for each image, (B, K, D).",
    ),
    (
        lambda: loss().estimate(X, T, negative_features=T[:, None]),
        "LMIMLoss.estimate: negative_features needs negatives 'given', got negatives='shift'. Pass that, or drop it.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=T),
        "LMIMLoss: negative_features must be (2, K, 4) with K >= 1, got shape (2, 4). "
        "Pass K further summaries for each image.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=T[:, :0, None].expand(2, 0, 4)),
        "LMIMLoss: negative_features must be (2, K, 4) with K >= 1, got shape (2, 0, 4). "
        "Pass K further summaries for each image.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=torch.zeros(2, 1, 4, device="meta")),
        "LMIMLoss: negative_features must be on the device of global_features, cpu, got them on meta. Move them there.",
    ),
    (
        lambda: loss(negatives="given", num_negatives=2),
        "LMIMLoss: num_negatives needs negatives 'shift', 'derangement' or 'per-location', got negatives='given'. "
        "Pass one of those, or drop it.",
    ),
    (
        lambda: loss(negatives="given", gather=True),
        "LMIMLoss: gather=True needs negatives 'all' or 'queue', got negatives='given'. Pass one of those, or drop it.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=T[:, None], groups=torch.tensor([0, 1])),
        "LMIMLoss: groups needs negatives that support groups, got negatives='given'. "
        "Use 'derangement', 'per-location', 'all' or 'queue'.",
    ),
    (
        lambda: loss(negatives="queue", queue_size=4)(X, T, groups=torch.tensor([3, 3])),
        "LMIMLoss: groups must leave each image a partner of another group in the batch or the queue, got none for "
        "image 0. "
        "Draw batches from several groups.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, negatives="queue"),
        "DeepInfoMaxLoss: negatives must need no further options or features, got 'queue'. "
        "Use LMIMLoss, GlobalInfoMaxLoss and PriorMatchingLoss separately.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, local_critic=BilinearCritic(8, 4), dtype=torch.float64),
        "DeepInfoMaxLoss: local_critic must have the dtype of the loss, torch.float64, got torch.float32. "
        "Convert it by local_critic.to(torch.float64).",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, local_critic=BilinearCritic(8, 4), device="meta"),
        "DeepInfoMaxLoss: local_critic must have the device of the loss, meta, got cpu. "
        "Convert it by local_critic.to('meta').",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, negatives="given"),
        "DeepInfoMaxLoss: negatives must need no further options or features, got 'given'. "
        "Use LMIMLoss, GlobalInfoMaxLoss and PriorMatchingLoss separately.",
    ),
    (
        lambda: F.supervised_contrastive_loss(torch.zeros(3), torch.ones(3, dtype=torch.bool)),
        "supervised_contrastive_loss: logits must be (N, M) with N and M above 0, got shape (3,). Score items in rows.",
    ),
    (
        lambda: F.supervised_contrastive_loss(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool)),
        "supervised_contrastive_loss: positives must have a value for every logit, shape (2, 3), got (3, 2). "
        "Expand it to the logits.",
    ),
    (
        lambda: F.supervised_contrastive_loss(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])),
        "supervised_contrastive_loss: positives must contain one for each item, got none for item 1. "
        "Give such items weight zero.",
    ),
    (
        lambda: F.supervised_contrastive_loss(
            torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), candidates=torch.eye(2, dtype=torch.bool)
        ),
        "supervised_contrastive_loss: positives must be among the candidates, got one that is not. "
        "Remove it, or make it a candidate.",
    ),
    (
        lambda: CLUB(0, 4),
        "CLUB: x_channels must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CLUB(4, 4)(T, X),
        "CLUB: y must be (B, 4), got shape (2, 8, 5, 6). Build the bound for the width of y.",
    ),
    (
        lambda: CLUB(4, 4).learning_loss(torch.zeros(2, 5), T),
        "CLUB: x must be (B, 4), got shape (2, 5). Build the bound for the width of x.",
    ),
    *(
        (call, f"{what}, whose channels fit the other way round. Exchange them.")
        for call, what in (
            (
                lambda: loss()(T, X),
                "LMIMLoss: local_features must come first and global_features second, got shapes (2, 4) and "
                "(2, 8, 5, 6)",
            ),
            (
                lambda: LMIMLoss(8, 4, critic=DotProductCritic(8, 4))(T, X),
                "LMIMLoss: local_features must come first and global_features second, got shapes (2, 4) and "
                "(2, 8, 5, 6)",
            ),
            (
                lambda: DotProductCritic(8, 4)(T, X[:, :, 0, 0]),
                "DotProductCritic: local_features must come first and global_features second, got shapes (2, 4) and "
                "(2, 8)",
            ),
            (
                lambda: GlobalCritic(240, 4)(T, X),
                "GlobalCritic: local_features must come first and global_features second, got shapes (2, 4) and "
                "(2, 8, 5, 6)",
            ),
            (
                lambda: GlobalInfoMaxLoss(240, 4)(T, X),
                "GlobalInfoMaxLoss: local_features must come first and global_features second, got shapes (2, 4) and "
                "(2, 8, 5, 6)",
            ),
            (
                lambda: CLUB(8, 4)(T, X[:, :, 0, 0]),
                "CLUB: x must come first and y second, got shapes (2, 4) and (2, 8)",
            ),
            (
                lambda: AttentionGate(8, 4)(X[:, :4, ::2, ::2], X),
                "AttentionGate: skip must come first and gating second, got shapes (2, 4, 3, 3) and (2, 8, 5, 6)",
            ),
            (
                lambda: RAR(8, decoder_channels=4)(X[:, :4], X),
                "RAR: encoder_features must come first and decoder_features second, got shapes (2, 4, 5, 6) and "
                "(2, 8, 5, 6)",
            ),
            (
                lambda: RDAM(8, decoder_channels=4)(X[:, :4], X),
                "RDAM: encoder_features must come first and decoder_features second, got shapes (2, 4, 5, 6) and "
                "(2, 8, 5, 6)",
            ),
        )
    ),
    (
        lambda: GlobalInfoMaxLoss(240, 4)(X, T[..., None]),
        "GlobalInfoMaxLoss: global_features must have 4 values per image, got flattened shape (2, 4, 1). "
        "Remove the axes of size 1 with global_features.flatten(1).",
    ),
    (
        lambda: PriorMatchingLoss(4)(T[..., None, None]),
        "PriorMatchingLoss: global_features must be (B, 4) with B >= 1, got shape (2, 4, 1, 1). "
        "Remove the axes of size 1 with global_features.flatten(1).",
    ),
    (
        lambda: CLUB(4, 4)(T, T[..., None, None]),
        "CLUB: y must be (B, 4), got shape (2, 4, 1, 1). Remove the axes of size 1 with y.flatten(1).",
    ),
    (
        lambda: CLUB(4, 4)(T, T[:1]),
        "CLUB: x and y must contain the same pairs, got 2 and 1 rows. Pass one y per x.",
    ),
    (
        lambda: CLUB(4, 4).estimate(T[:1], T[:1]),
        "CLUB.estimate: needs at least 2 pairs, got 1. Use drop_last=True in the DataLoader.",
    ),
    (
        lambda: CLUB(4, 4).learning_loss(T[:0], T[:0]),
        "CLUB: needs at least 1 pair, got 0. Use drop_last=True in the DataLoader.",
    ),
    (
        lambda: GlobalInfoMaxLoss(100, 4)(X, T),
        "GlobalInfoMaxLoss: local_features must have 100 values per image, got flattened shape (2, 240). "
        "Build the loss for the size of local_features.",
    ),
    (
        lambda: GlobalInfoMaxLoss(240, 4)(X, torch.zeros(2, 5)),
        "GlobalInfoMaxLoss: global_features must have 4 values per image, got flattened shape (2, 5). "
        "Build the loss for the size of global_features.",
    ),
    (
        lambda: GlobalInfoMaxLoss(240, 4)(X, T[:1]),
        "GlobalInfoMaxLoss: local_features and global_features must contain the same images, got batches of 2 and 1. "
        "Pass one global vector per input.",
    ),
    (
        lambda: GlobalInfoMaxLoss(240, 4)(X[:1], T[:1]),
        "GlobalInfoMaxLoss: needs at least 2 images to form negative pairs, got a batch of 1. "
        "Use drop_last=True in the DataLoader.",
    ),
    (
        lambda: GlobalInfoMaxLoss(240, 4, negatives="per-location"),
        "GlobalInfoMaxLoss: negatives must suit inputs without locations, got 'per-location'. Use 'derangement'.",
    ),
    (
        lambda: PriorMatchingLoss(4, hidden_channels=(8,)),  # type: ignore[arg-type]
        "PriorMatchingLoss: hidden_channels must be the widths of two layers, got (8,). "
        "Pass, for example, (1000, 200).",
    ),
    (
        lambda: PriorMatchingLoss(4, prior="normal"),  # type: ignore[arg-type]
        "PriorMatchingLoss: prior must be one of 'uniform', 'gaussian', got 'normal'. Pass one of those.",
    ),
    (
        lambda: PriorMatchingLoss(4)(T, torch.zeros(2, 5)),
        "PriorMatchingLoss: prior_samples must be (B, 4) with B >= 1, got shape (2, 5). "
        "Pass one vector per image, of the width that the loss was built for.",
    ),
    (
        lambda: PriorMatchingLoss(4)(T[:0]),
        "PriorMatchingLoss: global_features must be (B, 4) with B >= 1, got shape (0, 4). "
        "Pass one vector per image, of the width that the loss was built for.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, alpha=-1.0),
        "DeepInfoMaxLoss: alpha must be finite and at least 0, got -1.0. Pass, for example, 1.0.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, alpha=0, beta=0, gamma=0),
        "DeepInfoMaxLoss: needs a weight above zero, got alpha, beta and gamma of 0. Pass beta=1.0.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, map_size=(5, 6)),
        "DeepInfoMaxLoss: map_size needs alpha above zero, got alpha=0. Drop map_size.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, alpha=1.0),
        "DeepInfoMaxLoss: alpha above zero needs map_size, got None. Pass the sizes of the map.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, gamma=0.0, local_critic=BilinearCritic(8, 4))(X, T, T),
        "DeepInfoMaxLoss: prior_samples needs gamma above zero, got 0. Drop prior_samples.",
    ),
    (
        lambda: GlobalCritic(100, 4)(X, T),
        "GlobalCritic: local_features must have 100 values per image, got flattened shape (2, 240). "
        "Build the critic for the flattened size of the input.",
    ),
    (
        lambda: GlobalCritic(0, 4),
        "GlobalCritic: input_features must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: SeparableCritic(8, 4)(X[:, :5, 0, 0], T),
        "SeparableCritic: local_features must be (B, 8) or (B, 8, *S), got shape (2, 5). "
        "Build the critic for the channels of local_features.",
    ),
    (
        lambda: SeparableCritic(8, 4, embedding_channels=0),
        "SeparableCritic: embedding_channels must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CosineCritic(8, 4, embedding_channels=1),
        "CosineCritic: embedding_channels must be at least 2, got 1. Pass, for example, 128.",
    ),
    (
        lambda: CosineCritic(8, 4, temperature=0.0),
        "CosineCritic: temperature must be finite and above zero, got 0.0. Pass 0.07.",
    ),
    (
        lambda: CosineCritic(8, 4, temperature=0.005, learnt_temperature=True),
        "CosineCritic: temperature must be finite and at least 0.01, got 0.005. Pass 0.07.",
    ),
    (
        lambda: BilinearCritic(8, 4).all_pairs(X, T[:1]),
        "BilinearCritic: local_features and global_features must contain the same images, got batches of 2 and 1. "
        "Pass one global vector per map.",
    ),
    (
        lambda: DotProductCritic(8, 4)(X, torch.zeros(3, 4)),
        "DotProductCritic: local_features and global_features must contain the same images, got batches of 2 and 3. "
        "Pass one global vector per map.",
    ),
    (
        lambda: F.concat_conv_logits(X, T, torch.zeros(3, 11), *LATER),
        "concat_conv_logits: the channels of local_features and global_features must add up to the 11 columns of w1, "
        "got 8 + 4. Pass the features that w1 was built for.",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=PooledCritic())(X, T),
        "LMIMLoss: the critic must return logits (B, *S) = (2, 5, 6), got shape (2,). Return one logit per location.",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=GlobalCritic(240, 4), negatives="all")(X, T),
        "LMIMLoss: the critic must return logits (B, N, *S) = (2, 2, 5, 6), got shape (2, 2). "
        "Return one logit per location.",
    ),
    (
        lambda: masked(torch.zeros(2, 5, 6)),
        "LMIMLoss: mask must have a finite sum above zero to take a mean over, got 0 for a mask of shape (2, 5, 6). "
        "Skip the batch, scale the weights, or use reduction='sum'.",
    ),
    (
        lambda: masked(torch.ones(2, 1, 5, 6)),
        "LMIMLoss: mask must have a weight for every location, shape (2, 5, 6), got (2, 1, 5, 6). "
        "Resize or expand it to the map.",
    ),
    (
        lambda: masked(torch.linspace(-1, 1, 60).reshape(2, 5, 6)),
        "LMIMLoss: mask must contain finite weights of at least 0, got values from -1 to 1. "
        "Clamp it, or pass a boolean mask.",
    ),
    (
        lambda: masked(torch.full((2, 5, 6), 3e38)),
        "LMIMLoss: mask must have a finite sum above zero to take a mean over, got inf for a mask of shape (2, 5, 6). "
        "Skip the batch, scale the weights, or use reduction='sum'.",
    ),
    (
        lambda: masked(torch.full((2, 5, 6), 1e-60, dtype=torch.float64)),
        "LMIMLoss: mask must have a finite sum above zero to take a mean over, got 0 for a mask of shape (2, 5, 6). "
        "Skip the batch, scale the weights, or use reduction='sum'.",
    ),
    (
        lambda: masked(torch.full((2, 5, 6), float("inf"))),
        "LMIMLoss: mask must contain finite weights of at least 0, got values from inf to inf. "
        "Clamp it, or pass a boolean mask.",
    ),
    (
        lambda: RDAM(8, kernel_size=4),
        "RDAM: kernel_size must be odd to keep the size of the map, got 4. Use 3 or 5.",
    ),
    (
        lambda: F.channel_attention(X, torch.zeros(4, 8), None, torch.zeros(1, 4), None),
        "channel_attention: weights must be w1 (hidden, C) and w2 (C, hidden), got shapes (4, 8) and (1, 4). "
        "Remove the axes of a 1x1 kernel with flatten(1).",
    ),
    (
        lambda: F.concat_conv_logits(X, T, torch.zeros(3, 12), *LATER[:3], torch.zeros(5, 3), LATER[4]),
        "concat_conv_logits: weights must be w1 (hidden, C + D), w2 (hidden, hidden) and w3 (1, hidden), got shapes "
        "(3, 12), (3, 3) and (5, 3). Remove the axes of a kernel with flatten(1).",
    ),
    (
        lambda: F.jsd_objective(torch.zeros(3), torch.zeros(0)),
        "jsd_objective: negative_logits must contain at least one score, got shape (0,). "
        "Pass the scores of at least one pair.",
    ),
    (
        lambda: ChannelAttention(8, pools=5),  # type: ignore[arg-type]
        "ChannelAttention: pools must be a sequence of 'avg', 'max' or both, each once, got 5. "
        "Pass ('avg', 'max'), ('avg',) or ('max',).",
    ),
    (
        lambda: SpatialAttention()(X[:, :0]),
        "SpatialAttention: x must have at least one channel and one location, got shape (2, 0, 5, 6). "
        "Use a larger input or fewer downsampling steps.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5, initial_weight=float("nan")),
        "AdaptiveScoreFusion: initial_weight must be finite, got nan. Leave it out for 1 / (K + 1).",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5, initial_weight=-1e6, dtype=torch.float16),
        "AdaptiveScoreFusion: initial_weight must be finite in torch.float16, got -1000000.0. "
        "Leave it out for 1 / (K + 1), or use a wider dtype.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5, initial_weight=10**400),
        "AdaptiveScoreFusion: initial_weight must fit into a float, got a larger number. Pass, for example, 0.5.",
    ),
    (
        lambda: CosineCritic(8, 4, temperature=10**400),
        "CosineCritic: temperature must fit into a float, got a larger number. Pass, for example, 0.07.",
    ),
    (
        lambda: afterwards(DeepInfoMaxLoss(8, 4), beta=10**400),
        "DeepInfoMaxLoss: beta must fit into a float, got a larger number. Pass, for example, 1.0.",
    ),
    (
        lambda: F.bce_loss(torch.zeros(0), torch.zeros(3)),
        "bce_loss: positive_logits must contain at least one score, got shape (0,). "
        "Pass the scores of at least one pair.",
    ),
    (
        lambda: F.club_upper_bound(torch.zeros(2), torch.zeros(0, 3)),
        "club_upper_bound: negative_log_likelihood must contain at least one score, got shape (0, 3). "
        "Pass the scores of at least one pair.",
    ),
    (
        lambda: F.dv_lower_bound(torch.zeros(3), torch.zeros(3), negative_weights=torch.ones(3, 1)),
        "dv_lower_bound: negative_weights must have a weight for every score, shape (3,), got (3, 1). "
        "Expand it to the scores.",
    ),
    (
        lambda: F.nwj_lower_bound(torch.zeros(3), torch.zeros(3), positive_weights=torch.zeros(3, dtype=torch.bool)),
        "nwj_lower_bound: positive_weights must be at least 0 and have a finite sum above zero, got values from 0 to 0"
        ". Clamp them, or skip batches without weight.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(2, 2), weights=torch.tensor([2.0, -1.0])),
        "infonce_lower_bound: weights must be at least 0 and have a finite sum above zero, got values from -1 to 2. "
        "Clamp them, or skip batches without weight.",
    ),
    (
        lambda: F.f_divergence_objective(torch.zeros(3), torch.zeros(3), divergence="w1"),  # type: ignore[arg-type]
        "f_divergence_objective: divergence must be one of 'gan', 'jsd', 'kl', 'rkl', 'chi_squared', "
        "'squared_hellinger', 'wasserstein', got 'w1'. Pass one of those.",
    ),
    (
        lambda: F.tuba_lower_bound(torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 1)),
        "tuba_lower_bound: log_baseline must broadcast to positive_logits, got shapes (3, 1) and (3,). "
        "Subtract it from the logits yourself, and pass log_baseline=0.0.",
    ),
    (
        lambda: F.smile_estimate(torch.zeros(3), torch.zeros(3), clip=0.0),
        "smile_estimate: clip must be above zero, got 0.0. Pass, for example, 5.0.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(4, 5)),
        "infonce_lower_bound: logits must be square (*, N, N), with each row's own candidate on the diagonal, got "
        "shape "
        "(4, 5). Score every item with every candidate.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(3)),
        "infonce_lower_bound: logits must be square (*, N, N), with each row's own candidate on the diagonal, got "
        "shape "
        "(3,). Score every item with every candidate.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(1, 1)),
        "infonce_lower_bound: needs at least 2 items to contrast, got logits of shape (1, 1). Use a larger batch.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(0, 3, 3)),
        "infonce_lower_bound: needs at least one batch of items, got logits of shape (0, 3, 3). Skip empty batches.",
    ),
    (
        lambda: F.infonce_lower_bound(torch.zeros(2, 3, 3), weights=torch.ones(3)),
        "infonce_lower_bound: weights must have a weight for every score, shape (2, 3), got (3,). "
        "Expand it to the scores.",
    ),
    (
        lambda: F.alpha_lower_bound(torch.zeros(3, 3), 0.0, alpha=1.5),
        "alpha_lower_bound: alpha must be from 0 to 1, got 1.5. Pass, for example, 0.5.",
    ),
    (
        lambda: F.alpha_lower_bound(torch.zeros(3, 3), torch.zeros(3, 1), alpha=0.5),
        "alpha_lower_bound: log_baseline must be a number or have a value for every item, shape (3,), got (3, 1). "
        "Expand it to the rows of the logits.",
    ),
    (
        lambda: F.mine_objective(torch.zeros(3), torch.zeros(3), torch.zeros(1)),
        "mine_objective: running_log_mean must be a scalar, got shape (1,). "
        "Pass what the last step returned, or torch.tensor(-torch.inf).",
    ),
    (
        lambda: MINEObjective(momentum=0.0),
        "MINEObjective: momentum must be above 0 and at most 1, got 0.0. Pass, for example, 0.01.",
    ),
    (
        lambda: F.mutual_information_certificate(torch.tensor([0.5, -0.25])),
        "mutual_information_certificate: mean_bce must be at least 0, got -0.25. "
        "Pass bce_loss(positive_logits, negative_logits) / 2.",
    ),
    (
        lambda: AdaptiveScoreFusion(3, 5)(torch.zeros(4, 2, 5, 2)),
        "AdaptiveScoreFusion: needs the scores of 3 levels, got 4. "
        "Pass one (B, N, classes) tensor per level, or all stacked along a first axis.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5)([torch.zeros(2, 5, 2), torch.zeros(2, 6, 2)]),
        "AdaptiveScoreFusion: every level's scores must have the same shape (B, 5, classes), got shapes (2, 5, 2) "
        "and (2, 6, 2). "
        "Build the layer for the attributes that the classifiers score.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5, initial_weight=torch.zeros(2, 5)),
        "AdaptiveScoreFusion: initial_weight must be a number or a tensor (levels + 1, attributes) = (3, 5), "
        "got shape (2, 5). Give each level and the sum one row.",
    ),
    (
        lambda: F.score_fusion(torch.zeros(2, 5, 2), torch.zeros(3, 5)),
        "score_fusion: scores must have 4 dimensions (K, B, N, classes), got 3 in shape (2, 5, 2). "
        "Stack the classifiers' (B, N, classes) scores.",
    ),
    (
        lambda: F.score_fusion(torch.zeros(2, 1, 5, 2), torch.zeros(2, 5)),
        "score_fusion: weight must be (K + 1, N) = (3, 5) for scores of shape (2, 1, 5, 2), got (2, 5). "
        "Give each classifier and the sum one row.",
    ),
]

VALUE_ERRORS += [
    (
        lambda: afterwards(loss(), objective="mine")(X, T),
        "LMIMLoss: objective='mine' needs state that the constructor creates, got none. Pass it to the constructor.",
    ),
    (
        lambda: afterwards(loss(), negatives="queue")(X, T),
        "LMIMLoss: negatives='queue' needs state that the constructor creates, got none. Pass it to the constructor.",
    ),
    (
        lambda: SpatialAttention(16),
        "SpatialAttention: kernel_size must be odd to keep the size of the map, got 16. Use 7, for example. This "
        "argument is not "
        "the number of channels, which this layer does not need.",
    ),
    (
        lambda: CBAM(8)(torch.zeros(2, 30, 8)),
        "CBAM: x must have 4 dimensions (B, 8, H, W), got 3 in shape (2, 30, 8). "
        "Tokens (B, N, C) become a map by x.transpose(1, 2).unflatten(2, (H, W)).",
    ),
    (
        lambda: ChannelAttention(8)(torch.zeros(2, 30, 8)),
        "ChannelAttention: x must have 8 channels (B, 8, *S), got 30 in shape (2, 30, 8). "
        "It looks like tokens (B, N, C): pass x.movedim(-1, 1), and move the result's channels back.",
    ),
    (
        lambda: RDAM(8)(X.movedim(1, -1), X.movedim(1, -1)),
        "RDAM: encoder_features must have 8 channels (B, 8, H, W), got 5 in shape (2, 5, 6, 8). It looks like a map "
        "with its channels last: pass encoder_features.movedim(-1, 1), and move the result's channels back.",
    ),
    (
        lambda: SpatialAttention()(X[:, :, 0, 0]),
        "SpatialAttention: x must have 4 dimensions (B, C, H, W), got 2 in shape (2, 8). "
        "Features (B, C) have no locations: give them some by x[:, :, None, None].",
    ),
    (
        lambda: setattr(CBAM(8), "backend", "cuda"),
        "CBAM: backend must be one of 'auto', 'reference', 'blocked', 'triton', got 'cuda'. Pass one of those.",
    ),
    (
        lambda: setattr(RDAM(8), "arrangement", "serial"),
        "RDAM: arrangement must be one of 'channel-spatial', 'spatial-channel', 'parallel', got 'serial'. "
        "Pass one of those.",
    ),
    (
        lambda: setattr(ChannelAttention(8, form="printed"), "pools", ("avg",)),
        "ChannelAttention: form='printed' needs both pools, got ('avg',). Pass pools=('avg', 'max').",
    ),
    (
        lambda: afterwards(ChannelAttention(8, pools=("max",)), form="printed")(X),
        "ChannelAttention: form='printed' needs both pools, got ('max',). Pass pools=('avg', 'max').",
    ),
    (
        lambda: afterwards(loss(), objective="infonce")(X, T),
        "LMIMLoss: objective='infonce' needs negatives 'all', 'queue' or 'given', got negatives='shift'. "
        "Pass one of those, or drop it.",
    ),
    (
        lambda: afterwards(loss(), num_negatives=0),
        "LMIMLoss: num_negatives must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: afterwards(DeepInfoMaxLoss(8, 4), gamma=float("nan")),
        "DeepInfoMaxLoss: gamma must be finite and at least 0, got nan. Pass, for example, 1.0.",
    ),
    (
        lambda: afterwards(DeepInfoMaxLoss(8, 4), alpha=1)(X, T),
        "DeepInfoMaxLoss: alpha=1.0 needs a loss that the constructor builds, got none. Pass alpha to the constructor.",
    ),
    (
        lambda: afterwards(CosineCritic(8, 4), temperature=0),
        "CosineCritic: temperature must be finite and above zero, got 0. Pass 0.07.",
    ),
    (
        lambda: afterwards(MINEObjective(), momentum=2.0),
        "MINEObjective: momentum must be above 0 and at most 1, got 2.0. Pass, for example, 0.01.",
    ),
    (
        lambda: afterwards(RAR(8), steps=0),
        "RAR: steps must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: ConcatConvCritic(8, 4)(X, T, torch.tensor([0, 1])),
        "ConcatConvCritic: partners must be (2, K) or (2, K, 5, 6), got shape (2,). "
        "Pass K indices for each map, or for each location.",
    ),
    (
        lambda: BilinearCritic(8, 4)(X, T, torch.tensor([[0]])),
        "BilinearCritic: partners must be (2, K) or (2, K, 5, 6), got shape (1, 1). "
        "Pass K indices for each map, or for each location.",
    ),
    (
        lambda: BilinearCritic(8, 4)(X, T, torch.tensor([[0], [2]])),
        "BilinearCritic: partners must be from 0 to 1, the indices of 2 summaries, got 2. "
        "Pass other indices, or more summaries.",
    ),
    (
        lambda: ConcatConvCritic(8, 4).contrast(X, T, torch.tensor([1, -1])),
        "ConcatConvCritic: partners must be from 0 to 1, the indices of 2 summaries, got -1. "
        "Pass other indices, or more summaries.",
    ),
    (
        lambda: loss(negatives="given")(X[:0], T[:0], negative_features=T[:0, None]),
        "LMIMLoss: needs at least one image, got a batch of 0. Skip empty batches.",
    ),
    (
        lambda: loss(negatives="queue", queue_size=4)(X[:0], T[:0]),
        "LMIMLoss: needs at least one image, got a batch of 0. Skip empty batches.",
    ),
    (
        lambda: afterwards(loss(), reduction="max"),
        "LMIMLoss: reduction must be one of 'mean', 'sum', 'none', got 'max'. Pass one of those.",
    ),
    (
        lambda: ConcatConvCritic(8, 4)(X, T, "any"),  # type: ignore[arg-type]
        "ConcatConvCritic: partners must be one of 'own', 'all', got 'any'. Pass one of those.",
    ),
    (
        lambda: loss().estimate(X, T[:1]),
        "LMIMLoss.estimate: local_features and global_features must contain the same images, got batches of 2 and 1. "
        "Pass one global vector per map.",
    ),
]

VALUE_ERRORS += [
    (
        lambda: ECA(0),
        "ECA: channels must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: ECA(8, kernel_size=4),
        "ECA: kernel_size must be odd to keep the size of the map, got 4. Use 3 or 5.",
    ),
    (
        lambda: ECA(8)(X[:, :, 0, 0]),
        "ECA: x must have at least 3 dimensions (B, C, *S), got 2 in shape (2, 8). "
        "Features (B, C) have no locations: give them some by x[:, :, None].",
    ),
    (
        lambda: ECA(8, backend="cuda"),  # type: ignore[arg-type]
        "ECA: backend must be one of 'auto', 'reference', 'blocked', 'triton', got 'cuda'. Pass one of those.",
    ),
    (
        lambda: SCSE(8, combine="mean"),  # type: ignore[arg-type]
        "SCSE: combine must be one of 'sum', 'max', got 'mean'. Pass one of those.",
    ),
    (
        lambda: setattr(SCSE(8), "combine", "product"),
        "SCSE: combine must be one of 'sum', 'max', got 'product'. Pass one of those.",
    ),
    (
        lambda: SCSE(8, reduction_ratio=4, hidden_channels=2),
        "SCSE: takes reduction_ratio or hidden_channels, got both (4 and 2). Drop one of them.",
    ),
    (
        lambda: SCSE(8)(X[:, :4]),
        "SCSE: x must have 8 channels (B, 8, H, W), got 4 in shape (2, 4, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: SCSE(8, backend="blocked", device="meta")(X.to("meta")),
        "SCSE: backend='blocked' is not available here: it runs on the CPU and got a tensor on meta. "
        "Use backend='auto' or backend='reference'.",
    ),
    (
        lambda: BAM(8, dilation=0),
        "BAM: dilation must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: BAM(8, spatial_dims=4),
        "BAM: spatial_dims must be one of 1, 2, 3, got 4. Pass one of those.",
    ),
    (
        lambda: BAM(8, reduction_ratio=4, hidden_channels=2),
        "BAM: takes reduction_ratio or hidden_channels, got both (4 and 2). Drop one of them.",
    ),
    (
        lambda: BAM(8)(X[:, :4]),
        "BAM: x must have 8 channels (B, 8, H, W), got 4 in shape (2, 4, 5, 6). Build the layer for the channels of x.",
    ),
    (
        lambda: BAM(8, spatial_dims=3)(X),
        "BAM: x must have 5 dimensions (B, 8, D, H, W), got 4 in shape (2, 8, 5, 6). "
        "Add the batch axis, for example x.unsqueeze(0), or whichever axis is missing.",
    ),
    (
        lambda: CoordinateAttention(8, reduction_ratio=4, hidden_channels=2),
        "CoordinateAttention: takes reduction_ratio or hidden_channels, got both (4 and 2). Drop one of them.",
    ),
    (
        lambda: CoordinateAttention(8, reduction_ratio=0),
        "CoordinateAttention: reduction_ratio must be at least 1, got 0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CoordinateAttention(8)(X[:, :4]),
        "CoordinateAttention: x must have 8 channels (B, 8, H, W), got 4 in shape (2, 4, 5, 6). "
        "Build the layer for the channels of x.",
    ),
    (
        lambda: CoordinateAttention(8, spatial_dims=1)(X),
        "CoordinateAttention: x must have 3 dimensions (B, 8, W), got 4 in shape (2, 8, 5, 6). "
        "Build the layer for that many spatial axes.",
    ),
]

TYPE_ERRORS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: F.channel_attention(X, None, None, torch.zeros(8, 4), None),  # type: ignore[arg-type]
        "channel_attention: w1 must be a tensor, got NoneType. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: F.spatial_attention(X, torch.zeros(1, 2, 3, 3), torch.zeros(1).double()),
        "spatial_attention: bias must have the dtype of the other weights, torch.float32, got torch.float64. "
        "Convert it by bias.to(torch.float32).",
    ),
    (
        lambda: F.spatial_attention(X, torch.zeros(1, 2, 3, 3), norm=nn.BatchNorm2d),  # type: ignore[arg-type]
        "spatial_attention: norm must be a module or a function of one map, got "
        "<class 'torch.nn.modules.batchnorm.BatchNorm2d'>. Pass a built module.",
    ),
    (
        lambda: RDAM(8, activation=nn.BatchNorm2d),  # type: ignore[arg-type]
        "RDAM: activation must be a callable that returns a module, called as activation(), got "
        "<class 'torch.nn.modules.batchnorm.BatchNorm2d'>, which cannot. Pass a class such as torch.nn.ReLU.",
    ),
    (
        lambda: insert_attention(nn.Sequential(nn.Conv2d(3, 8, 1)), CBAM, where=len),  # type: ignore[arg-type]
        "insert_attention: where must be 'residual', a regular expression, names or a predicate of name and module, "
        "got <built-in function len>. Pass one of those.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, local_critic=3),  # type: ignore[arg-type]
        "DeepInfoMaxLoss: local_critic must be a torch.nn.Module, got int. Pass a built critic.",
    ),
    (
        lambda: ChannelAttention(64.0),  # type: ignore[arg-type]
        "ChannelAttention: channels must be an int, got 64.0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CBAM(8)(X.to(torch.uint8)),
        "CBAM: x must be floating-point, got torch.uint8. Convert it, for example x.float().",
    ),
    (
        lambda: RDAM(8)(X, X.long()),
        "RDAM: decoder_features must be floating-point, got torch.int64. "
        "Convert it, for example decoder_features.float().",
    ),
    (
        lambda: SpatialAttention()(X.numpy()),  # type: ignore[arg-type]
        "SpatialAttention: x must be a tensor, got ndarray. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: SpatialAttention(norm=nn.BatchNorm2d(1)),
        "SpatialAttention: norm must be a callable that returns a module, called as norm(1), got BatchNorm2d. "
        "Pass a class such as torch.nn.BatchNorm2d.",
    ),
    (
        lambda: RDAM(8, conv_activation=lambda: torch.relu),  # type: ignore[arg-type,return-value]
        "RDAM: conv_activation must return a torch.nn.Module, got builtin_function_or_method. "
        "Wrap the function in a module.",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=torch.dot),  # type: ignore[arg-type]
        "LMIMLoss: critic must be a torch.nn.Module, got builtin_function_or_method. "
        "Pass an instance that maps (local_features, global_features) to logits.",
    ),
    (
        lambda: loss(negatives="all")(X, T, groups=torch.zeros(2)),
        "LMIMLoss: groups must be an integer tensor, got torch.float32. Number the groups.",
    ),
    (
        lambda: CosineCritic(8, 4, temperature="cold"),  # type: ignore[arg-type]
        "CosineCritic: temperature must be a number, got 'cold'. Pass, for example, 0.07.",
    ),
    (
        lambda: ConcatConvCritic(8, 4)(X, T, None),  # type: ignore[arg-type]
        "ConcatConvCritic: partners must be a tensor of int64 indices, got NoneType. "
        "Pass the indices of the summaries of each map.",
    ),
    (
        lambda: BilinearCritic(8, 4).contrast(X, T, torch.zeros(2, 1)),
        "BilinearCritic: indices must be a tensor of int64 indices, got torch.float32 of shape (2, 1). "
        "Pass the indices of the summaries of each map.",
    ),
    (
        lambda: afterwards(loss(), gather=1),
        "LMIMLoss: gather must be a bool, got 1. Pass True or False.",
    ),
    (
        lambda: CosineCritic(8, 4, learnt_temperature=1),  # type: ignore[arg-type]
        "CosineCritic: learnt_temperature must be a bool, got 1. Pass True or False.",
    ),
    (
        lambda: loss(symmetric="yes", objective="infonce", negatives="all"),
        "LMIMLoss: symmetric must be a bool, got 'yes'. Pass True or False.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=T[:, None].double()),
        "LMIMLoss: negative_features must have the dtype of global_features, torch.float32, got torch.float64. "
        "Convert one of them, or use torch.autocast.",
    ),
    (
        lambda: loss(negatives="given")(X, T, negative_features=[1.0]),  # type: ignore[arg-type]
        "LMIMLoss: negative_features must be a tensor, got list. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: F.supervised_contrastive_loss(torch.zeros(2, 2), torch.zeros(2, 2)),
        "supervised_contrastive_loss: positives must be a boolean tensor, got torch.float32. "
        "Compare labels, or pass positives.bool().",
    ),
    (
        lambda: CLUB(4, 4)(T, T.double()),
        "CLUB: y must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by y.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, beta="1"),  # type: ignore[arg-type]
        "DeepInfoMaxLoss: beta must be a number, got '1'. Pass, for example, 1.0.",
    ),
    (
        lambda: DeepInfoMaxLoss(8, 4, alpha=1.0, map_size=5),  # type: ignore[arg-type]
        "DeepInfoMaxLoss: map_size must be a sequence of ints, got 5. Pass (height, width).",
    ),
    (
        lambda: MINEObjective(momentum="0.1"),  # type: ignore[arg-type]
        "MINEObjective: momentum must be a number, got '0.1'. Pass, for example, 0.01.",
    ),
    (
        lambda: F.smile_estimate(torch.zeros(3), torch.zeros(3), clip=None),  # type: ignore[arg-type]
        "smile_estimate: clip must be a number, got None. Pass, for example, 5.0.",
    ),
    (
        lambda: F.alpha_lower_bound(torch.zeros(3, 3), 0.0, alpha=True),
        "alpha_lower_bound: alpha must be a number, got True. Pass, for example, 0.5.",
    ),
    (
        lambda: F.alpha_lower_bound(torch.zeros(3, 3), None, alpha=0.5),  # type: ignore[arg-type]
        "alpha_lower_bound: log_baseline must be a number, got None. Pass, for example, 0.0.",
    ),
    (
        lambda: F.tuba_lower_bound(torch.zeros(3), torch.zeros(3), "1"),  # type: ignore[arg-type]
        "tuba_lower_bound: log_baseline must be a number, got '1'. Pass, for example, 0.0.",
    ),
    (
        lambda: masked(torch.ones(2, 5, 6, dtype=torch.int64)),
        "LMIMLoss: mask must be a boolean or floating-point tensor, got torch.int64. "
        "Pass mask.bool(), or mask.float() if it holds weights.",
    ),
    (
        lambda: F.nwj_lower_bound(torch.zeros(3), torch.zeros(3, dtype=torch.int64)),
        "nwj_lower_bound: negative_logits must be floating-point, got torch.int64. "
        "Convert it, for example negative_logits.float().",
    ),
    (
        lambda: F.infonce_lower_bound([[0.0]]),  # type: ignore[arg-type]
        "infonce_lower_bound: logits must be a tensor, got list. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: F.mutual_information_certificate(0.5),  # type: ignore[arg-type]
        "mutual_information_certificate: mean_bce must be a tensor, got float. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: F.mine_objective(torch.zeros(3), torch.zeros(3), 0.0),  # type: ignore[arg-type]
        "mine_objective: running_log_mean must be a tensor, got float. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: F.bce_loss(torch.zeros(3), torch.zeros(3), positive_weights=torch.ones(3, dtype=torch.int64)),
        "bce_loss: positive_weights must be a boolean or floating-point tensor, got torch.int64. "
        "Convert it, or leave it out.",
    ),
    (
        lambda: F.tuba_lower_bound(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.int64)),
        "tuba_lower_bound: log_baseline must be floating-point, got torch.int64. "
        "Convert it, for example log_baseline.float().",
    ),
    (
        lambda: ChannelAttention(True),
        "ChannelAttention: channels must be an int, got True. Pass a whole number, 1 or more.",
    ),
    (
        lambda: CBAM(8, spatial_dims=2.0),  # type: ignore[arg-type]
        "CBAM: spatial_dims must be an int, got 2.0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5, initial_weight="0.5"),  # type: ignore[arg-type]
        "AdaptiveScoreFusion: initial_weight must be a number or a real tensor with values, got str. "
        "Convert it, for example by torch.as_tensor.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5)(None),  # type: ignore[arg-type]
        "AdaptiveScoreFusion: scores must be a tensor or a sequence of tensors, got NoneType. "
        "Pass one (B, N, classes) tensor per level, or all stacked along a first axis.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5)([torch.zeros(3, 5, 2), torch.zeros(3, 5, 2, dtype=torch.bfloat16)]),
        "AdaptiveScoreFusion: scores must have the weights' dtype torch.float32, got torch.bfloat16. "
        "Convert it by scores.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: F.score_fusion(torch.zeros(2, 3, 5, 2, dtype=torch.float64), torch.zeros(3, 5)),
        "score_fusion: scores must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by scores.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: SpatialAttention()(X, X.double()),
        "SpatialAttention: target must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by target.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: AdaptiveScoreFusion(2, 5)(torch.zeros(2, 3, 5, 2, dtype=torch.int64)),
        "AdaptiveScoreFusion: scores must be floating-point, got torch.int64. Convert it, for example scores.float().",
    ),
]


LISTED = (
    "channels, reduction_ratio, hidden_channels, pools, kernel_size, arrangement, form, spatial_dims, norm, "
    "activation, bias, backend, device, dtype"
)


class Mine(CBAM):
    """A user's own, which hands on what CBAM does not take."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__(channels, ratio=ratio)  # type: ignore[call-arg]


TYPE_ERRORS += [
    (
        lambda: Mine(64, ratio=4),
        "CBAM: there is no argument 'ratio', got ratio=4. Use reduction_ratio.",
    ),
    (
        lambda: LMIMLoss(64, 512, "bce"),  # type: ignore[call-arg, arg-type]
        "LMIMLoss: takes local_channels and global_channels by position and all else by name, got 3 by position. "
        "Name the others.",
    ),
    (
        lambda: GlobalCritic(8, 4)([1.0], T),  # type: ignore[arg-type]
        "GlobalCritic: local_features must be a tensor, got list. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: afterwards(CBAM(8), spatial=None)(X),
        "CBAM: spatial must be a module, got None. Use torch.nn.Identity() to do without it.",
    ),
    (
        lambda: AttentionGate(8, 8)(X, X.double()),
        "AttentionGate: gating must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by gating.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: AttentionGate(64, 64, inter_channels=32),  # type: ignore[call-arg]
        "AttentionGate: there is no argument 'inter_channels', got inter_channels=32. Use hidden_channels.",
    ),
    (
        lambda: RAR(8, norm=nn.BatchNorm2d(8)),
        "RAR: norm must be a callable that returns a module, called as norm(8), got BatchNorm2d. "
        "Pass a class such as torch.nn.BatchNorm2d.",
    ),
    (
        lambda: RAR(8)(X, None),  # type: ignore[arg-type]
        "RAR: decoder_features must be a tensor, got NoneType. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: SoftMask(8, depth=1, bias=0),  # type: ignore[arg-type]
        "SoftMask: bias must be a bool, got 0. Pass True or False.",
    ),
    (
        lambda: SoftMask(8),  # type: ignore[call-arg]
        "SoftMask: needs depth, got none. Pass it by name.",
    ),
    (
        lambda: ResidualAttention(nn.Identity(), nn.Identity(), 8),  # type: ignore[call-arg]
        "ResidualAttention: takes trunk and mask by position, got 3 by position. Drop the others.",
    ),
    (
        lambda: ResidualAttention(nn.Identity, nn.Identity()),  # type: ignore[arg-type]
        "ResidualAttention: trunk must be a torch.nn.Module, got the class Identity. Pass an instance.",
    ),
    (
        lambda: ResidualAttention(nn.Identity(), torch.sigmoid),  # type: ignore[arg-type]
        "ResidualAttention: mask must be a torch.nn.Module, got builtin_function_or_method. Pass an instance.",
    ),
    (
        lambda: ResidualAttention(nn.Identity(), nn.AdaptiveMaxPool2d(2, return_indices=True))(X),
        "ResidualAttention: mask(x) must be a tensor, got tuple. Pass a floating-point torch.Tensor.",
    ),
    (
        lambda: CBAM(8, norm=nn.BatchNorm2d(1)),
        "CBAM: norm must be a callable that returns a module, called as norm(1), got BatchNorm2d. "
        "Pass a class such as torch.nn.BatchNorm2d.",
    ),
    (
        lambda: CBAM(8)(X.double()),
        "CBAM: x must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by x.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: LMIMLoss(8, 4, hidden_channels=3)(X, T.half()),
        "LMIMLoss: global_features must have the weights' dtype torch.float32, got torch.float16. "
        "Convert it by global_features.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: F.spatial_attention(X, torch.zeros(1, 2, 3, 3).double()),
        "spatial_attention: x must have the weights' dtype torch.float64, got torch.float32. "
        "Convert it by x.to(torch.float64), convert the module, or use torch.autocast.",
    ),
    (
        lambda: CBAM(8)(X.to_sparse()),
        "CBAM: x must be dense, got torch.sparse_coo. Convert it by x.to_dense().",
    ),
    (
        lambda: CBAM(8)(torch.nested.nested_tensor([X[0], X[1, :, :3]], layout=torch.jagged)),
        "CBAM: x must be dense, got a nested tensor. "
        "Pad it to one size, for example torch.nested.to_padded_tensor(...).",
    ),
    (
        lambda: CBAM(64, 16),  # type: ignore[call-arg]
        "CBAM: takes channels by position and all else by name, got 2 by position. "
        "Name the others, for example reduction_ratio=16.",
    ),
    (
        lambda: LMIMLoss(8, 4, 16),  # type: ignore[call-arg]
        "LMIMLoss: takes local_channels and global_channels by position and all else by name, got 3 by position. "
        "Name the others, for example hidden_channels=16.",
    ),
    (
        lambda: MINEObjective(0.1),  # type: ignore[call-arg]
        "MINEObjective: takes nothing by position and all else by name, got 1 by position. "
        "Name the others, for example momentum=0.1.",
    ),
    (
        lambda: CBAM(64, reduction=16),  # type: ignore[call-arg]
        "CBAM: there is no argument 'reduction', got reduction=16. Use reduction_ratio.",
    ),
    (
        lambda: CBAM(64, rd_ratio=0.25),  # type: ignore[call-arg]
        "CBAM: there is no argument 'rd_ratio', got rd_ratio=0.25. Use reduction_ratio, its inverse.",
    ),
    (
        lambda: CBAM(64, kernelsize=7),  # type: ignore[call-arg]
        "CBAM: there is no argument 'kernelsize', got kernelsize=7. Use kernel_size.",
    ),
    (
        lambda: CBAM(64, frobnicate=7),  # type: ignore[call-arg]
        f"CBAM: there is no argument 'frobnicate', got frobnicate=7. It takes {LISTED}.",
    ),
    (
        lambda: CBAM(),  # type: ignore[call-arg]
        "CBAM: needs channels, got none. Pass it first.",
    ),
    (
        lambda: LMIMLoss(8, 4, local_channels=8),  # type: ignore[misc]
        "LMIMLoss: local_channels is given twice, by position and by name. Drop one of them.",
    ),
    (
        lambda: CBAM(8, dtype=torch.int8),
        "CBAM: dtype must be floating-point, got torch.int8. Pass, for example, torch.float32.",
    ),
    (
        lambda: ConcatConvCritic(8, 4, dtype="half"),  # type: ignore[arg-type]
        "ConcatConvCritic: dtype must be a torch.dtype, got 'half'. Pass, for example, torch.float32.",
    ),
    (
        lambda: RDAM(8, bias=1),  # type: ignore[arg-type]
        "RDAM: bias must be a bool, got 1. Pass True or False.",
    ),
    (
        lambda: LMIMLoss(8, 4, negatives="all", gather="yes"),  # type: ignore[arg-type]
        "LMIMLoss: gather must be a bool, got 'yes'. Pass True or False.",
    ),
]


TYPE_ERRORS += [
    (
        lambda: ECA(8, k_size=3),  # type: ignore[call-arg]
        "ECA: there is no argument 'k_size', got k_size=3. Use kernel_size.",
    ),
    (
        lambda: ECA(8, kernel_size=3.0),  # type: ignore[arg-type]
        "ECA: kernel_size must be an int, got 3.0. Pass a whole number, 1 or more.",
    ),
    (
        lambda: ECA(8)(X.double()),
        "ECA: x must have the weights' dtype torch.float32, got torch.float64. "
        "Convert it by x.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: SCSE(8, bias=1),  # type: ignore[arg-type]
        "SCSE: bias must be a bool, got 1. Pass True or False.",
    ),
    (
        lambda: SCSE(8)(X.long()),
        "SCSE: x must be floating-point, got torch.int64. Convert it, for example x.float().",
    ),
    (
        lambda: BAM(8, norm=nn.BatchNorm2d(1)),
        "BAM: norm must be a callable that returns a module, called as norm(1), got BatchNorm2d. "
        "Pass a class such as torch.nn.BatchNorm2d.",
    ),
    (
        lambda: BAM(8, dtype=torch.int8),
        "BAM: dtype must be floating-point, got torch.int8. Pass, for example, torch.float32.",
    ),
    (
        lambda: BAM(8, dilation_val=4),  # type: ignore[call-arg]
        "BAM: there is no argument 'dilation_val', got dilation_val=4. Use dilation.",
    ),
    (
        lambda: BAM(8)(X.half()),
        "BAM: x must have the weights' dtype torch.float32, got torch.float16. "
        "Convert it by x.to(torch.float32), convert the module, or use torch.autocast.",
    ),
    (
        lambda: CoordinateAttention(8, norm=lambda _: torch.relu),  # type: ignore[arg-type,return-value]
        "CoordinateAttention: norm must return a torch.nn.Module, got builtin_function_or_method. "
        "Wrap the function in a module.",
    ),
    (
        lambda: CoordinateAttention(64, 32),  # type: ignore[call-arg]
        "CoordinateAttention: takes channels by position and all else by name, got 2 by position. "
        "Name the others, for example reduction_ratio=32.",
    ),
    (
        lambda: CoordinateAttention(8)(X.to_sparse()),
        "CoordinateAttention: x must be dense, got torch.sparse_coo. Convert it by x.to_dense().",
    ),
]


@pytest.mark.parametrize(
    ("mistake", "message"), VALUE_ERRORS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_values_and_shapes(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mistake()


@pytest.mark.parametrize(("mistake", "message"), TYPE_ERRORS, ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_types(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        mistake()


def test_mask_without_weight_is_refused_only_where_it_divides() -> None:
    assert masked(torch.zeros(2, 5, 6), reduction="sum") == 0
    assert masked(torch.zeros(2, 5, 6), reduction="none").count_nonzero() == 0
