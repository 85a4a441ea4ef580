"""Attention put into networks of other people's, its maps seen there, and other people's attention made ours."""

import copy
import inspect
import io
import pickle
import re
import subprocess
import sys
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from blan_layers import (
    BAM,
    CBAM,
    ECA,
    RAR,
    RDAM,
    SCSE,
    ChannelAttention,
    CoordinateAttention,
    ResidualAttention,
    SoftMask,
    SpatialAttention,
    SqueezeExcitation,
    capture_maps,
    convert,
    insert_attention,
)
from blan_layers.integrations import smp, timm
from blan_layers.plotting import overlay
from tests.cases import CASES, Case

# Networks of the forms that people have


class Block(nn.Module):
    """A residual block, its parts called as in torchvision and timm."""

    def __init__(self, inputs: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        around = x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(y + around)
        return result


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))
        return logits


NORMS = ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2", "layer2.1.bn2"]


def trained(seed: int = 0) -> Any:
    """Return a network whose batch norms have seen something."""
    torch.manual_seed(seed)
    net = ResNet()
    net(torch.randn(16, 3, 12, 12))
    return net.eval()


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
FACTORIES = [CBAM, SqueezeExcitation, ChannelAttention, SpatialAttention, ECA, SCSE, BAM, CoordinateAttention]


@pytest.mark.parametrize("factory", FACTORIES)
def test_inserted_attention_changes_no_bit_at_first_and_then_learns(factory: Any) -> None:
    net = trained()
    before, keys = net(X), net.state_dict()
    inserted = insert_attention(net, factory)
    assert list(inserted) == NORMS
    assert torch.equal(net(X), before)
    missing, unexpected = net.load_state_dict(keys, strict=False)
    assert not unexpected
    assert missing
    assert all(".attention." in key for key in missing)
    net.train()(X).square().sum().backward()
    starts = {name: p for name, p in net.named_parameters() if name.endswith(".a")}
    assert len(starts) == 4
    assert all(p.grad is not None and p.grad != 0 for p in starts.values())
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert not torch.allclose(net.eval()(X), before)


class TwiceTheFactors(ChannelAttention):
    def factors(self, pooled: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        gate, shift = super().factors(pooled, x)
        return 2 * gate, shift


class TwiceTheLocations(SpatialAttention):
    def factor(self, passes: Any, maps: Tensor, x: Tensor) -> Tensor:
        return 2 * super().factor(passes, maps, x)


class TwiceTheMap(ECA):
    def _gated(self, x: Tensor) -> Any:
        return super()._gated(2 * x)


def with_its_own_factors(channels: int) -> nn.Module:
    attention: Any = ChannelAttention(channels)
    attention.factors = TwiceTheFactors.factors.__get__(TwiceTheFactors(channels))
    return attention


def with_a_hook(channels: int) -> nn.Module:
    attention = SqueezeExcitation(channels)
    attention.register_forward_hook(lambda _, __, output: 3 * output)
    return attention


@pytest.mark.parametrize("factory", [
    TwiceTheFactors, TwiceTheLocations, TwiceTheMap, with_its_own_factors, with_a_hook,
])  # fmt: skip
def test_attention_that_does_more_than_gate_starts_as_the_identity_too(factory: Any) -> None:
    net: Any = trained()
    before = net(X)
    inserted: Any = insert_attention(net, factory)
    assert torch.equal(net(X), before)
    for attention in inserted.values():
        nn.init.ones_(attention.a)
    blended = net(X)
    inserted.remove()
    assert not torch.equal(blended, before)


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_paper_s_start_is_the_attention_itself(factory: Any) -> None:
    net, plain = trained(), trained()
    inserted = insert_attention(net, factory, start="paper")
    for name, attention in inserted.items():
        assert type(attention) is factory
        plain.get_submodule(name).register_forward_hook(lambda _, __, y, attention=attention: attention(y))
    torch.testing.assert_close(net(X), plain(X))


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_blend_is_a_part_of_the_way_to_the_attention(factory: Any) -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 1))
    attention = insert_attention(net, factory, ["0"])["0"]
    x = F.conv2d(X, net[0].weight, net[0].bias)
    (a,) = (p for name, p in attention.named_parameters() if name.rpartition(".")[2] == "a")
    nn.init.constant_(a, 0.3)
    whole = copy.deepcopy(attention)
    next(p for name, p in whole.named_parameters() if name.rpartition(".")[2] == "a").data.fill_(1)
    torch.testing.assert_close(net(X), x + 0.3 * (whole(x) - x))


def test_copies_pickles_compilers_and_exporters_take_the_attention_along() -> None:
    net: Any = trained()
    inserted: Any = insert_attention(net, CBAM)
    for attention in inserted.values():
        nn.init.constant_(attention.a, 0.5)
    truth = net(X)
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(net), torch.load(stream, weights_only=False)):
        assert torch.equal(twin(X), truth)
        nn.init.zeros_(inserted["layer1.0.bn2"].a)
        assert torch.equal(twin(X), truth)  # of its own attention
        nn.init.constant_(inserted["layer1.0.bn2"].a, 0.5)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(X), truth)
    torch.testing.assert_close(torch.export.export(net, (X,)).module()(X), truth)
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(X), truth)
    torch._dynamo.reset()


def test_what_was_inserted_can_be_removed() -> None:
    net = trained()
    before, keys = net(X), list(net.state_dict())
    inserted = insert_attention(net, CBAM, start="paper")
    inserted.remove()
    assert torch.equal(net(X), before)
    assert list(net.state_dict()) == keys
    assert len(inserted) == 0
    inserted.remove()
    insert_attention(net, CBAM)


@pytest.mark.parametrize(("where", "names"), [
    (r"layer\d\.1\.bn\d", ["layer1.1.bn1", "layer1.1.bn2", "layer2.1.bn1", "layer2.1.bn2"]),
    (["stem"], ["stem"]),
    (lambda name, _: name.endswith("0.bn1"), ["layer1.0.bn1", "layer2.0.bn1"]),
])  # fmt: skip
def test_where_is_a_regular_expression_names_or_a_predicate(where: Any, names: list[str]) -> None:
    assert list(insert_attention(trained(), CBAM, where)) == names


def test_a_sequence_is_gated_once_behind_its_last_part() -> None:
    net: Any = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), nn.Flatten())
    inserted = insert_attention(net, SqueezeExcitation, ["0"], start="paper")
    assert torch.equal(net[0](X), inserted["0"](F.relu(F.conv2d(X, net[0][0].weight, net[0][0].bias))))
    assert len(net[0]) == 2
    inserted.remove()
    assert list(net.state_dict()) == ["0.0.weight", "0.0.bias"]


def test_a_conversion_that_copies_modules_without_their_hooks_loses_no_attention() -> None:
    net: Any = trained()
    inserted = insert_attention(net, SqueezeExcitation, start="paper")
    truth, plain = net(X), trained()(X)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net).eval()
    assert isinstance(converted.layer1[0].bn2, nn.SyncBatchNorm)
    assert torch.equal(converted(X), truth)
    inserted.remove()
    assert torch.equal(converted(X), plain)
    assert not any(".attention." in key for key in converted.state_dict())
    insert_attention(net, SqueezeExcitation)
    net.layer1[0].bn2 = nn.Identity()
    with pytest.raises(RuntimeError, match=r"^insert_attention: 'layer1.0.bn2' must contain the attention"):
        net(X)
    del net.layer1[0]  # a part that is gone is none that lost its attention
    insert_attention(trained(), ECA)


def without_hooks() -> tuple[nn.Module, Tensor]:
    """Return a network that a conversion took the hook of its attention from, and its output before."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    insert_attention(net, ECA, ["1"], start="paper")
    truth = net(X)
    return nn.SyncBatchNorm.convert_sync_batchnorm(net), truth


def test_compilers_and_exporters_of_a_conversion_lose_no_attention() -> None:
    net, truth = without_hooks()
    compiled = torch.compile(net, backend="eager")
    for _ in range(2):
        assert torch.equal(compiled(X), truth)
    net, _ = without_hooks()
    torch.testing.assert_close(torch.export.export(net, (X,)).module()(X), truth)
    net, _ = without_hooks()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"'1' must call the .* the network once in eager mode"):
        compiled(X)
    net(X)
    assert torch.equal(compiled(X), truth)
    moved: Any = trained()
    insert_attention(moved, ECA, start="paper")
    moved.layer1[0].bn2 = nn.Sequential(OrderedDict(inside=moved.layer1[0].bn2, after=nn.Identity()))
    del moved.layer1[1]
    assert torch.equal(torch.compile(moved, backend="eager", fullgraph=True)(X), moved(X))
    moved.layer1[0].bn2 = nn.Identity()
    with pytest.raises(RuntimeError, match=r"^insert_attention: 'layer1.0.bn2' must contain the attention"):
        torch.compile(moved, backend="eager")(X)
    torch._dynamo.reset()


def test_hooks_in_another_process_take_no_attention_s_place(repository: Path, tmp_path: Path) -> None:
    net = trained()
    insert_attention(net, CBAM, start="paper")
    torch.save((net, X, net(X)), tmp_path / "net.pt")
    code = (
        "import sys, torch; net, x, y = torch.load(sys.argv[1], weights_only=False); "
        "handles = [m.register_forward_hook(lambda *_: None) for m in net.modules()]; "
        "handles += [m.register_forward_pre_hook(lambda *_: None) for m in net.modules()]; "
        "assert torch.equal(net(x), y); [h.remove() for h in handles]; assert torch.equal(net(x), y)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "net.pt"], check=True, cwd=repository)


def test_attention_goes_into_no_attention() -> None:
    net: Any = trained()
    first = insert_attention(net, lambda c: CBAM(c, norm=nn.BatchNorm2d), ["stem"])
    second = insert_attention(net, SqueezeExcitation)
    assert list(second) == NORMS
    with pytest.raises(ValueError, match="'stem' must not already be followed by attention, got Blend"):
        insert_attention(net, SqueezeExcitation, r"stem.*")
    with pytest.raises(ValueError, match=r"where must match at least one module of the network, got '\.\*norm'"):
        insert_attention(net, SqueezeExcitation, ".*norm")
    remedy = r"The expression must match a whole name such as 'layer1.0.bn2'. Write, for example, '.*bn2.*'."
    with pytest.raises(ValueError, match=re.escape(remedy)):
        insert_attention(net, SqueezeExcitation, "bn2")
    first.remove()
    own: Any = nn.Sequential(OrderedDict(cbam=CBAM(8, norm=nn.BatchNorm2d), conv=nn.Conv2d(8, 8, 1)))
    assert list(insert_attention(own, ECA, lambda *_: True)) == ["conv"]


class Lora(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + 1


def test_attention_inside_changed_parts_is_kept_and_removed() -> None:
    net: Any = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 8, 1))
    before, keys = net(X), list(net.state_dict())
    inserted = insert_attention(net, ECA, ["0", "1"])
    net[0].append(nn.Identity())
    net[1] = Lora(net[1])
    assert torch.equal(net(X), before + 1)
    assert torch.equal(copy.deepcopy(net)(X), before + 1)
    inserted.remove()
    assert list(net.state_dict()) == [key.replace("1.", "1.base.") for key in keys]


def test_errors_of_inserted_attention_name_its_class() -> None:
    net = nn.Sequential(nn.Conv1d(3, 8, 3))
    insert_attention(net, CBAM, ["0"])
    with pytest.raises(ValueError, match=r"^CBAM: x must have 3 dimensions"):
        net(torch.randn(3, 8))


class Adapter(nn.Module):
    """A layer with a correction beside it, built like PEFT's."""

    def __init__(self, base_layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_b = nn.Conv2d(base_layer.in_channels, base_layer.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x) + self.lora_b(x)
        return y


def test_attention_beside_the_correction_of_an_adapter_is_refused() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 1), PreActivation()).eval()
    adapted = copy.deepcopy(net)
    adapted[1].conv2 = Adapter(adapted[1].conv2)
    with pytest.raises(
        ValueError, match=r"^insert_attention: '1.conv2.lora_b' must not be inside an adapter, got a part of"
    ):
        insert_attention(adapted, ECA)
    with pytest.raises(ValueError, match=r"^insert_attention: '1.conv2.base_layer' must not be inside an adapter"):
        insert_attention(adapted, ECA, ["1.conv2.base_layer"])
    insert_attention(net, ECA)
    net[1].conv2 = Adapter(net[1].conv2)
    with pytest.raises(RuntimeError, match=r"^insert_attention: '1.conv2' must not be inside an adapter"):
        net(X)


def test_attention_of_a_norm_that_was_fused_away_is_missed() -> None:
    net: Any = nn.Sequential(OrderedDict(conv=nn.Module()))
    net.conv.c, net.conv.bn = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
    net.conv.forward = lambda x: net.conv.bn(net.conv.c(x))
    insert_attention(net.eval(), ECA, ["conv.bn"])
    net(X)
    net.conv = nn.Conv2d(3, 8, 1)
    with pytest.raises(RuntimeError, match=r"^insert_attention: 'conv.bn' must contain the attention .* got a Conv2d"):
        net(X)
    net.conv = nn.Identity()  # cut off
    net(X)


class Added(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return x + y


class Walking(nn.Conv2d):
    """A module that calls all of its children in turn."""

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return super().forward(x)


def test_attention_is_no_child_of_a_module_that_calls_its_children_in_turn() -> None:
    for part in (Added(nn.Conv2d(3, 3, 1)), Walking(3, 3, 1), nn.Sequential(Added(nn.Conv2d(3, 3, 1)))):
        net = nn.Sequential(part)
        with pytest.raises(ValueError, match=r"^insert_attention: '0' must not call all of its children in turn"):
            insert_attention(net, SqueezeExcitation, ["0"])
        assert not any("attention" in key for key in net.state_dict())


class Stage(nn.Module):
    """A part that has a name of a way around a branch, and is no residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.downsample = None
        self.blocks = nn.Sequential(Block(8, 16, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


class PreActivation(nn.Module):
    """A residual block whose branch ends with a convolution, and that has attention of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Identity()
        self.bn1, self.conv1, self.bn2, self.conv2 = (
            nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        )  # fmt: skip
        self.se = nn.Sequential(nn.Conv2d(8, 1, 1), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        gated: Tensor = y * self.se(y) + self.shortcut(x)
        return gated


class NormAct(nn.BatchNorm2d):
    """A norm that holds its activation, as timm's do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(super().forward(x))
        return y


def test_residual_is_the_end_of_the_innermost_branches() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 1), PreActivation(), Stage(), Block(16, 16), PreActivation())
    net[3].bn2 = NormAct(16)
    nn.utils.parametrizations.weight_norm(net[4].conv2)
    places = ["1.conv2", "2.blocks.0.bn2", "3.bn2", "4.conv2"]
    assert list(insert_attention(net, CBAM)) == places
    plain: Any = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    plain.skip = False
    with pytest.raises(ValueError, match="where must match at least one module of the network, got 'residual'"):
        insert_attention(nn.ModuleList([plain]), CBAM)


def convolutions(**names: int) -> dict[str, nn.Module]:
    return {name: nn.Conv2d(8, 8, size, padding=size // 2) for name, size in names.items()}


def norms(*names: str) -> dict[str, nn.Module]:
    return {name: nn.BatchNorm2d(8) for name in names}


class Residual(nn.Module):
    """A residual block of the given parts, registered in their order; ``around`` is its shortcut."""

    def __init__(self, branch: str, around: str, **parts: Any) -> None:
        super().__init__()
        self.branch, self.around = branch.split(), around.split()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = x if scale is None else x * scale
        for name in self.branch:
            y = self.get_submodule(name)(y)
        for name in self.around:
            x = self.get_submodule(name)(x)
        self.last = y
        y += x
        return F.relu(y / 2 + 1)


class Sized(Residual):
    """A residual block whose forward depends on sizes."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return super().forward(x, scale) if len(x) > 1 else x


class Plus(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class AddedBy(Residual):
    """A residual block whose sum is a module."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y: Tensor = x
        for name in self.branch:
            y = self.get_submodule(name)(y)
        total: Tensor = self.get_submodule("plus")(x, y)
        return total


NORM = nn.BatchNorm2d(8)
SHAPED: dict[str, tuple[nn.Module, str]] = {
    "norm of the shortcut under two names, as in RAFT": (Residual(
        "conv1 norm1 conv2 norm2", "downsample", **convolutions(conv1=3, conv2=3), **norms("norm1", "norm2"),
        norm3=NORM, downsample=nn.Sequential(nn.Conv2d(8, 8, 1), NORM),
    ), "norm2"),
    "the same, untraced": (Sized(
        "conv1 norm1 conv2 norm2", "downsample", **convolutions(conv1=3, conv2=3), **norms("norm1", "norm2"),
        norm3=NORM, downsample=nn.Sequential(nn.Conv2d(8, 8, 1), NORM),
    ), "norm2"),
    "norms first": (Residual(
        "conv1 bn1 conv2 bn2", "", **norms("bn1", "bn2"), **convolutions(conv1=3, conv2=3), downsample=None
    ), "bn2"),
    "convolutions first, called last": (Residual(
        "bn1 conv1 bn2 conv2", "", **convolutions(conv1=3, conv2=3), **norms("bn1", "bn2"), shortcut=None
    ), "conv2"),
    "several modules in the shortcut": (Residual(
        "conv1 bn1", "skip_conv skip_bn", skip=True, **convolutions(conv1=3), **norms("bn1"),
        **convolutions(skip_conv=1), **norms("skip_bn"),
    ), "bn1"),
    "a shortcut without a name, as in MONAI": (Residual(
        "conv1 norm1 conv2 norm2", "conv3 norm3", downsample=True, **convolutions(conv1=3, conv2=3),
        **norms("norm1", "norm2"), **convolutions(conv3=1), **norms("norm3"),
    ), "norm2"),
    "an identity that a flag calls no downsampling, as in MONAI": (Residual(
        "conv1 norm1", "", downsample=False, **convolutions(conv1=3), **norms("norm1")
    ), "norm1"),
    "a sum by a module of its own": (AddedBy(
        "conv1 norm1", "", downsample=None, **convolutions(conv1=3), **norms("norm1"), plus=Plus(),
    ), "norm1"),
    "attention of its own": (Residual(
        "conv1 bn1 se_module", "", **convolutions(conv1=3), **norms("bn1"), se_module=nn.Sequential(nn.Conv2d(8, 8, 1)),
        downsample=None,
    ), "bn1"),
}  # fmt: skip


@pytest.mark.parametrize("form", SHAPED)
def test_the_end_of_a_branch_is_what_is_called_last_in_it(form: str) -> None:
    block, end = SHAPED[form]
    block = copy.deepcopy(block)
    assert list(insert_attention(nn.Sequential(block), ECA)) == [f"0.{end}"]
    assert not hasattr(block, "last")


class Parallel(Residual):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        one, two = (self.get_submodule(name)(x) for name in self.branch)
        result: Tensor = one + two + x
        return result


def test_a_block_of_several_branches_is_refused() -> None:
    parallel = Parallel("conv1 conv2", "", **convolutions(conv1=3, conv2=1), identity=None)
    words = r"^insert_attention: where='residual' needs a single branch in '0', got 'conv1' beside 'conv2'\. Pass names"
    with pytest.raises(ValueError, match=words):
        insert_attention(nn.Sequential(parallel), ECA)


def test_a_stage_of_blocks_without_the_name_of_a_shortcut_is_no_block() -> None:
    stage = Stage()
    stage.blocks = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="where must match at least one module of the network, got 'residual'"):
        insert_attention(nn.Sequential(stage), ECA)


def test_a_module_of_two_names_is_gated_once() -> None:
    net: Any = trained()
    net.layer1[1].bn2 = net.layer1[0].bn2
    inserted = insert_attention(net, SqueezeExcitation)
    assert list(inserted) == ["layer1.0.bn2", *NORMS[2:]]
    assert len(net.layer1[0].bn2._forward_hooks) == 1
    inserted.remove()
    assert list(insert_attention(net, SqueezeExcitation, ["layer1.1.bn2"])) == ["layer1.1.bn2"]


@pytest.mark.parametrize("factory", [SpatialAttention, partial(partial(SpatialAttention, norm=nn.BatchNorm2d))])
def test_spatial_attention_is_built_without_channels(factory: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 33, 1))
    attention: Any = insert_attention(net, factory, ["0"], start="paper")["0"]
    assert attention.kernel_size == 7


def test_attention_of_a_factory_without_device_and_dtype_is_brought_to_the_network() -> None:
    net: Any = trained().bfloat16()
    inserted = insert_attention(net, lambda channels, **options: CBAM(channels, kernel_size=3))
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    assert not any(attention.training for attention in inserted.values())
    net(X.bfloat16())


def test_attention_behind_a_sequence_is_of_that_sequence_s_dtype() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 8, 1).double(), nn.ReLU()))
    insert_attention(net, CBAM, ["1"])
    assert {p.dtype for p in net[1].parameters()} == {torch.float64}
    net[1](net[0](X).double())


def test_a_network_that_was_compiled_before_sees_the_attention_and_its_end() -> None:
    net = trained()
    compiled = torch.compile(net, backend="eager")
    before = compiled(X)
    inserted = insert_attention(net, CBAM, start="paper")
    assert torch.equal(compiled(X), net(X))
    assert not torch.equal(compiled(X), before)
    inserted.remove()
    assert torch.equal(compiled(X), before)
    torch._dynamo.reset()


def test_attention_is_trained_behind_modules_that_are_frozen() -> None:
    net: Any = trained().requires_grad_(False)  # torch's own signature
    inserted = insert_attention(net, CBAM)
    net(X).square().sum().backward()
    trainable = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.attention.{key}" for name, a in inserted.items() for key, _ in a.named_parameters()}
    assert all(attention.a.grad != 0 for attention in inserted.values())


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_onnx_takes_the_attention_along(start: Any, tmp_path: Path) -> None:
    net = trained()
    inserted: Any = insert_attention(net, CBAM, start=start)
    for attention in inserted.values():
        if start == "identity":
            nn.init.constant_(attention.a, 0.5)
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter remarks on itself
        program = torch.onnx.export(net, (X,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    assert program is not None
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    more = torch.randn(7, 3, 12, 12)
    (ours,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    torch.testing.assert_close(torch.from_numpy(ours), net(more), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factory", [CBAM, SqueezeExcitation, BAM])
def test_a_network_with_attention_can_be_sharded(factory: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    net = trained().train()
    inserted = insert_attention(net, factory)
    twin = copy.deepcopy(net)
    for attention in inserted.values():
        fully_shard(attention, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for m in (net, twin):
        m(X).square().sum().backward()
    for (name, ours), true in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert true.grad is not None, name
        assert torch.equal(ours.grad.full_tensor(), true.grad), name
    assert torch.equal(net.eval()(X), twin.eval()(X))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_parts_that_would_not_see_the_attention_are_refused(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    def scripted() -> Any:
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval())

    part: Any = nn.Sequential(nn.Conv2d(8, 8, 1))
    wrappers: list[tuple[Any, str, str]] = [
        (scripted(), "1", "model must not be scripted, got RecursiveScriptModule. Do this before torch.jit.script."),
        (torch.jit.freeze(scripted()), "1", "model must not be scripted, got RecursiveScriptModule."),
        (nn.Sequential(nn.Sequential(scripted())), "0.0.1", "'0.0' must not be scripted, got RecursiveScriptModule."),
        (nn.parallel.DistributedDataParallel(copy.deepcopy(part)), "module.0",
         "model must not be wrapped for distributed training yet, which would leave the new parameters out, "
         "got DistributedDataParallel. Wrap it afterwards."),
        (nn.Sequential(fully_shard(copy.deepcopy(part), mesh=mesh)), "0.0",
         "'0' must not be wrapped for distributed training yet"),
    ]  # fmt: skip
    for net, where, words in wrappers:
        keys = list(net.state_dict())
        with pytest.raises(ValueError, match=f"^insert_attention: {re.escape(words)}"):
            insert_attention(net, CBAM, [where])
        assert list(net.state_dict()) == keys
    beside = nn.Sequential(nn.Conv2d(3, 3, 1), scripted())
    inserted = insert_attention(beside, ECA, ["0"])
    beside(X)
    inserted.remove()
    inner = nn.Sequential(foreign("torchvision", 16))
    fully_shard(inner, mesh=mesh)
    foreigner = nn.Sequential(inner)
    with pytest.raises(ValueError, match=r"^replace_attention: '0' must not be wrapped for distributed training yet"):
        convert.replace_attention(foreigner, "torchvision")
    unet: Any = UNet()
    fully_shard(unet.decoder, mesh=mesh)
    with pytest.raises(ValueError, match=r"^attend_skips: 'decoder' must not be wrapped for distributed training yet"):
        smp.attend_skips(unet)


@pytest.mark.parametrize("factory", [SqueezeExcitation, ECA, SCSE, BAM, CoordinateAttention])
@pytest.mark.parametrize("axes", [1, 3])
def test_every_gate_goes_behind_networks_of_one_and_three_axes(factory: Any, axes: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    net = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 4, 1)).eval()
    x = torch.randn(2, 3, *(7,) * axes)
    before = net(x)
    inserted = insert_attention(net, factory, ["0", "2"])
    assert torch.equal(net(x), before)
    with capture_maps(net) as maps:
        net(x)
    assert len(maps) == len(inserted) == 2
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n.endswith(".a"))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_networks_of_any_number_of_axes(axes: int) -> None:
    conv, norm = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1], (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
    for last in (norm(6), nn.GroupNorm(2, 6)):
        net = nn.Sequential(OrderedDict(conv=conv(3, 6, 3, dtype=torch.float64), norm=last.double())).eval()
        x = torch.randn(2, 3, *(7,) * axes, dtype=torch.float64)
        before = net(x)
        attention: Any = insert_attention(net, CBAM, ["norm"])["norm"]
        assert torch.equal(net(x), before)
        assert attention.attention.spatial.spatial_dims == axes
        assert attention.a.dtype == torch.float64


def test_without_residual_blocks_the_places_for_attention_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    with pytest.raises(ValueError, match=r"as where: attention can follow 0, 1\.$"):
        insert_attention(net, CBAM)
    assert list(insert_attention(net, CBAM, ["0", "1"])) == ["0", "1"]


def test_what_cannot_be_inserted_is_refused_and_leaves_the_network_alone() -> None:
    net, one, relu = trained(), SqueezeExcitation(8), nn.ReLU()
    keys = list(net.state_dict())
    owning: Any = nn.Conv2d(3, 8, 1)
    owning.attention = "flash"
    compiled: Any = torch.compile(nn.Conv2d(3, 8, 1), backend="eager")
    without: Any = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 8, 1))
    without[0].attention = nn.Identity()
    without[0].attention = None
    insert_attention(without, ECA, ["1"])
    mistakes: dict[str, Any] = {
        "where must match at least one module of the network, got 'nowhere'": lambda: insert_attention(
            net, CBAM, "nowhere"
        ),
        "where must name modules of the network, got 'layer9'": lambda: insert_attention(net, CBAM, ["layer9"]),
        "where must match at least one module of the network, got <": lambda: insert_attention(
            net, CBAM, lambda *_: False
        ),
        "where must match at least one module of the network, got 'residual'": lambda: insert_attention(
            nn.ReLU(), CBAM
        ),
        "channels of 'layer1.0.relu' must be readable, got ReLU": lambda: insert_attention(
            net, CBAM, ["stem", "layer1.0.relu"]
        ),
        "channels of 'layer1.0' must be readable, got Block": lambda: insert_attention(net, CBAM, r"layer1\.\d"),
        "where must be a regular expression, got '*bn2': nothing to repeat": lambda: insert_attention(
            net, CBAM, "*bn2"
        ),
        "channels of 'fc' must be readable, got Linear": lambda: insert_attention(net, CBAM, ["stem", "fc"]),
        "'layers' must be called by the network, got a ModuleList, which only contains": lambda: insert_attention(
            nn.ModuleDict({"layers": nn.ModuleList([net])}), CBAM, ["layers"]
        ),
        "'0' must not be wrapped by torch.compile, which skips hooks of its wrappers": lambda: insert_attention(
            nn.Sequential(OrderedDict({"0": compiled})), CBAM, ["0"]
        ),
        "'0' must not have its own attribute 'attention', got a Conv2d that has": lambda: insert_attention(
            nn.Sequential(owning), CBAM, ["0"]
        ),
        "'0' must end with a module of its own, got a ReLU that is used in several places": lambda: insert_attention(
            nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), relu), nn.Conv2d(8, 8, 1), relu), CBAM, ["0"]
        ),
        "factory must return a new module for each place, got the same": lambda: insert_attention(
            net, lambda _: one, r"layer1\.\d\.bn2"
        ),
        "start must be one of 'identity', 'paper', got 'zero'": lambda: insert_attention(
            net,
            CBAM,
            start="zero",  # type: ignore[arg-type]  # for users without a type checker
        ),
    }
    mistakes["channels of '0' must be known, got a LazyBatchNorm2d that has not seen a map. Call the"] = lambda: (
        insert_attention(nn.Sequential(nn.LazyBatchNorm2d()), ECA, ["0"])
    )
    for words, mistake in mistakes.items():
        with pytest.raises(ValueError, match=f"^insert_attention: {re.escape(words)}"):
            mistake()
    for wrong, got in (("CBAM", "str"), (CBAM(8), "a built CBAM")):
        with pytest.raises(TypeError, match=f"^insert_attention: factory must be callable with channels, got {got}"):
            insert_attention(net, wrong)  # type: ignore[arg-type]  # for users without a type checker
    with pytest.raises(TypeError, match=r"^insert_attention: factory must return attention of one map, got RDAM"):
        insert_attention(net, RDAM)
    pair: Any = nn.Sequential(nn.LSTM(8, 8))
    pair[0].num_features = 8
    insert_attention(pair, ECA, ["0"])
    with pytest.raises(TypeError, match=r"^insert_attention: '0' must return one map, got tuple"):
        pair(X[0, 0, :, :8])
    assert list(net.state_dict()) == keys
    insert_attention(net, CBAM)
    with pytest.raises(
        ValueError,
        match=r"^insert_attention: 'layer1.0.bn2' must not already be followed by attention.* Call remove\(\)",
    ):
        insert_attention(net, CBAM)


# Maps


def test_captured_maps_are_those_of_forward_with_maps() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 3), CBAM(8), nn.ReLU(), SpatialAttention(3), ChannelAttention(8))
    with capture_maps(net) as maps:
        net(X)
    assert list(maps) == ["1", "3", "4"]
    x: Tensor = net[0](X)
    for place in (1, 3, 4):
        expected = net[place].forward_with_maps(x if place == 1 else net[1:place](x))
        assert list(maps[str(place)]) == list(expected._fields[1:])
        for name, gate in maps[str(place)].items():
            assert torch.equal(gate, getattr(expected, name))
            assert not gate.requires_grad
            assert ((gate >= 0) & (gate <= 1)).all()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_gate_s_maps_are_captured(case: Case) -> None:
    attention, inputs = case.module(), case.inputs()
    if not hasattr(attention, "forward_with_maps"):
        assert not attention.gates
        return
    expected = attention.forward_with_maps(*inputs)
    with capture_maps(attention) as maps:
        attention(*inputs)
    assert {*maps[""]} == {*expected._fields[1:]}
    for name, gate in maps[""].items():
        torch.testing.assert_close(gate, getattr(expected, name).detach())


def test_maps_of_a_network_that_was_compiled_before_are_captured() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 3), CBAM(8)).eval()
    compiled: Any = torch.compile(net, backend="eager")
    compiled(X)
    for model in (net, compiled):
        with capture_maps(model) as maps:
            output = compiled(X)
        ((_, found),) = maps.items()
        expected = net[1].forward_with_maps(net[0](X))
        torch.testing.assert_close((output, *found.values()), tuple(expected))
    torch._dynamo.reset()


def test_maps_of_an_inserted_network_are_captured_pass_by_pass() -> None:
    net = trained()
    insert_attention(net, CBAM)
    with capture_maps(net) as maps:
        net(X)
        assert maps["layer2.1.bn2.attention.attention"]["spatial_map"].shape == (4, 1, 6, 6)
        net(X[:2])
        assert maps["layer2.1.bn2.attention.attention"]["spatial_map"].shape == (2, 1, 6, 6)


def test_passes_of_parts_and_checkpoints_have_their_maps() -> None:
    net: Any = trained().train()
    insert_attention(net, CBAM)
    for block in (*net.layer1, *net.layer2):
        plain = block.forward
        block.forward = partial(torch.utils.checkpoint.checkpoint, plain, use_reentrant=False)
    with capture_maps(net) as maps:
        net(X).sum().backward()
        assert [tuple(m["spatial_map"].shape) for m in maps.values()] == [(4, 1, 12, 12)] * 2 + [(4, 1, 6, 6)] * 2
        for count in (3, 2):
            net.layer1(net.stem(X[:count]))
            assert [len(m["spatial_map"]) for m in maps.values()] == [count] * 2


def test_copies_made_inside_the_block_and_other_threads_are_not_heard() -> None:
    net = trained()
    insert_attention(net, CBAM)
    with capture_maps(net) as maps:
        net(X)
        twin = copy.deepcopy(net)
        stream = io.BytesIO()
        torch.save(net, stream)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(net, X[:1]).result()
        for _ in range(2):
            twin(X[:2])
        assert {len(m["channel_map"]) for m in maps.values()} == {4}
    for _ in range(2):
        twin(X)


def failing(*_: object) -> None:
    raise ValueError("no map")


def test_copies_made_inside_the_block_keep_no_hook() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 3), CBAM(8)).eval()
    with capture_maps(net) as maps:
        pickled, part = pickle.dumps(net), copy.deepcopy(net[1].channel)
        handle = net[1].register_forward_pre_hook(failing, prepend=True)
        twin = copy.deepcopy(net)
        handle.remove()
        net(X)
        assert list(maps) == ["1"]
    unpickled = pickle.loads(pickled)
    assert torch.equal(torch.compile(unpickled, backend="eager", fullgraph=True)(X), net(X))
    assert torch.equal(unpickled(X), net(X))
    part(torch.rand(1, 8, 3, 3))
    with pytest.raises(ValueError, match="no map"):
        twin[1](torch.rand(1, 8, 3, 3))
    twin[1]._forward_pre_hooks.popitem(last=False)
    twin(X)
    for copied in (unpickled, part, twin):
        for module in copied.modules():
            assert not {*module._forward_pre_hooks, *module._forward_hooks, *module._forward_hooks_always_called}
    torch._dynamo.reset()


@pytest.mark.parametrize("transformed", [
    lambda net: torch.vmap(lambda x: net(x[None]))(X),
    lambda net: torch.func.grad(lambda x: net(x).sum())(X),
    lambda net: torch.func.jvp(net, (X,), (X,)),
])  # fmt: skip
def test_maps_do_not_leave_a_transformed_function(transformed: Any) -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 3), CBAM(8))
    with capture_maps(net), pytest.raises(RuntimeError, match=r"^capture_maps: .* got a transformed call of '1' in a"):
        transformed(net)

    def captured(x: Tensor) -> Tensor:
        with capture_maps(net) as maps:
            net(x[None])
        return maps["1"]["spatial_map"][0]

    torch.testing.assert_close(torch.vmap(captured)(X), net[1].forward_with_maps(net[0](X)).spatial_map)


def test_a_gate_that_two_modules_share_is_captured_for_each() -> None:
    net: Any = nn.Sequential(SqueezeExcitation(3), SqueezeExcitation(3))
    net[1].gate = net[0].gate
    with capture_maps(net) as maps:
        net(X)
    first = net[0].forward_with_maps(X)
    assert torch.equal(maps["0"]["channel_map"], first.channel_map)
    assert torch.equal(maps["1"]["channel_map"], net[1].forward_with_maps(first.output).channel_map)


def test_attention_without_a_gate_leaves_the_other_maps_and_no_hook_behind() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 1), CBAM(8))
    net[1].channel = nn.Identity()
    with capture_maps(net) as maps:
        net(X)
    assert list(maps["1"]) == ["spatial_map"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_trunk_s_own_attention_is_captured_and_replaced() -> None:
    net = ResidualAttention(nn.Sequential(nn.Conv2d(3, 8, 1), CBAM(8), foreign("torchvision", 8)), nn.Conv2d(3, 8, 1))
    with capture_maps(net) as maps:
        net(X)
    assert {name: list(found) for name, found in maps.items()} == {
        "": ["attention_map"],
        "trunk.1": ["channel_map", "spatial_map"],
    }
    assert convert.replace_attention(net, "torchvision") == ["trunk.2"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_of_blended_attention_is_captured_before_the_blend(dtype: torch.dtype) -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 1)).to(dtype)
    inserted: Any = insert_attention(net, SqueezeExcitation, ["0"])["0"]
    with capture_maps(net) as maps:
        net(X.to(dtype))
    plain = SqueezeExcitation(8).to(dtype)
    plain.load_state_dict(inserted.state_dict(), strict=False)
    assert torch.equal(
        maps["0.attention"]["channel_map"], plain.forward_with_maps(inserted_input(net, dtype)).channel_map
    )


def inserted_input(net: Any, dtype: torch.dtype) -> Tensor:
    return F.conv2d(X.to(dtype), net[0].weight, net[0].bias)


def test_attention_of_several_names_has_one_entry() -> None:
    attention = SqueezeExcitation(8)
    net: Any = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 8, 1), attention), "b": attention})
    for call in (lambda: net["a"](X), lambda: net["b"](X.repeat(1, 3, 1, 1)[:, :8])):
        with capture_maps(net) as maps:
            call()
        assert {name: list(found) for name, found in maps.items()} == {"a.1": ["channel_map"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_maps_have_the_dtype_of_the_input_however_it_is_called(case: Case) -> None:
    attention = case.module().bfloat16()
    if not attention.gates:
        return
    inputs = [x.bfloat16() for x in case.inputs()]
    named = dict(zip(inspect.signature(attention.forward).parameters, inputs, strict=False))
    expected = attention.forward_with_maps(*inputs)
    swapped = dict(reversed(named.items()))
    for call in (lambda: attention(**swapped), lambda: attention.forward_with_maps(**swapped)):
        with capture_maps(attention) as maps:
            call()
        for name, gate in maps[""].items():
            truth = getattr(expected, name).detach()
            assert gate.dtype == truth.dtype
            assert torch.equal(gate, truth)


class WithFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rar, self.cbam = RAR(3), CBAM(3)

    def features(self, x: Tensor) -> Tensor:
        return self.cbam.forward_with_maps(self.rar.forward_with_maps(x, x).output).output

    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        for _ in range(times):
            x = self.features(x)
        return x


class Telling(CBAM):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_with_maps(x).output


def test_calls_of_forward_with_maps_are_passes_too() -> None:
    net, telling = WithFeatures(), Telling(3)
    for call in (net, net.features):
        with capture_maps(net) as maps:
            for count in (4, 2):
                call(X[:count])
                assert [tuple(gate.shape[:2]) for found in maps.values() for gate in found.values()] == [
                    (count, 2), (count, 3), (count, 1)
                ]  # fmt: skip
    with (
        capture_maps(net),
        pytest.raises(RuntimeError, match=r"got a second call of 'rar'\. Call it once, or call its"),
    ):
        net(X, times=2)
    with capture_maps(telling) as maps:
        telling(X)
    assert len(maps[""]) == 2


def test_what_has_no_one_map_is_refused() -> None:
    cbam = CBAM(8)
    twice = nn.Sequential(nn.Conv2d(3, 8, 1), cbam, cbam)
    with (
        capture_maps(twice),
        pytest.raises(RuntimeError, match=r"^capture_maps: a module must be called only once per pass"),
    ):
        twice(X)
    with (
        pytest.raises(ValueError, match=r"^capture_maps: model must contain attention modules"),
        capture_maps(nn.ReLU()),
    ):
        pass
    with capture_maps(cbam) as maps, pytest.raises(KeyError, match="None has been called yet"):
        maps["channel"]


# Pictures


def test_overlays_have_a_column_for_each_image_and_a_row_for_each_level() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), CBAM(8), nn.Conv2d(8, 8, 3), ChannelAttention(8), SpatialAttention())
    with capture_maps(net) as maps:
        net(X)
    figure = overlay(X, maps)
    assert isinstance(figure, Figure)
    *pictures, bar = figure.axes
    assert len(pictures) == 3 * 4  # the image, and the two that have spatial maps
    assert [axes.get_ylabel() for axes in pictures[::4]] == ["image", "1", "4"]
    every = torch.cat([maps[name]["spatial_map"].flatten() for name in ("1", "4")])
    low, high = bar.get_ylim()
    assert every.min() <= low < high <= every.max()  # of maps that were resized
    assert len(overlay(X[:1].mean(1, keepdim=True), [torch.rand(1, 3, 3)], names=["level"]).axes) == 3


def residual_attention(channels: int) -> nn.Module:
    return ResidualAttention(nn.Conv2d(channels, channels, 1), SoftMask(channels, depth=1))


@pytest.mark.parametrize("build", [CBAM, BAM, CoordinateAttention, SCSE, RAR, residual_attention])
def test_every_gate_with_locations_is_drawn(build: Any) -> None:
    x, module = torch.rand(2, 8, 6, 6), build(8)
    inputs = (x, x) if isinstance(module, RAR) else (x,)
    with capture_maps(module) as maps:
        module(*inputs)
    for given in (maps, maps[""], module.forward_with_maps(*inputs)):
        *pictures, _ = overlay(x[:, :3], given).axes
        assert len(pictures) == 4


def test_maps_of_any_names_and_values_are_drawn() -> None:
    gates = torch.linspace(-2, 3, 36).view(1, 1, 6, 6)
    cases: list[Any] = [
        {"coarse_map": gates, "fine_map": gates}, {0: gates, 1: gates}, {"spatial_map": gates, "other": gates},
        {"height_map": gates, "depth_map": gates}, {"$a_{$": gates, "b": {"spatial_map": gates}},
    ]  # fmt: skip
    for maps in cases:
        figure = overlay(torch.rand(1, 3, 6, 6), maps)
        figure.savefig(io.BytesIO())
        *pictures, bar = figure.axes
        assert [axes.get_ylabel() for axes in pictures] == ["image", *map(str, maps)]
        assert bar.get_ylim() == (-2, 3)


def test_images_of_many_pixels_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blan_layers.plotting.MOST_PIXELS", 100)
    counts: list[int] = []
    quantile = Tensor.quantile

    def counted(x: Tensor, q: float, axis: int) -> Tensor:
        counts.append(x.shape[1])
        return quantile(x, q, axis)

    monkeypatch.setattr(Tensor, "quantile", counted)
    overlay(torch.rand(1, 3, 20, 20), torch.rand(1, 1, 5, 5))
    assert counts
    assert max(counts) <= 100


def test_what_is_no_number_is_drawn_as_nothing() -> None:
    images, gates = 5 * torch.rand(2, 3, 6, 6), torch.full((2, 1, 3, 3), torch.nan)
    images[0, 0, 0, 0] = torch.nan
    figure = overlay(images, gates)
    assert figure.axes[0].images[0].get_array().max() == 1  # type: ignore[union-attr]  # given
    figure.canvas.draw()


@pytest.mark.parametrize(("images", "maps", "names", "words"), [
    (X, torch.rand(4, 1, 12), None, "maps['map'] must be (4, 1, H, W), a spatial map of each image, got shape (4, 1, "),
    (X, torch.rand(4, 1, 0, 3), None, "maps['map'] must be (4, 1, H, W)"),

    (X[:2], torch.rand(4, 1, 3, 3), None, "must be (2, 1, H, W), a spatial map of each image, got shape (4, 1, 3, 3)"),
    (X, torch.rand(4, 8, 1, 1), None, "maps['map'] must be (4, 1, H, W)"),
    (X[0], torch.rand(4, 1, 3, 3), None, "images must be (B, 3, H, W) or (B, 1, H, W), got shape (3, 12, 12)"),
    (X[:, :, :0], torch.rand(4, 1, 3, 3), None, "(B, 1, H, W), got shape (4, 3, 0, 12)"),
    (X[0], torch.rand(4, 1, 3, 3), None, "a single image (C, H, W) needs a batch axis: images[None]."),
    (X, {}, None, "maps must contain at least one spatial map, got none"),
    (X, {"a": {"my_map": X}, "b": X[:, :1]}, None, "maps['a'] must be one map or the maps of one module, got 'my_map'"),
    (X, {"a": {"spatial_map": X[:, :1], "other": X}}, None, "one module, got 'spatial_map', 'other'. Pass the map to"),
    (X, torch.rand(4, 1, 3, 3), ["a", "b"], "names must have one entry per level, got 2 for 1"),
])  # fmt: skip
def test_images_and_maps_that_do_not_belong_together_are_refused(
    images: Any, maps: Any, names: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=r"^overlay: ") as caught:
        overlay(images, maps, names=names)
    assert words in str(caught.value)


def test_a_string_is_no_sequence_of_names() -> None:
    with pytest.raises(TypeError, match=r"^overlay: names must be a sequence of names, got 'xy'. Pass \['xy'\]"):
        overlay(X, [torch.rand(4, 1, 3, 3)] * 2, names="xy")
    with pytest.raises(TypeError, match=r"^overlay: names must be a sequence of names, got 3. Pass one name per level"):
        overlay(X, torch.rand(4, 1, 3, 3), names=3)  # type: ignore[arg-type]  # for users without a type checker


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'blan-layers\[plot\]'"):
        overlay(X, torch.rand(4, 1, 3, 3))


def test_importing_the_library_imports_no_library_that_is_optional(repository: Path) -> None:
    code = (
        "import sys, blan_layers, blan_layers.convert, blan_layers.plotting, blan_layers.integrations.timm, "
        "blan_layers.integrations.smp; print([n for n in ('matplotlib', 'timm', 'torchvision', "
        "'segmentation_models_pytorch') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert result.stdout.strip() == "[]"


# Other people's attention, written out from what it computes


class Timm(nn.Module):
    """CBAM with 1x1 convolutions, average first, and a batch norm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.channel = nn.Module()
        self.channel.fc1, self.channel.fc2 = (
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.spatial = nn.Module()
        self.spatial.conv = nn.Module()
        self.spatial.conv.conv, self.spatial.conv.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        def mlp(v: Tensor) -> Tensor:
            result: Tensor = self.channel.fc2(F.relu(self.channel.fc1(v)))  # type: ignore[operator]
            return result

        x = x * (mlp(x.mean((2, 3), keepdim=True)) + mlp(x.amax((2, 3), keepdim=True))).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        gate: Tensor = self.spatial.conv.bn(self.spatial.conv.conv(pooled))  # type: ignore[operator, union-attr]
        return x * gate.sigmoid()


class Official(nn.Module):
    """CBAM as its authors have it: linear layers in a sequence, the maximum first, a batch norm."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.ChannelGate, self.SpatialGate = nn.Module(), nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.SpatialGate.spatial = nn.Module()
        self.SpatialGate.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.SpatialGate.spatial.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        mlp: Any = self.ChannelGate.mlp
        logits = mlp(F.avg_pool2d(x, x.shape[2:])) + mlp(F.max_pool2d(x, x.shape[2:]))
        x = x * logits.sigmoid()[:, :, None, None]
        pooled = torch.stack([x.max(1).values, x.mean(1)], 1)
        spatial: Any = self.SpatialGate.spatial
        return x * spatial.bn(spatial.conv(pooled)).sigmoid()


class Torchvision(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * self.scale_activation(scale)


class TimmECA(nn.Module):
    """A convolution across channels."""

    def __init__(self, channels: int, _: int, padding: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=padding, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.conv(x.mean((2, 3))[:, None])).transpose(1, 2)
        return x * gate[..., None]


class SMP(nn.Module):
    """Concurrent excitation, in two sequences."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.cSE(x) + x * self.sSE(x)
        return gated


FOREIGN: dict[str, Any] = {
    "timm": Timm,
    "timm's ECA": TimmECA,
    "official": Official,
    "torchvision": Torchvision,
    "smp": SMP,
}


def foreign(kind: str, channels: int) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = FOREIGN[kind](channels, max(1, round(channels / 16 / 8) * 8))
    module(torch.randn(8, channels, 5, 6))  # the batch norm sees something
    return module.eval()


def source_of(kind: str) -> Any:
    return kind.partition("'")[0]


@pytest.mark.parametrize("channels", [16, 24, 40, 64, 100, 512])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_converted_module_has_the_same_function(kind: str, channels: int) -> None:
    theirs, source = foreign(kind, channels), source_of(kind)
    ours = convert.module_from(theirs.state_dict(), source)
    x = torch.randn(3, channels, 9, 7)
    assert (ours(x) - theirs(x)).abs().max() <= 1e-6 * theirs(x).abs().max().clamp_min(1)
    inside = {f"layer1.0.att.{key}": value for key, value in theirs.state_dict().items()} | {
        "fc.weight": torch.zeros(1)
    }
    assert torch.equal(convert.module_from(inside, source, prefix="layer1.0.att.")(x), ours(x))
    if source == "official":
        assert ours.get_submodule("spatial.norm").momentum == 0.01


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_network_s_foreign_attention_is_replaced(kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), foreign(kind, 16), nn.Sequential(foreign(kind, 16)), SqueezeExcitation(16))
    truth, ours = net(X), net[3]
    assert convert.replace_attention(net, source_of(kind)) == ["1", "2.0"]
    assert type(net[1]) in (CBAM, SqueezeExcitation, ECA, SCSE)
    assert net[3] is ours
    torch.testing.assert_close(net(X), truth)


def test_attention_without_a_counterpart_is_named() -> None:
    net: Any = nn.Sequential(nn.Identity(), Timm(8, 2))
    net[1].spatial.conv.conv = nn.Conv2d(1, 1, 7, padding=3, bias=False)
    words = r"^replace_attention: '1' must have a counterpart here, got a Timm: spatial.conv.conv.weight must be \(1, 2"
    with pytest.raises(ValueError, match=words):
        convert.replace_attention(net, "timm")


def test_activations_and_gates_are_read_off_the_modules() -> None:
    theirs: Any = foreign("torchvision", 16)
    theirs.activation, theirs.scale_activation = nn.SiLU(), nn.Hardsigmoid()
    net = nn.Sequential(nn.Conv2d(3, 16, 3), theirs)
    truth = net(X)
    convert.replace_attention(net, "torchvision")
    torch.testing.assert_close(net(X), truth)
    for function in (nn.Tanh(), nn.Softmax(1)):
        theirs.scale_activation = function
        net = nn.Sequential(nn.Conv2d(3, 16, 3), theirs)
        words = (
            f"^replace_attention: '1' must have a sigmoid or a hard sigmoid as its gate, got {type(function).__name__}"
        )
        with pytest.raises(ValueError, match=words):
            convert.replace_attention(net, "torchvision")
        assert net[1] is theirs
    net = nn.Sequential(nn.Conv2d(3, 16, 3), TimmECA(16, 1, padding=0))  # which its forward pads by itself, in a circle
    with pytest.raises(
        ValueError, match=r"^replace_attention: '1' must pad the channels with zeros, as ECA does, got TimmECA"
    ):
        convert.replace_attention(net, "timm")
    with pytest.raises(ValueError, match=r"model must contain attention modules of 'timm', got none"):
        convert.replace_attention(
            nn.Sequential(nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 1, bias=False)))), "timm"
        )


OFFICIAL = foreign("official", 16).state_dict()


@pytest.mark.parametrize(("state_dict", "source", "prefix", "words"), [
    (OFFICIAL, "timm", "", "must be that of a module of 'timm', got keys ChannelGate.mlp.1.bias"),
    (OFFICIAL, "timm", "", "It looks like one of 'official'."),
    ({k: v for k, v in OFFICIAL.items() if "p.3.weight" not in k}, "official", "", "got none of ChannelGate.mlp.3.w"),
    (OFFICIAL | {"more": torch.zeros(1)}, "official", "", "only the keys of a module of 'official', got more too."),
    ({f"a.b.{k}": v for k, v in OFFICIAL.items()}, "official", "", "of a network. Pass a prefix such as 'a.b.'."),
    (OFFICIAL, "official", "layer1.", "prefix must be that of keys in the state dict, got 'layer1.'"),
    (OFFICIAL, "keras", "", "source must be one of 'timm', 'official', 'torchvision', 'smp', got 'keras'."),
])  # fmt: skip
def test_state_dicts_of_something_else_are_refused(state_dict: Any, source: Any, prefix: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^module_from: ") as caught:
        convert.module_from(state_dict, source, prefix=prefix)
    assert words in str(caught.value)


class MLP(nn.Module):
    """What has the keys of squeeze and excitation, and is none."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = layer(16, 32), layer(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class OfTwo(MLP):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + y


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_perceptrons_are_no_attention(source: Any) -> None:
    pointwise: Any = partial(nn.Conv2d, kernel_size=1)
    softmax = MLP(pointwise)
    softmax.gate = nn.Softmax(1)
    net = nn.Sequential(MLP(nn.Linear), MLP(pointwise), foreign("torchvision", 16), OfTwo(pointwise), softmax)
    assert convert.replace_attention(net, source) == ["2"]
    assert isinstance(net[1], MLP)


def test_shared_and_frozen_modules_stay_so_and_norms_keep_their_settings() -> None:
    shared = foreign("torchvision", 16)
    shared.get_parameter("fc1.weight").requires_grad_(False)  # torch's own signature
    net: Any = nn.Sequential(nn.Conv2d(3, 16, 1), shared, nn.ReLU(), shared)
    truth = net(X)
    assert convert.replace_attention(net, "torchvision") == ["1", "3"]
    assert net[1] is net[3]
    assert [p.requires_grad for p in net[1].parameters()] == [False, True, True, True]
    torch.testing.assert_close(net(X), truth)
    for kind in ("timm", "official"):
        cbam: Any = foreign(kind, 16).eval()
        norm = next(m for m in cbam.modules() if isinstance(m, nn.BatchNorm2d))
        norm.eps, norm.momentum = 0.1, 0.3
        net = nn.Sequential(nn.Conv2d(3, 16, 1), cbam).eval()
        truth = net(X)
        convert.replace_attention(net, source_of(kind))
        torch.testing.assert_close(net(X), truth)
        assert net[1].spatial.norm.momentum == 0.3


class Frozen(nn.Module):
    """A batch norm whose weights are buffers, as detection networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((1,), 1.5))
        self.register_buffer("bias", torch.full((1,), 0.1))
        self.register_buffer("running_mean", torch.full((1,), 0.2))
        self.register_buffer("running_var", torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["timm", "official"])
@pytest.mark.parametrize("norm", [
    nn.BatchNorm2d(1, eps=0.1, momentum=0.3).eval(), nn.SyncBatchNorm(1, eps=0.1, momentum=0.3), Frozen()
])  # fmt: skip
def test_norms_are_adopted_with_their_training_mode(kind: str, norm: nn.Module) -> None:
    cbam: Any = foreign(kind, 16).train()
    part = cbam.spatial.conv if kind == "timm" else cbam.SpatialGate.spatial
    part.bn = norm
    net: Any = nn.Sequential(nn.Conv2d(3, 16, 1), cbam)
    twin, state, mode = copy.deepcopy(net), copy.deepcopy(norm.state_dict()), norm.training
    convert.replace_attention(net, source_of(kind))
    assert net[1].spatial.norm is norm
    assert norm.training == mode
    assert net[1].training
    assert all(torch.equal(value, state[key]) for key, value in norm.state_dict().items())
    torch.testing.assert_close(net(X), twin(X))


class DroppingOut(Torchvision):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


def test_training_that_ours_would_change_is_refused() -> None:
    dropping = DroppingOut(16, 4).eval()
    with pytest.raises(ValueError, match=r"'0' must compute .* got a DroppingOut with other outputs in training mode"):
        convert.replace_attention(nn.Sequential(dropping), "torchvision")
    first, second, tied = Torchvision(16, 4), Torchvision(16, 4), Torchvision(16, 16)
    second.fc1 = first.fc1
    tied.fc2.weight = tied.fc1.weight
    for net in (nn.Sequential(first, second), nn.Sequential(tied)):
        with pytest.raises(ValueError, match=r"'0' must have its own weights, which ours copies, got a Torchvision"):
            convert.replace_attention(net, "torchvision")
    dropout = Torchvision(16, 4)
    dropout.activation = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))  # type: ignore[assignment]
    net = nn.Sequential(dropout)
    convert.replace_attention(net, "torchvision")
    assert net[0].get_submodule("activation") is dropout.activation


class WithMaxPool(nn.Module):
    """Squeeze and excitation with an option that ours has not: half of the maximum is added to the average."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True) / 2 + x.amax((2, 3), keepdim=True) / 2
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


def test_options_that_ours_have_not_and_hooks_are_refused() -> None:
    net: Any = nn.Sequential(OrderedDict(se=WithMaxPool()))
    with pytest.raises(ValueError, match=r"^replace_attention: 'se' must compute what 'timm' computes by default"):
        convert.replace_attention(net, "timm")
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)

    registrations: list[Any] = [
        lambda se: se.register_forward_hook(hook),
        lambda se: se.register_state_dict_post_hook(hook),
        lambda se: se.fc1.register_state_dict_pre_hook(hook),
        lambda se: se.register_load_state_dict_pre_hook(hook),
        lambda se: se.register_load_state_dict_post_hook(hook),
        lambda se: se.fc1.weight.register_hook(hook),
        lambda se: se.fc2.bias.register_post_accumulate_grad_hook(hook),
    ]
    for register in registrations:
        net = nn.Sequential(OrderedDict(se=foreign("torchvision", 16)))
        handle, theirs = register(net.se), net.se
        with pytest.raises(ValueError, match=r"^replace_attention: 'se' must have no hooks, which would be lost"):
            convert.replace_attention(net, "torchvision")
        assert net.se is theirs
        if handle is not None:
            handle.remove()
            assert convert.replace_attention(net, "torchvision") == ["se"]
    assert not calls


def test_inserted_attention_is_not_converted_behind_its_insertion() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))
    keys = list(net.state_dict())
    whole = insert_attention(net, partial(Torchvision, hidden=4), ["0"], start="paper")
    blended: Any = insert_attention(net, partial(Torchvision, hidden=4), ["1"])
    words = r"^replace_attention: '0.attention' must not be what insert_attention put there, got a Torchvision that is"
    with pytest.raises(ValueError, match=words):
        convert.replace_attention(net, "torchvision")
    whole.remove()
    assert convert.replace_attention(net, "torchvision") == ["1.attention.attention"]
    assert isinstance(blended["1"].attention, SqueezeExcitation)
    blended.remove()
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", FOREIGN)
def test_attention_of_any_dtype_is_replaced(kind: str, dtype: torch.dtype) -> None:
    net: Any = nn.Sequential(foreign(kind, 16), MLP(partial(nn.Conv2d, kernel_size=1))).to(dtype)
    assert convert.replace_attention(net, source_of(kind)) == ["0"]


def test_odd_state_dicts_are_converted() -> None:
    cbam = foreign("official", 16).eval()
    old = {key: value for key, value in cbam.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.testing.assert_close(convert.module_from(old, "official")(X.repeat(1, 6, 1, 1)[:, :16]),
                               cbam(X.repeat(1, 6, 1, 1)[:, :16]))  # fmt: skip
    prefixed = {f"layer1.0.cbam.{key}": value for key, value in old.items()}
    half = {key: value.half() if "mlp" in key else value for key, value in prefixed.items()}
    with torch.device("meta"):
        mixed: Any = convert.module_from(half, "official", prefix="layer1.0.cbam")
    assert mixed.channel.fc1.weight.dtype == torch.float16
    assert mixed.spatial.norm.running_var.dtype == torch.float32
    arrays = {key: value.numpy() for key, value in old.items()}
    for wrong, got in ((cbam, "Official"), (arrays, "ndarray for 'ChannelGate.mlp.1.weight'"), ({0: old}, "a key 0")):
        with pytest.raises(TypeError, match=f"^module_from: state_dict must map names to tensors, got {got}"):
            convert.module_from(wrong, "official")  # type: ignore[arg-type]  # for users without a type checker
    with pytest.raises(TypeError, match=r"^module_from: prefix must be a str, got None"):
        convert.module_from(old, "official", prefix=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"SpatialGate.spatial.bn must be a batch norm with scale and statistics"):
        convert.module_from({key: value for key, value in old.items() if "running_var" not in key}, "official")


@pytest.mark.parametrize("source", ["timm", "official", "torchvision", "smp"])
def test_a_state_dict_that_lacks_a_weight_is_refused(source: Any) -> None:
    """No module of these libraries has a bias in one of its two layers alone."""
    weights = foreign(source, 16).state_dict()
    for lost in weights:
        if lost.endswith("num_batches_tracked"):
            continue
        with pytest.raises(ValueError, match=rf"^module_from: .*{re.escape(lost)}"):
            convert.module_from({key: value for key, value in weights.items() if key != lost}, source)


def test_a_network_without_foreign_attention_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^replace_attention: model must contain attention modules of 'timm', got none"
    ):
        convert.replace_attention(nn.Sequential(CBAM(8)), "timm")
    with pytest.raises(ValueError, match=r"looks like that module itself. Wrap it in torch.nn.Sequential first"):
        convert.replace_attention(foreign("torchvision", 16), "torchvision")
    for call in (convert.replace_attention, lambda model, _: insert_attention(model, CBAM)):
        with pytest.raises(TypeError, match=r"^\w+: model must be a torch.nn.Module, got str. Pass the network"):
            call("x", "timm")  # type: ignore[arg-type]  # for users without a type checker


# Adapters


def test_timm_s_arguments_become_ours() -> None:
    layer = timm.attention(CBAM, kernel_size=3)
    made: Any = layer(64, rd_ratio=1 / 8, act_layer=nn.SiLU, dtype=torch.float64)
    assert made.channel.fc1.out_features == 8
    assert isinstance(made.channel.activation, nn.SiLU)
    assert made.spatial.kernel_size == 3
    assert made.spatial.conv.weight.dtype == torch.float64
    made = timm.attention(SqueezeExcitation, gate="hard-sigmoid")(64, rd_channels=12, rd_ratio=0.5, rd_divisor=8)
    assert made.fc1.out_features == 12
    assert isinstance(made.gate, nn.Hardsigmoid)
    made = timm.attention(SqueezeExcitation, reduction_ratio=2)(64, rd_channels=12)
    assert made.fc1.out_features == 32
    made = timm.attention(CBAM)(64, rd_channels=0)
    assert made.channel.fc1.out_features == 4
    for factory in (lambda channels: SpatialAttention(), SpatialAttention, partial(SpatialAttention, bias=True)):
        made = timm.attention(factory)(5, rd_ratio=0.25, act_layer=nn.ReLU)
        assert made.kernel_size == 7
        assert made(torch.randn(1, 5, 3, 3)).shape == (1, 5, 3, 3)
    with pytest.raises(TypeError, match=r"^attention: .* must take what timm passes, got depth=3"):
        layer(64, depth=3)
    with pytest.raises(ValueError, match=r"^attention: rd_ratio must be above 0 and at most 1, got 16"):
        layer(64, rd_ratio=16)
    with pytest.raises(TypeError, match=r"^attention: factory must be callable with channels, got str"):
        timm.attention("cbam")  # type: ignore[arg-type]


class DecoderBlock(nn.Module):
    def __init__(self, features: int, skip: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(features + skip, channels, 3, padding=1), nn.ReLU())

    def forward(self, features: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        features = F.interpolate(features, (height, width))
        if skip_connection is not None:
            features = torch.cat([features, skip_connection], 1)
        result: Tensor = self.conv1(features)
        return result


class UNet(nn.Module):
    """A U-Net of the form of segmentation_models_pytorch."""

    def __init__(self) -> None:
        super().__init__()
        encoder: Any = nn.Module()
        self.encoder = encoder
        encoder.out_channels = (3, 8, 12, 16)
        self.encoder.stages = nn.ModuleList(
            nn.Conv2d(i, o, 3, 2, 1) for i, o in zip((3, 8, 12), (8, 12, 16), strict=True)
        )
        self.decoder: Any = nn.Module()
        self.decoder.blocks = nn.ModuleList([DecoderBlock(16, 12, 10), DecoderBlock(10, 8, 6), DecoderBlock(6, 0, 4)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for stage in self.encoder.stages:
            features.append(stage(features[-1]))
        y = features[-1]
        for block, level in zip(self.decoder.blocks, (2, 1, 0), strict=True):
            skip = features[level] if level else None
            y = block(y, *features[level].shape[2:], skip_connection=skip)
        return y


def test_skips_of_a_u_net_are_attended() -> None:
    torch.manual_seed(0)
    unet, x = UNet(), torch.randn(2, 3, 22, 30)
    before, keys = unet(x), unet.state_dict()
    inserted: Any = smp.attend_skips(unet)
    assert list(inserted) == ["decoder.blocks.0", "decoder.blocks.1"]
    assert [blend.attention.decoder_channels for blend in inserted.values()] == [16, 10]
    assert torch.equal(unet(x), before)
    assert not unet.load_state_dict(keys, strict=False).unexpected_keys
    unet(x).square().sum().backward()
    assert all(blend.a.grad != 0 for blend in inserted.values())
    with capture_maps(unet) as maps:
        unet(x)
    assert [level["spatial_map"].shape for level in maps.values()] == [(2, 1, 6, 8), (2, 1, 11, 15)]
    with pytest.raises(
        ValueError,
        match=r"^attend_skips: decoder.blocks.0 must not already have attention at its skip.* Call remove\(\)",
    ):
        smp.attend_skips(unet)
    inserted.remove()
    assert torch.equal(unet(x), before)
    whole: Any = smp.attend_skips(unet, start="paper", resize="bilinear")
    assert all(type(attention) is RDAM and attention.resize == "bilinear" for attention in whole.values())
    assert not torch.allclose(unet(x), before)


def test_a_level_without_channels_has_no_attention() -> None:
    unet = UNet()
    unet.encoder.out_channels = (3, 0, 12, 16)
    unet.decoder.blocks[1] = DecoderBlock(10, 0, 6)
    assert list(smp.attend_skips(unet)) == ["decoder.blocks.0"]


def test_other_forms_of_a_u_net_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^attend_skips: unet must have encoder.out_channels and decoder.blocks, got a Re"
    ):
        smp.attend_skips(trained())
    unet = UNet()
    for factory, words in ((CBAM, "take the channels of two maps, got <class"), (RAR, "build attention that resizes")):
        with pytest.raises(TypeError, match=f"^attend_skips: factory must {words}.* Pass RDAM or AttentionGate"):
            smp.attend_skips(unet, factory)
    unet.decoder.blocks[1] = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"^attend_skips: decoder.blocks.1 must take features first and a skip"):
        smp.attend_skips(unet)
    assert not any("attention" in key for key in unet.state_dict())


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rdam_brings_the_decoder_s_map_to_the_encoder_s_size(mode: Any, axes: int) -> None:
    rdam = RDAM(4, decoder_channels=3, resize=mode, spatial_dims=axes)
    encoder, decoder = torch.randn(2, 4, *(7, 9, 5)[:axes]), torch.randn(2, 3, *(3, 5, 2)[:axes])
    linear = {"mode": ("linear", "bilinear", "trilinear")[axes - 1], "align_corners": False}
    resized = F.interpolate(decoder, encoder.shape[2:], **({"mode": "nearest"} if mode == "nearest" else linear))
    plain = RDAM(4, decoder_channels=3, spatial_dims=axes)
    plain.load_state_dict(rdam.state_dict())
    torch.testing.assert_close(rdam(encoder, decoder), plain(encoder, resized))
    assert torch.equal(rdam(encoder, resized), plain(encoder, resized))
    torch.testing.assert_close(torch.fx.symbolic_trace(rdam)(encoder, decoder), plain(encoder, resized))
    with pytest.raises(ValueError, match="must have the same spatial sizes"):
        plain(encoder, decoder)
