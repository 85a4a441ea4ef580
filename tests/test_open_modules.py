"""What PyTorch's tools do to a module: it works, the same on every way, or is refused by name.

Every test runs on every module that has children. The reference way calls the children one after another, which is what
a module means; the automatic one is made to take its passes on maps of any size, and must be no other by any sign.
"""

import copy
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from blan_layers import (
    BAM,
    CBAM,
    ECA,
    RDAM,
    SCSE,
    AttentionGate,
    BilinearCritic,
    ChannelAttention,
    ConcatConvCritic,
    CoordinateAttention,
    GlobalCritic,
    LMIMLoss,
    PriorMatchingLoss,
    SoftMask,
    SpatialAttention,
    capture_maps,
)
from tests.cases import CASES, KINDS, Case
from tests.ways import CHOOSING, in_blocks, with_gradients

WITH_CHILDREN = [case for case in CASES if list(case.module().children())]
LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

every_case = pytest.mark.parametrize("case", WITH_CHILDREN, ids=lambda case: case.name)
kinds_of_cases = pytest.mark.parametrize("case", [c for c in WITH_CHILDREN if c in KINDS], ids=lambda case: case.name)
choosing_cases = pytest.mark.parametrize("case", CHOOSING, ids=lambda case: case.name)

pytestmark = pytest.mark.usefixtures("auto")


def module_of(case: Case, backend: str = "auto") -> Any:
    module = case.module(torch.float64)
    for parameter in module.parameters():  # no unit is off everywhere, so that nothing is without effect
        nn.init.uniform_(parameter, 0.01, 0.15)
    for part in module.modules():
        if hasattr(part, "backend"):
            part.backend = backend
    return module


def inputs_of(case: Case) -> list[Tensor]:
    return [x.requires_grad_() for x in case.inputs(torch.float64)]


def children_of(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules() if name]


def layers_of(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, LAYERS)]


def put(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)


def agree(ours: list[Tensor], truth: list[Tensor]) -> None:
    for our, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(our, true, rtol=1e-9, atol=1e-11)


def on_both_ways(case: Case, change: Callable[[Any], object]) -> tuple[list[Tensor], list[Tensor]]:
    """Return output and gradients of a changed module on the automatic way and on the reference one."""
    results = []
    for backend in ("auto", "reference"):
        module = module_of(case, backend)
        change(module)
        inputs = inputs_of(case)
        wanted = [*inputs, *(p for p in module.parameters() if p.requires_grad)]
        output = module(*inputs)
        found = torch.autograd.grad(output.square().sum(), wanted, allow_unused=True)
        results.append([output, *(torch.zeros(()) if g is None else g for g in found)])
    return results[0], results[1]


# Hooks


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # where a child's inputs need no gradient
def test_a_hook_of_every_kind_on_every_child_sees_the_same_on_every_way(case: Case) -> None:
    seen: list[dict[str, list[Tensor]]] = []
    for backend in ("auto", "reference"):
        for name in children_of(module_of(case)):
            module, heard = module_of(case, backend), dict[str, list[Tensor]]()

            def listen(kind: str, _: nn.Module, *values: Any, heard: Any = heard) -> None:
                tensors = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
                heard.setdefault(kind, []).extend(v.detach().clone() for v in tensors if isinstance(v, Tensor))

            child = module.get_submodule(name)
            child.register_forward_pre_hook(partial(listen, "before"))
            child.register_forward_hook(partial(listen, "after"))
            child.register_full_backward_pre_hook(partial(listen, "backward before"))
            child.register_full_backward_hook(partial(listen, "backward"))
            module(*inputs_of(case)).square().sum().backward()
            seen.append(heard | {name: []})
    half = len(seen) // 2
    for ours, truth in zip(seen[:half], seen[half:], strict=True):
        assert len(ours) == 5, list(ours)[-1]
        assert ours.keys() == truth.keys()
        for kind in ours:
            agree(ours[kind], truth[kind])


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", ["full_backward_pre_hook", "full_backward_hook"])
def test_a_backward_hook_alone_is_heard(case: Case, kind: str) -> None:
    for name in children_of(module_of(case)):
        counts = []
        for backend in ("auto", "reference"):
            module, calls = module_of(case, backend), list[int]()
            getattr(module.get_submodule(name), f"register_{kind}")(lambda *_, calls=calls: calls.append(1))
            module(*inputs_of(case)).square().sum().backward()
            counts.append(len(calls))
        assert counts[0] == counts[1] > 0, name


def test_what_torch_no_longer_has_is_answered_yes() -> None:
    from blan_layers import _torch

    assert _torch._found(torch._C, "no_such_function")() is True
    assert _torch._found(torch._C, "_functorch.no_such_function")(torch.ones(1)) is True


def bend(module: nn.Module, name: str) -> None:
    """Change what a child returns in length and in direction, which alone a cosine sees."""
    module.get_submodule(name).register_forward_hook(lambda _, __, output: 0.5 * output + 0.1)


@kinds_of_cases
def test_a_hook_that_changes_what_a_child_returns_is_honoured(case: Case) -> None:
    plain = module_of(case)(*inputs_of(case))
    for name in children_of(module_of(case)):
        ours, truth = on_both_ways(case, partial(bend, name=name))
        agree(ours, truth)
        assert not torch.equal(ours[0], plain), name


@every_case
def test_a_hook_on_every_module_of_the_process_sees_every_child(case: Case) -> None:
    seen: list[list[str]] = []
    for backend in ("auto", "reference"):
        module, called = module_of(case, backend), list[str]()
        names = {part: name for name, part in module.named_modules()}
        hook = nn.modules.module.register_module_forward_hook(
            lambda part, *_, called=called, names=names: called.append(names[part])
        )
        try:
            module(*inputs_of(case))
        finally:
            hook.remove()
        seen.append(called)
    assert seen[0] == seen[1]
    assert set(seen[0]) >= set(children_of(module_of(case)))


@choosing_cases
def test_the_gates_are_called_with_their_logits_and_hooked_without_leaving_the_passes(case: Case) -> None:
    if case.name.startswith("LMIM"):
        return
    module, heard = module_of(case), list[tuple[Tensor, Tensor]]()
    for part in module.modules():
        if isinstance(part, nn.Sigmoid):
            part.register_forward_hook(lambda _, inputs, output: heard.append((inputs[0], output)))
    inputs = inputs_of(case)
    maps = module.forward_with_maps(*inputs)
    assert in_blocks(maps.output)
    for logits, gate in heard:
        torch.testing.assert_close(gate, logits.sigmoid())
    expected = list(maps[1:])
    if getattr(module, "arrangement", "") == "spatial-channel":
        expected.reverse()
    agree([gate for _, gate in heard], expected)


# Children that are another class, wrapped, or altered


def derive(module: Any, name: str) -> None:
    child = module.get_submodule(name)

    def forward(self: Any, *inputs: Any, **options: Any) -> Any:
        return 0.5 * super(type(child), self).forward(*inputs, **options) + 0.1

    child.__class__ = type("Bent", (type(child),), {"forward": forward})


@kinds_of_cases
def test_a_subclass_in_a_child_s_place_is_honoured(case: Case) -> None:
    plain = module_of(case)(*inputs_of(case))
    for name in children_of(module_of(case)):
        ours, truth = on_both_ways(case, partial(derive, name=name))
        agree(ours, truth)
        assert not torch.equal(ours[0], plain), name


class Wrapper(nn.Module):
    """What adapters do: the wrapped layer, plus something learnt."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.tensor(0.25, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scale * y.square()


@kinds_of_cases
def test_an_adapter_around_a_layer_learns(case: Case) -> None:
    plain = module_of(case)(*inputs_of(case))
    for name in layers_of(module_of(case)):
        wrappers: list[Wrapper] = []

        def wrap(module: Any, name: str = name, wrappers: list[Wrapper] = wrappers) -> None:
            wrappers.append(Wrapper(module.get_submodule(name)))
            put(module, name, wrappers[-1])

        ours, truth = on_both_ways(case, wrap)
        agree(ours, truth)
        assert not torch.equal(ours[0], plain), name
        module = module_of(case)
        wrap(module)
        module(*inputs_of(case)).square().sum().backward()
        assert wrappers[-1].scale.grad is not None
        assert wrappers[-1].scale.grad != 0


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # the old form is deprecated, and in use
@pytest.mark.parametrize("altered", [nn.utils.weight_norm, parametrizations.spectral_norm])  # by a hook, and by a class
def test_a_layer_whose_weight_is_made_from_others_trains_them_and_computes_with_it(
    case: Case, altered: Callable[[nn.Module], nn.Module]
) -> None:
    for name in layers_of(module_of(case)):
        module = module_of(case).eval()
        layer: Any = module.get_submodule(name)
        altered(layer)
        sources = [p for p in layer.parameters() if p is not layer.bias]
        output = module(*inputs_of(case))
        assert all(g.any() for g in torch.autograd.grad(output.square().sum(), sources)), name
        twin = module_of(case, "reference").eval()
        with torch.no_grad():
            twin.get_submodule(name).weight.copy_(layer.weight)
        torch.testing.assert_close(output, twin(*inputs_of(case)), rtol=1e-9, atol=1e-11)


@every_case
def test_a_quantised_layer_is_called(case: Case) -> None:
    module = case.module().eval()
    plain = [name for name, part in module.named_modules() if type(part) is nn.Linear]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao moves to a package of its own
        quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
        calls: list[str] = []
        for name in plain:
            quantised.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
        inputs = case.inputs()
        output = quantised(*inputs)
    assert set(calls) == set(plain)
    assert (output - module(*inputs)).abs().max() < 0.2 * module(*inputs).abs().max().clamp_min(1)


@kinds_of_cases
def test_a_forward_of_its_own_on_a_child_is_called(case: Case) -> None:
    """As offloading does, which fetches the weights there and takes them away again."""
    for name in children_of(module_of(case)):
        calls: list[list[str]] = []

        def offload(module: Any, name: str = name, calls: list[list[str]] = calls) -> None:
            child, called = module.get_submodule(name), list[str]()
            original = child.forward
            calls.append(called)

            def forward(*inputs: Any, **options: Any) -> Any:
                called.append(name)
                return original(*inputs, **options)

            child.forward = forward

        agree(*on_both_ways(case, offload))
        automatic, reference = calls
        assert automatic == reference
        assert automatic, name


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # read by torch's compiler
def test_a_child_that_is_compiled_by_itself_is_run_compiled(case: Case) -> None:
    for name in children_of(module_of(case)):
        ours = type(module_of(case).get_submodule(name)).__module__.startswith("blan_layers")
        runs: list[str] = []

        def backend(graph: Any, _: object, runs: list[str] = runs, name: str = name) -> Callable[..., Any]:
            def run(*inputs: Any) -> Any:
                runs.append(name)
                return graph.forward(*inputs)

            return run

        def compile_it(module: nn.Module, name: str = name, backend: Any = backend) -> None:
            module.get_submodule(name).compile(backend=backend)

        torch._dynamo.reset()
        agree(*on_both_ways(case, compile_it))
        assert runs or not ours, name  # torch compiles no layer of its own that is asked by itself
    torch._dynamo.reset()


def gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")  # nn.Linear's own
def test_a_module_and_every_child_can_be_sharded(case: Case, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    plain = module_of(case, "reference")
    for name in ["", *children_of(plain)]:
        if name and not list(plain.get_submodule(name).parameters()):
            continue
        module, twin = module_of(case), copy.deepcopy(plain)
        fully_shard(module.get_submodule(name), mesh=mesh)
        results = []
        for m in (module, twin):
            inputs = [x.detach() for x in inputs_of(case)]
            output = m(*inputs)
            output += 1  # in place, on what may be no view
            output.square().mean().backward()
            results.append([output, *(gathered(p.grad) for p in m.parameters())])
        agree(*results)
        for entry in ("forward_with_maps", "estimate"):
            if hasattr(module, entry):
                ours, true = (getattr(m, entry)(*inputs_of(case)) for m in (module.eval(), twin.eval()))
                agree([*ours] if isinstance(ours, tuple) else [ours], [*true] if isinstance(true, tuple) else [true])


@kinds_of_cases
@pytest.mark.filterwarnings("ignore:DTensor random operators may not have complete support")  # torch's own resets
def test_a_sharded_module_is_reset_like_one_that_is_not(case: Case, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    module, twin = case.module(device="meta"), case.module()
    fully_shard(module, mesh=mesh)
    module.to_empty(device="cpu")
    for m in (module, twin):
        torch.manual_seed(1)
        m.reset_parameters()
    assert all(torch.equal(gathered(p), q) for p, q in zip(module.parameters(), twin.parameters(), strict=True))


def test_weights_that_nobody_gathered_are_refused_in_words(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    net = nn.Sequential(CBAM(8), nn.Conv2d(8, 8, 1))
    fully_shard(net, mesh=mesh)
    message = (
        r"^CBAM: its weights are sharded by an enclosing module that was not called, got a full tensor\. "
        r"Call it through that module, or shard it separately with fully_shard\.$"
    )
    with pytest.raises(RuntimeError, match=message):
        net[0](torch.randn(2, 8, 4, 4))
    prior = PriorMatchingLoss(4, hidden_channels=(3, 2))
    fully_shard(prior.discriminator, mesh=mesh, reshard_after_forward=True)
    with pytest.raises(TypeError, match=r"^PriorMatchingLoss: the encoder's term needs discriminator weights"):
        prior(torch.randn(5, 4))


def test_a_watched_convolution_is_given_the_layout_of_the_plain_operations() -> None:
    """Per-sample gradients that are read off strides are else wrong on large maps alone."""
    for backend in ("auto", "reference"):
        strides: list[tuple[int, ...]] = []
        cbam = CBAM(8, backend=backend)
        cbam.spatial.conv.register_forward_pre_hook(lambda _, x, strides=strides: strides.append(x[0].stride()))
        cbam(torch.randn(2, 8, 5, 6))
        assert strides == [(60, 30, 6, 1)]


@pytest.mark.parametrize(("build", "inputs"), [
    (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), CBAM(16)), [(4, 3, 16, 16)]),
    (lambda: AttentionGate(8, 4), [(2, 8, 6, 6), (2, 4, 3, 3)]),
    (lambda: SoftMask(8, depth=1, form="spatial"), [(2, 8, 6, 6)]),
])  # fmt: skip
def test_a_quantised_graph_keeps_the_gates(build: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rewriter takes an operation that it does not know between a layer and a sigmoid for no operation at all."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(mode=False)  # torch's quantised operations have none
    torch.manual_seed(0)
    net, given = build().eval(), tuple(torch.randn(shape) for shape in inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao moves to a package of its own
        for parameter in net.parameters():
            parameter.mul_(2)
        prepared = prepare_fx(copy.deepcopy(net), get_default_qconfig_mapping("x86"), given)
        prepared(*given)
        quantised = convert_fx(prepared)(*given)
        torch.use_deterministic_algorithms(mode=True)
        assert (quantised - net(*given)).norm() < 0.1 * net(*given).norm()


def test_weights_that_are_no_parameters_are_used() -> None:
    """As replicas hold them, and networks that other networks write."""
    loss: Any = LMIMLoss(8, 4, hidden_channels=3).eval()
    x, t = torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    truth = loss(x, t)
    for layer in (loss.critic.fc1, loss.critic.fc2):
        weight = layer.weight.detach()
        del layer.weight
        layer.weight = weight
    torch.testing.assert_close(loss(x, t), truth)


def test_another_function_in_the_place_of_torch_s_linear_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = LMIMLoss(8, 4, hidden_channels=3).eval(), list[int]()
    x, t, linear = torch.randn(3, 8, 5, 6), torch.randn(3, 4), nn.functional.linear

    def counting(*inputs: Any) -> Tensor:
        calls.append(1)
        return linear(*inputs)

    monkeypatch.setattr(nn.functional, "linear", counting)
    loss(x, t)
    assert len(calls) == 4  # both halves of the first layer, and two more


def test_a_mode_that_sees_every_function_sees_those_of_the_layers() -> None:
    from torch.overrides import TorchFunctionMode

    class Names(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    x, t = torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    for module, inputs in ((LMIMLoss(8, 4, hidden_channels=3).eval(), (x, t)), (CBAM(8), (x,))):
        called = []
        for module.backend in ("auto", "reference"):
            seen: list[str] = []
            with Names():
                module(*inputs)
            called.append([name for name in seen if name in ("linear", "relu", "conv2d", "sigmoid", "amax")])
        assert called[0] == called[1]
        with torch.device("cpu"):  # which is such a mode, and changes nothing of ours
            module.backend = "blocked"
            module(*inputs)


def test_a_queue_is_read_and_written_by_calls() -> None:
    loss, calls = LMIMLoss(8, 4, hidden_channels=3, negatives="queue", queue_size=6), list[int]()
    loss.queue.register_forward_hook(lambda *_: calls.append(1))
    x, t = torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    loss(x, t)
    assert len(calls) == 2
    assert loss.queue.seen == 3
    loss.eval()(x, t)
    loss.train().estimate(x, t)
    assert len(calls) == 4
    assert loss.queue.seen == 3


class Foreign(Tensor):
    """What a quantised weight is: a tensor of another class."""


class Casting(Tensor):
    """A weight that computes in the dtype of what it meets."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return func(args[0], args[1].as_subclass(Tensor).to(args[0].dtype), None)
        return super().__torch_function__(func, types, args, kwargs or {})


class Packed(Tensor):
    """A weight of which no part can be taken."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.narrow:
            raise NotImplementedError
        return super().__torch_function__(func, types, args, kwargs or {})


def foreign(layer: Any, kind: Any = Foreign) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(kind))


def test_a_weight_of_another_class_may_compute_in_another_dtype() -> None:
    attention = ChannelAttention(8, bias=False)
    foreign(attention.fc1, Casting)
    foreign(attention.fc2, Casting)
    assert attention(torch.randn(2, 8, 4, 4, dtype=torch.float64)).dtype is torch.float64


def test_a_hook_may_convert_what_a_layer_is_given() -> None:
    attention = ChannelAttention(8)
    attention.fc1.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
    assert attention(torch.randn(2, 8, 4, 4, dtype=torch.float64)).dtype is torch.float64


def test_a_first_layer_that_cannot_be_cut_is_not_split() -> None:
    critic, x, t = ConcatConvCritic(8, 4, hidden_channels=3), torch.randn(2, 8, 5), torch.randn(2, 4)
    truth = critic(x, t)
    foreign(critic.fc1, Packed)
    torch.testing.assert_close(critic(x, t).as_subclass(Tensor), truth)


def test_a_discriminator_of_foreign_weights_is_held() -> None:
    prior = PriorMatchingLoss(4, hidden_channels=(3, 2))
    foreign(prior.discriminator.fc1)
    prior.terms(torch.randn(5, 4, requires_grad=True)).encoder.backward()
    assert prior.discriminator.fc1.weight.grad is None


def test_a_refused_option_stays_what_it_was() -> None:
    cbam: Any = CBAM(8)
    with pytest.raises(ValueError, match="backend must be one of"):
        cbam.backend = "cuda"
    assert cbam.backend == "auto"


GATES = [case for case in CHOOSING if not case.name.startswith("LMIM")]
gates = pytest.mark.parametrize("case", GATES, ids=lambda case: case.name)


def on_gates(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    for part in module.modules():
        if isinstance(part, nn.Sigmoid):
            part.register_forward_hook(lambda _, __, gate: change(gate))


@gates
def test_a_gate_of_another_shape_is_broadcast_on_every_way(case: Case) -> None:
    agree(*on_both_ways(case, partial(on_gates, change=lambda gate: gate.mean(0, keepdim=True))))


@gates
def test_a_gate_of_a_class_of_its_own_decides_the_output_s(case: Case) -> None:
    for backend in ("auto", "reference"):
        module = module_of(case, backend)
        on_gates(module, lambda gate: gate.as_subclass(Foreign))
        assert type(module(*inputs_of(case))) is Foreign


@gates
def test_a_mode_around_the_backward_sees_plain_operations(case: Case) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    inputs = inputs_of(case)
    value = module_of(case)(*inputs).square().sum()
    with Names():
        torch.autograd.grad(value, inputs)
    assert seen
    assert not [name for name in seen if name.endswith("out")]


# What a replaced half means, and what it cannot mean


@pytest.mark.parametrize("kind", [CBAM, RDAM])
def test_a_half_can_be_replaced_by_anything(kind: Any) -> None:
    x = torch.randn(2, 8, 5, 6)
    module = kind(8)
    inputs = (x,) if kind is CBAM else (x, x)
    channel = module.channel
    joined = x if kind is CBAM else module.conv(torch.cat([x, x], 1))
    module.spatial = nn.Identity()
    torch.testing.assert_close(module(*inputs), channel(joined) + (0 if kind is CBAM else x))
    module.channel = nn.Identity()
    torch.testing.assert_close(module(*inputs), joined + (0 if kind is CBAM else x))
    with pytest.raises(
        TypeError, match=rf"^{kind.__name__}: maps need a gate in channel, got Identity, which has none"
    ):
        module.forward_with_maps(*inputs)
    module.arrangement = "parallel"
    message = (
        rf"^{kind.__name__}: arrangement='parallel' calls spatial\(x, channel\(x\)\), got a spatial of type Identity"
    )
    with pytest.raises(TypeError, match=message):
        module(*inputs)


@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
def test_maps_of_watched_halves_are_those_of_unwatched_ones(arrangement: Any) -> None:
    x, cbam = torch.randn(2, 8, 5, 6).double(), CBAM(8, arrangement=arrangement, dtype=torch.float64)
    expected = cbam.forward_with_maps(x)
    cbam.channel.register_forward_hook(lambda *_: None)
    cbam.spatial.register_forward_hook(lambda *_: None)
    agree([*cbam.forward_with_maps(x)], [*expected])
    assert len(cbam.spatial.gate._forward_hooks) == 0


def test_maps_that_are_computed_without_the_gate_are_refused() -> None:
    class Other(SpatialAttention):
        def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
            return x

    cbam = CBAM(8)
    cbam.spatial = Other()
    with pytest.raises(
        RuntimeError, match=r"^CBAM: maps are what spatial.gate returns, got no call of it: spatial is a O"
    ):
        cbam.forward_with_maps(torch.randn(2, 8, 5, 6))


class TwoGates(nn.Module):
    """A user's half that calls its gate twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x.mean((2, 3), keepdim=True)) * self.gate(x.amax((2, 3), keepdim=True))
        return y


class FlatGate(TwoGates):
    """A user's half whose gate has no spatial axes."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x.mean((2, 3)))[:, :, None, None]
        return y


LAYOUTS = {"channel": "(B, C, 1, ...)", "spatial": "(B, 1, *S)"}
ALONE = "{half}_map must be the only map of {half}, got {other}, which has {maps}. Use capture_maps, which captures the"
OTHER_MAPS: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: CoordinateAttention(8), ALONE.replace("{maps}", "height_map and width_map")),
    (lambda: SCSE(8), ALONE.replace("{maps}", "channel_map and spatial_map")),
    (lambda: BAM(8), ALONE.replace("{maps}", "attention_map")),
    (lambda: SoftMask(8, depth=1), ALONE.replace("{maps}", "none")),
    (TwoGates, "maps need one call of {half}.gate, got 2 by a {other}. Call the module itself"),
    (FlatGate, "{half}_map must be {layout}, got shape (2, 8) from {half}.gate of a {other}. Call this gate with"),
]


@pytest.mark.parametrize(("kind", "half"), [
    (CBAM, "channel"), (CBAM, "spatial"), (RDAM, "channel"), (RDAM, "spatial"), (SCSE, "channel"),
])  # fmt: skip
@pytest.mark.parametrize(("other", "message"), OTHER_MAPS)
def test_a_half_with_other_maps_is_refused_by_name(kind: Any, half: str, other: Any, message: str) -> None:
    x, module = torch.randn(2, 8, 5, 6), kind(8)
    setattr(module, half, other())
    name = type(getattr(module, half)).__name__
    said = re.escape(f"{kind.__name__}: " + message.format(half=half, other=name, layout=LAYOUTS[half]))
    with pytest.raises((TypeError, RuntimeError), match=f"^{said}"):
        module.forward_with_maps(*(x, x) if kind is RDAM else (x,))
    assert not any(part._forward_hooks for part in module.modules())


def test_a_gate_that_a_half_calls_twice_is_not_captured() -> None:
    module: Any = CBAM(8)
    module.channel = TwoGates()
    message = r"^capture_maps: gates must be called once per map, got one more call of a gate of ''\."
    with capture_maps(module), pytest.raises(RuntimeError, match=message):
        module(torch.randn(2, 8, 5, 6))


@pytest.mark.parametrize(("kind", "half"), [(CBAM, "channel"), (CBAM, "spatial"), (RDAM, "channel"), (SCSE, "channel")])
def test_a_half_with_other_maps_is_captured_under_its_own_name(kind: Any, half: str) -> None:
    x, module = torch.randn(2, 8, 5, 6), kind(8)
    remaining = "spatial_map" if half == "channel" else "channel_map"
    for other in (CoordinateAttention(8), SCSE(8), nn.Sequential(CoordinateAttention(8))):
        setattr(module, half, other)
        with capture_maps(module) as maps:
            module(*(x, x) if kind is RDAM else (x,))
        name = f"{half}.0" if isinstance(other, nn.Sequential) else half
        fields = ["channel_map", "spatial_map"] if isinstance(other, SCSE) else ["height_map", "width_map"]
        assert {name: list(found) for name, found in maps.items()} == {"": [remaining], name: fields}


@pytest.mark.parametrize("kind", [CBAM, RDAM])
@pytest.mark.parametrize("option", ["form", "pools"])
def test_options_of_a_channel_half_without_them_are_missing_and_refused_by_name(kind: Any, option: str) -> None:
    module = kind(8)
    value = getattr(module, option)
    module.channel = ECA(8)
    message = (
        rf"^{kind.__name__}: {option} is an option of ChannelAttention, got a channel half of type ECA\. "
        r"Use ChannelAttention as the channel half, or that module itself\.$"
    )
    assert not hasattr(module, option)
    with pytest.raises(TypeError, match=message):
        setattr(module, option, value)


class Maps(nn.Module):
    """The wrapper that the guide to exporting recommends."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module.forward_with_maps(x))


@pytest.mark.parametrize("kind", [CBAM, SCSE])
@pytest.mark.parametrize("change", [
    lambda module: module.channel.register_forward_hook(lambda *_: None),
    lambda module: setattr(module, "channel", ECA(8)),
    lambda module: setattr(module, "channel", type("Sub", (ChannelAttention,), {})(8)),
], ids=["watched", "replaced", "subclass"])  # fmt: skip
def test_maps_of_other_halves_are_exported_and_otherwise_refused_by_name(kind: Any, change: Any) -> None:
    x, net = torch.randn(2, 8, 5, 6), Maps(kind(8))
    change(net.module)
    exported = torch.export.export(net, (x,), strict=False).module()
    torch.testing.assert_close(exported(x), net(x))
    message = (
        rf"{kind.__name__}: maps in torch\.fx or in one compiled graph need the halves of the constructor, unwatched, "
        r"got channel .*\. Use torch\.export\.export with strict=False, or call the module without maps\."
    )
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        torch.fx.symbolic_trace(net)
    for compiled in (
        lambda: torch.compile(net, backend="eager", fullgraph=True)(x),
        lambda: torch.export.export(net, (x,), strict=True),
    ):
        with pytest.raises(Exception, match=message):  # torch's own class, which quotes the message
            compiled()
    torch._dynamo.reset()


def test_maps_of_watched_halves_have_the_map_s_dtype() -> None:
    cbam = CBAM(8, dtype=torch.bfloat16)
    cbam.channel.register_forward_hook(lambda *_: None)
    assert {m.dtype for m in cbam.forward_with_maps(torch.randn(2, 8, 5, 6).bfloat16())} == {torch.bfloat16}


def test_a_critic_inside_data_parallelism_is_asked_for_all_pairs() -> None:
    loss = LMIMLoss(8, 4, critic=nn.DataParallel(ConcatConvCritic(8, 4, hidden_channels=3)), negatives="all")
    assert loss(torch.randn(3, 8, 5), torch.randn(3, 4)).isfinite()


REFUSALS: list[tuple[Callable[[Any], object], str]] = [
    (lambda m: m.spatial.register_forward_hook(lambda *_: None), "spatial has hooks"),
    (lambda m: setattr(m, "channel", nn.Identity()), "channel is a Identity"),
    (lambda m: setattr(m.channel, "forward", m.channel.forward), "channel has its own forward"),
    (lambda m: setattr(m.channel, "backend", "reference"), "channel has its own backend='reference'"),
    (lambda m: m.spatial.compile(), "spatial is compiled separately"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
@pytest.mark.parametrize("backend", ["blocked", "triton"])
def test_a_forced_way_is_refused_in_the_child_s_name(change: Any, reason: str, backend: Any) -> None:
    cbam = CBAM(8, backend=backend)
    change(cbam)
    message = (
        rf"^CBAM: backend='{backend}' is not available here: {reason}\. Use backend='auto' or backend='reference'\.$"
    )
    with pytest.raises(ValueError, match=message):
        cbam(torch.randn(2, 8, 5, 6))


LOSS_REFUSALS: list[tuple[Callable[[Any], object], str]] = [
    (lambda m: m.critic.fc2.register_forward_hook(lambda *_: None), "critic.fc2 has hooks"),
    (
        lambda m: m.critic.register_forward_pre_hook(lambda *_: None),
        "it supports only ConcatConvCritic, and critic has hooks",
    ),
    (lambda m: put(m, "critic.fc1", nn.Linear(12, 3)), "critic.fc1 is a Linear"),
    (lambda m: parametrizations.weight_norm(m.critic.fc3), "critic.fc3 is a ParametrizedLinear"),
    (lambda m: setattr(m.critic.fc2, "bias", None), "critic.fc2 has no parameter bias"),
    (lambda m: foreign(m.critic.fc2), "critic.fc2 holds a Foreign"),
    (
        lambda m: setattr(m.critic, "score", m.critic.score),
        "it supports only ConcatConvCritic, and critic has its own score",
    ),
]


@pytest.mark.parametrize(("change", "reason"), LOSS_REFUSALS, ids=[reason for _, reason in LOSS_REFUSALS])
def test_a_forced_loss_is_refused_in_the_layer_s_name(change: Any, reason: str) -> None:
    loss = LMIMLoss(8, 4, hidden_channels=3, backend="blocked")
    change(loss)
    message = (
        rf"^LMIMLoss: backend='blocked' is not available here: {reason}\. Use backend='auto' or backend='reference'\.$"
    )
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(2, 8, 5, 6), torch.randn(2, 4))
    loss.backend = "auto"
    loss(torch.randn(2, 8, 5, 6), torch.randn(2, 4)).backward()


def test_a_subclassed_critic_is_not_taken_for_ours() -> None:
    class Doubled(ConcatConvCritic):
        def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            return 2 * super().score(local_codes, global_codes)

    critic = Doubled(8, 4, hidden_channels=3)
    loss = LMIMLoss(8, 4, critic=critic).eval()
    x, t = torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    truth = nn.functional.softplus(-critic(x, t)).mean() + nn.functional.softplus(critic(x, t.roll(-1, 0))).mean()
    torch.testing.assert_close(loss(x, t), truth)


@pytest.mark.parametrize("method", ["contrast", "all_pairs"])
def test_a_critic_s_own_way_of_being_asked_is_taken(method: str) -> None:
    def doubled(self: Any, *inputs: Tensor) -> Any:
        found = getattr(ConcatConvCritic, method)(self, *inputs)
        return tuple(2 * logits for logits in found) if isinstance(found, tuple) else 2 * found

    critic = type("Doubled", (ConcatConvCritic,), {method: doubled})(8, 4, hidden_channels=3)
    x, t = torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    negatives: Any = "all" if method == "all_pairs" else "shift"
    loss = LMIMLoss(8, 4, critic=critic, negatives=negatives).eval()
    plain = LMIMLoss(8, 4, critic=ConcatConvCritic(8, 4, hidden_channels=3), negatives=negatives).eval()
    plain.load_state_dict(loss.state_dict())
    assert not torch.allclose(loss(x, t), plain(x, t))


def test_a_product_critic_s_own_score_is_taken_for_all_pairs() -> None:
    class Scaled(BilinearCritic):
        def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            return 100 * super().score(local_codes, global_codes)

    critic, x, t = Scaled(8, 4), torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    torch.testing.assert_close(critic.all_pairs(x, t).diagonal().movedim(-1, 0), critic(x, t))


def test_a_wrapper_that_takes_two_inputs_is_asked_twice() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = ConcatConvCritic(8, 4, hidden_channels=3)

        def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
            return self.module(local_features, global_features) / 2

    critic, x, t = Tempered(), torch.randn(3, 8, 5, 6), torch.randn(3, 4)
    loss = LMIMLoss(8, 4, critic=critic).eval()(x, t)
    truth = nn.functional.softplus(-critic(x, t)).mean() + nn.functional.softplus(critic(x, t.roll(-1, 0))).mean()
    torch.testing.assert_close(loss, truth)


@pytest.mark.parametrize("negatives", ["shift", "all"])
def test_a_critic_inside_a_compiler_s_wrapper_is_run_compiled(negatives: Any) -> None:
    loss: Any = LMIMLoss(8, 4, hidden_channels=3, negatives=negatives).eval()
    x, t = torch.randn(3, 8, 5), torch.randn(3, 4)
    truth, runs = loss(x, t), []

    def backend(graph: Any, _: object) -> Callable[..., Any]:
        runs.append(graph)
        return graph.forward

    loss.critic = torch.compile(loss.critic, backend=backend)
    torch.testing.assert_close(loss(x, t), truth)
    assert runs
    torch._dynamo.reset()


def test_setting_the_backend_sets_that_of_the_halves() -> None:
    cbam = CBAM(8, backend="blocked")
    assert cbam.channel.backend == cbam.spatial.backend == "blocked"
    cbam.backend = "reference"
    assert cbam.channel.backend == cbam.spatial.backend == "reference"


def test_maps_are_those_of_the_thread_that_asks() -> None:
    cbam = CBAM(8, dtype=torch.float64)
    cbam.channel.register_forward_hook(lambda *_: None)
    inputs = [torch.randn(2, 8, 5, 6, dtype=torch.float64) for _ in range(8)]
    alone = [cbam.forward_with_maps(x) for x in inputs]
    with ThreadPoolExecutor(4) as threads:
        for together, true in zip(threads.map(cbam.forward_with_maps, inputs * 8), alone * 8, strict=True):
            agree([*together], [*true])


def test_a_gate_that_both_halves_share_gives_each_its_map() -> None:
    x, cbam = torch.randn(2, 8, 5, 6), CBAM(8)
    cbam.channel.gate = cbam.spatial.gate = nn.Sigmoid()
    expected = cbam.forward_with_maps(x)
    cbam.channel.register_forward_hook(lambda *_: None)
    for ours, true in zip(cbam.forward_with_maps(x), expected, strict=True):
        torch.testing.assert_close(ours, true)


def test_another_way_of_calling_modules_sees_every_child(monkeypatch: pytest.MonkeyPatch) -> None:
    original, x = nn.Module.__call__, torch.randn(2, 8, 5, 6)
    seen: list[list[str]] = []
    for backend in ("auto", "reference"):
        cbam, called = CBAM(8, backend=backend), list[str]()

        def call(self: nn.Module, *inputs: Any, called: list[str] = called, **options: Any) -> Any:
            called.append(type(self).__name__)
            return original(self, *inputs, **options)

        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "__call__", call)
            cbam(x)
        seen.append(called)
    assert seen[0] == seen[1]
    assert "SpatialAttention" in seen[0]


@pytest.mark.parametrize("arrangement", ["channel-spatial", "spatial-channel", "parallel"])
@pytest.mark.parametrize("size", [(5, 6), (48, 64)])
def test_saved_tensors_that_come_back_rounded_leave_gradients_that_are_near(arrangement: Any, size: Any) -> None:
    x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    errors = []
    for backend in ("auto", "reference"):
        found = []
        for pack in (lambda t: t, lambda t: t.bfloat16() if t.is_floating_point() else t):
            torch.manual_seed(0)
            cbam = CBAM(8, arrangement=arrangement, backend=backend)
            with torch.autograd.graph.saved_tensors_hooks(
                pack, lambda t: t.float() if t.dtype == torch.bfloat16 else t
            ):
                output = cbam(x)
            found.append(torch.autograd.grad(output.sum(), x)[0])
        exact, rounded = found
        errors.append((exact - rounded).norm() / exact.norm())
    ours, plain = errors
    assert ours <= 2 * plain


def test_a_wrapped_convolution_is_given_the_layout_of_the_plain_operations() -> None:
    class Rows(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, maps: Tensor) -> Tensor:
            maps.view(maps.shape[0], -1)  # what a contiguous map allows
            result: Tensor = self.conv(maps)
            return result

    cbam: Any = CBAM(8)
    cbam.spatial.conv = Rows(cbam.spatial.conv)
    cbam(torch.randn(2, 8, 5, 6))


def test_what_changes_a_child_s_input_is_not_in_the_parent_s_way() -> None:
    cbam: Any = CBAM(16, arrangement="spatial-channel")
    cbam.spatial = nn.Conv2d(8, 16, 1)
    assert cbam(torch.randn(2, 8, 5, 6)).shape == (2, 16, 5, 6)
    loss, project = LMIMLoss(8, 4, hidden_channels=3), nn.Conv2d(5, 8, 1)
    loss.critic.register_forward_pre_hook(lambda _, inputs: (project(inputs[0]), *inputs[1:]))
    assert loss(torch.randn(3, 5, 6, 7), torch.randn(3, 4)).isfinite()


def test_features_of_another_width_than_a_cut_layer_are_refused() -> None:
    loss: Any = LMIMLoss(8, 4, hidden_channels=3)
    loss.critic.fc1.weight = nn.Parameter(loss.critic.fc1.weight[:, :9].detach().clone())
    assert loss(torch.randn(3, 5, 6), torch.randn(3, 4)).isfinite()
    for channels, width in ((2, 4), (5, 3)):
        with pytest.raises(ValueError, match=r"must add up to the 9 columns of fc1, got"):
            loss(torch.randn(3, channels, 6), torch.randn(3, width))


def test_a_traced_loss_refuses_what_the_loss_refuses() -> None:
    traced = torch.fx.symbolic_trace(LMIMLoss(8, 4, hidden_channels=3).eval())
    x, t = torch.randn(4, 8, 5), torch.randn(4, 4)
    for mistake, words in (
        (lambda: traced(x, t, groups=torch.tensor([0, 0, 1, 1])), "groups needs negatives that support groups"),
        (lambda: traced(x[:1], t[:1]), "needs at least 2 images"),
        (lambda: traced(x, t, mask=torch.ones(4, 1)), "mask must have a weight for every location"),
        (lambda: traced(x, t, mask=-torch.ones(4, 5)), "mask must contain finite weights of at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            mistake()


def test_a_dual_gradient_goes_through_a_graph_that_is_there_already() -> None:
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        output = CBAM(8, backend=backend, dtype=torch.float64)(x)
        with torch.autograd.forward_ad.dual_level():
            d = torch.autograd.forward_ad.make_dual(torch.ones_like(output), output.detach())
            (gradient,) = torch.autograd.grad(output, x, d)
            found.append([*torch.autograd.forward_ad.unpack_dual(gradient)])
    agree(*found)


def test_autocast_around_the_backward_alone_costs_no_more_digits_than_it_does_the_layers() -> None:
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        cbam = CBAM(8, backend=backend)
        output = cbam(x)
        with torch.autocast("cpu", torch.bfloat16):
            found.append([*torch.autograd.grad(output.square().sum(), [x, *cbam.parameters()])])
    for ours, true in zip(*found, strict=True):
        assert (ours - true).norm() <= 1e-4 * true.norm()


# Results, batches, derivatives


@every_case
def test_results_may_be_changed_in_place_and_are_no_views(case: Case) -> None:
    module, inputs = module_of(case), inputs_of(case)
    outputs: list[Tensor] = []
    for output in (
        module(*inputs),
        *(module.forward_with_maps(*inputs) if hasattr(module, "forward_with_maps") else ()),
    ):
        assert not output._is_view()
        outputs.append(output)
    expected = torch.autograd.grad((module(*inputs) * 3).square().sum(), inputs, allow_unused=True)
    output = outputs[0]
    output *= 3
    ours = torch.autograd.grad(output.square().sum(), inputs, allow_unused=True)
    agree([g for g in ours if g is not None], [g for g in expected if g is not None])


@every_case
def test_the_batch_is_the_first_axis_of_what_a_child_with_parameters_is_given(case: Case) -> None:
    module, seen = module_of(case), list[tuple[str, Tensor]]()
    for name in layers_of(module):
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.append((name, x[0])))
    module(*inputs_of(case))
    assert seen
    assert all(x.shape[0] == 3 for _, x in seen), [(name, tuple(x.shape)) for name, x in seen]


PER_SAMPLE = [case for case in WITH_CHILDREN if case.permutes]


@pytest.mark.parametrize("case", PER_SAMPLE, ids=lambda case: case.name)
def test_per_sample_gradients_are_those_of_batches_of_one_image(case: Case) -> None:
    module = module_of(case)
    inputs = [x.detach() for x in inputs_of(case)]
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(weights: dict[str, Tensor], *image: Tensor) -> Tensor:
        batch = tuple(x.unsqueeze(0) for x in image)
        return torch.func.functional_call(module, weights, batch).square().sum()

    axes = (None, *(0 for _ in inputs))
    ours = torch.func.vmap(torch.func.grad(loss), in_dims=axes)(weights, *inputs)
    for image in range(3):
        module.zero_grad()
        module(*(x[image : image + 1] for x in inputs)).square().sum().backward()
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(ours[name][image], parameter.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", PER_SAMPLE, ids=lambda case: case.name)
def test_hooks_on_layers_find_per_sample_gradients(case: Case) -> None:
    """As private training does: of what a linear layer was given, and of the gradient of what it returned."""
    module, inputs = module_of(case), inputs_of(case)
    linear = [name for name in layers_of(module) if isinstance(module.get_submodule(name), nn.Linear)]
    given: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name in linear:
        layer = module.get_submodule(name)
        layer.register_forward_hook(lambda _, x, y, name=name: given.__setitem__(name, x[0].detach()))
        layer.register_full_backward_hook(lambda _, d_in, d, name=name: found.__setitem__(name, d[0].detach()))
    module(*inputs).square().sum().backward()
    for image in range(3):
        twin = module_of(case, "reference")
        twin(*(x[image : image + 1] for x in inputs)).square().sum().backward()
        for name in linear:
            x, d = given[name][image], found[name][image]
            ours = torch.einsum("...o,...i->oi", d, x)
            torch.testing.assert_close(ours, twin.get_submodule(name).weight.grad, rtol=1e-9, atol=1e-11)


@choosing_cases
def test_second_derivatives_are_those_of_the_literal_twin(case: Case) -> None:
    module, inputs = module_of(case), inputs_of(case)
    wanted = [*inputs, *module.parameters()]
    results = []
    for run in (module, lambda *x: case.reference(module, *x)):
        output = run(*inputs)
        first = torch.autograd.grad(output.square().sum(), wanted, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        results.append([output, *first, *torch.autograd.grad(penalty, wanted)])
        if run is module:
            assert in_blocks(output)
    for our, true in zip(*results, strict=True):
        assert (our - true).norm() <= 1e-8 * true.norm().clamp_min(1e-6)


@choosing_cases
def test_a_third_derivative_is_that_of_the_literal_twin(case: Case) -> None:
    module, inputs = module_of(case), inputs_of(case)
    results = []
    for run in (module, lambda *x: case.reference(module, *x)):
        value = run(*inputs).square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, inputs[0], create_graph=True)
            value = gradient.square().sum()
        results.append(gradient)
    ours, true = results
    assert (ours - true).norm() <= 1e-8 * true.norm()


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch loops over the gradients of 1x1 convolutions
@choosing_cases
def test_a_batch_of_gradients_is_each_of_them(case: Case) -> None:
    module, inputs = module_of(case), inputs_of(case)
    output = module(*inputs)
    wanted = [*inputs, *module.parameters()]
    several = torch.stack([torch.ones_like(output), 2 * output.detach() - 1])
    alone = [torch.autograd.grad(output, wanted, one, retain_graph=True) for one in several]
    expected = [torch.stack(pair) for pair in zip(*alone, strict=True)]
    agree([*torch.autograd.grad(output, wanted, several, is_grads_batched=True, retain_graph=True)], expected)
    mapped = torch.func.vmap(lambda one: torch.autograd.grad(output, wanted, one, retain_graph=True))(several)
    agree([*mapped], expected)


@choosing_cases
@pytest.mark.parametrize("create_graph", [False, True])
def test_checkpointing_gives_first_and_second_derivatives(case: Case, create_graph: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    module = module_of(case)
    results = []
    for run in (module, lambda *x: checkpoint(module, *x, use_reentrant=False)):
        inputs = inputs_of(case)
        found = torch.autograd.grad(run(*inputs).square().sum(), inputs, create_graph=create_graph)
        if create_graph:
            found = torch.autograd.grad(torch.stack([g.square().sum() for g in found]).sum(), inputs)
        results.append([*found])
    agree(*results)


# What a mode leaves behind


def fake_probe(case: Case) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        module = case.factory(device="cpu", dtype=torch.float64)
        inputs = [torch.empty(x.shape, dtype=x.dtype, requires_grad=True) for x in case.inputs(torch.float64)]
        module(*inputs).sum().backward()


def meta_probe(case: Case) -> None:
    torch.set_default_device("meta")
    try:
        module, inputs = case.factory(device="cpu", dtype=torch.float64), inputs_of_cpu(case)
        module(*inputs).sum().backward()
    finally:
        torch.set_default_device(None)


def inputs_of_cpu(case: Case) -> list[Tensor]:
    with torch.device("cpu"):
        return [x.requires_grad_() for x in case.inputs(torch.float64)]


def inference_probe(case: Case) -> None:
    with torch.inference_mode():
        case.factory(device="cpu", dtype=torch.float64)(*case.inputs(torch.float64))


@choosing_cases
@pytest.mark.parametrize("probe", [fake_probe, meta_probe, inference_probe], ids=lambda probe: probe.__name__)
def test_a_mode_leaves_nothing_behind(
    case: Case, probe: Callable[[Case], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from blan_layers.kernels.cpu import blocks

    monkeypatch.setattr(blocks, "_workspace", blocks._Workspace())
    probe(case)
    module = module_of(case)
    truth = with_gradients(lambda *x: case.reference(module, *x), module, inputs_of(case))
    agree(with_gradients(module, module, inputs_of(case)), truth)


@choosing_cases
def test_a_mode_that_sees_every_operation_sees_the_plain_ones(case: Case) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    for backend in ("auto", "reference"):
        module, inputs = module_of(case, backend), inputs_of(case)
        with Names() as mode:
            module(*inputs).square().sum().backward()
        seen.append(mode.seen)
    assert seen[0] == seen[1]
    module = module_of(case, "blocked")
    with Names(), pytest.raises(ValueError, match="a dispatch mode sees every operation and needs the plain ones"):
        module(*inputs_of(case))


@choosing_cases
def test_a_mode_around_the_backward_alone_gets_the_same_gradients(case: Case) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = module_of(case)
    results = []
    for mode in (nullcontext(), FlopCounterMode(display=False)):
        inputs = inputs_of(case)
        value = module(*inputs).square().sum()
        with mode:
            results.append([*torch.autograd.grad(value, [*inputs, *module.parameters()])])
    agree(*results)


# Widths


def test_widths_are_read_off_the_weights() -> None:
    cut = nn.Linear(5, 2, dtype=torch.float64)
    attention = ChannelAttention(8, hidden_channels=2, dtype=torch.float64)
    attention.fc1, attention.fc2 = cut, nn.Linear(2, 5, dtype=torch.float64)
    assert attention(torch.randn(2, 5, 4, 4, dtype=torch.float64)).shape == (2, 5, 4, 4)
    assert attention.channels == 5
    assert "channels=5" in repr(attention)
    with pytest.raises(ValueError, match=r"x must have 5 channels"):
        attention(torch.randn(2, 8, 4, 4, dtype=torch.float64))
    rdam = RDAM(8, decoder_channels=4)
    rdam.conv = nn.Conv2d(6 + 3, 6, 3, padding=1)
    rdam.channel = ChannelAttention(6)
    assert (rdam.channels, rdam.decoder_channels) == (6, 3)
    assert rdam(torch.randn(2, 6, 4, 4), torch.randn(2, 3, 4, 4)).shape == (2, 6, 4, 4)
    critic: Any
    for critic in (ConcatConvCritic(8, 4, hidden_channels=3), GlobalCritic(8, 4, hidden_channels=3)):
        critic.fc1 = nn.Linear(5 + 4, 3)
        shape = (2, 5, 6) if type(critic) is ConcatConvCritic else (2, 5)
        assert critic(torch.randn(shape), torch.randn(2, 4)).shape[0] == 2
    loss: Any = LMIMLoss(8, 4, hidden_channels=3)
    loss.critic.fc1 = nn.Linear(5 + 4, 3)
    assert loss(torch.randn(2, 5, 6), torch.randn(2, 4)).isfinite()
