"""The public functions against their literal twins, with weights and biases of every kind."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import blan_layers
from blan_layers import functional as F
from blan_layers.functional import reference

POOLS = [("avg", "max"), ("max", "avg"), ("avg",), ("max",)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def mlp(bias: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    return draw(4, 6), draw(4) if bias else None, draw(6, 4), draw(6) if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("pools", "form"), [*((pools, "cbam") for pools in POOLS), *((pools, "printed") for pools in POOLS[:2])]
)
def test_channel_attention(bias: bool, pools: Any, form: Any) -> None:
    torch.manual_seed(0)
    x, weights = draw(2, 6, 5, 4), mlp(bias)
    ours = F.channel_attention(x, *weights, pools=pools, form=form)
    torch.testing.assert_close(ours, reference.channel_attention(x, *weights, pools=pools, form=form))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [(3,), (3, 5), (1, 3, 7)])
def test_spatial_attention(bias: bool, kernel: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = draw(2, 6, *(5, 4, 3)[: len(kernel)])
    weights = draw(1, 2, *kernel), draw(1) if bias else None
    torch.testing.assert_close(F.spatial_attention(x, *weights), reference.spatial_attention(x, *weights))


@pytest.mark.parametrize(
    ("pools", "form"), [*((pools, "cbam") for pools in POOLS), *((pools, "printed") for pools in POOLS[:2])]
)
@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
@pytest.mark.parametrize("residual", [True, False])
def test_dual_attention(pools: Any, form: Any, arrangement: Any, residual: bool) -> None:
    torch.manual_seed(0)
    x, added = draw(2, 6, 5, 4), draw(2, 6, 5, 4) if residual else None
    weights: Any = *mlp(True), draw(1, 2, 3, 3), draw(1)
    options: Any = {"pools": pools, "arrangement": arrangement, "form": form}
    truth = reference.dual_attention(x, *weights, **options)
    ours = F.dual_attention(x, *weights, **options, residual=added)
    torch.testing.assert_close(ours, truth if added is None else truth + added)


@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 4)])
def test_concat_conv_logits(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weights = draw(8, 6 + 4), draw(8), draw(8, 8), draw(8), draw(1, 8), draw(1)
    local, summary = draw(3, 6, *size), draw(3, 4)
    truth = reference.concat_conv_logits(local, summary, *weights)
    torch.testing.assert_close(F.concat_conv_logits(local, summary, *weights), truth, rtol=1e-10, atol=1e-12)


def test_tied_maxima_over_channels_share_the_gradient_equally() -> None:
    x = torch.tensor([[[3.0], [3.0], [1.0]]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)  # the maximum alone
    (gradient,) = torch.autograd.grad(F.spatial_attention(x, weight).sum(), x)
    gate = torch.sigmoid(torch.tensor(3.0, dtype=torch.float64))
    shared = 7 * gate * (1 - gate) / 2
    torch.testing.assert_close(gradient.flatten(), torch.stack([gate + shared, gate + shared, gate]))


COMPOSITE = (
    "reduction_ratio=None, hidden_channels=None, pools=('avg', 'max'), kernel_size=7, arrangement='channel-spatial', "
    "form='cbam', spatial_dims=2, norm=None, activation=None, bias=True, backend='auto', device=None, dtype=None"
)
PAIRING = (
    "hidden_channels=None, objective='bce', negatives='shift', num_negatives=None, queue_size=None, gather=False, "
    "symmetric=False, positives='own', critic=None"
)
PUBLISHED = {
    "ChannelAttention": "channels, *, reduction_ratio=None, hidden_channels=None, pools=('avg', 'max'), form='cbam', "
    "activation=None, gate='sigmoid', bias=True, backend='auto', device=None, dtype=None",
    "SqueezeExcitation": "channels, *, reduction_ratio=None, hidden_channels=None, activation=None, gate='sigmoid', "
    "bias=True, backend='auto', device=None, dtype=None",
    "SpatialAttention": "kernel_size=7, *, spatial_dims=2, norm=None, bias=False, backend='auto', device=None, "
    "dtype=None",
    "ECA": "channels, *, kernel_size=None, backend='auto', device=None, dtype=None",
    "SCSE": "channels, *, reduction_ratio=None, hidden_channels=None, combine='sum', spatial_dims=2, bias=True, "
    "backend='auto', device=None, dtype=None",
    "BAM": "channels, *, reduction_ratio=None, hidden_channels=None, dilation=4, spatial_dims=2, norm=None, "
    "device=None, dtype=None",
    "CoordinateAttention": "channels, *, reduction_ratio=32, hidden_channels=None, spatial_dims=2, norm=None, "
    "device=None, dtype=None",
    "CBAM": f"channels, *, {COMPOSITE}",
    "RDAM": "channels, *, decoder_channels=None, resize=None, conv_kernel_size=3, conv_norm=None, "
    f"conv_activation=None, {COMPOSITE}",
    "AttentionGate": "channels, gating_channels, *, hidden_channels=None, spatial_dims=2, norm=None, bias=True, "
    "device=None, dtype=None",
    "RAR": "channels, *, decoder_channels=None, steps=2, conv_kernel_size=3, spatial_dims=2, norm=None, bias=True, "
    "device=None, dtype=None",
    "ResidualAttention": "trunk, mask",
    "SoftMask": "channels, *, depth, form='mixed', hidden_channels=None, spatial_dims=2, norm=None, bias=True, "
    "device=None, dtype=None",
    "ConcatConvCritic": "local_channels, global_channels, *, hidden_channels=512, device=None, dtype=None",
    "DotProductCritic": "local_channels, global_channels, *, hidden_channels=2048, device=None, dtype=None",
    "SeparableCritic": "local_channels, global_channels, *, hidden_channels=512, embedding_channels=32, device=None, "
    "dtype=None",
    "BilinearCritic": "local_channels, global_channels, *, device=None, dtype=None",
    "CosineCritic": "local_channels, global_channels, *, embedding_channels=128, temperature=0.07, "
    "learnt_temperature=False, device=None, dtype=None",
    "GlobalCritic": "input_features, global_channels, *, hidden_channels=512, device=None, dtype=None",
    "LMIMLoss": f"local_channels, global_channels, *, {PAIRING}, reduction='mean', backend='auto', device=None, "
    "dtype=None",
    "GlobalInfoMaxLoss": f"input_features, global_channels, *, {PAIRING}, reduction='mean', device=None, dtype=None",
    "CLUB": "x_channels, y_channels, *, hidden_channels=512, device=None, dtype=None",
    "PriorMatchingLoss": "channels, *, hidden_channels=(1000, 200), prior='uniform', device=None, dtype=None",
    "DeepInfoMaxLoss": "local_channels, global_channels, *, map_size=None, alpha=0.0, beta=1.0, gamma=0.1, "
    "objective='jsd', negatives='all', local_critic=None, prior=None, device=None, dtype=None",
    "MINEObjective": "*, momentum=0.01, device=None, dtype=None",
    "capture_maps": "model",
    "insert_attention": "model, factory, where='residual', *, start='identity', **options",
    "AdaptiveScoreFusion": "levels, attributes, *, initial_weight=None, device=None, dtype=None",
}


@pytest.mark.parametrize("name", [name for name in blan_layers.__all__ if name != "Insertion"])
def test_signatures_are_the_published_ones(name: str) -> None:
    parameters = inspect.signature(getattr(blan_layers, name)).parameters.values()
    bare = inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters])
    assert str(bare) == f"({PUBLISHED[name]})"


WEIGHTS = "positive_weights=None, negative_weights=None"
PAIR = "positive_logits, negative_logits"
MLP = "x, w1, b1, w2, b2"
PUBLISHED_FUNCTIONS = {
    "alpha_lower_bound": "logits, log_baseline, *, alpha, weights=None",
    "bce_loss": f"{PAIR}, *, {WEIGHTS}",
    "channel_attention": f"{MLP}, *, pools=('avg', 'max'), form='cbam', backend='auto'",
    "club_upper_bound": f"positive_log_likelihood, negative_log_likelihood, *, {WEIGHTS}",
    "concat_conv_logits": "local_features, global_features, w1, b1, w2, b2, w3, b3",
    "dual_attention": f"{MLP}, weight, bias=None, *, pools=('avg', 'max'), arrangement='channel-spatial', "
    "form='cbam', norm=None, residual=None, backend='auto'",
    "dv_lower_bound": f"{PAIR}, *, {WEIGHTS}",
    "f_divergence_objective": f"{PAIR}, *, divergence, {WEIGHTS}",
    "infonce_lower_bound": "logits, *, weights=None",
    "jsd_objective": f"{PAIR}, *, {WEIGHTS}",
    "mine_objective": f"{PAIR}, running_log_mean, *, momentum=0.01, {WEIGHTS}",
    "mutual_information_certificate": "mean_bce",
    "nwj_lower_bound": f"{PAIR}, *, {WEIGHTS}",
    "score_fusion": "scores, weight",
    "smile_estimate": f"{PAIR}, *, clip=5.0, {WEIGHTS}",
    "spatial_attention": "x, weight, bias=None, *, norm=None, backend='auto'",
    "supervised_contrastive_loss": "logits, positives, *, candidates=None, weights=None",
    "tuba_lower_bound": f"{PAIR}, log_baseline, *, {WEIGHTS}",
}


@pytest.mark.parametrize("name", [name for name in F.__all__ if name != "reference"])
def test_signatures_of_functions_are_the_published_ones(name: str) -> None:
    parameters = inspect.signature(getattr(F, name)).parameters.values()
    bare = inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters])
    assert str(bare) == f"({PUBLISHED_FUNCTIONS[name]})"


def test_the_loss_builds_a_critic_of_width_512() -> None:
    shapes = {
        name: tuple(weight.shape) for name, weight in blan_layers.LMIMLoss(6, 4, device="meta").state_dict().items()
    }
    assert shapes == {
        "critic.fc1.weight": (512, 10),
        "critic.fc1.bias": (512,),
        "critic.fc2.weight": (512, 512),
        "critic.fc2.bias": (512,),
        "critic.fc3.weight": (1, 512),
        "critic.fc3.bias": (1,),
    }
