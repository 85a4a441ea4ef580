"""One case for each public module, and for each of its variants whose computation differs.

A case says how to build the module, what to feed it, and what its literal twin makes of the same weights; the contract
suite in ``test_contract.py`` runs all of them through the same checks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import blan_layers
from blan_layers.functional import reference

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A public module under contract.

    Attributes:
        name: What the test is called.
        factory: Builds the module; takes ``device`` and ``dtype``.
        shapes: The inputs' shapes for a batch and spatial sizes.
        reference: The literal twin, called with the module and its inputs.
        spatial_dims: How many spatial axes the inputs have.
        min_batch: The smallest batch that makes sense.
        float32_output: Whether half-precision inputs give a float32 result, as losses do.
        evaluated: Whether the module draws random numbers in training, so that it is compared in evaluation mode.
        permutes: Whether permuting the batch permutes the output.
        resizes: Whether the module takes maps of any size.
        smallest: The smallest size along an axis for which one exported program serves: a map pooled to one location
            is a program of its own.
    """

    name: str
    factory: Callable[..., nn.Module]
    shapes: Callable[[int, Shape], list[Shape]]
    reference: Callable[..., Tensor]
    spatial_dims: int = 2
    min_batch: int = 1
    float32_output: bool = False
    evaluated: bool = False
    permutes: bool = True
    resizes: bool = True
    smallest: int = 2

    @property
    def size(self) -> Shape:
        """An odd, non-square map."""
        more = 2 * ((self.smallest - 1) // 2)
        return (5 + more, 7 + more, 3 + more)[: self.spatial_dims]

    def module(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Any:
        torch.manual_seed(seed)
        module = self.factory(device=device, dtype=dtype)
        return module.eval() if self.evaluated else module

    def inputs(
        self, dtype: torch.dtype = torch.float32, *, batch: int = 3, size: Shape | None = None, seed: int = 1
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = self.shapes(batch, self.size if size is None else size)
        return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


class ChannelNorm(nn.LayerNorm):
    """A norm that is the same in training and evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def mlp_weights(channel: Any) -> Any:
    return channel.fc1.weight, channel.fc1.bias, channel.fc2.weight, channel.fc2.bias


def critic_weights(critic: Any) -> Any:
    return tuple(critic.state_dict(keep_vars=True).values())


def one_map(batch: int, size: Shape) -> list[Shape]:
    return [(batch, 6, *size)]


def two_maps(batch: int, size: Shape, decoder_channels: int = 6) -> list[Shape]:
    return [(batch, 6, *size), (batch, decoder_channels, *size)]


def small_map(batch: int, size: Shape) -> list[Shape]:
    return [(batch, 2, *size)]


def two_small_maps(batch: int, size: Shape) -> list[Shape]:
    return [(batch, 2, *size)] * 2


def skip_and_gating(batch: int, size: Shape, gating_size: Callable[[int], int] = lambda s: s) -> list[Shape]:
    return [(batch, 6, *size), (batch, 4, *map(gating_size, size))]


def map_and_summary(batch: int, size: Shape) -> list[Shape]:
    return [(batch, 6, *size), (batch, 4)]


def flat_map_and_summary(batch: int, _: Shape) -> list[Shape]:
    return [(batch, 2, 3, 4), (batch, 4)]


def vector_and_summary(batch: int, _: Shape) -> list[Shape]:
    return [(batch, 6), (batch, 4)]


def summary_and_samples(batch: int, _: Shape) -> list[Shape]:
    return [(batch, 4), (batch, 4)]


def flat_map_summary_and_samples(batch: int, size: Shape) -> list[Shape]:
    return [*flat_map_and_summary(batch, size), (batch, 4)]


def stacked_scores(batch: int, _: Shape) -> list[Shape]:
    return [(3, batch, 5, 2)]


def two_sets_of_logits(batch: int, _: Shape) -> list[Shape]:
    return [(1, batch), (3, batch)]


def channel_reference(module: Any, x: Tensor) -> Tensor:
    w1, b1, w2, b2 = mlp_weights(module)
    return reference.channel_attention(x, w1, b1, w2, b2, module.pools, module.form)


def spatial_reference(module: Any, x: Tensor) -> Tensor:
    return reference.spatial_attention(x, module.conv.weight, module.conv.bias)


def dual_options(module: Any) -> dict[str, Any]:
    return {"pools": module.channel.pools, "arrangement": module.arrangement, "form": module.channel.form}


def cbam_reference(module: Any, x: Tensor) -> Tensor:
    weights = *mlp_weights(module.channel), module.spatial.conv.weight
    return reference.dual_attention(x, *weights, **dual_options(module))


def rdam_reference(module: Any, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
    weights = (
        module.conv.weight,
        module.conv.bias,
        *mlp_weights(module.channel),
        module.spatial.conv.weight,
    )
    return reference.residual_dual_attention(encoder_features, decoder_features, *weights, **dual_options(module))


def eca_reference(module: Any, x: Tensor) -> Tensor:
    return reference.efficient_channel_attention(x, module.conv.weight)


def scse_reference(module: Any, x: Tensor) -> Tensor:
    w1, b1, w2, b2 = mlp_weights(module.channel)
    return reference.concurrent_excitation(x, w1, b1, w2, b2, module.conv.weight, module.conv.bias, module.combine)


def bam_reference(module: Any, x: Tensor) -> Tensor:
    convolutions = [module.conv1, module.conv2, module.conv3, module.conv4]
    spatial = [weight for conv in convolutions for weight in (conv.weight, conv.bias)]
    norms = [module.fc1_norm, module.conv1_norm, module.conv2_norm, module.conv3_norm]
    given = None if module.fc1_norm is None else norms
    return reference.bottleneck_attention(x, mlp_weights(module), spatial, given, module.dilation)


def coordinate_reference(module: Any, x: Tensor) -> Tensor:
    axes = [getattr(module, f"conv_{axis}") for axis in "dhw"[-module.spatial_dims :]]
    weights = module.conv.weight, module.conv.bias, [(conv.weight, conv.bias) for conv in axes]
    return reference.coordinate_attention(x, *weights, module.norm)


def weights_of(*layers: Any) -> list[tuple[Tensor, Tensor | None]]:
    return [(layer.weight, layer.bias) for layer in layers]


def bottleneck_weights(block: Any) -> list[tuple[Tensor, Tensor | None]]:
    return weights_of(block.conv1, block.conv2, block.conv3)


def attention_gate_reference(module: Any, skip: Tensor, gating: Tensor) -> Tensor:
    weights = module.skip_conv.weight, module.gating_conv.weight, module.gating_conv.bias
    return reference.attention_gate(skip, gating, *weights, module.psi.weight, module.psi.bias)


def rar_reference(module: Any, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
    blocks = [bottleneck_weights(block) for block in (module.block1, module.block2, module.block3)]
    weights = bottleneck_weights(module.refine), blocks, weights_of(module.shortcut.conv)
    return reference.recurrent_attention_residual(encoder_features, decoder_features, *weights, module.steps)


def soft_mask_reference(module: Any, x: Tensor) -> Tensor:
    levels, level = [], module.hourglass
    while level is not None:
        units = (level.down, level.up, level.skip) if level.deeper is not None else (level.down, level.up)
        levels.append([bottleneck_weights(unit.branch) for unit in units])
        level = level.deeper
    return reference.soft_mask(x, levels, weights_of(module.head.conv1, module.head.conv2), module.form)


def residual_attention(channels: int = 6, *, device: Any, dtype: Any, **options: Any) -> nn.Module:
    """Build the module around a mask of ours and a convolution, whose rule of drawing weights is torch's."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[options.get("spatial_dims", 2) - 1]
    trunk = kind(channels, channels, 3, padding=1, device=device, dtype=dtype)
    mask = blan_layers.SoftMask(channels, depth=2, **options, device=device, dtype=dtype)
    return blan_layers.ResidualAttention(trunk, mask)


def residual_attention_reference(module: Any, x: Tensor) -> Tensor:
    trunk = reference.convolve(x, module.trunk.weight, module.trunk.bias)
    return reference.residual_attention(trunk, soft_mask_reference(module.mask, x))


def critic_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    return reference.concat_conv_logits(local_features, global_features, *critic_weights(module))


def global_reference(module: Any, inputs: Tensor, global_features: Tensor) -> Tensor:
    return reference.global_logits(inputs, global_features, *critic_weights(module))


def dot_product_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    weights = critic_weights(module.local_encoder), critic_weights(module.global_encoder)
    return reference.dot_product_logits(local_features, global_features, *weights)


def separable_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    weights = critic_weights(module.local_encoder), critic_weights(module.global_encoder)
    return reference.separable_logits(local_features, global_features, *weights)


def bilinear_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    return reference.bilinear_logits(local_features, global_features, module.global_encoder.weight)


def cosine_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    weights = critic_weights(module.local_encoder), critic_weights(module.global_encoder)
    temperature = (-module.logit_scale).exp() if module.learnt_temperature else module.temperature
    return reference.cosine_logits(local_features, global_features, *weights, temperature)


def lmim_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    loss = reference.lmim_loss(local_features, global_features, *critic_weights(module.critic))
    return loss - 2 * torch.tensor(2.0, dtype=torch.float64).log() if module.objective == "jsd" else loss


def mine_reference(_: Any, positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    return reference.dv_lower_bound(positive_logits, negative_logits)


def infonce_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    def logits(summary: Tensor) -> Tensor:
        return reference.concat_conv_logits(
            local_features, summary.expand(len(local_features), -1), *critic_weights(module.critic)
        )

    pairs = torch.stack([logits(summary) for summary in global_features], 1)
    own = pairs.diagonal().movedim(-1, 0)
    return (pairs.logsumexp(1) - own).mean() - torch.tensor(float(len(global_features)), dtype=pairs.dtype).log()


def symmetric_reference(module: Any, local_features: Tensor, global_features: Tensor) -> Tensor:
    def logits(summary: Tensor) -> Tensor:
        return cosine_reference(module.critic, local_features, summary.expand(len(local_features), -1))

    pairs = torch.stack([logits(summary) for summary in global_features], 1)
    own = pairs.diagonal().movedim(-1, 0)
    chance = torch.tensor(float(len(global_features)), dtype=pairs.dtype).log()
    return ((pairs.logsumexp(1) + pairs.logsumexp(0)) / 2 - own).mean() - chance


def club_reference(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return reference.gaussian_club(x, y, *critic_weights(module))


def global_loss_reference(module: Any, inputs: Tensor, global_features: Tensor) -> Tensor:
    real = global_reference(module.critic, inputs, global_features)
    return reference.bce_loss(real, global_reference(module.critic, inputs, global_features.roll(-1, 0)))


def prior_reference(module: Any, summaries: Tensor, samples: Tensor) -> Tensor:
    summaries = summaries.sigmoid() if module.prior == "uniform" else summaries
    return reference.prior_matching_loss(summaries, samples, *critic_weights(module.discriminator))


def infonce_of_every_pair(device: Any, dtype: Any) -> nn.Module:  # which has no choice of backend
    options: Any = {"objective": "infonce", "negatives": "all", "device": device, "dtype": dtype}
    return blan_layers.LMIMLoss(6, 4, hidden_channels=8, **options)


def symmetric_loss(device: Any, dtype: Any) -> nn.Module:
    critic = blan_layers.CosineCritic(6, 4, embedding_channels=8, temperature=0.5, device=device, dtype=dtype)
    return blan_layers.LMIMLoss(6, 4, objective="infonce", negatives="all", symmetric=True, critic=critic)


def deep_infomax(device: Any, dtype: Any) -> nn.Module:
    critic = blan_layers.DotProductCritic(2, 4, hidden_channels=8, device=device, dtype=dtype)
    options: Any = {"objective": "bce", "negatives": "shift", "local_critic": critic, "device": device, "dtype": dtype}
    return blan_layers.DeepInfoMaxLoss(2, 4, map_size=(3, 4), alpha=0.5, beta=2.0, gamma=0.25, **options)


def deep_infomax_reference(module: Any, local_features: Tensor, global_features: Tensor, samples: Tensor) -> Tensor:
    critic = module.local_loss.critic
    real = dot_product_reference(critic, local_features, global_features)
    local = reference.bce_loss(real, dot_product_reference(critic, local_features, global_features.roll(-1, 0)))
    whole = global_loss_reference(module.global_loss, local_features, global_features)
    return 0.5 * whole + 2.0 * local + 0.25 * prior_reference(module.prior_loss, global_features, samples)


def fusion_reference(module: Any, scores: Tensor) -> Tensor:
    return reference.score_fusion(scores, module.weight)


def attention_cases() -> list[Case]:
    channel, spatial = blan_layers.ChannelAttention, blan_layers.SpatialAttention
    cbam, rdam = partial(blan_layers.CBAM, 6, hidden_channels=4), partial(blan_layers.RDAM, 6, hidden_channels=4)
    cases = [
        Case("ChannelAttention", partial(channel, 6, hidden_channels=4), one_map, channel_reference),
        Case(
            "ChannelAttention-printed",
            partial(channel, 6, hidden_channels=4, form="printed"),
            one_map,
            channel_reference,
        ),
        Case("ChannelAttention-max", partial(channel, 6, pools=("max",), bias=False), one_map, channel_reference),
        Case(
            "SqueezeExcitation",
            partial(blan_layers.SqueezeExcitation, 6, reduction_ratio=2),
            one_map,
            channel_reference,
        ),
        Case("SpatialAttention", spatial, one_map, spatial_reference),
        Case("SpatialAttention-bias", partial(spatial, 3, bias=True), one_map, spatial_reference),
    ]
    for axes in (1, 3):
        cases += [
            Case(f"SpatialAttention-{axes}d", partial(spatial, 3, spatial_dims=axes), one_map, spatial_reference, axes),
            Case(f"CBAM-{axes}d", partial(cbam, spatial_dims=axes), one_map, cbam_reference, axes),
            Case(f"RDAM-{axes}d", partial(rdam, spatial_dims=axes), two_maps, rdam_reference, axes),
        ]
    for arrangement in ("channel-spatial", "spatial-channel", "parallel"):
        for form in ("cbam", "printed"):
            suffix = "" if (arrangement, form) == ("channel-spatial", "cbam") else f"-{arrangement}-{form}"
            options = {"arrangement": arrangement, "form": form, "kernel_size": 3}
            cases += [
                Case(f"CBAM{suffix}", partial(cbam, **options), one_map, cbam_reference),
                Case(f"RDAM{suffix}", partial(rdam, **options), two_maps, rdam_reference),
            ]
    narrow = partial(rdam, decoder_channels=3, conv_kernel_size=1)
    return [
        *cases,
        Case("RDAM-narrow-decoder", narrow, partial(two_maps, decoder_channels=3), rdam_reference),
        *further_gates(),
    ]


def further_gates() -> list[Case]:
    eca, scse = partial(blan_layers.ECA, 6), partial(blan_layers.SCSE, 6, hidden_channels=4)
    bam = partial(blan_layers.BAM, 6, hidden_channels=4, dilation=2)
    coordinate = partial(blan_layers.CoordinateAttention, 6, hidden_channels=4)
    cases = [
        Case("ECA", partial(eca, kernel_size=3), one_map, eca_reference),
        Case("ECA-1d", partial(eca, kernel_size=3), one_map, eca_reference, 1),
        Case("ECA-3d", partial(eca, kernel_size=5), one_map, eca_reference, 3),
        Case("SCSE", scse, one_map, scse_reference),
        Case("SCSE-max", partial(scse, combine="max"), one_map, scse_reference),
        Case("SCSE-unbiased", partial(scse, bias=False), one_map, scse_reference),
        Case("BAM", bam, one_map, bam_reference),
        Case("BAM-norm", partial(bam, norm=ChannelNorm, dilation=1), one_map, bam_reference),
        Case("CoordinateAttention", coordinate, one_map, coordinate_reference),
        Case("CoordinateAttention-norm", partial(coordinate, norm=ChannelNorm), one_map, coordinate_reference),
    ]
    for axes in (1, 3):
        cases += [
            Case(f"SCSE-{axes}d", partial(scse, spatial_dims=axes), one_map, scse_reference, axes),
            Case(f"BAM-{axes}d", partial(bam, spatial_dims=axes), one_map, bam_reference, axes),
            Case(
                f"CoordinateAttention-{axes}d",
                partial(coordinate, spatial_dims=axes),
                one_map,
                coordinate_reference,
                axes,
            ),
        ]
    return cases


def further_gate_cases() -> list[Case]:
    gate, rar, mask = blan_layers.AttentionGate, blan_layers.RAR, blan_layers.SoftMask
    coarse, fine = partial(skip_and_gating, gating_size=lambda s: -(-s // 2)), lambda s: 2 * s + 1
    cases = [
        Case("AttentionGate", partial(gate, 6, 4), coarse, attention_gate_reference),
        Case("AttentionGate-same-grid", partial(gate, 6, 4, bias=False), skip_and_gating, attention_gate_reference),
        Case(
            "AttentionGate-finer",
            partial(gate, 6, 4, hidden_channels=2),
            partial(skip_and_gating, gating_size=fine),
            attention_gate_reference,
        ),
        Case("RAR", partial(rar, 2), two_small_maps, rar_reference),
        Case("RAR-once", partial(rar, 2, steps=1, conv_kernel_size=1, bias=False), two_small_maps, rar_reference),
        Case(
            "RAR-narrow-decoder",
            partial(rar, 6, decoder_channels=3, steps=3),
            partial(two_maps, decoder_channels=3),
            rar_reference,
        ),
        Case("SoftMask", partial(mask, 2, depth=2), small_map, soft_mask_reference, smallest=5),
        Case(
            "SoftMask-deep",
            partial(mask, 6, depth=3, hidden_channels=3, bias=False),
            one_map,
            soft_mask_reference,
            smallest=9,
        ),
        Case(
            "ResidualAttention",
            partial(residual_attention, 2),
            small_map,
            residual_attention_reference,
            smallest=5,
        ),
    ]
    for form in ("channel", "spatial"):
        cases += [
            Case(f"SoftMask-{form}", partial(mask, 6, depth=1, form=form), one_map, soft_mask_reference, smallest=3),
            Case(
                f"ResidualAttention-{form}",
                partial(residual_attention, form=form),
                one_map,
                residual_attention_reference,
                smallest=5,
            ),
        ]
    for axes in (1, 3):
        cases += [
            Case(
                f"AttentionGate-{axes}d",
                partial(gate, 6, 4, spatial_dims=axes),
                coarse,
                attention_gate_reference,
                axes,
            ),
            Case(f"RAR-{axes}d", partial(rar, 2, spatial_dims=axes), two_small_maps, rar_reference, axes),
            Case(
                f"SoftMask-{axes}d",
                partial(mask, 6, depth=2, spatial_dims=axes),
                one_map,
                soft_mask_reference,
                axes,
                smallest=5,
            ),
            Case(
                f"ResidualAttention-{axes}d",
                partial(residual_attention, spatial_dims=axes),
                one_map,
                residual_attention_reference,
                axes,
                smallest=5,
            ),
        ]
    return cases


def critic_cases() -> list[Case]:
    dot = partial(blan_layers.DotProductCritic, 6, 4, hidden_channels=8)
    separable = partial(blan_layers.SeparableCritic, 6, 4, hidden_channels=8, embedding_channels=3)
    bilinear = partial(blan_layers.BilinearCritic, 6, 4)
    cosine = partial(blan_layers.CosineCritic, 6, 4, embedding_channels=8, temperature=0.5)
    learnt = partial(cosine, learnt_temperature=True)
    flat = partial(blan_layers.GlobalCritic, 24, 4, hidden_channels=8)
    vector = partial(blan_layers.GlobalCritic, 6, 4, hidden_channels=8)
    return [
        Case("DotProductCritic", dot, map_and_summary, dot_product_reference, float32_output=True),
        Case("SeparableCritic", separable, map_and_summary, separable_reference, float32_output=True),
        Case("SeparableCritic-3d", separable, map_and_summary, separable_reference, 3, float32_output=True),
        Case("BilinearCritic", bilinear, map_and_summary, bilinear_reference, float32_output=True),
        Case("BilinearCritic-1d", bilinear, map_and_summary, bilinear_reference, 1, float32_output=True),
        Case("CosineCritic", cosine, map_and_summary, cosine_reference, float32_output=True),
        Case("CosineCritic-learnt-1d", learnt, map_and_summary, cosine_reference, 1, float32_output=True),
        Case("GlobalCritic", flat, flat_map_and_summary, global_reference, resizes=False),
        Case("GlobalCritic-vector", vector, vector_and_summary, global_reference, spatial_dims=0, resizes=False),
    ]


def information_cases() -> list[Case]:
    critic = partial(blan_layers.ConcatConvCritic, 6, 4, hidden_channels=8)
    loss = partial(blan_layers.LMIMLoss, 6, 4, hidden_channels=8)
    as_loss: Any = {"min_batch": 2, "float32_output": True, "evaluated": True, "permutes": False}
    return [
        Case("ConcatConvCritic", critic, map_and_summary, critic_reference),
        Case("ConcatConvCritic-3d", critic, map_and_summary, critic_reference, 3),
        *critic_cases(),
        Case("LMIMLoss", loss, map_and_summary, lmim_reference, **as_loss),
        Case("LMIMLoss-jsd-1d", partial(loss, objective="jsd"), map_and_summary, lmim_reference, 1, **as_loss),
        Case("LMIMLoss-infonce", infonce_of_every_pair, map_and_summary, infonce_reference, **as_loss),
        Case("LMIMLoss-symmetric", symmetric_loss, map_and_summary, symmetric_reference, **as_loss),
        Case(
            "GlobalInfoMaxLoss",
            partial(blan_layers.GlobalInfoMaxLoss, 24, 4, hidden_channels=8),
            flat_map_and_summary,
            global_loss_reference,
            resizes=False,
            **as_loss,
        ),
        Case(
            "CLUB",
            partial(blan_layers.CLUB, 6, 4, hidden_channels=8),
            vector_and_summary,
            club_reference,
            spatial_dims=0,
            resizes=False,
            **(as_loss | {"evaluated": False}),
        ),
        Case(
            "PriorMatchingLoss-uniform",
            partial(blan_layers.PriorMatchingLoss, 4, hidden_channels=(8, 5)),
            summary_and_samples,
            prior_reference,
            spatial_dims=0,
            resizes=False,
            **(as_loss | {"min_batch": 1}),
        ),
        Case(
            "PriorMatchingLoss-gaussian",
            partial(blan_layers.PriorMatchingLoss, 4, hidden_channels=(8, 5), prior="gaussian"),
            summary_and_samples,
            prior_reference,
            spatial_dims=0,
            resizes=False,
            **(as_loss | {"min_batch": 1}),
        ),
        Case(
            "DeepInfoMaxLoss-all-three",
            deep_infomax,
            flat_map_summary_and_samples,
            deep_infomax_reference,
            resizes=False,
            **as_loss,
        ),
    ]


CASES = [
    *attention_cases(),
    *further_gate_cases(),
    *information_cases(),
    Case(
        "MINEObjective",
        blan_layers.MINEObjective,
        two_sets_of_logits,
        mine_reference,
        spatial_dims=0,
        float32_output=True,
        evaluated=True,  # in training the gradient is not the value's
        permutes=False,
    ),
    Case(
        "AdaptiveScoreFusion",
        partial(blan_layers.AdaptiveScoreFusion, 3, 5),
        stacked_scores,
        fusion_reference,
        spatial_dims=0,
        permutes=False,
    ),
]

FIRST = [*{case.name.split("-")[0]: case for case in reversed(CASES)}.values()]

FURTHER = (
    "ChannelAttention-max",
    "SpatialAttention-bias",
    "CBAM-3d",
    "CBAM-spatial-channel-printed",
    "CBAM-parallel-cbam",
    "RDAM-spatial-channel-cbam",
    "RDAM-parallel-printed",
    "SCSE-max",
    "BAM-3d",
    "CoordinateAttention-1d",
    "CoordinateAttention-3d",
    "AttentionGate-same-grid",
    "RAR-once",
    "CosineCritic-learnt-1d",
    "LMIMLoss-jsd-1d",
    "LMIMLoss-infonce",
    "LMIMLoss-symmetric",
)

KINDS = [*FIRST, *(case for case in CASES if case.name in FURTHER)]
"""A case of each class, and those that differ in their layers or in the way they compute, not in sizes alone."""
