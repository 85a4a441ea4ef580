"""The losses against their equations, in every combination that is accepted."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import blan_layers.functional as F
from blan_layers import (
    ConcatConvCritic,
    DeepInfoMaxLoss,
    DotProductCritic,
    GlobalInfoMaxLoss,
    LMIMLoss,
    PriorMatchingLoss,
    SeparableCritic,
)
from blan_layers.functional import reference
from blan_layers.mutual_information.objectives import PairLogits, location_losses

DRAWN = ("shift", "derangement", "per-location")
POINTWISE = ("bce", "jsd", "nwj", "rkl", "chi_squared", "squared_hellinger", "wasserstein")


def features(batch: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    local = torch.randn(batch, 6, 3, 2, generator=generator, dtype=torch.float64).to(dtype)
    return local, torch.randn(batch, 4, generator=generator, dtype=torch.float64).to(dtype)


def loss_of(**options: Any) -> LMIMLoss:
    torch.manual_seed(0)
    return LMIMLoss(6, 4, hidden_channels=8, dtype=torch.float64, **options).eval()


def literal_all(loss: LMIMLoss, local: Tensor, summaries: Tensor) -> Tensor:
    """Score every map with every summary, literally: (B, N, *S)."""
    weights = tuple(loss.critic.parameters())
    tiled = [reference.concat_conv_logits(local, s.expand(len(local), -1), *weights) for s in summaries]
    return torch.stack(tiled, 1)


def others(logits: Tensor) -> Tensor:
    """Take the diagonal out: (B, N, *S) -> (B, N - 1, *S)."""
    batch, candidates = logits.shape[:2]
    keep = ~torch.eye(batch, candidates, dtype=torch.bool)
    return logits[keep].reshape(batch, candidates - 1, *logits.shape[2:])


def own(logits: Tensor) -> Tensor:
    return logits.diagonal().movedim(-1, 0)


def fake_logits(kind: str, count: int, logits: Tensor) -> Tensor:
    """Return the fake pairs of evaluation, written out."""
    batch = logits.shape[0]
    fake = torch.empty(batch, count, 3, 2, dtype=logits.dtype)
    for b in range(batch):
        for k in range(count):
            for place in range(6):
                row = k * 6 + place if kind == "per-location" else k
                partner = (b + 1 + row % (batch - 1)) % batch
                fake[b, k].view(-1)[place] = logits[b, partner].reshape(-1)[place]
    return fake


def literal_value(objective: str, positive: Tensor, negative: Tensor) -> Tensor:
    if objective in ("bce", "jsd"):
        bce = reference.bce_loss(positive, negative)
        return bce - 2 * math.log(2) if objective == "jsd" else bce
    if objective in ("dv", "mine"):
        return -(positive.mean() - negative.exp().mean().log())
    terms: dict[str, Callable[[], Tensor]] = {
        "nwj": lambda: positive.mean() - (negative - 1).exp().mean(),
        "rkl": lambda: -(-positive).exp().mean() - (negative - 1).mean(),
        "chi_squared": lambda: positive.mean() - (negative + negative**2 / 4).mean(),
        "squared_hellinger": lambda: (1 - (-positive).exp()).mean() - (negative.exp() - 1).mean(),
        "wasserstein": lambda: positive.mean() - negative.mean(),
    }
    return -terms[objective]()


@pytest.mark.parametrize("objective", [*POINTWISE, "dv", "mine"])
@pytest.mark.parametrize(("kind", "count"), [("shift", 1), ("shift", 3), ("derangement", 2), ("per-location", 2)])
def test_a_loss_is_its_equation_on_drawn_negatives(objective: Any, kind: Any, count: int) -> None:
    loss, (local, summaries) = loss_of(objective=objective, negatives=kind, num_negatives=count), features()
    inputs = [local.requires_grad_(), summaries.requires_grad_(), *loss.parameters()]
    logits = literal_all(loss, local, summaries)
    truth = literal_value(objective, own(logits), fake_logits(kind, count, logits))
    ours = loss(local, summaries)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    for our, true in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs), strict=True):
        torch.testing.assert_close(our, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", [*POINTWISE, "dv", "infonce"])
def test_a_loss_is_its_equation_on_all_pairs(objective: Any) -> None:
    loss, (local, summaries) = loss_of(objective=objective, negatives="all"), features()
    inputs = [local.requires_grad_(), summaries.requires_grad_(), *loss.parameters()]
    logits = literal_all(loss, local, summaries)
    if objective == "infonce":
        truth = -F.infonce_lower_bound(logits.movedim((0, 1), (-2, -1)))
    else:
        truth = literal_value(objective, own(logits), others(logits))
    ours = loss(local, summaries)
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    for our, true in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs), strict=True):
        torch.testing.assert_close(our, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", [*POINTWISE, "infonce"])
def test_reductions_and_masks_agree_in_every_objective(objective: Any) -> None:
    options: Any = {"objective": objective, "negatives": "all"}
    local, summaries = features()
    mask = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    none = loss_of(reduction="none", **options)(local, summaries)
    assert none.shape == (5, 3, 2)
    torch.testing.assert_close(loss_of(**options)(local, summaries), none.mean())
    torch.testing.assert_close(loss_of(reduction="sum", **options)(local, summaries), none.sum())
    weighted = loss_of(**options)(local, summaries, mask=mask)
    torch.testing.assert_close(weighted, (none * mask).sum() / mask.sum())


@pytest.mark.parametrize("objective", ["dv", "mine"])
@pytest.mark.parametrize("negatives", ["shift", "all"])
def test_a_boolean_mask_is_a_selection_in_donsker_varadhan(objective: Any, negatives: Any) -> None:
    loss, (local, summaries) = loss_of(objective=objective, negatives=negatives), features()
    mask = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(2)) > 0.4
    logits = literal_all(loss, local, summaries)
    fake = others(logits) if negatives == "all" else fake_logits("shift", 1, logits)
    truth = literal_value(objective, own(logits)[mask], fake.movedim(1, -1)[mask])
    torch.testing.assert_close(loss(local, summaries, mask=mask), truth)


@pytest.mark.parametrize("objective", ["bce", "nwj", "dv", "infonce"])
def test_groups_leave_their_own_out_of_all_pairs(objective: Any) -> None:
    loss, (local, summaries) = loss_of(objective=objective, negatives="all"), features()
    groups = torch.tensor([7, 2, 7, 7, 2])
    logits = literal_all(loss, local, summaries)
    losses = []
    for image in range(5):
        real, fake = logits[image, image], logits[image, groups != groups[image]]
        if objective == "infonce":
            candidates = torch.cat([real[None], fake])
            losses.append(candidates.logsumexp(0) - real - math.log(len(candidates)))
        elif objective == "bce":
            losses.append(nn.functional.softplus(-real) + nn.functional.softplus(fake).mean(0))
        elif objective == "nwj":
            losses.append((fake - 1).exp().mean(0) - real)
        else:
            losses.append(torch.stack([real, fake.exp().mean(0)]))
    stacked = torch.stack(losses)
    truth = -stacked[:, 0].mean() + stacked[:, 1].mean().log() if objective == "dv" else stacked.mean()
    torch.testing.assert_close(loss(local, summaries, groups=groups), truth)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("options", [
    {"negatives": "derangement"},
    {"negatives": "per-location"},
    {"negatives": "all", "objective": "infonce", "positives": "groups"},
    {"negatives": "queue", "queue_size": 7, "objective": "infonce"},
    {"negatives": "queue", "queue_size": 7, "objective": "infonce", "positives": "groups"},
])  # fmt: skip
def test_groups_are_the_same_in_every_integer_dtype(dtype: torch.dtype, options: Any) -> None:
    (local, summaries), groups = features(), torch.tensor([0, 0, 1, 1, 2])
    values = []
    for numbers in (groups, groups.to(dtype)):
        loss = loss_of(**options)
        for training in (True, True, False):
            torch.manual_seed(0)
            values.append(loss.train(training)(local, summaries, groups=numbers))
    torch.testing.assert_close(values[:3], values[3:], rtol=0, atol=0)


def test_groups_change_who_is_drawn() -> None:
    local, summaries = features()
    groups = torch.tensor([0, 0, 1, 1, 2])
    for kind in ("derangement", "per-location"):
        loss = loss_of(negatives=kind, num_negatives=2).train()
        seen: list[Tensor] = []
        contrast = loss.critic.contrast

        def spied(*arguments: Tensor, contrast: Any = contrast, seen: list[Tensor] = seen) -> Any:
            seen.append(arguments[2])
            return contrast(*arguments)

        loss.critic.contrast = spied  # type: ignore[assignment]
        for _ in range(20):
            loss(local, summaries, groups=groups)
        assert all((groups[i].flatten(1) != groups[:, None]).all() for i in seen)


def test_the_queue_is_read_and_grows_in_training_alone() -> None:
    loss = loss_of(objective="infonce", negatives="queue", queue_size=7)
    first, second = features(seed=1), features(seed=2)
    alone = loss_of(objective="infonce", negatives="all")
    torch.testing.assert_close(loss(*second), alone(*second))  # nothing in it yet
    loss.estimate(*first)
    assert loss.queue.seen == 0
    loss.train()(*first)
    loss.eval()
    logits = literal_all(loss, second[0], torch.cat([second[1], first[1]]))
    truth = (logits.logsumexp(1) - own(logits)).mean() - math.log(10)
    torch.testing.assert_close(loss(*second), truth)
    assert loss.queue.seen == 5
    twin = loss_of(objective="infonce", negatives="queue", queue_size=7)
    twin.load_state_dict(loss.state_dict())
    assert torch.equal(twin(*second), loss(*second))
    loss.train()(*second)
    kept = torch.cat([first[1], second[1]])[-7:]
    assert sorted(loss.queue.stored[:, 0].tolist()) == sorted(kept[:, 0].tolist())
    assert not loss.queue.stored.requires_grad


def test_a_single_image_meets_the_queue_and_not_an_empty_one() -> None:
    loss, (local, summaries) = loss_of(objective="infonce", negatives="queue", queue_size=7).train(), features()
    with pytest.raises(ValueError, match=r"^LMIMLoss: needs at least 2 images, or a non-empty queue, to form"):
        loss(local[:1], summaries[:1])
    loss(local[1:], summaries[1:])
    alone = loss.eval()(local[:1], summaries[:1])
    scores = literal_all(loss, local[:1], torch.cat([summaries[:1], summaries[1:]]))
    candidates = scores.flatten(2).log_softmax(1)[:, 0]
    torch.testing.assert_close(alone, -(math.log(5) + candidates.mean()))


@pytest.mark.parametrize("options", [
    {},
    {"backend": "blocked"},
    {"negatives": "derangement", "num_negatives": 2},
    {"objective": "infonce", "negatives": "all"},
    {"objective": "dv"},
], ids=str)  # fmt: skip
def test_an_image_without_weight_may_have_any_features(options: Any) -> None:
    loss, (local, summaries) = loss_of(**options), features()
    mask = torch.ones(5, 3, 2)
    mask[2] = 0
    plain, broken = ([x.clone() for x in (local, summaries)] for _ in range(2))
    for x, value in ((plain, 0.0), (broken, math.nan)):
        x[0][2], x[1][2] = value, value
        for tensor in x:
            tensor.requires_grad_()
    results = []
    for inputs in (plain, broken):
        found = loss(*inputs, mask=mask)
        d_local, d_summaries, *others = torch.autograd.grad(found, [*inputs, *loss.parameters()])
        assert d_summaries.isfinite().all()
        results.append([found, d_local, d_summaries[[0, 1, 3, 4]], *others])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert second.isfinite().all()


def test_a_loss_with_a_queue_exports_for_any_batch_and_trains_compiled() -> None:
    loss, (local, summaries) = loss_of(objective="infonce", negatives="queue", queue_size=7), features()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(loss, (local, summaries), dynamic_shapes=({0: batch}, {0: batch})).module()
    other = features(8)
    torch.testing.assert_close(program(*other), loss(*other))
    twin = loss_of(objective="infonce", negatives="queue", queue_size=7)
    compiled = torch.compile(twin.train(), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(local, summaries), loss.train()(local, summaries))
    torch.testing.assert_close(twin.queue.stored, loss.queue.stored)
    torch._dynamo.reset()


def test_gradients_of_the_queue_s_loss_hold_after_it_took_the_batch_in() -> None:
    loss, (local, summaries) = loss_of(negatives="queue", queue_size=3).train(), features()
    summaries.requires_grad_()
    loss(*features(seed=1))
    stored = loss.queue.stored.clone()
    (ours,) = torch.autograd.grad(loss(local, summaries), summaries)
    logits = literal_all(loss, local, torch.cat([summaries, stored]))
    (truth,) = torch.autograd.grad(reference.bce_loss(own(logits), others(logits)), summaries)
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("negatives", ["shift", "per-location", "all"])
@pytest.mark.parametrize("estimator", ["jsd", "certificate", "nwj", "dv", "smile", "positive_logit"])
def test_estimates_are_the_functions_of_the_logits(negatives: Any, estimator: Any) -> None:
    loss, (local, summaries) = loss_of(negatives=negatives), features()
    logits = literal_all(loss, local, summaries)
    real = own(logits)
    fake = others(logits) if negatives == "all" else fake_logits(negatives, 1, logits)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "jsd": F.jsd_objective,
        "certificate": lambda p, q: F.mutual_information_certificate(F.bce_loss(p, q) / 2),
        "nwj": lambda p, q: F.nwj_lower_bound(p + 1, q + 1),
        "dv": F.dv_lower_bound,
        "smile": F.smile_estimate,
        "positive_logit": lambda p, q: p.mean(),
    }
    value = functions[estimator]
    torch.testing.assert_close(loss.estimate(local, summaries, estimator=estimator), value(real, fake))
    places = loss.estimate(local, summaries, estimator=estimator, reduction="none")
    truth = [[value(real[:, i, j], fake[:, :, i, j]) for j in range(2)] for i in range(3)]
    torch.testing.assert_close(places, torch.stack([torch.stack(row) for row in truth]))
    mask = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(2)) > 0.4
    masked = loss.estimate(local, summaries, estimator=estimator, mask=mask)
    torch.testing.assert_close(masked, value(real[mask], fake.movedim(1, -1)[mask]))
    places = loss.estimate(local, summaries, estimator=estimator, reduction="none", mask=mask)
    seen = [[mask[:, i, j] for j in range(2)] for i in range(3)]
    truth = [[value(real[seen[i][j], i, j], fake[seen[i][j], :, i, j]) for j in range(2)] for i in range(3)]
    torch.testing.assert_close(places, torch.stack([torch.stack(row) for row in truth]))


def test_groups_show_more_than_the_information() -> None:
    """Two equally frequent classes, which groups keep apart, so that real and fake pairs are told for certain."""

    class Same(nn.Module):
        def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
            return (local_features[:, 0] * global_features) * 50

        def contrast(self, local_features: Tensor, global_features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            return self(local_features, global_features), self(local_features, global_features[indices])

    classes = torch.tensor([0, 1] * 8)
    summaries = (2.0 * classes - 1)[:, None]
    loss = LMIMLoss(1, 1, critic=Same(), negatives="derangement")
    shown = loss.estimate(summaries[:, :, None], summaries, groups=classes)
    assert shown.item() == pytest.approx(2 * math.log(2))
    assert shown > math.log(2)  # all the information that there is


@pytest.mark.parametrize("estimator", ["jsd", "certificate", "nwj", "dv", "smile", "positive_logit"])
def test_a_location_without_weight_in_any_image_has_no_estimate(estimator: Any) -> None:
    loss, (local, summaries) = loss_of(), features()
    mask = torch.ones(5, 3, 2)
    mask[:, 1, 0] = 0
    unmasked = loss.estimate(local, summaries, estimator=estimator, reduction="none")
    places = loss.estimate(local, summaries, estimator=estimator, reduction="none", mask=mask)
    assert places[1, 0].isnan()
    places[1, 0] = unmasked[1, 0]
    torch.testing.assert_close(places, unmasked)


def test_the_global_estimate_has_no_locations() -> None:
    loss, (local, summaries) = GlobalInfoMaxLoss(36, 4, hidden_channels=8, dtype=torch.float64), features()
    whole = loss.estimate(local, summaries)
    torch.testing.assert_close(loss.estimate(local, summaries, reduction="none"), whole)


def test_the_estimate_of_infonce_is_minus_its_loss() -> None:
    loss, (local, summaries) = loss_of(objective="infonce", negatives="all"), features()
    torch.testing.assert_close(loss.estimate(local, summaries, estimator="infonce"), -loss(local, summaries))
    places = loss.estimate(local, summaries, estimator="infonce", reduction="none")
    unreduced = loss_of(objective="infonce", negatives="all", reduction="none")(local, summaries)
    torch.testing.assert_close(places, -unreduced.mean(0))


def test_a_critic_of_nwj_is_estimated_by_its_log_ratio() -> None:
    loss, (local, summaries) = loss_of(objective="nwj", negatives="all"), features()
    torch.testing.assert_close(loss.estimate(local, summaries, estimator="nwj"), -loss(local, summaries))
    logits = literal_all(loss, local, summaries) - 1
    torch.testing.assert_close(loss.estimate(local, summaries, estimator="positive_logit"), own(logits).mean())
    torch.testing.assert_close(loss.estimate(local, summaries), F.jsd_objective(own(logits), others(logits)))


def test_mine_keeps_its_running_mean_in_training_alone() -> None:
    loss, (local, summaries) = loss_of(objective="mine"), features()
    loss(local, summaries)
    loss.estimate(local, summaries)
    assert loss.mine.running_log_mean == -math.inf
    loss.train()(local, summaries)
    assert loss.mine.running_log_mean.isfinite()
    assert "mine.running_log_mean" in loss.state_dict()


# Pitfalls


@pytest.mark.parametrize("objective", [*POINTWISE[:-1], "infonce", "dv", "mine"])
def test_minimising_raises_the_logits_of_real_pairs_and_lowers_those_of_fake_ones(objective: Any) -> None:
    """The sign: a critic that tells the pairs apart has a smaller loss than one that is told the contrary."""

    class Sure(DotProductCritic):
        sign = 1.0

        def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            same = (local_codes.unsqueeze(1) - global_codes.unsqueeze(2)).abs().sum(-1) < 1e-6
            return torch.where(same, self.sign, -self.sign)

        def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
            return local_features.flatten(2).mT, global_features

        def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            return self.score(local_codes, global_codes.expand(len(local_codes), -1, -1))

    summaries = torch.randn(6, 4)
    local = summaries[:, :, None].expand(-1, -1, 3)
    negatives: Any = "all" if objective == "infonce" else "derangement"
    critic = Sure(4, 4, hidden_channels=1)
    loss = LMIMLoss(4, 4, critic=critic, objective=objective, negatives=negatives)
    right = loss(local, summaries)
    critic.sign = -1.0
    assert right < loss(local, summaries)


@pytest.mark.parametrize("batch", [2, 3, 5, 7])
@pytest.mark.parametrize("negatives", ["shift", "derangement", "per-location", "all", "queue"])
def test_no_fake_pair_is_a_real_one_in_small_and_odd_batches(batch: int, negatives: Any) -> None:
    """A critic that is sure of the own summary: any real pair among the fake ones would cost 1000."""

    class Own(SeparableCritic):
        def score(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            return torch.where(local_codes[:, None] == global_codes[:, :, None], 1e3, -1e3).squeeze(-1)

        def encode(self, local_features: Tensor, global_features: Tensor) -> tuple[Tensor, Tensor]:
            return local_features.flatten(2).mT, global_features

        def score_all(self, local_codes: Tensor, global_codes: Tensor) -> Tensor:
            return self.score(local_codes, global_codes.expand(len(local_codes), -1, -1))

    size = 4 if negatives == "queue" else None
    loss = LMIMLoss(1, 1, critic=Own(1, 1), negatives=negatives, queue_size=size)
    for step in range(10):
        summaries = torch.arange(batch)[:, None] + 100.0 * (step + 1)
        assert loss(summaries[:, :, None].expand(-1, -1, 3), summaries) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("objective", ["bce", "jsd", "nwj", "infonce", "dv", "squared_hellinger", "rkl"])
def test_logits_of_1e4_stay_finite_in_loss_and_gradient(dtype: torch.dtype, objective: Any) -> None:
    loss = LMIMLoss(6, 4, hidden_channels=8, objective=objective, negatives="all", dtype=dtype)
    with torch.no_grad():
        final: Any = loss.critic
        final.fc3.weight.fill_(2e3)
        final.fc3.bias.fill_(-1e4)
    local, summaries = features(dtype=dtype)
    value = loss(local, summaries)
    assert value.dtype == torch.float32
    assert value.isfinite()
    (gradient,) = torch.autograd.grad(value, final.fc3.bias)  # the sum of the logits' gradients
    assert gradient.isfinite().all()


@pytest.mark.parametrize("objective", ["dv", "infonce", "nwj"])
def test_an_empty_mask_is_refused_in_every_objective(objective: Any) -> None:
    loss, (local, summaries) = loss_of(objective=objective, negatives="all"), features()
    with pytest.raises(ValueError, match="finite sum above zero"):
        loss(local, summaries, mask=torch.zeros(5, 3, 2))


# Global information and prior


@pytest.mark.parametrize(("objective", "negatives"), [("bce", "shift"), ("infonce", "all"), ("dv", "derangement")])
def test_the_global_loss_is_the_local_one_of_an_input_without_locations(objective: Any, negatives: Any) -> None:
    local, summaries = features()
    torch.manual_seed(0)
    options: Any = {"objective": objective, "negatives": negatives, "hidden_channels": 8, "dtype": torch.float64}
    ours = GlobalInfoMaxLoss(36, 4, **options).eval()
    truth = LMIMLoss(36, 4, **options).eval()
    truth.load_state_dict(ours.state_dict())
    flat, image_mask = local.flatten(1), torch.tensor([1.0, 0, 2, 1, 1])
    torch.testing.assert_close(ours(local, summaries), truth(flat[:, :, None], summaries))
    torch.testing.assert_close(ours(flat, summaries), ours(local, summaries))
    masked = truth(flat[:, :, None], summaries, mask=image_mask[:, None])
    torch.testing.assert_close(ours(local, summaries, mask=image_mask), masked)
    torch.testing.assert_close(ours.estimate(local, summaries), truth.estimate(flat[:, :, None], summaries))


def test_the_global_loss_takes_any_critic_of_vectors() -> None:
    local, summaries = features()
    critic = SeparableCritic(36, 4, dtype=torch.float64)
    loss = GlobalInfoMaxLoss(36, 4, critic=critic, reduction="none").eval()
    flat = local.flatten(1)
    softplus = nn.functional.softplus
    truth = softplus(-critic(flat, summaries)) + softplus(critic(flat, summaries.roll(-1, 0)))
    torch.testing.assert_close(loss(local, summaries), truth)


def prior_loss(**options: Any) -> PriorMatchingLoss:
    torch.manual_seed(0)
    return PriorMatchingLoss(4, hidden_channels=(8, 5), dtype=torch.float64, **options)


def test_a_replaced_discriminator_is_reset_with_its_prior() -> None:
    loss: Any = prior_loss()
    loss.discriminator = nn.Sequential(nn.Linear(4, 1))
    nn.init.constant_(loss.discriminator[0].weight, 7)
    loss.reset_parameters()
    assert not (loss.discriminator[0].weight == 7).any()


def test_each_term_of_the_prior_has_the_gradients_of_its_side_alone() -> None:
    loss, summary = prior_loss(), features()[1].requires_grad_()
    discriminator, encoder = loss.terms(summary)
    weights = list(loss.parameters())
    assert all(g is None for g in torch.autograd.grad(encoder, weights, allow_unused=True, retain_graph=True))
    assert torch.autograd.grad(discriminator, summary, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(encoder, summary)[0].any()
    assert all(g.any() for g in torch.autograd.grad(discriminator, weights))


def test_one_backward_of_the_prior_s_sum_serves_both_sides() -> None:
    loss, summary = prior_loss(prior="gaussian"), features()[1].requires_grad_()
    draws = torch.randn(5, 4, dtype=torch.float64)
    loss(summary, draws).backward()
    discriminator, encoder = loss.terms(summary, draws)
    torch.testing.assert_close(summary.grad, torch.autograd.grad(encoder, summary)[0])
    for parameter, truth in zip(
        loss.parameters(), torch.autograd.grad(discriminator, list(loss.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, truth)


def test_the_sides_of_the_prior_pull_against_one_another() -> None:
    """A step down either term lowers it; what helps the discriminator hurts the encoder."""
    loss, summary = prior_loss(prior="gaussian"), features()[1].requires_grad_()
    draws = torch.randn(5, 4, dtype=torch.float64)
    before = loss.terms(summary, draws)
    (down,) = torch.autograd.grad(before.encoder, summary)
    moved = loss.terms(summary - 0.05 * down, draws)
    assert moved.encoder < before.encoder
    assert moved.discriminator > before.discriminator
    gradients = torch.autograd.grad(loss.terms(summary, draws).discriminator, list(loss.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(loss.parameters(), gradients, strict=True):
            parameter.sub_(0.05 * gradient)
    learned = loss.terms(summary, draws)
    assert learned.discriminator < before.discriminator


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
def test_summaries_come_to_lie_like_the_prior(prior: Any) -> None:
    torch.manual_seed(0)
    loss = PriorMatchingLoss(1, hidden_channels=(32, 32), prior=prior)
    scale, shift = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(2.0))
    optimiser = torch.optim.Adam([*loss.parameters(), scale, shift], 5e-3, betas=(0.5, 0.9))
    for _ in range(600):
        optimiser.zero_grad()
        loss(torch.randn(128, 1) * scale + shift).backward()
        optimiser.step()
    drawn = torch.randn(4000, 1) * scale.detach() + shift.detach()
    if prior == "uniform":
        drawn = drawn.sigmoid()
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.1)
        assert drawn.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.1)
    else:
        assert drawn.mean().item() == pytest.approx(0.0, abs=0.3)
        assert drawn.std().item() == pytest.approx(1.0, abs=0.3)


def test_deep_infomax_is_the_weighed_sum_of_its_three() -> None:
    torch.manual_seed(0)
    loss = DeepInfoMaxLoss(6, 4, map_size=(3, 2), alpha=0.5, beta=2.0, gamma=0.1, dtype=torch.float64)
    local, summaries = features()
    draws, groups = torch.rand(5, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 3])
    mask = torch.rand(5, 3, 2, dtype=torch.float64)
    parts: Any = loss
    truth = 0.5 * parts.global_loss(local, summaries, groups=groups)
    truth = truth + 2.0 * parts.local_loss(local, summaries, mask=mask, groups=groups)
    truth = truth + 0.1 * parts.prior_loss(summaries, draws)
    torch.testing.assert_close(loss(local, summaries, draws, mask=mask, groups=groups), truth)


def test_other_state_is_where_the_critic_is() -> None:
    loss = DeepInfoMaxLoss(6, 4, objective="mine", device="meta", dtype=torch.float64)
    assert {(x.device.type, x.dtype) for x in loss.state_dict().values()} == {("meta", torch.float64)}
    queued = LMIMLoss(6, 4, negatives="queue", queue_size=3, critic=ConcatConvCritic(6, 4, dtype=torch.float64))
    assert queued.queue.stored.dtype is torch.float64


def with_state(state: str, kind: Any) -> Any:
    """Build a loss in training with a queue or a running mean."""
    options: Any = {"negatives": "queue", "queue_size": 7} if state == "queue" else {"objective": "mine"}
    torch.manual_seed(0)
    if kind is DeepInfoMaxLoss:
        return kind(6, 4, objective="mine").double()
    return kind(6 if kind is LMIMLoss else 36, 4, **options).double()


WITH_STATE: list[tuple[str, Any]] = [
    *((state, kind) for state in ("queue", "running mean") for kind in (LMIMLoss, GlobalInfoMaxLoss)),
    ("running mean", DeepInfoMaxLoss),
]


@pytest.mark.parametrize(("state", "kind"), WITH_STATE)
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_loss_with_state_is_not_recomputed_in_training(state: str, kind: Any, reentrant: bool) -> None:
    loss, (local, summaries) = with_state(state, kind), features()
    local.requires_grad_()
    value = checkpoint(loss, local, summaries, use_reentrant=reentrant)
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    message = rf"^{kind.__name__}: must run once per batch in training, since it updates its {state}, got a second run"
    with pytest.raises(RuntimeError, match=message):
        value.backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())
    loss.eval()
    torch.manual_seed(1)
    (ours,) = torch.autograd.grad(checkpoint(loss, local, summaries, use_reentrant=False), local)
    torch.manual_seed(1)
    (truth,) = torch.autograd.grad(loss(local, summaries), local)
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize(("state", "kind"), WITH_STATE)
def test_a_loss_with_state_is_transformed_in_evaluation_alone(state: str, kind: Any) -> None:
    loss, (local, summaries) = with_state(state, kind), features()
    batches, same = torch.stack([local, 2 * local]), torch.stack([summaries, -summaries])
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    message = rf"^{kind.__name__}: cannot update its {state} in training from inside torch.func, got state"
    transforms = torch.func.vmap(loss, randomness="different"), torch.func.grad(loss)
    for transform, inputs in zip(transforms, [(batches, same), (local, summaries)], strict=True):
        with pytest.raises(RuntimeError, match=message):
            transform(*inputs)
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())
    assert torch.func.vmap(loss.eval(), randomness="different")(batches, same).shape == (2,)
    assert torch.func.grad(loss)(local, summaries).shape == local.shape


def test_losses_with_stacked_state_are_mapped_by_vmap() -> None:
    losses, (local, summaries) = [with_state("running mean", LMIMLoss) for _ in range(2)], features()
    parameters, buffers = torch.func.stack_module_state(losses)

    def call(parameters: Any, buffers: Any, local: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(losses[0], (parameters, buffers), (local, summaries))
        return value

    torch.func.vmap(call, randomness="same")(parameters, buffers, torch.stack([local, 2 * local]))
    first, second = buffers["mine.running_log_mean"]
    assert first.isfinite()
    assert first != second


@pytest.mark.parametrize("negatives", ["shift", "derangement", "all"])
def test_mask_and_groups_are_mapped_by_vmap(negatives: Any) -> None:
    loss, (local, summaries) = loss_of(negatives=negatives), features()
    groups = None if negatives == "shift" else torch.arange(5)
    masks = torch.rand(2, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mapped = torch.func.vmap(lambda mask: loss(local, summaries, mask=mask, groups=groups))(masks)
    one_by_one = [loss(local, summaries, mask=mask, groups=groups) for mask in masks]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))


def test_deep_infomax_builds_what_has_a_weight() -> None:
    assert {name.split(".")[0] for name in DeepInfoMaxLoss(6, 4).state_dict()} == {"local_loss", "prior_loss"}
    loss = DeepInfoMaxLoss(6, 4, map_size=(2,), alpha=1.0, beta=0.0, gamma=1.0)
    assert {name.split(".")[0] for name in loss.state_dict()} == {"global_loss", "prior_loss"}
    critic = ConcatConvCritic(6, 4)
    assert DeepInfoMaxLoss(6, 4, gamma=0.0, local_critic=critic).local_loss.critic is critic  # type: ignore[union-attr]


def test_what_is_no_fake_pair_may_have_any_logit() -> None:
    valid = ~torch.eye(2, dtype=torch.bool)
    negative = torch.zeros(2, 2).masked_fill(~valid, math.inf)
    assert location_losses("bce", PairLogits(torch.zeros(2), negative, valid)).isfinite().all()
