"""What the Triton way promises, on a GPU where there is one, and otherwise under Triton's interpreter on the CPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blan_layers import CBAM, RDAM, ChannelAttention, LMIMLoss, SpatialAttention
from blan_layers import functional as F
from blan_layers.kernels import choice
from tests.cases import Case
from tests.test_backends import REMEDY, Dot, Sealed, refuses
from tests.ways import CHOOSING, built, saved_sizes, with_gradients

pooling = pytest.importorskip("blan_layers.kernels.gpu.pooling")
gating = pytest.importorskip("blan_layers.kernels.gpu.gating")
losses = pytest.importorskip("blan_layers.kernels.gpu.mutual_information")
tiles = pytest.importorskip("blan_layers.kernels.gpu.tiles")

# NumPy, which the interpreter runs on, remarks on every NaN
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ARRANGEMENTS = ["channel-spatial", "spatial-channel", "parallel"]

every_case = pytest.mark.parametrize("case", CHOOSING, ids=lambda case: case.name)
planar_cases = pytest.mark.parametrize("case", [c for c in CHOOSING if c.spatial_dims == 2], ids=lambda c: c.name)
main_cases = pytest.mark.parametrize("case", [c for c in CHOOSING if "-" not in c.name], ids=lambda case: case.name)


def made(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> Any:
    return built(case, backend, dtype).to(DEVICE)


def inputs_of(case: Case, dtype: torch.dtype = torch.float64, **options: Any) -> list[Tensor]:
    return [x.to(DEVICE) for x in case.inputs(dtype, **options)]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def agree(ours: list[Tensor], truth: list[Tensor]) -> None:
    for our, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-11, equal_nan=True)


def cut(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    """Make every tile so small that maps of the tests are of many, none of which divides them."""
    for module in (pooling, gating):
        monkeypatch.setattr(module, "tile", lambda x, along: (4, 8))
    monkeypatch.setattr(tiles, "PROGRAMS", programs)
    monkeypatch.setattr(pooling, "GATHERED", 4)
    monkeypatch.setattr(losses, "ROWS", 4)
    monkeypatch.setattr(losses, "UNITS", 4)
    monkeypatch.setattr(losses, "WORKSPACE", programs * 7 * 8 * 8)  # as many locations of 8 hidden units in float64


@pytest.fixture(params=["many tiles", "shared tiles"])
def tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles for each program, and a reduction's shared by programs."""
    cut(monkeypatch, 10 if request.param == "many tiles" else 80)


@every_case
def test_equals_the_literal_twin(case: Case) -> None:
    module = made(case, "triton")
    inputs = [x.requires_grad_() for x in inputs_of(case, batch=2)]
    truth = with_gradients(lambda *x: case.reference(module, *x), module, inputs)
    agree(with_gradients(module, module, inputs), truth)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", [
    "ChannelAttention-printed", "ChannelAttention-max", "CBAM", "CBAM-channel-spatial-printed",
    "CBAM-spatial-channel-cbam", "RDAM-parallel-cbam", "LMIMLoss",
])  # fmt: skip
def test_many_tiles_make_the_same_of_a_map_as_the_literal_twin(name: str, memory_format: Any) -> None:
    (case,) = (case for case in CHOOSING if case.name == name)
    module = made(case, "triton")
    given = [x.contiguous(memory_format=memory_format) if x.ndim == 4 else x for x in inputs_of(case, batch=2)]
    inputs = [x.mul(1.5).round().requires_grad_() for x in given]
    truth = with_gradients(lambda *x: case.reference(module, *x), module, inputs)
    agree(with_gradients(module, module, inputs), truth)


@every_case
@pytest.mark.parametrize("size", ["one", "long"])
def test_equals_the_literal_twin_on_maps_of_one_location_and_on_long_ones(case: Case, size: str) -> None:
    axes = case.spatial_dims
    shape = (1,) * axes if size == "one" else (1,) * (axes - 1) + (67,)
    module = made(case, "triton")
    inputs = [x.requires_grad_() for x in inputs_of(case, batch=case.min_batch, size=shape)]
    truth = with_gradients(lambda *x: case.reference(module, *x), module, inputs)
    agree(with_gradients(module, module, inputs), truth)


@main_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_stays_within_its_rounding(case: Case, dtype: torch.dtype) -> None:
    module, plain, exact = made(case, "triton", dtype), made(case, "reference", dtype), made(case, "reference")
    exact.load_state_dict(module.state_dict())
    inputs = [x.requires_grad_() for x in inputs_of(case, dtype, batch=2)]
    truth = with_gradients(exact, exact, [x.detach().double().requires_grad_() for x in inputs])
    ours, usual = with_gradients(module, module, inputs), with_gradients(plain, plain, inputs)
    for our, other, true in zip(ours, usual, (t.detach() for t in truth), strict=True):
        assert our.dtype == other.dtype
        error, usual_error = (
            ((result - true).abs().max() / true.abs().max()).item() for result in (our.detach(), other.detach())
        )
        assert error <= max(10 * torch.finfo(dtype).eps, 1.5 * usual_error)


@planar_cases
def test_ties_and_layouts_change_nothing(case: Case) -> None:
    fused, plain = made(case, "triton"), made(case, "reference")
    tied = [x.mul(1.5).round() for x in inputs_of(case, batch=2, size=(3, 7))]
    expected = with_gradients(plain, plain, [x.requires_grad_() for x in tied])
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
        lambda x: torch.stack([x, x], -1)[..., 0],
    ]
    for layout in layouts:
        agree(with_gradients(fused, fused, [layout(x.detach()).requires_grad_() for x in tied]), expected)


@main_cases
def test_a_map_that_is_expanded_gets_the_gradient_of_what_was_expanded(case: Case) -> None:
    results = []
    for backend in ("triton", "reference"):
        module = made(case, backend)
        narrow = [(x[:, :, :1] if x.ndim > 2 else x[:, :1]).clone().requires_grad_() for x in inputs_of(case, batch=2)]
        shapes = [x.shape for x in inputs_of(case, batch=2)]

        def run(*given: Tensor, module: Any = module, shapes: Any = shapes) -> Tensor:
            output: Tensor = module(*(x.expand(shape) for x, shape in zip(given, shapes, strict=True)))
            return output

        results.append(with_gradients(run, module, narrow))
    agree(*results)


@planar_cases
def test_a_nan_goes_where_the_plain_operations_send_it(case: Case) -> None:
    results = []
    for backend in ("triton", "reference"):
        module, inputs = made(case, backend), inputs_of(case, batch=2)
        inputs[0][0, 2, 1, 3] = float("nan")
        results.append(with_gradients(module, module, [x.requires_grad_() for x in inputs]))
    agree(*results)
    assert results[0][0].isnan().any()


def test_infinite_and_lowest_values_are_maxima_like_any() -> None:
    x = torch.full((1, 2, 3), -torch.inf, dtype=torch.float64, device=DEVICE)
    x[0, 1, 1] = torch.inf
    _, extremes = pooling.pool_space(x, None, "avg,max")
    assert extremes.flatten().tolist() == [-torch.inf, torch.inf, 3, 1]
    _, extremes = pooling.pool_channels(x, None, None)
    assert extremes.flatten().tolist() == [-torch.inf, torch.inf, -torch.inf, 2, 1, 2]


@main_cases
@pytest.mark.parametrize("part", ["weights", "inputs"])
def test_weights_alone_and_inputs_alone_can_be_trained(case: Case, part: str) -> None:
    results = []
    for backend in ("triton", "reference"):
        module, inputs = made(case, backend), inputs_of(case, batch=2)
        module.requires_grad_(requires_grad=part == "weights")
        wanted = list(module.parameters()) if part == "weights" else [x.requires_grad_() for x in inputs]
        results.append(list(torch.autograd.grad(module(*inputs).square().sum(), wanted)))
    agree(*results)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("looked_at", [0, 1, 2])
def test_losses_on_any_of_the_gates_differentiate(arrangement: Any, looked_at: int) -> None:
    x = draw(2, 8, 5, 7).requires_grad_()
    cbam = CBAM(8, arrangement=arrangement, dtype=torch.float64, device=DEVICE)
    gradients = []
    for cbam.backend in ("triton", "reference"):
        gradients.append(list(torch.autograd.grad(cbam.forward_with_maps(x)[looked_at].square().sum(), x)))
    agree(*gradients)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_gradient_of_the_map_is_written_once(arrangement: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(2, 8, 5, 7).requires_grad_()
    output = CBAM(8, arrangement=arrangement, dtype=torch.float64, device=DEVICE, backend="triton")(x)
    launched: list[str] = []

    def launch(kernel: Any, *arguments: Any, **constants: Any) -> None:
        launched.append(kernel.fn.__name__)
        tiles.launch(kernel, *arguments, **constants)

    for module in (pooling, gating):
        monkeypatch.setattr(module, "launch", launch)
    output.sum().backward()
    between = {"channel-spatial": ["pool_channels_sums_kernel"], "spatial-channel": ["pool_space_sums_kernel"]}
    assert launched == ["gate_sums_kernel", *between.get(arrangement, []), "map_gradient_kernel"]


@main_cases
def test_nothing_is_stored_without_gradients_and_the_values_are_the_same(case: Case) -> None:
    module, inputs = made(case, "triton"), inputs_of(case, batch=2)
    with torch.no_grad():
        assert saved_sizes(lambda: module(*inputs)) == []
    with torch.inference_mode():
        output = module(*inputs)
    assert torch.equal(output, module(*inputs))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_gates_keep_one_map(arrangement: Any) -> None:
    x = draw(2, 16, 8, 8, dtype=torch.float32).requires_grad_()
    cbam = CBAM(16, arrangement=arrangement, backend="triton", device=DEVICE)
    assert [size for size in saved_sizes(lambda: cbam(x)) if size >= x.numel() // 4] == [x.numel()]


def test_the_loss_keeps_no_activation() -> None:
    x, summary = draw(2, 4, 8, 8, dtype=torch.float32).requires_grad_(), draw(2, 4, dtype=torch.float32)
    loss = LMIMLoss(4, 4, hidden_channels=32, backend="triton", device=DEVICE)
    assert max(saved_sizes(lambda: loss(x, summary))) < 2 * 8 * 8 * 32


@pytest.mark.parametrize("case", [c for c in CHOOSING if c.name in ("CBAM", "LMIMLoss")], ids=lambda case: case.name)
def test_the_same_inputs_give_the_same_bits_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 80)
    module = made(case, "triton", torch.float32)
    inputs = [x.requires_grad_() for x in inputs_of(case, torch.float32, batch=2)]
    once, again = (with_gradients(module, module, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["boolean", "weights"])
def test_a_mask_weighs_the_loss_as_the_plain_one(reduction: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 10)
    torch.manual_seed(0)
    weights = torch.rand(3, 5, 7, dtype=torch.float64, device=DEVICE)
    mask = weights > 0.5 if kind == "boolean" else weights
    x = draw(3, 6, 5, 7).masked_fill((mask == 0).unsqueeze(1), float("nan")).requires_grad_()
    summary = draw(3, 4).requires_grad_()
    loss = LMIMLoss(
        6, 4, hidden_channels=8, objective="jsd", reduction=reduction, dtype=torch.float64, device=DEVICE
    ).eval()
    results = []
    for loss.backend in ("triton", "reference"):
        value = loss(x, summary, mask=mask)
        results.append([value, *torch.autograd.grad(3 * value, [x, summary, *loss.parameters()])])
    agree(*results)


def test_a_loss_far_from_its_bend_keeps_its_digits() -> None:
    loss = LMIMLoss(1, 1, hidden_channels=1, dtype=torch.float64, device=DEVICE).eval()
    x, summary = torch.ones(2, 1, 1, device=DEVICE).double(), torch.zeros(2, 1, device=DEVICE).double()
    for parameter in loss.parameters():
        nn.init.constant_(parameter, 1.0)
    for bias in (-50.0, -800.0, 30.0, 900.0):
        nn.init.constant_(loss.critic.fc3.bias, bias)  # type: ignore[union-attr, arg-type]
        values = []
        for loss.backend in ("triton", "reference"):
            values.append(loss(x, summary).detach())
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)


@main_cases
def test_autocast_gives_what_the_plain_way_gives_under_it(case: Case) -> None:
    results = []
    for backend in ("triton", "reference"):
        module = made(case, backend, torch.float32)
        inputs = [x.requires_grad_() for x in inputs_of(case, torch.float32, batch=2)]
        with torch.autocast(DEVICE, torch.bfloat16):
            output = module(*inputs)
        assert output.dtype == torch.float32
        results.append([output, *torch.autograd.grad(output.square().sum(), [*inputs, *module.parameters()])])
    for our, true in zip(*results, strict=True):
        assert our.dtype == true.dtype
        assert (our - true).abs().max() <= 0.05 * true.abs().max()


def test_a_residual_of_another_dtype_is_added_under_autocast() -> None:
    weights: Any = [draw(*shape, dtype=torch.float32) for shape in ((2, 8), (8, 2), (1, 2, 3, 3))]
    x = draw(2, 8, 5, 7, dtype=torch.bfloat16).requires_grad_()
    residual = draw(2, 8, 5, 7, dtype=torch.float32).requires_grad_()
    results = []
    backends: Any = "triton", "reference"
    for backend in backends:
        with torch.autocast(DEVICE, torch.bfloat16):
            output = F.dual_attention(
                x, weights[0], None, weights[1], None, weights[2], residual=residual, backend=backend
            )
        assert output.dtype == torch.float32
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, residual])])
    for our, true in zip(*results, strict=True):
        assert our.dtype == true.dtype
        assert (our - true).abs().max() <= 0.05 * true.abs().max()


@main_cases
def test_second_derivatives_are_those_of_the_plain_operations(case: Case) -> None:
    results = []
    for backend in ("triton", "reference"):
        module, inputs = made(case, backend), [x.requires_grad_() for x in inputs_of(case, batch=2)]
        wanted = [*inputs, *module.parameters()]
        first = torch.autograd.grad(module(*inputs).square().sum(), wanted, create_graph=True)
        results.append([*torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)])
    for our, true in zip(*results, strict=True):
        assert (our - true).norm() <= 1e-9 * true.norm().clamp_min(1e-6)


@main_cases
def test_a_batch_of_gradients_is_each_of_them(case: Case) -> None:
    inputs = [x.requires_grad_() for x in inputs_of(case, batch=2)]
    output = made(case, "triton")(*inputs)
    several = torch.stack([torch.ones_like(output), 2 * output.detach() - 1])
    alone = [torch.autograd.grad(output, inputs, one, retain_graph=True) for one in several]
    found = torch.autograd.grad(output, inputs, several, is_grads_batched=True)
    agree([*found], [torch.stack(pair) for pair in zip(*alone, strict=True)])


@main_cases
def test_results_are_no_views(case: Case) -> None:
    assert not made(case, "triton")(*(x.requires_grad_() for x in inputs_of(case, batch=2)))._is_view()


def operands() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {
        "x": (2, 3, 5), "gate": (2, 3, 1), "shift": (2, 3, 1), "spatial": (2, 1, 5), "residual": (2, 3, 5),
        "d_maps": (2, 2, 5), "d_pooled": (2, 2, 3), "local": (2, 3, 5), "own": (2, 4), "other": (2, 4), "w1": (4, 3),
        "w2": (4, 4), "b2": (4,), "w3": (1, 4), "b3": (1,),
    }  # fmt: skip
    return {name: draw(*shape, dtype=torch.float32).requires_grad_() for name, shape in shapes.items()}


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    t = operands()
    x, gate, shift, spatial = t["x"], t["gate"], t["shift"], t["spatial"]
    plain = x.detach()
    _, extremes = pooling.pool_space(plain, None, "avg,max")
    _, map_extremes = pooling.pool_channels(plain, None, None)
    critic = tuple(t[name] for name in ("local", "own", "other", "w1", "w2", "b2", "w3", "b3"))
    layers = critic[:3], critic[3:]
    formed = losses.contrast(*(c.detach() for c in layers[0]), None, *(c.detach() for c in layers[1]), True)
    given = {name: tensor.detach() for name, tensor in t.items()}
    return {
        "pool_space": (pooling.pool_space, (x, spatial, "avg,max")),
        "pool_space-max": (pooling.pool_space, (x, None, "max")),
        "pool_channels": (pooling.pool_channels, (x, gate, shift)),
        "pool_channels_sums": (
            pooling.pool_channels_sums, (plain, given["gate"], given["shift"], given["d_maps"], map_extremes)),
        "pool_space_sums": (
            pooling.pool_space_sums, (plain, given["spatial"], given["d_pooled"], extremes, "avg,max")),
        "gate": (gating.gate, (x, gate, shift, spatial, t["residual"], [2, 3, 5])),
        "gate_sums": (gating.gate_sums, (plain, plain, given["gate"], given["shift"], given["spatial"])),
        "branch": (gating.branch, (plain, "avg,max", torch.float32)),
        "map_gradient": (gating.map_gradient, (
            plain, plain, given["gate"], given["spatial"], given["d_maps"], map_extremes, given["gate"],
            given["shift"], given["d_pooled"], extremes, None, "avg,max")),
        "contrast": (losses.contrast, (*layers[0], None, *layers[1], True)),
        "scale_contrast": (losses.scale_contrast, (formed[0], *formed[1:])),
    }  # fmt: skip


@pytest.mark.parametrize("name", [
    "pool_space", "pool_space-max", "pool_channels", "pool_channels_sums", "pool_space_sums", "gate", "gate_sums",
    "branch", "map_gradient", "contrast", "scale_contrast",
])  # fmt: skip
def test_the_operations_keep_the_rules_of_torch_library(name: str) -> None:
    operation, arguments = calls()[name]
    rules = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if operation is not gating.branch:  # whose results hold no values to compare
        rules.append("test_aot_dispatch_dynamic")
    results = torch.library.opcheck(operation, arguments, test_utils=rules)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["pool_space", "pool_channels", "gate"])
@pytest.mark.usefixtures("tiling")
def test_the_operations_differentiate_without_slots(name: str) -> None:
    operation, arguments = calls()[name]
    exact = [a.detach().double().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]

    def run(*given: Any) -> Tensor:
        result = operation(*given)
        pooled: Tensor = result if isinstance(result, Tensor) else result[0]
        return pooled

    assert torch.autograd.gradcheck(run, exact, fast_mode=True)


def eighths(*shape: int) -> Tensor:
    return draw(*shape).to(torch.float8_e4m3fn)


X = draw(2, 8, 4, 4, dtype=torch.float32)
T = draw(2, 4, dtype=torch.float32)
PREFIX = "backend='triton' is not available here:"


@pytest.mark.parametrize(("run", "owner", "reason"), [
    (
        lambda: RDAM(8, backend="triton", device="meta")(X.to("meta"), X.to("meta")),
        "RDAM",
        "it runs on a CUDA device and got a tensor on meta",
    ),
    (
        lambda: SpatialAttention(backend="triton")(X.as_subclass(Sealed)),
        "SpatialAttention",
        "it takes plain tensors and got Sealed",
    ),
    (
        lambda: F.dual_attention(X, torch.zeros(4, 8), None, torch.zeros(8, 4), None, torch.zeros(1, 2, 3, 3),
                                 residual=X.double(), backend="triton"),
        "dual_attention",
        "it computes in one dtype and got torch.float32 and torch.float64",
    ),
    (
        lambda: F.channel_attention(
            eighths(2, 8, 4, 4), eighths(4, 8), None, eighths(8, 4), None, backend="triton"
        ),
        "channel_attention",
        "it computes in float16, bfloat16, float32 or float64 and got torch.float8_e4m3fn",
    ),
    (
        lambda: torch.func.vmap(CBAM(8, backend="triton"))(X[None]),
        "CBAM",
        "a torch.func transform needs the plain operations",
    ),
    (
        lambda: LMIMLoss(8, 4, reduction="none", backend="triton")(X, T),
        "LMIMLoss",
        "it needs a scalar loss and got reduction='none'",
    ),
    (
        lambda: LMIMLoss(8, 4, backend="triton")(X, T, mask=torch.ones(2, 4, 4, requires_grad=True)),
        "LMIMLoss",
        "it has no gradient for the mask",
    ),
    (
        lambda: LMIMLoss(8, 4, critic=Dot(), backend="triton")(X, T),
        "LMIMLoss",
        "it supports only ConcatConvCritic, and critic is a Dot",
    ),
])  # fmt: skip
def test_a_forced_way_that_cannot_be_taken_is_refused_with_the_reason(
    run: Callable[[], object], owner: str, reason: str
) -> None:
    refuses(run, f"{owner}: {PREFIX} {reason}. {REMEDY}")


def test_states_that_need_the_plain_operations_refuse_the_forced_way(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, x = ChannelAttention(8, backend="triton"), X.cpu()
    words = f"ChannelAttention: {PREFIX}"
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        refuses(lambda: attention(dual), f"{words} forward-mode differentiation needs the plain operations. {REMEDY}")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refuses(lambda: attention(x), f"{words} it runs on a CUDA device and got a tensor on cpu. {REMEDY}")
    monkeypatch.setattr(choice, "_has_triton", lambda: False)
    refuses(lambda: attention(x), f"{words} Triton is not installed. {REMEDY}")


def test_old_gpus_are_refused_by_their_number() -> None:
    assert choice.capability_refusal((7, 5)) == "it needs a GPU of compute capability 8.0 and got one of 7.5"
    assert choice.capability_refusal((8, 0)) == choice.capability_refusal((12, 0)) == ""


@main_cases
def test_compilers_are_given_the_plain_operations(case: Case) -> None:
    module, inputs = made(case, "triton"), inputs_of(case, batch=2)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="a compiler traces the call and fuses the plain operations itself"):
        torch.export.export(module, tuple(inputs))
    torch._dynamo.reset()


def test_the_automatic_choice_does_not_take_triton_yet() -> None:
    assert choice.AUTOMATIC == ("blocked",)


@pytest.mark.parametrize(("capability", "dtype"), [(80, "bfloat16"), (90, "float64")])
def test_every_kernel_compiles_for_a_gpu(capability: int, dtype: str, repository: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(repository)}
    script = [sys.executable, str(repository / "tests" / "compiling.py"), str(capability), dtype]
    result = subprocess.run(script, capture_output=True, text=True, check=False, env=environment, cwd=repository)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [
        "add_projections_kernel", "first_layer_kernel", "gate_kernel", "gate_sums_kernel", "gather_kernel",
        "map_gradient_kernel", "pool_channels_kernel", "pool_channels_sums_kernel", "pool_space_kernel",
        "pool_space_sums_kernel", "scale_kernel", "score_kernel",
    ]  # fmt: skip


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@planar_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_large_maps_on_a_gpu_equal_the_float64_twin(case: Case, dtype: torch.dtype, layout: Any) -> None:
    module, exact = made(case, "triton", dtype), made(case, "reference")
    exact.load_state_dict(module.state_dict())
    given = inputs_of(case, dtype, batch=3, size=(61, 67))
    inputs = [(x.contiguous(memory_format=layout) if x.ndim == 4 else x).requires_grad_() for x in given]
    truth = with_gradients(exact, exact, [x.detach().double().requires_grad_() for x in given])
    for our, true in zip(with_gradients(module, module, inputs), truth, strict=True):
        assert (our - true).norm() <= 100 * torch.finfo(dtype).eps * true.norm()
