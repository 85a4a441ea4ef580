"""What the further gates promise beyond the contract, their authors' forms among it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blan_layers import BAM, ECA, SCSE, CoordinateAttention, SqueezeExcitation
from blan_layers.functional import reference

X = torch.randn(3, 16, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def drawn(module: Any) -> Any:
    """Give every parameter a value that shows, biases and norms too."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize(("module", "keys"), [
    (ECA(64), "conv.weight"),
    (SCSE(16), "channel.fc1.weight channel.fc1.bias channel.fc2.weight channel.fc2.bias conv.weight conv.bias"),
    (SCSE(16, bias=False), "channel.fc1.weight channel.fc2.weight conv.weight"),
    (
        BAM(16, norm=lambda n: nn.GroupNorm(1, n)),
        "fc1.weight fc1.bias fc1_norm.weight fc1_norm.bias fc2.weight fc2.bias "
        "conv1.weight conv1.bias conv1_norm.weight conv1_norm.bias conv2.weight conv2.bias "
        "conv2_norm.weight conv2_norm.bias conv3.weight conv3.bias conv3_norm.weight conv3_norm.bias "
        "conv4.weight conv4.bias",
    ),
    (
        CoordinateAttention(16, norm=lambda n: nn.GroupNorm(1, n)),
        "conv.weight conv.bias norm.weight norm.bias conv_h.weight conv_h.bias conv_w.weight conv_w.bias",
    ),
    (
        CoordinateAttention(16, spatial_dims=3),
        "conv.weight conv.bias conv_d.weight conv_d.bias conv_h.weight conv_h.bias conv_w.weight conv_w.bias",
    ),
])  # fmt: skip
def test_state_dict_keys_are_public(module: nn.Module, keys: str) -> None:
    assert " ".join(module.state_dict()) == keys


@pytest.mark.parametrize(("module", "hidden"), [
    (SCSE(64).channel, 4),
    (SCSE(64, reduction_ratio=2).channel, 32),
    (BAM(64), 4),
    (BAM(8), 1),
    (BAM(64, hidden_channels=5), 5),
])  # fmt: skip
def test_hidden_widths(module: Any, hidden: int) -> None:
    assert module.fc1.out_features == hidden


@pytest.mark.parametrize(("channels", "options", "hidden"), [
    (512, {}, 16),
    (64, {}, 8),
    (64, {"reduction_ratio": 2}, 32),
    (64, {"hidden_channels": 3}, 3),
    (64, {"reduction_ratio": None}, 8),
])  # fmt: skip
def test_coordinate_attention_has_at_least_eight_hidden_channels_unless_told(
    channels: int, options: Any, hidden: int
) -> None:
    assert CoordinateAttention(channels, **options).conv.out_channels == hidden


def test_widths_are_read_off_the_weights() -> None:
    x = torch.randn(2, 5, 4, 4)
    module: Any
    for module in (BAM(8), CoordinateAttention(8), SCSE(8)):
        narrow: Any = type(module)(5)
        for name, child in narrow.named_children():
            setattr(module, name, child)
        assert module(x).shape == x.shape
        assert module.channels == 5
        assert "channels=5" in repr(module).splitlines()[1]
        with pytest.raises(ValueError, match="x must have 5 channels"):
            module(torch.randn(2, 8, 4, 4))


# ECA


def test_the_kernel_of_eca_is_the_nearest_odd_size() -> None:
    assert [ECA(c, device="meta").kernel_size for c in (1, 6, 32, 64, 128, 256, 512, 1024, 2048)] == [
        1, 1, 3, 3, 5, 5, 5, 5, 7,
    ]  # fmt: skip
    for channels in range(1, 4097):
        theirs = int(abs((math.log2(channels) + 1) / 2))  # the authors' lines
        theirs = theirs if theirs % 2 else theirs + 1
        assert reference.adaptive_kernel_size(channels) == theirs
    for channels in range(1, 4097, 5):
        assert ECA(channels, device="meta").kernel_size == reference.adaptive_kernel_size(channels)


def test_eca_mixes_neighbouring_channels_alone() -> None:
    attention = ECA(16, kernel_size=3, dtype=torch.float64)
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attention.forward_with_maps(x).channel_map[:, 4].sum(), x)
    assert gradient.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == [3, 4, 5]
    assert attention(X[:, :9]).shape == (3, 9, 5, 7)


# scSE


@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_scse_is_made_of_its_parts(combine: Any, backend: Any) -> None:
    scse = drawn(SCSE(16, combine=combine, backend=backend, dtype=torch.float64))
    assert type(scse.channel) is SqueezeExcitation
    by_channel, by_location = scse.channel(X), X * torch.sigmoid(scse.conv(X))
    expected = by_channel + by_location if combine == "sum" else torch.maximum(by_channel, by_location)
    output, channel_map, spatial_map = scse.forward_with_maps(X)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(by_channel, X * channel_map)
    torch.testing.assert_close(by_location, X * spatial_map)
    scse.channel.register_forward_hook(lambda *_: None)
    for ours, true in zip(scse.forward_with_maps(X), (output, channel_map, spatial_map), strict=True):
        torch.testing.assert_close(ours, true)
    assert not scse.channel.gate._forward_hooks


def test_the_channel_half_of_scse_can_be_replaced_by_anything() -> None:
    scse: Any = SCSE(16, dtype=torch.float64)
    scse.channel = nn.Identity()
    torch.testing.assert_close(scse(X), X + X * torch.sigmoid(scse.conv(X)))
    with pytest.raises(TypeError, match=r"^SCSE: maps need a gate in channel, got Identity, which has none"):
        scse.forward_with_maps(X)
    scse.channel = ECA(16, kernel_size=3, dtype=torch.float64)
    torch.testing.assert_close(scse.forward_with_maps(X).output, scse.channel(X) + X * torch.sigmoid(scse.conv(X)))
    scse.backend = "reference"
    assert scse.channel.backend == "reference"


# BAM


def test_bam_with_batch_norms_is_its_authors_form_but_for_the_sum() -> None:
    """Linear, norm, ReLU, linear; and convolution, norm, ReLU three times, then a convolution."""
    bam = drawn(BAM(16, reduction_ratio=4, dilation=2, norm=nn.BatchNorm2d, dtype=torch.float64))
    norm = nn.BatchNorm1d(4, dtype=torch.float64)
    norm.load_state_dict(bam.fc1_norm.state_dict())
    channel_gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), bam.fc1, norm, nn.ReLU(), bam.fc2)
    norms = [nn.BatchNorm2d(4, dtype=torch.float64) for _ in range(3)]
    for theirs, ours in zip(norms, (bam.conv1_norm, bam.conv2_norm, bam.conv3_norm), strict=True):
        theirs.load_state_dict(ours.state_dict())
    spatial_gate = nn.Sequential(
        bam.conv1, norms[0], nn.ReLU(), bam.conv2, norms[1], nn.ReLU(), bam.conv3, norms[2], nn.ReLU(), bam.conv4
    )
    for training in (True, False):
        for module in (bam, channel_gate, spatial_gate):
            module.train(training)
        logits = channel_gate(X)[:, :, None, None] + spatial_gate(X)
        torch.testing.assert_close(bam(X), (1 + torch.sigmoid(logits)) * X)
    assert bam.fc1_norm.num_batches_tracked == 1


def test_a_shut_bam_passes_its_map() -> None:
    bam = BAM(16)
    nn.init.constant_(bam.get_parameter("conv4.bias"), -1e4)
    assert torch.equal(bam(X.float()), X.float())


# Coordinate attention


class AuthorsForm(nn.Module):
    """Coordinate attention as it was published, with batch norm and hard-swish by ReLU6."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h, self.conv_w = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        columns = F.adaptive_avg_pool2d(x, (1, w)).permute(0, 1, 3, 2)
        y = self.bn1(self.conv1(torch.cat([F.adaptive_avg_pool2d(x, (h, 1)), columns], 2)))
        rows, columns = torch.split(y * F.relu6(y + 3) / 6, [h, w], 2)
        a_h, a_w = self.conv_h(rows).sigmoid(), self.conv_w(columns.permute(0, 1, 3, 2)).sigmoid()
        output: Tensor = x * a_w * a_h
        return output


def test_coordinate_attention_takes_its_authors_weights() -> None:
    theirs = drawn(AuthorsForm(16, 8).double())
    ours = CoordinateAttention(16, norm=nn.BatchNorm2d, dtype=torch.float64)
    state = theirs.state_dict()
    ours.load_state_dict({k.replace("conv1", "conv").replace("bn1", "norm"): weight for k, weight in state.items()})
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(X), theirs.train(training)(X))


@pytest.mark.parametrize(("axes", "names"), [
    (1, ["width_map"]),
    (2, ["height_map", "width_map"]),
    (3, ["depth_map", "height_map", "width_map"]),
])  # fmt: skip
def test_coordinate_attention_has_a_map_an_axis(axes: int, names: list[str]) -> None:
    attention = CoordinateAttention(4, spatial_dims=axes)
    size = (3, 4, 5)[-axes:]
    x = torch.randn(2, 4, *size)
    maps = attention.forward_with_maps(x)
    assert maps._fields == ("output", *names)
    output, *gates = maps
    for axis, gate in enumerate(gates):
        assert gate.shape == (2, 4, *(length if other == axis else 1 for other, length in enumerate(size)))
        assert ((gate >= 0) & (gate <= 1)).all()
        x = x * gate
    torch.testing.assert_close(output, x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SCSE(16, combine="sum"),
        lambda: SCSE(16, combine="max"),
        lambda: BAM(16),
        lambda: CoordinateAttention(16),
        lambda: ECA(16),
    ],
)
def test_gates_stay_finite_far_from_zero(build: Callable[[], nn.Module]) -> None:
    x = (1e4 * X.float()).requires_grad_()
    output = build()(x)
    output.sum().backward()
    assert output.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
