"""What every public module keeps, run on every case of ``cases.py``."""

import copy
import inspect
import io
import shutil
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import blan_layers
from blan_layers import (
    BAM,
    CBAM,
    RAR,
    RDAM,
    AttentionGate,
    ChannelAttention,
    CoordinateAttention,
    SoftMask,
    SpatialAttention,
)
from blan_layers._checks import Checked
from blan_layers._module import Module
from blan_layers.mutual_information import Critic
from tests.cases import CASES, KINDS, Case

HALF = (torch.float16, torch.bfloat16)

INDUCED = ("CBAM", "RAR", "CoordinateAttention", "LMIMLoss", "CLUB", "AdaptiveScoreFusion")
"""One case per kind of computation: every module is one graph, of which torch makes machine code."""

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
kinds_of_cases = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
main_cases = pytest.mark.parametrize("case", [c for c in CASES if "-" not in c.name], ids=lambda case: case.name)


def gradients(output: Tensor, module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)
    return list(torch.autograd.grad((output * weight).sum(), [*inputs, *module.parameters()]))


def test_every_exported_module_has_a_case() -> None:
    covered = {type(case.module()).__name__ for case in CASES}
    exported = {name for name in blan_layers.__all__ if issubclass(kind_of(name), nn.Module)}
    assert covered == exported


def kind_of(name: str) -> type:
    found = getattr(blan_layers, name)
    return found if isinstance(found, type) else type(found)


@every_case
@pytest.mark.parametrize("size", ["odd", "one", "even"])
def test_equals_its_literal_twin_in_value_and_every_gradient(case: Case, size: str) -> None:
    sizes = {"odd": case.size, "one": (1,) * case.spatial_dims, "even": (4,) * case.spatial_dims}
    module = case.module(torch.float64)
    for parameter in module.parameters():  # biases start at zero, where they could hide
        nn.init.normal_(parameter, std=0.5)
    inputs = [x.requires_grad_() for x in case.inputs(torch.float64, size=sizes[size])]
    ours, truth = module(*inputs), case.reference(module, *inputs)
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)
    for our, true in zip(gradients(ours, module, inputs), gradients(truth, module, inputs), strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-12)


@main_cases
def test_passes_gradcheck_to_the_second_order(case: Case) -> None:
    module = case.module(torch.float64)
    names = [name for name, _ in module.named_parameters()]
    tensors = [
        *case.inputs(torch.float64, batch=2, size=(3, 2)[: case.spatial_dims]),
        *(torch.randn_like(parameter) for parameter in module.parameters()),
    ]
    count = len(tensors) - len(names)

    def run(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values[count:], strict=True))
        return torch.func.functional_call(module, parameters, tuple(values[:count]))

    arguments = tuple(tensor.requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


@every_case
def test_float32_is_close_to_float64(case: Case) -> None:
    module, exact = case.module(), case.module(torch.float64)
    exact.load_state_dict(module.state_dict())
    inputs = case.inputs()
    truth = exact(*(x.double() for x in inputs))
    torch.testing.assert_close(module(*inputs).double(), truth, rtol=1e-5, atol=1e-5)


@every_case
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_stays_near(case: Case, dtype: torch.dtype) -> None:
    module = case.module(dtype)
    exact = case.module(torch.float64)
    exact.load_state_dict(module.state_dict())
    inputs = case.inputs(dtype)
    output = module(*inputs)
    assert output.dtype == (torch.float32 if case.float32_output else dtype)
    truth = exact(*(x.double() for x in inputs))
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), truth, rtol=tolerance, atol=tolerance)


@every_case
def test_autocast_keeps_the_input_dtype_and_stays_near(case: Case) -> None:
    module, inputs = case.module(), [x.requires_grad_() for x in case.inputs()]
    truth = module(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(*inputs)
    half = isinstance(module, Critic) and not case.float32_output
    assert output.dtype == (torch.bfloat16 if half else torch.float32)
    torch.testing.assert_close(output.float(), truth, rtol=0.1, atol=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients(output, module, inputs))


@pytest.mark.parametrize("case", [c for c in CASES if c.spatial_dims == 2], ids=lambda case: case.name)
def test_channels_last_gives_the_same_and_is_kept(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    arranged = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    output = module.to(memory_format=torch.channels_last)(*arranged)
    torch.testing.assert_close(output, module(*inputs), rtol=1e-5, atol=1e-6)
    if output.ndim == 4:
        assert output.is_contiguous(memory_format=torch.channels_last)


@every_case
def test_non_contiguous_and_expanded_inputs(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    strided = [torch.stack([x, x + 1], -1)[..., 0] for x in inputs]
    torch.testing.assert_close(module(*strided), module(*inputs))
    expanded = [x[:, :, :1].expand_as(x) if x.ndim > 2 else x[:, :1].expand_as(x) for x in inputs]
    torch.testing.assert_close(module(*expanded), module(*(x.contiguous() for x in expanded)))


@every_case
def test_inputs_are_left_alone(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    before = [x.clone() for x in inputs]
    module(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@every_case
def test_smallest_batch(case: Case) -> None:
    inputs = case.inputs(batch=case.min_batch)
    assert case.module()(*inputs).isfinite().all()


@pytest.mark.parametrize("case", [c for c in CASES if c.permutes], ids=lambda case: case.name)
def test_batch_permutes_through_and_an_empty_one_passes(case: Case) -> None:
    module, inputs = case.module(), case.inputs(batch=4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(module(*(x[order] for x in inputs)), module(*inputs)[order])
    assert module(*(x[:0] for x in inputs)).shape[0] == 0


@every_case
def test_no_grad_inference_equals_training_forward(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    with torch.inference_mode():
        output = module(*inputs)
    assert torch.equal(output, module(*inputs))


@every_case
def test_same_in_training_and_evaluation(case: Case) -> None:
    module, inputs = case.module(), case.inputs(batch=2)  # of two images the only shift is by one, so losses agree too
    assert torch.equal(module.train()(*inputs), module.eval()(*inputs))


@every_case
def test_evaluation_draws_nothing_where_samples_of_a_prior_are_passed(case: Case) -> None:
    module, inputs = case.module().eval(), case.inputs()
    before = torch.get_rng_state()
    module(*inputs)
    assert torch.equal(torch.get_rng_state(), before)


@kinds_of_cases
def test_compiles_to_one_graph_for_any_size(case: Case) -> None:
    module = case.module(torch.float64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch, growth in ((3, 0), (5, 2)):
        inputs = case.inputs(torch.float64, batch=batch, size=tuple(size + growth for size in case.size))
        inputs = [x.requires_grad_() for x in inputs]
        ours, truth = compiled(*inputs), module(*inputs)
        torch.testing.assert_close(ours, truth)
        for our, true in zip(gradients(ours, module, inputs), gradients(truth, module, inputs), strict=True):
            torch.testing.assert_close(our, true)
    torch._dynamo.reset()


@pytest.mark.parametrize("case", [c for c in KINDS if c.name in INDUCED], ids=lambda case: case.name)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(*inputs), module(*inputs), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@every_case
def test_meta_tensors_give_the_shape_of_the_result(case: Case) -> None:
    found = case.module(device="meta")(*(x.to("meta") for x in case.inputs()))
    true = case.module()(*case.inputs())
    assert (found.is_meta, found.shape, found.dtype) == (True, true.shape, true.dtype)


def dynamic_shapes(case: Case) -> tuple[dict[int, Any], ...]:
    """Return which axes of the inputs are of any size: the batch, and those of the maps, each of its own sizes."""
    batch_axis = 1 if case.name in ("AdaptiveScoreFusion", "MINEObjective") else 0
    batch = torch.export.Dim("batch", min=2)
    axes: dict[tuple[int, int], Any] = {}
    for x in case.inputs():
        for axis, size in enumerate(x.shape[2 : 2 + case.spatial_dims] if case.resizes else ()):
            axes.setdefault((axis, size), torch.export.Dim(f"axis{axis}_of_{size}", min=case.smallest))
    return tuple(
        {batch_axis: batch}
        | {axis + 2: dim for (axis, size), dim in axes.items() if x.shape[2:][axis : axis + 1] == (size,)}
        for x in case.inputs()
    )


@kinds_of_cases
def test_exports_with_dynamic_batch_and_size(case: Case) -> None:
    module, inputs = case.module().eval(), case.inputs()
    program = torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic_shapes(case))
    other = case.inputs(batch=5, size=tuple(s + 4 for s in case.size))
    torch.testing.assert_close(program.module()(*other), module(*other))


class WithMaps(nn.Module):
    """A module that returns what ``forward_with_maps`` does."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module.forward_with_maps(*inputs))


@kinds_of_cases
def test_onnx_gives_the_same_for_any_batch_and_size(case: Case, tmp_path: Path) -> None:
    module: nn.Module = case.module().eval()
    if hasattr(module, "forward_with_maps"):
        module = WithMaps(module)
    shapes = dynamic_shapes(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter remarks on itself
        program = torch.onnx.export(
            module,
            tuple(case.inputs()),
            dynamo=True,
            dynamic_shapes=(shapes,) if isinstance(module, WithMaps) else shapes,
            verbose=False,
        )
    assert program is not None
    program.save(tmp_path / "module.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "module.onnx", providers=["CPUExecutionProvider"])
    larger = case.inputs(batch=5, size=tuple(s + 4 for s in case.size))
    # The steps of RAR feed on one another, rounding and all; two layers of AttentionGate grow with the inputs, and a
    # sigmoid passes on a quarter of its logit's rounding.
    loud = {"RAR": 4, "AttentionGate": 20}.get(case.name, 40)
    for inputs in (case.inputs(), larger, [loud * x for x in larger]):  # logits far from zero too
        fed = {x.name: value.numpy() for x, value in zip(session.get_inputs(), inputs, strict=True)}
        expected = module(*inputs)
        for ours, true in zip(
            session.run(None, fed), expected if isinstance(expected, tuple) else [expected], strict=True
        ):
            assert (torch.from_numpy(ours) - true).abs().max() <= 1e-5 * true.abs().max().clamp_min(1)


@pytest.mark.parametrize("name", ["CBAM", "RDAM"])
def test_the_older_onnx_exporter_gives_the_same(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == name)
    module, inputs, path = case.module().eval(), case.inputs(), tmp_path / "module.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(module, tuple(inputs), path, dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {x.name: v.numpy() for x, v in zip(session.get_inputs(), inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(ours), module(*inputs), rtol=1e-5, atol=1e-5)


class Inside(nn.Module):
    """A network of somebody's with one of our modules in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.stem, self.ours = nn.ReLU(), module

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        output: Tensor = self.ours(self.stem(first), *others)
        return output


@every_case
def test_symbolic_tracing_takes_it_as_it_stands_and_inside_a_network(case: Case) -> None:
    module = case.module().eval()
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Sigmoid | nn.Conv2d)]
    for net, prefix in ((module, ""), (Inside(module), "ours.")):
        traced = torch.fx.symbolic_trace(net) if not prefix else traced_with_inputs(net, len(case.inputs()))
        for inputs in (case.inputs(), case.inputs(batch=5, size=tuple(s + 2 for s in case.size))):
            torch.testing.assert_close(traced(*inputs), net(*inputs))
        called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
        read = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
        for name in names:  # a tap for those who extract features, or the weights of a layer that takes halves
            assert prefix + name in called or f"{prefix}{name}.weight" in read, name


@every_case
def test_a_traced_module_does_without_what_is_optional(case: Case) -> None:
    module = case.module().eval()
    arguments = inspect.signature(module.forward).parameters.values()
    optional = [argument.name for argument in arguments if argument.default is not argument.empty]
    inputs = case.inputs()[: len(arguments) - len(optional)] if optional else case.inputs()
    traced = torch.fx.symbolic_trace(module)
    torch.manual_seed(0)
    truth = module(*inputs)
    torch.manual_seed(0)
    torch.testing.assert_close(traced(*inputs), truth)


def traced_with_inputs(net: nn.Module, count: int) -> torch.fx.GraphModule:
    """Trace a network that takes any number of inputs for as many as these."""
    arguments = ", ".join(f"x{i}" for i in range(count))
    namespace: dict[str, Any] = {"net": net}
    exec(f"def forward(self, {arguments}): return self.net({arguments})", namespace)
    outer = type("Outer", (nn.Module,), {"forward": namespace["forward"]})()
    outer.net = net
    graph = torch.fx.symbolic_trace(outer)
    for node in graph.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("net.")
    return torch.fx.GraphModule(net, graph.graph)


@every_case
def test_torch_jit_traces_without_a_word_and_refuses_to_script_in_one(case: Case) -> None:
    module, inputs = case.module().eval(), case.inputs()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(module, tuple(inputs))
        torch.testing.assert_close(traced(*inputs), module(*inputs))
        message = (
            rf"^{type(module).__name__}: cannot be compiled by torch.jit.script, which PyTorch has deprecated\. "
            r"Use torch.export.export, torch.compile or torch.jit.trace\.$"
        )
        for net in (module, nn.Sequential(module)):
            with pytest.raises(TypeError, match=message):
                torch.jit.script(net)


@every_case
def test_pickle_deepcopy_and_strict_state_dict_round_trips(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    truth = module(*inputs)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    other = case.module(seed=5)
    other.load_state_dict(module.state_dict(), strict=True)
    for twin in (torch.load(stream, weights_only=False), copy.deepcopy(module), other):
        assert torch.equal(twin(*inputs), truth)


@every_case
def test_a_child_is_done_without_or_cannot_be_none(case: Case) -> None:
    module, inputs = case.module(), case.inputs()
    children = [
        (part, name, child)
        for part in module.modules()
        if isinstance(part, Module)
        for name, child in part._modules.items()
        if child is not None
    ]
    for part, name, child in children:
        if name in part.needs:
            message = (
                rf"^{type(part).__name__}: {name} must be a module, got None\. "
                r"Use torch\.nn\.Identity\(\) to do without it\.$"
            )
            for assign in (setattr, part.__class__.add_module, part.__class__.register_module):
                with pytest.raises(TypeError, match=message):
                    assign(part, name, None)
            assert part._modules[name] is child
            delattr(part, name)
            setattr(part, name, None)  # a class without that child is the user's own
            delattr(part, name)
        else:
            setattr(part, name, None)
            refused = pytest.raises(ValueError, match=r"^DeepInfoMaxLoss: .* needs a loss that the constructor builds")
            with refused if name in ("global_loss", "local_loss", "prior_loss") else nullcontext():
                assert module(*inputs).isfinite().all()
        setattr(part, name, child)


@every_case
def test_no_argument_can_be_set_without_effect(case: Case) -> None:
    module = copy.deepcopy(case.module())
    for name in {*inspect.signature(type(module)).parameters} - {"device", "dtype"}:
        if not hasattr(module, name):
            with pytest.raises(
                AttributeError,
                match=rf"^{type(module).__name__}: {name} is read only while the module is built, got {name}=3\. "
                r"Build a new module\.$",
            ):
                setattr(module, name, 3)
            continue
        if name.endswith(("channels", "features")):
            with pytest.raises(AttributeError, match=f"{name} must stay as it was built, got "):
                setattr(module, name, 1 + getattr(module, name))
        if isinstance(inspect.getattr_static(type(module), name, None), Checked | property):
            with pytest.raises((TypeError, ValueError, AttributeError), match=name):  # as for any other wrong value
                setattr(module, name, nn.Identity())
            assert name not in module._modules


def test_a_subclass_may_keep_its_own_argument() -> None:
    class Own(CBAM):
        def __init__(self, channels: int, kernel_size: int = 5) -> None:
            super().__init__(channels, kernel_size=kernel_size)

    attention = Own(8)
    attention.kernel_size = 3
    assert (attention.kernel_size, attention.spatial.kernel_size) == (3, 5)


@every_case
def test_meta_device_then_reset_equals_direct_construction(case: Case) -> None:
    module = case.module(device="meta")
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    module.to_empty(device="cpu")
    torch.manual_seed(0)
    module.reset_parameters()
    direct = case.module()
    torch.manual_seed(0)
    direct.reset_parameters()
    assert module.state_dict().keys() == direct.state_dict().keys()
    for name, parameter in module.state_dict().items():
        assert torch.equal(parameter, direct.state_dict()[name]), name


@every_case
def test_device_and_dtype_reach_every_parameter_and_buffer(case: Case) -> None:
    state = case.module(torch.float64, "meta").state_dict()
    assert {(tensor.dtype, tensor.device.type) for tensor in state.values()} == {(torch.float64, "meta")}


@every_case
def test_repr_names_the_class_and_its_size(case: Case) -> None:
    text = repr(case.module())
    name, _, rest = text.partition("(")
    assert name == case.name.split("-")[0]
    assert "=" in rest.strip().splitlines()[0], text  # its own arguments, above those of its parts


@pytest.mark.parametrize("build", [
    partial(ChannelAttention, 16),
    SpatialAttention,
    partial(CBAM, 16),
    partial(RDAM, 16),
    partial(BAM, 16),
    partial(CoordinateAttention, 16),
    partial(AttentionGate, 16, 8),
    partial(RAR, 16),
    partial(SoftMask, 16, depth=1),
], ids=lambda build: getattr(build, "func", build).__name__)  # fmt: skip
def test_what_a_user_s_factory_makes_keeps_its_own_start(build: Any) -> None:
    class Norm(nn.GroupNorm):
        def __init__(self, channels: int) -> None:
            super().__init__(1, channels)
            nn.init.constant_(self.weight, 0.25)

    class Activation(nn.PReLU):
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.weight, 0.75)

    starts: dict[str, tuple[type[nn.Module], float]] = {
        "norm": (Norm, 0.25),
        "conv_norm": (Norm, 0.25),
        "activation": (Activation, 0.75),
    }
    taken = {*inspect.signature(build).parameters} & {*starts}
    assert taken
    module = build(**{name: starts[name][0] for name in taken})
    made: list[tuple[Any, float]] = [
        (part, value)
        for kind, value in {starts[name] for name in taken}
        for part in module.modules()
        if isinstance(part, kind)
    ]
    assert {type(part) for part, _ in made} == {starts[name][0] for name in taken}
    assert all((part.weight == value).all() for part, value in made)
    module.reset_parameters()
    assert all((part.weight != value).all() for part, value in made)  # by the rule of their class then
