"""What the critics promise beyond the contract: one pair, K fake ones and all pairs are the same logits."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrizations, prune

from blan_layers import (
    BilinearCritic,
    ConcatConvCritic,
    CosineCritic,
    DotProductCritic,
    GlobalCritic,
    GlobalInfoMaxLoss,
    LMIMLoss,
    SeparableCritic,
)
from blan_layers import functional as F
from blan_layers.functional.objectives import OBJECTIVES
from blan_layers.mutual_information import Critic, critics

Maker = Callable[..., Critic]

LOCAL: list[Maker] = [
    partial(ConcatConvCritic, 6, 4, hidden_channels=8),
    partial(DotProductCritic, 6, 4, hidden_channels=8),
    partial(SeparableCritic, 6, 4, hidden_channels=8, embedding_channels=3),
    partial(BilinearCritic, 6, 4),
    partial(CosineCritic, 6, 4, embedding_channels=8),
    partial(CosineCritic, 6, 4, embedding_channels=3, learnt_temperature=True),
]
PRODUCTS: list[Callable[[int, int], Critic]] = [
    partial(DotProductCritic, hidden_channels=64),
    partial(SeparableCritic, hidden_channels=64),
    BilinearCritic,
    CosineCritic,
    partial(CosineCritic, embedding_channels=32, temperature=0.5, learnt_temperature=True),
]
NARROW: list[Callable[[int, int], Critic]] = [
    partial(SeparableCritic, hidden_channels=64, embedding_channels=1),
    partial(CosineCritic, embedding_channels=2),
    partial(CosineCritic, embedding_channels=3),
]
local_critics = pytest.mark.parametrize("maker", LOCAL, ids=lambda maker: maker.func.__name__)
product_critics = pytest.mark.parametrize("maker", PRODUCTS, ids=lambda maker: getattr(maker, "func", maker).__name__)


def features(batch: int = 5, candidates: int = 5, size: tuple[int, ...] = (3, 4)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    local = torch.randn(batch, 6, *size, generator=generator, dtype=torch.float64)
    return local, torch.randn(candidates, 4, generator=generator, dtype=torch.float64)


def built(maker: Maker) -> Critic:
    torch.manual_seed(0)
    return maker(dtype=torch.float64)


def literal_pairs(critic: Critic, local: Tensor, summaries: Tensor) -> Tensor:
    """Score every map with every summary, a call each: (B, N, *S)."""
    return torch.stack([critic(local, s.expand(local.shape[0], -1)) for s in summaries], 1)


@local_critics
@pytest.mark.parametrize("size", [(), (3, 4)], ids=["vectors", "maps"])
@pytest.mark.parametrize("candidates", [5, 7], ids=["own", "further"])
def test_every_way_of_asking_gives_the_logits_of_one_pair(maker: Maker, size: tuple[int, ...], candidates: int) -> None:
    critic, (local, summaries) = built(maker), features(5, candidates, size)
    if not size and not critic.takes_vectors:
        local = local.unsqueeze(-1)
    shape = local.shape[2:]
    pairs = literal_pairs(critic, local, summaries)
    own = critic(local, summaries[:5])
    torch.testing.assert_close(own, pairs.diagonal().movedim(-1, 0))
    torch.testing.assert_close(critic.all_pairs(local, summaries), pairs)
    images = torch.arange(5)

    one = torch.tensor([3, 4, 0, 2, candidates - 1])
    positive, negative = critic.contrast(local, summaries, one)
    torch.testing.assert_close(positive, own)
    torch.testing.assert_close(negative, pairs[images, one])

    several = torch.stack([one, one.flip(0)], 1)
    positive, negative = critic.contrast(local, summaries, several)
    torch.testing.assert_close(positive, own)
    torch.testing.assert_close(negative, pairs[images[:, None], several])

    if shape:
        everywhere = torch.randint(candidates, (5, 2, *shape), generator=torch.Generator().manual_seed(1))
        positive, negative = critic.contrast(local, summaries, everywhere)
        torch.testing.assert_close(positive, own)
        torch.testing.assert_close(negative, pairs.gather(1, everywhere))


@local_critics
@pytest.mark.parametrize("negatives", ["shift", "derangement", "per-location", "all", "queue", "given"])
def test_features_of_another_dtype_than_the_weights_are_refused(maker: Maker, negatives: Any) -> None:
    queue: dict[str, Any] = {"queue_size": 8} if negatives == "queue" else {}
    loss = LMIMLoss(6, 4, critic=built(maker), negatives=negatives, **queue)
    names = "local_features", "global_features"
    calls: tuple[Callable[..., Tensor], ...] = loss, loss.estimate
    for name, call, dtype in product(names, calls, (torch.float32, torch.bfloat16)):
        local, summaries = (x.to(dtype) if name == which else x for which, x in zip(names, features(), strict=True))
        given = {"negative_features": summaries.flip(0).unsqueeze(1)} if negatives == "given" else {}
        named = f"{name} must have the weights' dtype torch.float64, got {dtype}"
        with pytest.raises(TypeError, match=re.escape(named)):
            call(local, summaries, **given)


def test_the_global_critic_scores_flattened_maps_in_every_way() -> None:
    critic, (local, summaries) = built(partial(GlobalCritic, 72, 4, hidden_channels=8)), features(5, 7)
    pairs = literal_pairs(critic, local, summaries)
    torch.testing.assert_close(critic.all_pairs(local, summaries), pairs)
    torch.testing.assert_close(critic.all_pairs(local.flatten(1), summaries), pairs)
    indices = torch.tensor([[3, 6], [4, 0], [0, 1], [2, 2], [1, 5]])
    positive, negative = critic.contrast(local, summaries, indices)
    torch.testing.assert_close(positive, pairs.diagonal())
    torch.testing.assert_close(negative, pairs.gather(1, indices))


def test_all_pairs_in_chunks_equal_one_pass_to_the_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, (local, summaries) = built(LOCAL[0]), features(3, 5, (2,))
    inputs = [local.requires_grad_(), summaries.requires_grad_(), *critic.parameters()]

    def derivatives() -> list[Tensor]:
        logits = critic.all_pairs(local, summaries)
        first = torch.autograd.grad(logits.tanh().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(torch.stack([(g**2).sum() for g in first]).sum(), inputs)
        return [logits, *first, *second]

    whole = derivatives()
    monkeypatch.setattr(critics, "PAIRS_AT_ONCE", 13)  # two summaries at once, and one at last
    for ours, truth in zip(derivatives(), whole, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


def test_all_pairs_in_chunks_under_torch_func(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "PAIRS_AT_ONCE", 13)
    critic, (local, summaries) = built(LOCAL[0]), features(3, 5, (2,))
    gradient = torch.func.grad(lambda s: critic.all_pairs(local, s).tanh().sum())(summaries)
    summaries.requires_grad_()
    (truth,) = torch.autograd.grad(critic.all_pairs(local, summaries).tanh().sum(), summaries)
    torch.testing.assert_close(gradient, truth)


def test_all_pairs_in_chunks_keep_the_weights_of_their_call(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, (local, summaries) = built(LOCAL[0]), features(3, 5, (2,))
    given = {name: (weight.detach() / 2).requires_grad_() for name, weight in critic.named_parameters()}

    def gradients() -> tuple[Tensor, ...]:
        logits = torch.func.functional_call(critic, given, (local, summaries, "all"))
        return torch.autograd.grad(logits.tanh().sum(), [*given.values()])

    whole = gradients()
    monkeypatch.setattr(critics, "PAIRS_AT_ONCE", 13)
    for ours, truth in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


def test_all_pairs_in_chunks_see_weights_frozen_and_refuse_weights_changed_before_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(critics, "PAIRS_AT_ONCE", 13)
    critic, (local, summaries) = built(LOCAL[0]), features(3, 5, (2,))
    logits = critic.requires_grad_(False).all_pairs(local, summaries.requires_grad_())
    critic.requires_grad_(True)
    logits.sum().backward()
    logits = critic.all_pairs(local, summaries)
    with torch.no_grad():
        critic.get_parameter("fc2.weight").mul_(2)
    message = "^ConcatConvCritic: tensors must not change between forward and backward, got an in-place change of fc2"
    with pytest.raises(RuntimeError, match=message):
        logits.sum().backward()


def test_all_pairs_compile_and_export_for_any_batch() -> None:
    class AllPairs(nn.Module):
        def __init__(self, critic: Critic) -> None:
            super().__init__()
            self.critic = critic

        def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
            return self.critic.all_pairs(local_features, global_features)

    module, inputs = AllPairs(built(LOCAL[0])), features()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, inputs, dynamic_shapes=({0: batch}, {0: batch})).module()
    for other in (inputs, features(7, 7)):
        torch.testing.assert_close(compiled(*other), module(*other))
        torch.testing.assert_close(program(*other), module(*other))
    torch._dynamo.reset()


MEMORY = """
import pathlib
import torch
from torch.utils.checkpoint import checkpoint
from blan_layers import ConcatConvCritic
from blan_layers.functional import reference

torch.set_num_threads(1)
torch.manual_seed(0)
batch, size = 256, (2, 2)
critic = ConcatConvCritic(16, 16, hidden_channels=64, dtype=torch.float64)
local = torch.randn(batch, 16, *size, dtype=torch.float64, requires_grad=True)
summaries = torch.randn(batch, 16, dtype=torch.float64, requires_grad=True)
inputs = [local, summaries, *critic.parameters()]


def tiled():
    maps = local.repeat_interleave(batch, 0)
    logits = reference.concat_conv_logits(maps, summaries.repeat(batch, 1), *critic.parameters())
    return logits.view(batch, batch, *size)


def peak():  # getrusage's mark would begin at that of the process that started this one
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def infonce(logits):
    return -logits.log_softmax(1).diagonal().mean()


infonce(checkpoint(critic.all_pairs, local[:2], summaries[:2], use_reentrant=False)).backward()  # first calls import
start, losses, gradients, peaks = peak(), [], [], []
for pairs in (lambda: critic.all_pairs(local, summaries), tiled):
    losses.append(infonce(pairs()))
    gradients.append(torch.autograd.grad(losses[-1], inputs))
    peaks.append(peak() - start)
torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
print(*peaks)
"""


def test_infonce_over_all_pairs_takes_under_a_tenth_of_the_tiled_forms_memory(repository: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is asked from Linux")
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back, so that use is seen
    command = [sys.executable, "-c", MEMORY]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository, env=environment)
    assert run.returncode == 0, run.stderr
    ours, tiled = map(int, run.stdout.split())
    assert 10 * ours < tiled


def test_what_all_pairs_keep_is_the_logits_and_the_codes() -> None:
    critic, (local, summaries) = built(partial(ConcatConvCritic, 6, 4, hidden_channels=32)), features(64, 64, (4,))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with pytest.MonkeyPatch.context() as patch, saved_tensors_hooks(keep, lambda tensor: tensor):
        patch.setattr(critics, "PAIRS_AT_ONCE", 64 * 4)
        logits = critic.all_pairs(local.requires_grad_(), summaries)
    one_layer = logits.numel() * 32 * 8
    assert 0 < sum(kept.values()) < one_layer / 10


def test_a_loss_s_reset_starts_its_critic_as_the_constructor_does() -> None:
    loss = LMIMLoss(6, 4, critic=DotProductCritic(6, 4, hidden_channels=8))
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(7.0)
    loss.reset_parameters()
    encoder: Any = loss.critic.local_encoder
    assert not encoder.fc1.bias.any()
    assert torch.equal(encoder.shortcut.weight.diagonal(), torch.ones(6))
    assert encoder.shortcut.weight[1, 0].abs() < 0.01
    assert torch.equal(encoder.norm.weight, torch.ones(8))


@pytest.mark.parametrize("width", [4, 8])
def test_the_shortcut_of_the_residual_encoder_starts_as_the_identity(width: int) -> None:
    critic: Any = built(partial(DotProductCritic, 6, 4, hidden_channels=width))
    small = 1 / (64 * max(math.sqrt(width), 4))
    for encoder, channels, scale in ((critic.local_encoder, 6, 1.0), (critic.global_encoder, 4, small)):
        noise = encoder.shortcut.weight / scale - torch.eye(width, channels, dtype=torch.float64)
        assert noise.abs().max() <= 0.01
        assert noise.count_nonzero() == width * channels - min(width, channels)


@pytest.mark.parametrize("maker", PRODUCTS + NARROW, ids=lambda maker: getattr(maker, "func", maker).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [(), (3, 2)], ids=["vectors", "maps"])
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_first_loss_is_that_of_a_critic_that_tells_nothing(
    maker: Any, objective: Any, size: Any, rho: float
) -> None:
    """On standardised features of any width, be they independent or the same, in a batch of 64."""
    torch.manual_seed(0)
    for channels in ((1, 1), (4, 6), (64, 32), (20, 512), (256, 256)):
        kind = LMIMLoss if size else GlobalInfoMaxLoss
        loss: Any = kind(*channels, critic=maker(*channels), objective=objective, negatives="all").eval()
        shared, noise = torch.randn(2, 64, max(channels))
        summaries = (rho * shared + math.sqrt(1 - rho**2) * noise)[:, : channels[1]]
        local = shared[:, : channels[0]].reshape(64, -1, *(1 for _ in size)).expand(-1, -1, *size)
        batch = local, summaries
        first, critic = loss(*batch), loss.critic
        assert 0 < critic.all_pairs(*batch).std() < 0.15
        assert all(g.any() for g in torch.autograd.grad(first, [p for p in critic.parameters() if p.ndim > 1]))
        for parameter in critic.global_encoder.parameters():
            nn.init.zeros_(parameter)
        assert abs(first - loss(*batch)) < 0.1


@product_critics
@pytest.mark.parametrize("objective", ["nwj", "dv", "infonce"])
def test_exponential_objectives_train_from_the_start(maker: Any, objective: str) -> None:
    """Two nats between Gaussians of 20 dimensions, in 600 steps from the critic's own start."""
    bounds: dict[str, Callable[[Tensor], Tensor]] = {
        "nwj": lambda logits: F.nwj_lower_bound(logits.diagonal(), logits[~torch.eye(len(logits), dtype=torch.bool)]),
        "dv": lambda logits: F.dv_lower_bound(logits.diagonal(), logits[~torch.eye(len(logits), dtype=torch.bool)]),
        "infonce": F.infonce_lower_bound,
    }
    torch.manual_seed(0)
    critic, rho = maker(20, 20), math.sqrt(-math.expm1(-4 / 20))

    def drawn(pairs: int) -> Tensor:
        x, noise = torch.randn(2, pairs, 20)
        return bounds[objective](critic.all_pairs(x, rho * x + math.sqrt(1 - rho**2) * noise))

    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(600):
        optimizer.zero_grad()
        (-drawn(128)).backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 5.0)
        optimizer.step()
    with torch.no_grad():
        assert 1.2 < torch.stack([drawn(128) for _ in range(20)]).mean() < 2


@pytest.mark.parametrize("width", [2, 3, 4, 9, 128])
@pytest.mark.parametrize("temperature", [1e-3, 0.07, 100.0])
def test_no_first_logit_of_a_cosine_exceeds_a_twentieth(width: int, temperature: float) -> None:
    """On features of any scale, shift or dependence."""
    torch.manual_seed(0)
    for channels in (1, 16):
        critic = CosineCritic(channels, channels, embedding_channels=width, temperature=temperature)
        x = 3 * torch.randn(2000, channels) + 5 * torch.randn(channels)
        assert critic.all_pairs(x, x).abs().max() <= 0.05


def cosine(**options: Any) -> Any:
    torch.manual_seed(0)
    return CosineCritic(6, 4, embedding_channels=8, dtype=torch.float64, **options)


def test_a_vector_of_length_zero_scores_zero_and_passes_finite_derivatives_on() -> None:
    critic, (local, summaries) = cosine(), features(size=())
    local[1], summaries[2] = 0, 0  # biases are zero at the start
    inputs = [local.requires_grad_(), summaries.requires_grad_(), *critic.parameters()]
    logits = critic.all_pairs(local, summaries)
    assert not logits[1].any()
    assert not logits[:, 2].any()
    first = torch.autograd.grad(logits.logsumexp(1).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(torch.stack([(g**2).sum() for g in first]).sum(), inputs)
    assert all(g.isfinite().all() for g in (*first, *second))


@product_critics
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_encoders_are_drawn_anew(maker: Any, norm: Callable[..., nn.Module]) -> None:
    critic, inputs = maker(6, 4).double(), features()
    for layer in [part for part in critic.modules() if type(part) is nn.Linear]:
        norm(layer)
    before = critic(*inputs)
    critic.reset_parameters()
    assert not torch.equal(critic(*inputs), before)


def test_a_shortcut_whose_weight_is_computed_is_drawn_anew_or_refused() -> None:
    critic: Any = DotProductCritic(6, 4, hidden_channels=8)
    shortcut = parametrizations.weight_norm(critic.local_encoder.shortcut)
    nn.init.constant_(shortcut.parametrizations.weight.original1, 3)
    critic.reset_parameters()
    torch.testing.assert_close(shortcut.weight.diagonal(), torch.ones(6))
    assert shortcut.weight[1, 0].abs() < 0.011
    for refused in (prune.identity(nn.Linear(6, 8), "weight"), nn.Sequential(nn.Linear(6, 8))):
        critic.local_encoder.shortcut = refused
        with pytest.raises(ValueError, match=r"^DotProductCritic: weight must be a parameter to be set, got one that"):
            critic.reset_parameters()


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1.0, 1e20, 1e30])
def test_a_cosine_in_float32_is_that_in_float64_at_any_scale(scale: float) -> None:
    critic, (local, summaries) = cosine(), features(size=())
    single = CosineCritic(6, 4, embedding_channels=8)
    single.load_state_dict(critic.state_dict())
    wide, narrow = (scale * local).requires_grad_(), (scale * local).float().requires_grad_()
    truth, logits = critic.all_pairs(wide, summaries), single.all_pairs(narrow, summaries.float())
    torch.testing.assert_close(logits, truth.float())
    (exact,), (found,) = (torch.autograd.grad(x.square().sum(), y) for x, y in ((truth, wide), (logits, narrow)))
    torch.testing.assert_close(scale * found.double(), scale * exact, rtol=1e-4, atol=1e-4)


def test_the_cosine_is_no_larger_than_one_over_the_temperature() -> None:
    critic, (local, summaries) = cosine(temperature=0.2), features()
    with torch.no_grad():
        critic.global_encoder.weight.copy_(torch.eye(8, 4))
        critic.local_encoder.weight.copy_(torch.eye(8, 6))
    same = torch.cat([summaries, torch.zeros(5, 2)], 1)
    torch.testing.assert_close(critic(100 * same, summaries), torch.full((5,), 5.0, dtype=torch.float64))
    assert critic.all_pairs(local, summaries).abs().max() < 5


def test_a_learnt_temperature_is_bounded_and_comes_back_from_the_bound() -> None:
    critic, (local, summaries) = cosine(learnt_temperature=True), features(size=())
    assert critic.logit_scale.item() == pytest.approx(-math.log(0.07))
    fixed = cosine()
    fixed.load_state_dict({name: value for name, value in critic.state_dict().items() if name != "logit_scale"})
    torch.testing.assert_close(critic(local, summaries), fixed(local, summaries))
    cosines = 0.07 * fixed.all_pairs(local, summaries)
    for passed, scale in ((-1.0, 100 / math.e), (-1e-9, 100.0), (1.0, 100 / math.e), (50.0, 0.0)):
        with torch.no_grad():
            critic.logit_scale.fill_(math.log(100) + passed)
        logits = critic.all_pairs(local, summaries)
        torch.testing.assert_close(logits, scale * cosines)
        wanting_more = torch.autograd.grad(logits[cosines > 0].sum(), critic.logit_scale)[0]
        assert (wanting_more > 0) == (passed < 0)
    critic.reset_parameters()
    assert critic.logit_scale.item() == pytest.approx(-math.log(0.07))


@local_critics
def test_a_critic_of_a_loss_gives_the_loss_of_its_logits(maker: Maker) -> None:
    critic, (local, summaries) = built(maker), features()
    loss = LMIMLoss(6, 4, critic=critic).eval()(local, summaries)
    positive, negative = critic(local, summaries), critic(local, summaries.roll(-1, 0))
    truth = nn.functional.softplus(-positive).mean() + nn.functional.softplus(negative).mean()
    torch.testing.assert_close(loss, truth)


def test_a_watched_layer_scores_all_pairs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "PAIRS_AT_ONCE", 1)
    critic, calls = ConcatConvCritic(8, 4, hidden_channels=3), list[int]()
    critic.fc2.register_forward_hook(lambda *_: calls.append(1))
    critic.all_pairs(torch.randn(3, 8, 5), torch.randn(3, 4)).sum().backward()
    assert calls == [1]


class CountingNorm(nn.Module):
    """Divide by the number of calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x / self.calls.clone()


@pytest.mark.parametrize("change", [
    lambda critic: parametrizations.spectral_norm(critic.fc2),
    lambda critic: setattr(critic, "fc3", nn.Sequential(CountingNorm(), critic.fc3)),
], ids=["spectral norm", "buffer"])  # fmt: skip
def test_layers_that_calls_change_score_all_pairs_once_in_training(
    change: Callable[[nn.Module], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for at_once in (2**14, 1):
        monkeypatch.setattr(critics, "PAIRS_AT_ONCE", at_once)
        critic, (local, summaries) = built(LOCAL[0]), features()
        torch.manual_seed(0)
        change(critic)
        critic.double().train()
        logits = critic.all_pairs(local.requires_grad_(), summaries)
        gradients = torch.autograd.grad(logits.square().mean(), [local, *critic.parameters()])
        results.append([logits, *gradients, *critic.buffers()])
    for ours, truth in zip(*results, strict=True):
        assert torch.equal(ours, truth)


def test_contrast_returns_no_views() -> None:
    critic, summaries = ConcatConvCritic(8, 4, hidden_channels=3), torch.randn(3, 4)
    for indices in (torch.tensor([1, 2, 0]), torch.tensor([[1, 2], [2, 0], [0, 1]])):
        assert not any(logits._is_view() for logits in critic.contrast(torch.randn(3, 8, 5), summaries, indices))


@pytest.mark.parametrize("autocast", [False, True])
def test_products_of_large_halves_are_finite(autocast: bool) -> None:
    """Of features of standard deviation 100, whose products pass the range of float16."""
    torch.manual_seed(0)
    dtype = torch.float32 if autocast else torch.float16
    critic: Any = BilinearCritic(64, 32, dtype=dtype)
    with torch.no_grad():
        critic.global_encoder.weight *= 128  # as training may make it
    local, summaries = (100 * torch.randn(4, *shape).to(dtype) for shape in ((64, 3), (32,)))
    exact = BilinearCritic(64, 32, dtype=torch.float64)
    exact.load_state_dict(critic.state_dict())
    indices = torch.tensor([[1], [2], [3], [0]])
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        found = critic(local, summaries), critic(local, summaries, indices), critic.all_pairs(local, summaries)
    truth = (exact(local.double(), summaries.double()), exact(local.double(), summaries.double(), indices),
             exact.all_pairs(local.double(), summaries.double()))  # fmt: skip
    for ours, true in zip(found, truth, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - true).abs().max() <= 2e-3 * true.abs().max()
    assert truth[2].abs().max() > torch.finfo(torch.float16).max
