"""What the blocked way promises: the results of the plain one, less memory, and a clear word where it cannot."""

import copy
import io
import itertools
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blan_layers import (
    BAM,
    CBAM,
    RDAM,
    SCSE,
    AttentionGate,
    ChannelAttention,
    ConcatConvCritic,
    LMIMLoss,
    SpatialAttention,
)
from blan_layers import functional as F
from blan_layers.attention._layers import convolved
from blan_layers.functional.attention import amplified, passes_through
from blan_layers.kernels.contrast import softplus
from blan_layers.kernels.cpu import attention, blocks, products
from blan_layers.kernels.cpu.attention import LONG, row_split
from blan_layers.kernels.cpu.mutual_information import ContrastLoss
from tests.cases import Case
from tests.ways import CHOOSING, built, in_blocks, saved_sizes, with_gradients

every_case = pytest.mark.parametrize("case", CHOOSING, ids=lambda case: case.name)


def rows_of_short_maps(locations: int) -> tuple[int, int]:
    rows = next(rows for rows in (3, 5, 7, 2, 67, 1) if locations % rows == 0)
    return rows, locations // rows


@pytest.fixture(params=["one block", "many blocks"])
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's cache, and one so small that every image is cut into parts and its maxima are sought by rows."""
    if request.param == "many blocks":
        monkeypatch.setattr(blocks, "core_cache_bytes", lambda: 6 * 8 * 4)
        monkeypatch.setattr(attention, "row_split", rows_of_short_maps)


@pytest.mark.usefixtures("cache")
@every_case
@pytest.mark.parametrize("size", ["odd", "one", "even", "long"])
def test_equals_the_literal_twin(case: Case, size: str) -> None:
    axes = case.spatial_dims
    shape = {"odd": case.size, "one": (1,) * axes, "even": (4,) * axes, "long": (2,) * (axes - 1) + (67,)}[size]
    module = built(case, "blocked")
    for batch in {case.min_batch, 3}:
        inputs = [x.requires_grad_() for x in case.inputs(torch.float64, batch=batch, size=shape)]
        ours = with_gradients(module, module, inputs)
        truth = with_gradients(lambda *x: case.reference(module, *x), module, inputs)
        for our, true in zip(ours, truth, strict=True):
            torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


@every_case
def test_float32_keeps_five_digits_of_values_and_four_of_gradients(case: Case) -> None:
    module, exact = built(case, "blocked", torch.float32), built(case, "reference")
    exact.load_state_dict(module.state_dict())
    inputs = case.inputs()
    ours = with_gradients(module, module, [x.requires_grad_() for x in inputs])
    truth = with_gradients(exact, exact, [x.detach().double().requires_grad_() for x in inputs])
    for our, true, tolerance in zip(ours, truth, itertools.chain([1e-5], itertools.repeat(1e-4)), strict=False):
        assert (our - true).abs().max() <= tolerance * true.abs().max().clamp_min(1e-3)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("case", [c for c in CHOOSING if c.spatial_dims == 2], ids=lambda case: case.name)
def test_ties_and_layouts_change_nothing(case: Case) -> None:
    blocked, plain = built(case, "blocked"), built(case, "reference")
    tied = [x.mul(1.5).round() for x in case.inputs(torch.float64, size=(6, 13))]
    expected = with_gradients(plain, plain, [x.requires_grad_() for x in tied])
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    ]
    for layout in layouts:
        inputs = [layout(x.detach()).requires_grad_() for x in tied]
        for our, true in zip(with_gradients(blocked, blocked, inputs), expected, strict=True):
            torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)
        with torch.no_grad():
            torch.testing.assert_close(blocked(*inputs), expected[0], rtol=1e-10, atol=1e-11)


@every_case
def test_gates_and_losses_differentiate_to_any_single_input(case: Case) -> None:
    module, plain = built(case, "blocked"), built(case, "reference")
    inputs = case.inputs(torch.float64)
    for wanted in [*inputs, *module.parameters()]:
        module.requires_grad_(requires_grad=False)
        wanted.requires_grad_()
        output = module(*inputs)
        (ours,) = torch.autograd.grad(output.square().sum(), wanted)
        names = [name for name, p in module.named_parameters() if p is wanted]
        target = plain.get_parameter(names[0]) if names else wanted
        (true,) = torch.autograd.grad(plain(*inputs).square().sum(), target)
        torch.testing.assert_close(ours, true, rtol=1e-10, atol=1e-11)
        wanted.requires_grad_(requires_grad=False)


@every_case
def test_nothing_is_stored_without_gradients_and_the_values_are_the_same(case: Case) -> None:
    module, inputs = built(case, "blocked"), case.inputs(torch.float64)
    with torch.no_grad():
        assert saved_sizes(lambda: module(*inputs)) == []
        output = module(*inputs)
        assert torch.equal(output, module(*inputs))
    with torch.inference_mode():
        assert torch.equal(output, module(*inputs))
    torch.testing.assert_close(output, module(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
def test_the_gates_keep_one_map(arrangement: Any) -> None:
    x = torch.randn(2, 16, 32, 32, requires_grad=True)
    cbam = CBAM(16, arrangement=arrangement, backend="blocked")
    assert [size for size in saved_sizes(lambda: cbam(x)) if size >= x.numel() // 4] == [x.numel()]


def test_the_loss_keeps_no_activation() -> None:
    x, summary = torch.randn(2, 4, 16, 16, requires_grad=True), torch.randn(2, 4)
    loss = LMIMLoss(4, 4, hidden_channels=64, backend="blocked")
    assert max(saved_sizes(lambda: loss(x, summary))) < 2 * 16 * 16 * 64
    assert max(saved_sizes(lambda: LMIMLoss(4, 4, hidden_channels=64, backend="reference")(x, summary))) == 2**16


def test_a_scaled_loss_scales_its_gradients_each_time_it_is_asked() -> None:
    x, summary = torch.randn(3, 6, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    loss = LMIMLoss(6, 4, hidden_channels=8, backend="blocked", dtype=torch.float64).eval()
    value = loss(x, summary)
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * value, x)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["boolean", "weights"])
@pytest.mark.usefixtures("cache")
def test_a_mask_weighs_the_blocked_loss_as_the_plain_one(reduction: Any, kind: str) -> None:
    torch.manual_seed(0)
    x, summary = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True), torch.randn(3, 4).double()
    weights = torch.rand(3, 5, 7, dtype=torch.float64)
    mask = weights > 0.5 if kind == "boolean" else weights
    loss = LMIMLoss(6, 4, hidden_channels=8, objective="jsd", reduction=reduction, dtype=torch.float64).eval()
    results = []
    for loss.backend in ("blocked", "reference"):
        value = loss(x, summary, mask=mask)
        results.append([value, *torch.autograd.grad(value, [x, *loss.parameters()])])
    for our, true in zip(*results, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


class Doubling(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mul_(2))


def doubling(conv: nn.Module) -> nn.Module:
    conv.register_forward_pre_hook(lambda _, inputs: inputs[0].mul_(2))
    return conv


@pytest.mark.parametrize(("axes", "change"), [
    (1, lambda conv: nn.Sequential(nn.ReLU(inplace=True), conv)), (1, doubling), (2, doubling), (3, doubling),
    (2, lambda conv: nn.Sequential(nn.ReLU(inplace=True), conv)), (2, lambda _: Doubling(2, 1, 3, padding=1)),
])  # fmt: skip
def test_a_convolution_may_change_the_pooled_maps_in_place(axes: int, change: Any) -> None:
    cbam = CBAM(8, kernel_size=3, spatial_dims=axes, dtype=torch.float64)
    cbam.spatial.conv = change(cbam.spatial.conv).double()
    x = torch.randn(2, 8, *(5, 6, 7)[:axes], dtype=torch.float64, requires_grad=True)
    for module in (cbam, cbam.spatial):
        results = []
        for backend in ("blocked", "reference"):
            cbam.backend = cbam.spatial.backend = backend
            results.append(with_gradients(module, module, [x]))
        for our, true in zip(*results, strict=True):
            torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


def test_threads_share_no_scratch_memory() -> None:
    maps = [torch.randn(2, 16, 32, 32, requires_grad=True) for _ in range(8)]
    cbam = CBAM(16, backend="blocked")

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(cbam(x).square().sum(), x)[0]

    alone = [gradient(x) for x in maps]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(gradient, maps * 8))
    for ours, true in zip(together, alone * 8, strict=True):
        assert torch.equal(ours, true)


def test_scratch_memory_first_used_in_inference_serves_training() -> None:
    part = torch.randn(1, 3, 4)

    def use() -> Tensor:
        with torch.inference_mode():
            blocks.scratch(part)
        return torch.mul(part, 2, out=blocks.scratch(part)).clone()

    with ThreadPoolExecutor(1) as fresh:
        assert torch.equal(fresh.submit(use).result(), part * 2)


def test_scratch_has_the_layout_of_its_block() -> None:
    for part in (torch.randn(2, 3, 5), torch.randn(2, 5, 3).mT, torch.randn(1, 3, 7, dtype=torch.float64)):
        room = blocks.scratch(part)
        assert (room.shape, room.dtype, room.stride()) == (part.shape, part.dtype, part.stride())


X = torch.randn(2, 8, 4, 4)
T = torch.randn(2, 4)
REMEDY = "Use backend='auto' or backend='reference'."


class Sealed(Tensor):
    """A tensor subclass, whose storage is not ours to read."""


def lmim(**options: Any) -> LMIMLoss:
    return LMIMLoss(8, 4, hidden_channels=3, backend="blocked", **options)


def refuses(run: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run()


@pytest.mark.parametrize(("run", "owner", "reason"), [
    (
        lambda: ChannelAttention(8, dtype=torch.float16, backend="blocked")(X.half()),
        "ChannelAttention",
        "it computes in float32 or float64 and got torch.float16",
    ),
    (
        lambda: RDAM(8, backend="blocked", device="meta")(X.to("meta"), X.to("meta")),
        "RDAM",
        "it runs on the CPU and got a tensor on meta",
    ),
    (
        lambda: SpatialAttention(backend="blocked")(X.as_subclass(Sealed)),
        "SpatialAttention",
        "it takes plain tensors and got Sealed",
    ),
    (
        lambda: F.dual_attention(X, torch.zeros(4, 8), None, torch.zeros(8, 4), None, torch.zeros(1, 2, 3, 3),
                                 residual=X.double(), backend="blocked"),
        "dual_attention",
        "it computes in one dtype and got torch.float32 and torch.float64",
    ),
    (
        lambda: torch.func.vmap(CBAM(8, backend="blocked"))(X[None]),
        "CBAM",
        "a torch.func transform needs the plain operations",
    ),
    (lambda: lmim(reduction="none")(X, T), "LMIMLoss", "it needs a scalar loss and got reduction='none'"),
    (
        lambda: lmim()(X, T, mask=torch.ones(2, 4, 4, requires_grad=True)),
        "LMIMLoss",
        "it has no gradient for the mask",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=Dot(), backend="blocked")(X, T),
        "LMIMLoss",
        "it supports only ConcatConvCritic, and critic is a Dot",
    ),
])  # fmt: skip
def test_a_forced_way_that_cannot_be_taken_is_refused_with_the_reason(
    run: Callable[[], object], owner: str, reason: str
) -> None:
    refuses(run, f"{owner}: backend='blocked' is not available here: {reason}. {REMEDY}")


class Returning(nn.Module):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Tensor:
        return self.output


class Dot(nn.Module):
    """A critic of a user's own."""

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        return local_features[:, 0]


def test_states_that_need_the_plain_operations_refuse_the_forced_way() -> None:
    attention = ChannelAttention(8, backend="blocked")
    words = "ChannelAttention: backend='blocked' is not available here: "
    with torch.autocast("cpu"):
        refuses(lambda: attention(X), f"{words}autocast is enabled. {REMEDY}")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, X)
        refuses(lambda: attention(dual), f"{words}forward-mode differentiation needs the plain operations. {REMEDY}")


@pytest.mark.parametrize("build", [
    lambda backend: ChannelAttention(8, backend=backend),
    lambda backend: SpatialAttention(backend=backend),
    lambda backend: CBAM(8, backend=backend),
    lambda backend: RDAM(8, backend=backend),
    lambda backend: LMIMLoss(8, 4, backend=backend),
    lambda backend: F.channel_attention(X, torch.zeros(4, 8), None, torch.zeros(8, 4), None, backend=backend),
])  # fmt: skip
def test_an_unknown_way_is_refused_with_those_that_exist(build: Callable[[str], object]) -> None:
    message = "backend must be one of 'auto', 'reference', 'blocked', 'triton', got 'cuda'. Pass one of those."
    with pytest.raises(ValueError, match=re.escape(message)):
        build("cuda")


def takes(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], function: Any) -> bool:
    taken: list[bool] = []
    original = function.apply

    def apply(*arguments: object) -> object:
        taken.append(True)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(function, "apply", apply)
        run()
    return bool(taken)


def test_the_automatic_choice_takes_blocks_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blan_layers.functional.mutual_information.core_cache_bytes", lambda: 2**14)
    loss, summary = LMIMLoss(4, 4, hidden_channels=16), torch.randn(2, 4)
    small, large = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 16, 16)
    assert not takes(monkeypatch, lambda: loss(small, summary), ContrastLoss)
    assert takes(monkeypatch, lambda: loss(large, summary), ContrastLoss)
    monkeypatch.undo()
    assert not takes(monkeypatch, lambda: loss(large, summary), ContrastLoss)


def test_automatic_choice_leaves_transforms_and_forward_mode_to_the_plain_operations() -> None:
    cbam, x = CBAM(32, dtype=torch.float64), torch.randn(2, 32, 96, 96, dtype=torch.float64)
    tangent = torch.func.jvp(cbam, (x,), (torch.ones_like(x),))[1]
    assert tangent.isfinite().all()
    gradient = torch.func.grad(lambda x: cbam(x).sum())(x)
    x.requires_grad_()
    (blocked,) = torch.autograd.grad(cbam(x).sum(), x)
    torch.testing.assert_close(blocked, gradient, rtol=1e-10, atol=1e-11)


def test_compiles_without_a_graph_break_where_eager_takes_blocks() -> None:
    cbam, x = CBAM(32), torch.randn(2, 32, 128, 128)
    torch.testing.assert_close(torch.compile(cbam, fullgraph=True, backend="aot_eager")(x), cbam(x))
    torch._dynamo.reset()


def test_without_gradients_or_a_residual_only_maps_larger_than_a_block_are_worth_blocks() -> None:
    a_cache, a_block = (torch.empty(1, 1, size // 4) for size in (blocks.core_cache_bytes(), blocks.block_bytes()))
    chosen = [not passes_through(x, "auto", (), r).plain for x in (a_cache, a_block) for r in (None, x)]
    assert chosen == [True, True, True, True]
    with torch.no_grad():
        chosen = [not passes_through(x, "auto", (), r).plain for x in (a_cache, a_block) for r in (None, x)]
    assert chosen == [False, True, True, True]
    assert passes_through(a_cache[..., 1:], "auto").plain


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_cover_every_element_once_and_fit_the_cache(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    shapes = (5, 3, 7), (8, 3, 7), (1, 4, 9), (0, 3, 4)
    for cache, shape in itertools.product((1, 96, 400, 10**6), shapes):
        monkeypatch.setattr(blocks, "core_cache_bytes", lambda cache=cache: cache)
        x = torch.zeros(shape)
        for images, places in blocks.blocks(x):
            part = x[images, :, places]
            part += 1
            assert part.numel() * 4 <= max(blocks.block_bytes(), part[:, :, :1].numel() * 4)
        assert (x == 1).all()


@pytest.mark.parametrize("cache", [1, 100, 200, 400, 10**6])
def test_a_thread_meets_the_same_images_in_a_block_as_in_the_whole_map(
    monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(blocks, "core_cache_bytes", lambda: cache)
    numbers = torch.arange(16).view(16, 1, 1) * torch.ones(1, 3, 7)
    for images in blocks.whole_images(numbers):
        first, second = numbers[images].chunk(2)
        assert first.max() < 8 <= second.min()


def test_the_cache_is_read_from_the_system_or_assumed(tmp_path: Any) -> None:
    (tmp_path / "bare" / "index0").mkdir(parents=True)
    (tmp_path / "bare" / "index0" / "level").write_text("2\n")  # without its size
    for index, (level, size) in enumerate((("1", "32K"), ("2", "2M"), ("3", "32M"))):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "level").write_text(f"{level}\n")
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assumed = blocks.FALLBACK_BYTES
    for folder, expected in ((tmp_path, 2**21), (tmp_path / "none", assumed), (tmp_path / "bare", assumed)):
        assert blocks.read_cache_bytes(folder) == expected


@pytest.mark.parametrize("locations", [1, 35, 64, 67, 256, 1024, 3136, 4096])
def test_rows_divide_the_map_and_are_long_enough_to_reduce_fast(locations: int) -> None:
    rows, length = row_split(locations)
    assert rows * length == locations
    assert length >= min(locations, 64)
    assert (rows > 1) == (locations >= LONG)


def compiled_operations(module: nn.Module, inputs: list[Tensor], *, dynamic: bool) -> list[str]:
    operations: list[str] = []

    def note(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        operations.extend(getattr(node.target, "__name__", str(node.target)) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(module, fullgraph=True, dynamic=dynamic, backend=note)(*inputs)
    torch._dynamo.reset()
    return operations


@pytest.mark.usefixtures("auto")
@every_case
def test_compilers_see_plain_operations_or_one_of_ours_and_exporters_plain_ones(case: Case) -> None:
    module, plain = built(case, "auto"), built(case, "reference")
    inputs = [x.requires_grad_() for x in case.inputs(torch.float64)]
    assert in_blocks(module(*inputs))
    for dynamic in (False, True):
        operations = compiled_operations(module, inputs, dynamic=dynamic)
        if isinstance(module, LMIMLoss):
            assert "contrast_in_blocks" in " ".join(operations)
        else:
            assert operations == compiled_operations(plain, inputs, dynamic=dynamic)
        assert not [name for name in operations if "autograd" in name]
    exported, expected = (
        [str(node.target) for node in torch.export.export(m, tuple(inputs)).graph.nodes if node.op == "call_function"]
        for m in (module, plain)
    )
    assert exported == expected
    assert all(name.startswith("aten.") or "getitem" in name for name in exported)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("options", [{}, {"objective": "jsd", "reduction": "sum"}], ids=["mean", "sum"])
def test_the_compiled_loss_has_the_eager_one_s_values_and_gradients(options: dict[str, Any], dynamic: bool) -> None:
    loss = lmim(dtype=torch.float64, **options).eval()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    inputs = [X.double().requires_grad_(), T.double().requires_grad_()]
    weights = torch.rand(X.shape[0], *X.shape[2:], dtype=torch.float64)
    for mask in (None, weights):
        found, expected = (
            with_gradients(run, loss, inputs) for run in (partial(f, mask=mask) for f in (compiled, loss))
        )
        for ours, eager in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_second_derivatives_of_the_compiled_loss_are_right_or_refused(backend: str) -> None:
    loss = lmim(dtype=torch.float64).eval()
    inputs = [X.double().requires_grad_(), T.double().requires_grad_()]
    wanted = [*inputs, *(parameter for name, parameter in loss.named_parameters() if name.endswith("weight"))]

    def penalty(run: Callable[..., Tensor]) -> Tensor:
        first = torch.autograd.grad(run(*inputs), inputs, create_graph=True)
        return torch.stack([gradient.square().sum() for gradient in first]).sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for x in wanted:
        ours = penalty(compiled)
        if backend == "eager":
            expected = torch.autograd.grad(penalty(loss), x)
            torch.testing.assert_close(torch.autograd.grad(ours, x), expected, rtol=1e-10, atol=1e-12)
        else:
            with pytest.raises(RuntimeError, match="does not currently support double backward"):
                torch.autograd.grad(ours, x)
    value = compiled(*inputs)
    factors = torch.tensor([1.0, 2.0], dtype=torch.float64)
    (batched,) = torch.autograd.grad(value, inputs[0], factors, is_grads_batched=True)
    (single,) = torch.autograd.grad(loss(*inputs), inputs[0])
    torch.testing.assert_close(batched, torch.stack([single, 2 * single]), rtol=1e-10, atol=1e-12)
    torch._dynamo.reset()


def test_a_kept_graph_gives_gradients_of_their_own() -> None:
    loss, x = lmim().eval(), X.clone().requires_grad_()
    value = loss(x, T)
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    expected = once.clone()
    once.zero_()
    (again,) = torch.autograd.grad(value, x)
    assert torch.equal(again, expected)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(8, 5, 16, 16), (3, 5, 21, 17)])  # rows that part into images, and rows that do not
def test_products_are_the_same_by_convolutions(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], threads: int
) -> None:
    loss = LMIMLoss(5, 6, hidden_channels=32).eval()
    inputs = [torch.randn(shape, requires_grad=True), torch.randn(shape[0], 6, requires_grad=True)]
    asked = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = with_gradients(loss, loss, inputs)
        monkeypatch.setattr(products, "_halves_mkl", lambda: True)
        monkeypatch.setattr(products, "MANY_ROWS", 1)
        convolve = Mock(wraps=torch.nn.functional.conv2d)
        monkeypatch.setattr(torch.nn.functional, "conv2d", convolve)
        found = with_gradients(loss, loss, inputs)
    finally:
        torch.set_num_threads(asked)
    assert convolve.called
    for ours, others in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_is_the_same_as_products(axes: int, batch: int, bias: bool) -> None:
    gate = AttentionGate(4, 3, hidden_channels=5, spatial_dims=axes, bias=bias, dtype=torch.float64)
    inputs = [torch.randn(batch, c, *(3, 4, 2)[:axes], dtype=torch.float64, requires_grad=True) for c in (4, 3)]
    with pytest.MonkeyPatch.context() as patch:
        multiply = Mock(wraps=products.pointwise)
        patch.setattr(products, "pointwise", multiply)
        taken = with_gradients(gate, gate, inputs)
        assert multiply.call_count == 3
        patch.setattr(products, "multiplies", lambda *_: False)
        called = with_gradients(gate, gate, inputs)
        assert multiply.call_count == 3
    for ours, others in zip(taken, called, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-12)


def test_products_replace_the_convolutions_for_which_onednn_copies_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(16, 4, 16, 16), torch.randn(products.FEW_OUTPUTS + 1, 4, 1, 1)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    monkeypatch.setattr(products, "_halves_mkl", lambda: False)
    assert products.multiplies(x, weight)
    assert products.multiplies(torch.randn(2, 64, 16, 16), weight) == (torch.get_num_threads() > 1)
    for other in (x.double(), x.bfloat16(), x[:2], x.to(memory_format=torch.channels_last), x[..., 1:]):
        assert not products.multiplies(other, weight)
    assert not products.multiplies(torch.randn(16, 128, 4, 4), torch.randn(17, 128, 1, 1))  # of 16 locations
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not products.multiplies(x, weight)
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setattr(products, "_halves_mkl", lambda: True)
    assert not products.multiplies(x, weight)
    assert products.multiplies(x, weight[1:])
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not products.multiplies(x, weight[1:])


def test_operations_are_not_exchanged_while_one_of_them_rounds_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, rows = torch.randn(16, 4, 16, 16), torch.randn(2, 4, 1, 1), torch.zeros(products.MANY_ROWS, 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_halves_mkl", lambda: True)
    assert products.multiplies(x, weight)
    assert products.convolves(rows)
    asked = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not products.multiplies(x, weight)
        assert not products.convolves(rows)
    finally:
        torch.set_float32_matmul_precision(asked)


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 1, 5, 2), (3, 4, 1, 1), (3, 1, 1, 1)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_products_do_not_depend_on_the_layout_of_map_weight_and_gradient(shape: Any, outputs: int) -> None:
    x, gradient = (torch.randn(shape[0], c, *shape[2:], dtype=torch.float64) for c in (shape[1], outputs))
    weight, bias = (torch.randn(outputs, *rest, dtype=torch.float64) for rest in ((shape[1], 1, 1), ()))
    operations: tuple[Callable[..., Tensor], ...] = products.pointwise, torch.nn.functional.conv2d
    for step, layout in itertools.product((1, shape[1]), (torch.contiguous_format, torch.channels_last)):
        strided = weight.as_strided(weight.shape, (shape[1], 1, step, step))  # the larger step is that of channels-last
        inputs = [tensor.detach().requires_grad_() for tensor in (x, strided, bias)]
        results = []
        for operation in operations:
            output = operation(*inputs)
            results.append([output, *torch.autograd.grad(output, inputs, gradient.to(memory_format=layout))])
        for ours, others in zip(*results, strict=True):
            torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("make", [SCSE, partial(RDAM, conv_kernel_size=1)], ids=["SCSE", "RDAM"])
def test_the_reference_backend_convolves(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = Mock(wraps=products.pointwise)
    monkeypatch.setattr(products, "pointwise", multiply)
    gate = make(4)
    inputs = [torch.randn(2, 4, 6, 5) for _ in range(1 + isinstance(gate, RDAM))]
    gate(*inputs)
    assert multiply.call_count == 1
    make(4, backend="reference")(*inputs)
    assert multiply.call_count == 1


@pytest.mark.usefixtures("auto")
def test_a_checkpoint_recomputes_products_as_convolutions() -> None:
    gate, x = BAM(4, hidden_channels=2), torch.randn(2, 4, 6, 5, requires_grad=True)
    expected = torch.autograd.grad(gate(x).square().sum(), [x, *gate.parameters()])
    output = checkpoint(gate, x, use_reentrant=False)
    gate.conv1.register_forward_hook(lambda *_: None)  # a reason to convolve
    for found, truth in zip(torch.autograd.grad(output.square().sum(), [x, *gate.parameters()]), expected, strict=True):
        torch.testing.assert_close(found, truth)


@pytest.mark.usefixtures("auto")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_amplifying_rounds_once_and_keeps_only_its_operands(dtype: torch.dtype) -> None:
    x, gate = (torch.rand(2, 4, 6, 5, dtype=dtype, requires_grad=True) for _ in range(2))
    assert saved_sizes(lambda: amplified(x, gate)) == [x.numel()] * 2
    output = amplified(x, gate)
    if dtype == torch.bfloat16:
        assert torch.equal(output, (x.double() * (1 + gate.double())).to(dtype))
    else:
        torch.testing.assert_close(output, x * (1 + gate))
        torch.autograd.gradcheck(amplified, (x, gate))
        torch.autograd.gradgradcheck(amplified, (x, gate))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 1, 1, padding=1),
        nn.Conv2d(4, 1, 1, stride=2),
        nn.Conv2d(4, 1, 1, padding="same"),
        nn.Conv2d(4, 1, 1, padding="valid"),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 1, 3, padding=1),
        nn.Conv2d(4, 1, (1, 3), padding=(0, 1), bias=False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("auto")
def test_a_convolution_in_the_place_of_a_pointwise_one_is_what_it_is(conv: nn.Conv2d) -> None:
    parent, x = nn.ModuleDict({"conv": conv}), torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(convolved(parent, "conv", x), conv(x))


@pytest.mark.usefixtures("auto")
def test_wrong_shapes_are_refused_by_the_convolution() -> None:
    conv, x = nn.Conv2d(4, 2, 1), torch.randn(2, 4, 6, 5)
    parent = nn.ModuleDict({"conv": conv})
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 5 channels"):
        convolved(parent, "conv", torch.randn(2, 5, 6, 5))
    for shape in ((), (1,)):
        conv.bias = nn.Parameter(torch.ones(shape))
        with pytest.raises(RuntimeError, match="bias"):
            convolved(parent, "conv", x)
    conv.bias, conv.weight = None, nn.Parameter(torch.ones(2, 4, 3, 3))
    assert torch.equal(convolved(parent, "conv", x), conv(x))


@pytest.mark.usefixtures("auto")
def test_weights_that_are_no_parameters_and_children_that_are_no_modules_are_called() -> None:
    conv, x = nn.Conv2d(4, 1, 1), torch.randn(2, 4, 6, 5)
    parent = nn.ModuleDict({"conv": conv})
    conv.__dict__["weight"] = torch.ones(1, 4, 1, 1)
    torch.testing.assert_close(convolved(parent, "conv", x), conv(x))
    del conv.__dict__["weight"], conv.bias
    conv.bias = torch.ones(1)
    torch.testing.assert_close(convolved(parent, "conv", x), conv(x))
    parent["conv"] = nn.LazyConv2d(1, 1)
    assert convolved(parent, "conv", x).shape == (2, 1, 6, 5)
    gate: Any = BAM(4, hidden_channels=2)
    truth, child = gate(x), gate.conv1
    del gate.conv1
    gate.conv1 = lambda z: child(z)
    torch.testing.assert_close(gate(x), truth)


@pytest.mark.usefixtures("auto")
def test_scse_adds_what_a_replaced_channel_half_returns() -> None:
    for shape in ((2, 4, 1, 1), (2, 4, 6, 5)):
        gate: Any = SCSE(4)
        returned, x = torch.randn(shape), torch.randn(2, 4, 6, 5)
        gate.channel = Returning(returned)
        torch.testing.assert_close(gate(x), returned + x * gate.conv(x).sigmoid())


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        (None, "DEFAULT", False),
    ],
)
def test_the_provider_of_products_is_a_matter_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, vendor: str | None, capability: str, expected: bool
) -> None:
    described = tmp_path / "cpuinfo"
    if vendor:
        described.write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(products, "CPUINFO", described)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    products._halves_mkl.cache_clear()
    try:
        assert products._halves_mkl() == expected
        rows = torch.zeros(products.MANY_ROWS, 2)
        assert products.convolves(rows) == (expected and torch.backends.mkldnn.is_available())
        assert not products.convolves(rows[1:])
        assert not products.convolves(rows.double())
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert not products.convolves(rows)
    finally:
        products._halves_mkl.cache_clear()


@pytest.mark.usefixtures("cache")
@every_case
def test_the_same_inputs_give_the_same_bits_again(case: Case) -> None:
    module = built(case, "blocked", torch.float32)
    inputs = [x.requires_grad_() for x in case.inputs()]
    once, again = (with_gradients(module, module, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.usefixtures("auto")
@every_case
def test_transforms_and_forward_mode_are_left_to_the_plain_operations(case: Case) -> None:
    module, plain = built(case, "auto"), built(case, "reference")
    inputs = tuple(case.inputs(torch.float64))
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    pushed = torch.func.jvp(module, inputs, inputs), torch.func.jvp(plain, inputs, inputs)
    torch.testing.assert_close(*pushed)
    pulled, expected = (
        torch.func.grad(lambda w, m=m: torch.func.functional_call(m, w, inputs).square().sum())(weights)
        for m in (module, plain)
    )
    torch.testing.assert_close(pulled, expected)
    stacked = [torch.stack([x, 2 * x]) for x in inputs]
    mapped = torch.func.vmap(module)(*stacked)
    torch.testing.assert_close(mapped, torch.stack([plain(*(x[i] for x in stacked)) for i in range(2)]))
    with torch.autograd.forward_ad.dual_level():  # only the weights carry tangents
        duals = {name: torch.autograd.forward_ad.make_dual(w, torch.ones_like(w)) for name, w in weights.items()}
        tangents = [
            torch.autograd.forward_ad.unpack_dual(torch.func.functional_call(m, duals, inputs)).tangent
            for m in (module, plain)
        ]
    torch.testing.assert_close(*tangents)


@every_case
def test_copies_keep_the_way_and_the_results(case: Case) -> None:
    module, inputs = built(case, "blocked"), case.inputs(torch.float64)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(module), torch.load(stream, weights_only=False)):
        assert twin.backend == "blocked"
        assert torch.equal(twin(*inputs), module(*inputs))


@pytest.mark.usefixtures("cache")
@every_case
def test_lazily_negated_inputs_give_the_same(case: Case) -> None:
    """The imaginary part of a conjugate is one, as after a Fourier transform."""
    results = []
    for backend in ("blocked", "reference"):
        inputs = [torch.complex(x, -x).conj().imag.requires_grad_() for x in case.inputs(torch.float64)]
        assert all(x.is_neg() for x in inputs)
        module = built(case, backend)
        results.append(with_gradients(module, module, inputs))
    for our, true in zip(*results, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("cache")
@every_case
def test_expanded_inputs_get_the_gradients_of_what_was_expanded(case: Case) -> None:
    results = []
    for backend in ("blocked", "reference"):
        module = built(case, backend)
        narrow = [x[:, :, :1] if x.ndim > 2 else x[:, :1] for x in case.inputs(torch.float64)]
        narrow = [x.detach().clone().requires_grad_() for x in narrow]
        shapes = [x.shape for x in case.inputs()]

        def run(*given: Tensor, module: Any = module, shapes: Any = shapes) -> Tensor:
            output: Tensor = module(*(x.expand(shape) for x, shape in zip(given, shapes, strict=True)))
            return output

        results.append(with_gradients(run, module, narrow))
    for our, true in zip(*results, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


@every_case
@pytest.mark.parametrize("part", ["weights", "inputs"])
def test_weights_alone_and_inputs_alone_can_be_trained(case: Case, part: str) -> None:
    results = []
    for backend in ("blocked", "reference"):
        module, inputs = built(case, backend), case.inputs(torch.float64)
        module.requires_grad_(requires_grad=part == "weights")
        wanted = list(module.parameters()) if part == "weights" else [x.requires_grad_() for x in inputs]
        results.append(torch.autograd.grad(module(*inputs).square().sum(), wanted))
    for our, true in zip(*results, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11)


@every_case
def test_nothing_is_stored_where_nothing_is_trained(case: Case) -> None:
    module = built(case, "blocked").requires_grad_(requires_grad=False)
    inputs = case.inputs(torch.float64)
    assert saved_sizes(lambda: module(*inputs)) == []
    torch.testing.assert_close(module(*inputs), built(case, "reference")(*inputs), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
@pytest.mark.parametrize("looked_at", [0, 1, 2])
def test_losses_on_any_of_the_gates_differentiate(arrangement: Any, looked_at: int) -> None:
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    cbam = CBAM(8, arrangement=arrangement, dtype=torch.float64)
    gradients: list[Tensor] = []
    for cbam.backend in ("blocked", "reference"):
        gradients += torch.autograd.grad(cbam.forward_with_maps(x)[looked_at].square().sum(), x)
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("auto")
@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_left_to_the_plain_operations(case: Case, dtype: torch.dtype) -> None:
    module, plain = built(case, "auto", dtype), built(case, "reference", dtype)
    inputs = [x.requires_grad_() for x in case.inputs(dtype)]
    assert not in_blocks(module(*inputs))
    assert torch.equal(module(*inputs), plain(*inputs))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float16, torch.float64], ids=str)
def test_what_stands_under_a_mask_is_never_looked_at(mask_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept = torch.rand(3, 5, 7) > 0.4
    x = torch.randn(3, 6, 5, 7).masked_fill(~kept.unsqueeze(1), float("nan")).requires_grad_()
    loss, summary = LMIMLoss(6, 4, hidden_channels=8).eval(), torch.randn(3, 4)
    results = []
    for loss.backend in ("blocked", "reference"):
        value = loss(x, summary, mask=kept.to(mask_dtype))
        results.append([value, *torch.autograd.grad(value, [x, *loss.parameters()])])
        assert all(result.isfinite().all() for result in results[-1])
    for our, true in zip(*results, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mask", [
    torch.full((2, 4, 4), -1.0), torch.full((2, 4, 4), torch.inf), torch.zeros(2, 4, 4), torch.ones(2, 4), "all",
])  # fmt: skip
def test_mistakes_in_a_mask_are_worded_as_by_the_plain_loss(mask: Any) -> None:
    messages = []
    for backend in ("blocked", "reference"):
        with pytest.raises((TypeError, ValueError)) as caught:
            LMIMLoss(8, 4, hidden_channels=3, backend=backend)(X, T, mask=mask)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_critic_for_other_channels_is_refused_as_by_the_plain_loss() -> None:
    messages = []
    for backend in ("blocked", "reference"):
        loss = LMIMLoss(8, 4, critic=ConcatConvCritic(7, 5, hidden_channels=3), backend=backend)
        with pytest.raises(ValueError, match=r"^LMIMLoss: local_features must have 7 channels") as caught:
            loss(X, T)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_no_gradient_is_formed_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, original = list[object](), ContrastLoss.apply

    def apply(*arguments: object) -> object:
        asked.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(ContrastLoss, "apply", apply)
    with torch.no_grad():
        lmim()(X, T)
    lmim()(X, T)
    assert asked == [False, True]


@pytest.mark.parametrize("value", [20.5, 39.0, 41.0, 700.0, -30.0, -700.0])
def test_softplus_is_exact_far_from_its_bend(value: float) -> None:
    ours = softplus(torch.tensor(value, dtype=torch.float64)).item()
    assert ours == pytest.approx(max(value, 0.0) + math.log1p(math.exp(-abs(value))), rel=1e-15)


def test_scratch_memory_is_the_cpu_s_under_another_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_workspace", blocks._Workspace())
    with torch.device("meta"):
        assert blocks.scratch(torch.empty(2, 3, 4, device="cpu")).device.type == "cpu"
