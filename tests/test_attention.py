"""What the attention modules promise beyond the contract."""

import copy
import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from blan_layers import (
    BAM,
    CBAM,
    ECA,
    RAR,
    RDAM,
    SCSE,
    AdaptiveScoreFusion,
    AttentionGate,
    ChannelAttention,
    CoordinateAttention,
    PriorMatchingLoss,
    SoftMask,
    SpatialAttention,
    SqueezeExcitation,
)
from blan_layers import functional as F


def test_channel_gate_on_numbers_done_by_hand() -> None:
    attention = ChannelAttention(1, hidden_channels=1)
    nn.init.ones_(attention.fc1.weight)
    nn.init.constant_(attention.fc2.weight, 2.0)
    x = torch.tensor([[[1.0, 3.0]]])  # average 2, maximum 3: MLP 4 and 6
    gate = torch.sigmoid(torch.tensor(10.0))
    torch.testing.assert_close(attention(x), x * gate)
    torch.testing.assert_close(attention.forward_with_maps(x).channel_map.flatten(), gate.reshape(1))


def test_printed_form_on_numbers_done_by_hand() -> None:
    attention = ChannelAttention(1, hidden_channels=1, form="printed")
    nn.init.ones_(attention.fc1.weight)
    nn.init.constant_(attention.fc2.weight, 2.0)
    x = torch.tensor([[[1.0, 3.0]]])
    gate = torch.sigmoid(torch.tensor(4.0))
    output, channel_map = attention.forward_with_maps(x)
    torch.testing.assert_close(output, x * gate + 6)
    torch.testing.assert_close(channel_map.flatten(), gate.reshape(1))


def test_spatial_gate_on_numbers_done_by_hand() -> None:
    attention = SpatialAttention(1, spatial_dims=1)
    with torch.no_grad():
        attention.conv.weight.copy_(torch.tensor([[[10.0], [1.0]]]))  # ten times the average plus the maximum
    x = torch.tensor([[[0.1, -0.2], [0.3, 0.0]]])
    gate = torch.sigmoid(torch.tensor([10 * 0.2 + 0.3, 10 * -0.1 + 0.0]))
    torch.testing.assert_close(attention(x), x * gate)


def test_tied_maxima_share_the_gradient_equally() -> None:
    attention = ChannelAttention(1, hidden_channels=1, pools=("max",), dtype=torch.float64)
    nn.init.ones_(attention.fc1.weight)
    nn.init.ones_(attention.fc2.weight)
    x = torch.tensor([[[2.0, 2.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    attention(x).sum().backward()
    gate = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    shared = 5 * gate * (1 - gate) / 2  # d gate / d max times the sum of x, halved between the two maxima
    torch.testing.assert_close(x.grad, torch.stack([gate + shared, gate + shared, gate]).reshape(1, 1, 3))


@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
@pytest.mark.parametrize("form", ["cbam", "printed"])
def test_cbam_is_made_of_its_parts(arrangement: Any, form: Any) -> None:
    cbam = CBAM(6, hidden_channels=4, arrangement=arrangement, form=form)
    x = torch.randn(2, 6, 5, 4)
    if arrangement == "channel-spatial":
        expected = cbam.spatial(cbam.channel(x))
    elif arrangement == "spatial-channel":
        expected = cbam.channel(cbam.spatial(x))
    else:
        expected = cbam.channel(x) * cbam.spatial.forward_with_maps(x).spatial_map
    output, channel_map, spatial_map = cbam.forward_with_maps(x)
    torch.testing.assert_close(output, expected)
    assert torch.equal(output, cbam(x))
    assert channel_map.shape == (2, 6, 1, 1)
    assert spatial_map.shape == (2, 1, 5, 4)


def test_rdam_passes_the_encoder_features_when_its_gates_are_shut() -> None:
    rdam = RDAM(4)
    nn.init.zeros_(rdam.channel.fc2.weight)
    nn.init.constant_(rdam.channel.fc2.bias, -1e4)
    encoder_features, decoder_features = torch.randn(2, 2, 4, 3, 3)
    assert torch.equal(rdam(encoder_features, decoder_features), encoder_features)


def test_rdam_applies_conv_norm_and_activation_in_that_order() -> None:
    rdam: Any = RDAM(4, conv_norm=nn.BatchNorm2d, conv_activation=nn.ReLU, norm=nn.BatchNorm2d)
    encoder_features, decoder_features = torch.randn(2, 3, 4, 5, 5)
    joined = torch.relu(rdam.conv_norm(rdam.conv(torch.cat([encoder_features, decoder_features], 1))))
    expected = rdam.spatial(rdam.channel(joined)) + encoder_features
    torch.testing.assert_close(rdam(encoder_features, decoder_features), expected)


def test_spatial_norm_stands_between_convolution_and_sigmoid() -> None:
    attention: Any = SpatialAttention(3, norm=nn.BatchNorm2d)
    x = torch.randn(4, 6, 5, 5)
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    gate = torch.sigmoid(attention.norm(attention.conv(pooled)))
    torch.testing.assert_close(attention.forward_with_maps(x).spatial_map, gate)


def test_squeeze_excitation_is_channel_attention_of_the_average() -> None:
    torch.manual_seed(0)
    squeeze = SqueezeExcitation(32)
    torch.manual_seed(0)
    channel = ChannelAttention(32, pools=("avg",))
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(squeeze(x), channel(x))


@pytest.mark.parametrize(("module", "keys"), [
    (ChannelAttention(32), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]),
    (ChannelAttention(32, bias=False), ["fc1.weight", "fc2.weight"]),
    (SpatialAttention(), ["conv.weight"]),
    (
        RDAM(8, conv_norm=nn.SyncBatchNorm, norm=lambda n: nn.GroupNorm(1, n), conv_activation=nn.PReLU),
        [
            "conv.weight",
            "conv.bias",
            "conv_norm.weight",
            "conv_norm.bias",
            "conv_norm.running_mean",
            "conv_norm.running_var",
            "conv_norm.num_batches_tracked",
            "conv_activation.weight",
            "channel.fc1.weight",
            "channel.fc1.bias",
            "channel.fc2.weight",
            "channel.fc2.bias",
            "spatial.conv.weight",
            "spatial.norm.weight",
            "spatial.norm.bias",
        ],
    ),
])  # fmt: skip
def test_state_dict_keys_are_public(module: nn.Module, keys: list[str]) -> None:
    assert list(module.state_dict()) == keys


@pytest.mark.parametrize(("options", "hidden"), [
    ({}, 4),
    ({"reduction_ratio": 4}, 16),
    ({"reduction_ratio": 1000}, 1),
    ({"hidden_channels": 100}, 100),
])  # fmt: skip
def test_hidden_width(options: Any, hidden: int) -> None:
    attention = ChannelAttention(64, **options)
    assert attention.fc1.weight.shape == (hidden, 64)
    assert attention.fc2.weight.shape == (64, hidden)


def test_weights_start_by_he_s_rule() -> None:
    torch.manual_seed(0)
    rdam: Any = RDAM(256, reduction_ratio=1)
    for weight, fan_in in ((rdam.conv.weight, 512 * 9), (rdam.channel.fc1.weight, 256)):
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert abs(weight.mean().item()) < 0.02 * (2 / fan_in) ** 0.5
    assert not rdam.conv.bias.any()


def test_every_option_of_the_composites_reaches_its_part() -> None:
    options: Any = {"reduction_ratio": 2, "pools": ("max",), "kernel_size": 3, "bias": False, "norm": nn.BatchNorm2d}
    composites: Any = CBAM(8, **options), RDAM(8, **options)
    for module in composites:
        assert module.channel.fc1.weight.shape == (4, 8)
        assert module.channel.fc1.bias is module.channel.fc2.bias is None
        assert module.channel.pools == ("max",)
        assert module.spatial.conv.weight.shape == (1, 2, 3, 3)
        assert isinstance(module.spatial.norm, nn.BatchNorm2d)
    squeeze: Any = SqueezeExcitation(8, reduction_ratio=2, bias=False)
    assert squeeze.fc1.weight.shape == (4, 8)
    assert squeeze.fc1.bias is None


@pytest.mark.parametrize("module", [CBAM(8), RDAM(8)], ids=["CBAM", "RDAM"])
def test_options_of_the_channel_half_are_set_through_its_composite(module: Any) -> None:
    module.form = "printed"
    assert module.channel.form == module.form == "printed"
    with pytest.raises(ValueError, match=r"form must be one of 'cbam', 'printed', got 'nonsense'"):
        module.form = "nonsense"
    module.form, module.pools = "cbam", ["max"]
    assert module.channel.pools == module.pools == ("max",)
    module.channel = nn.Identity()
    with pytest.raises(TypeError, match=r"pools is an option of ChannelAttention, got a channel half of type Identity"):
        module.pools = ("avg",)


@pytest.mark.parametrize(("module", "name"), [
    (SpatialAttention(7), "kernel_size"), (ECA(8), "kernel_size"), (BAM(8), "dilation"), (BAM(8), "spatial_dims"),
    (SCSE(8), "spatial_dims"), (RAR(8), "spatial_dims"), (AttentionGate(8, 8), "spatial_dims"),
    (CoordinateAttention(8), "spatial_dims"), (SoftMask(8, depth=1), "spatial_dims"),
    (AdaptiveScoreFusion(3, 2), "levels"), (AdaptiveScoreFusion(3, 2), "attributes"),
    (CBAM(8), "channels"), (RDAM(8), "decoder_channels"), (SoftMask(8, depth=2), "depth"),
    (PriorMatchingLoss(8), "channels"),
])  # fmt: skip
def test_what_describes_how_a_module_was_built_cannot_be_changed(module: nn.Module, name: str) -> None:
    built = getattr(module, name)
    setattr(module, name, built)
    with pytest.raises(AttributeError, match=f"^{type(module).__name__}: {name} must stay as it was built, got 1."):
        setattr(module, name, 1)
    assert getattr(copy.deepcopy(module), name) == built


def test_gates_under_autocast_are_computed_in_float32_and_keep_the_maps_dtype() -> None:
    cbam = CBAM(16, hidden_channels=8)
    x = torch.randn(2, 16, 5, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        maps = cbam.forward_with_maps(x)
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])
        gate = torch.sigmoid(cbam.channel.mlp(pooled).float().sum(0)).bfloat16()
    assert {tensor.dtype for tensor in maps} == {torch.bfloat16}
    assert torch.equal(maps.channel_map.flatten(1), gate)


def test_numpy_integers_are_integers() -> None:
    channels: Any = np.int64(8)
    assert CBAM(channels)(torch.randn(1, 8, 3, 3)).shape == (1, 8, 3, 3)


def test_norm_follows_device_and_dtype() -> None:
    attention = SpatialAttention(norm=nn.BatchNorm2d, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in attention.parameters()} == {("meta", torch.float64)}


def test_reset_parameters_resets_the_norms() -> None:
    rdam: Any = RDAM(4, conv_norm=nn.BatchNorm2d, norm=nn.BatchNorm2d)
    rdam(*torch.randn(2, 3, 4, 5, 5))
    rdam.reset_parameters()
    assert not rdam.conv_norm.running_mean.any()
    assert rdam.spatial.norm.num_batches_tracked == 0


def two_layers(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Identity())


@pytest.mark.parametrize("change", [two_layers, parametrizations.spectral_norm, parametrizations.weight_norm])
@pytest.mark.parametrize(("build", "name"), [
    (partial(SpatialAttention, bias=True), "conv"), (partial(ECA, 8), "conv"), (partial(SCSE, 8), "conv"),
    (partial(RDAM, 8), "conv"), (partial(ChannelAttention, 8), "fc1"), (partial(CoordinateAttention, 8), "conv"),
])  # fmt: skip
def test_changed_layers_are_reset(build: Any, name: str, change: Any) -> None:
    module = build()
    setattr(module, name, change(getattr(module, name)))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7)
    module.reset_parameters()
    assert not any((parameter == 7).all() for parameter in module.parameters() if parameter.numel() > 1)


@pytest.mark.parametrize(("build", "name"), [
    (partial(RAR, 4), "refine"), (partial(SoftMask, 8, depth=1), "head"), (partial(SoftMask, 8, depth=1), "hourglass"),
])  # fmt: skip
@pytest.mark.parametrize("change", [lambda layer: layer, two_layers, lambda layer: two_layers(two_layers(layer))])
def test_replaced_parts_are_reset(build: Any, name: str, change: Any) -> None:
    module = build()
    setattr(module, name, change(nn.Conv2d(8, 8, 1)))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7)
    module.reset_parameters()
    assert not any((parameter == 7).any() for parameter in module.parameters())


def test_a_weight_that_is_computed_elsewhere_is_not_reset() -> None:
    module = SpatialAttention()
    prune.l1_unstructured(module.conv, "weight", 3)
    with pytest.raises(ValueError, match=r"^SpatialAttention: weight must be a parameter to be set, got one that Conv"):
        module.reset_parameters()
    prune.remove(module.conv, "weight")
    module.reset_parameters()


@pytest.mark.parametrize(("module", "path", "inputs"), [
    (RDAM(8), "conv", 2), (RAR(8), "refine.conv1", 2), (AttentionGate(8, 8), "skip_conv", 2),
    (AttentionGate(8, 8), "gating_conv", 2), (CoordinateAttention(8), "conv", 1),
    (SoftMask(8, depth=1), "head.conv1", 1), (BAM(8, hidden_channels=2), "conv1", 1),
])  # fmt: skip
def test_layers_may_be_replaced_by_grouped_ones(module: Any, path: str, inputs: int) -> None:
    parent, _, name = path.rpartition(".")
    old = module.get_submodule(path)
    groups = math.gcd(old.in_channels, old.out_channels, 2)
    setattr(module.get_submodule(parent), name, nn.Conv2d(old.in_channels, old.out_channels, 1, groups=groups))
    assert module.channels == getattr(module, "decoder_channels", getattr(module, "gating_channels", 8)) == 8
    assert module(*torch.randn(inputs, 2, 8, 5, 5)).shape == (2, 8, 5, 5)


@pytest.mark.parametrize("pools", [("avg", "max"), ("max", "avg"), ("avg",), ("max",)])
@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
@pytest.mark.parametrize("form", ["cbam", "printed"])
def test_functions_equal_modules_under_every_option(pools: Any, arrangement: Any, form: Any) -> None:
    if form == "printed" and len(pools) == 1:
        return
    options = {"pools": pools, "form": form}
    cbam: Any = CBAM(6, hidden_channels=4, norm=nn.BatchNorm2d, arrangement=arrangement, **options).eval()
    x = torch.randn(2, 6, 5, 4)
    mlp = cbam.channel.fc1.weight, cbam.channel.fc1.bias, cbam.channel.fc2.weight, cbam.channel.fc2.bias
    conv, norm = cbam.spatial.conv.weight, cbam.spatial.norm
    assert torch.equal(F.channel_attention(x, *mlp, **options), cbam.channel(x))
    assert torch.equal(F.spatial_attention(x, conv, norm=norm), cbam.spatial(x))
    options["arrangement"] = arrangement
    assert torch.equal(F.dual_attention(x, *mlp, conv, norm=norm, **options), cbam(x))
    torch.testing.assert_close(F.dual_attention(x, *mlp, conv, norm=norm, residual=x, **options), cbam(x) + x)


sizes = st.integers(1, 6)


@settings(max_examples=40, deadline=None)
@given(batch=sizes, height=sizes, width=sizes, scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_gates_lie_between_zero_and_one_and_never_enlarge(
    batch: int, height: int, width: int, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    cbam = CBAM(5, hidden_channels=3, kernel_size=3)
    x = scale * torch.randn(batch, 5, height, width)
    output, *gates = cbam.forward_with_maps(x)
    for gate in gates:
        assert ((gate >= 0) & (gate <= 1)).all()
    assert (output.abs() <= x.abs()).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 5), width=st.integers(1, 5))
def test_channel_attention_commutes_with_moving_locations_about(seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    attention = ChannelAttention(4, hidden_channels=3, dtype=torch.float64)
    x = torch.randn(2, 4, height * width, dtype=torch.float64)
    order = torch.randperm(height * width)
    torch.testing.assert_close(attention(x[..., order]), attention(x)[..., order])
    torch.testing.assert_close(attention(x.unflatten(2, (height, width))).flatten(2), attention(x))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_spatial_attention_commutes_with_permuting_channels(seed: int) -> None:
    torch.manual_seed(seed)
    attention = SpatialAttention(3, dtype=torch.float64)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    order = torch.randperm(6)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


def test_a_stronger_logit_opens_the_gate_further() -> None:
    attention = ChannelAttention(1, hidden_channels=1)
    nn.init.ones_(attention.fc1.weight)
    nn.init.ones_(attention.fc2.weight)
    gates = [attention.forward_with_maps(torch.full((1, 1, 4), float(v))).channel_map.item() for v in range(5)]
    assert all(lower < higher for lower, higher in pairwise(gates))


def test_spatial_logits_reach_the_gate_in_float32_under_autocast() -> None:
    attention, seen = SpatialAttention(7), list[torch.dtype]()
    attention.gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(2, 8, 5, 6))
    assert seen == [torch.float32]
