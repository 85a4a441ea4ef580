"""Contrastive losses as others write them: InfoNCE, NT-Xent, CLIP, supervised; given negatives, queues with groups."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blan_layers import ConcatConvCritic, CosineCritic, GlobalInfoMaxLoss, LMIMLoss
from blan_layers import functional as F
from blan_layers.functional import reference
from blan_layers.functional.objectives import OBJECTIVES

cross_entropy, normalize = nn.functional.cross_entropy, nn.functional.normalize
TEMPERATURE = 0.2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def cosine(**options: Any) -> Any:
    """Return a critic whose embeddings are the features, as the losses of others have them."""
    critic = CosineCritic(4, 4, embedding_channels=4, temperature=TEMPERATURE, dtype=torch.float64, **options)
    with torch.no_grad():
        for encoder in (critic.local_encoder, critic.global_encoder):
            nn.init.eye_(encoder.get_parameter("weight"))
    return critic


def infonce(**options: Any) -> GlobalInfoMaxLoss:
    return GlobalInfoMaxLoss(4, 4, objective="infonce", **{"negatives": "all", "critic": cosine(), **options})


def agree(ours: Tensor, truth: Tensor, inputs: list[Tensor]) -> None:
    """Compare values, and gradients of them and of what they depend on."""
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    for our, true in zip(*(torch.autograd.grad(x, inputs, retain_graph=True) for x in (ours, truth)), strict=True):
        torch.testing.assert_close(our, true, rtol=1e-9, atol=1e-12)


# What others write


def test_infonce_of_info_nce_pytorch_without_negatives() -> None:
    query, positive = drawn(6, 4), drawn(6, 4, seed=1)
    logits = normalize(query, dim=-1) @ normalize(positive, dim=-1).T
    truth = cross_entropy(logits / TEMPERATURE, torch.arange(6))
    agree(infonce()(query, positive), truth - math.log(6), [query, positive])


def test_infonce_of_info_nce_pytorch_with_paired_negatives() -> None:
    query, positive, negative = drawn(6, 4), drawn(6, 4, seed=1), drawn(6, 3, 4, seed=2)
    q, p, n = (normalize(x, dim=-1) for x in (query, positive, negative))
    logits = torch.cat([(q * p).sum(1, keepdim=True), (q.unsqueeze(1) @ n.mT).squeeze(1)], 1)
    truth = cross_entropy(logits / TEMPERATURE, torch.zeros(6, dtype=torch.long))
    ours = infonce(negatives="given")(query, positive, negative_features=negative)
    agree(ours, truth - math.log(4), [query, positive, negative])


def test_nt_xent_of_simclr() -> None:
    first, second = drawn(5, 4), drawn(5, 4, seed=1)
    z = normalize(torch.cat([first, second]), dim=-1)
    similar = (z @ z.T / TEMPERATURE).exp()
    losses = []
    for i in range(10):
        j = (i + 5) % 10
        others = torch.stack([similar[i, k] for k in range(10) if k != i]).sum()
        losses.append(-(similar[i, j] / others).log())
    truth = torch.stack(losses).mean()
    images = torch.arange(5).repeat(2)
    ours = infonce()(torch.cat([first, second]), torch.cat([second, first]), groups=images)
    agree(ours, truth - math.log(9), [first, second])


def test_the_loss_of_clip_with_its_temperature() -> None:
    image, text = drawn(6, 4), drawn(6, 4, seed=1)
    loss = infonce(critic=cosine(learnt_temperature=True), symmetric=True)
    scale = loss.critic.logit_scale
    assert isinstance(scale, Tensor)
    logits = scale.exp() * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    labels = torch.arange(6)
    truth = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    agree(loss(image, text), truth - math.log(6), [image, text, scale])


def test_the_supervised_contrastive_loss_of_its_authors() -> None:
    """SupConLoss with contrast_mode "all", with the loss's own temperature for the base temperature."""
    features, labels = drawn(5, 2, 4), torch.tensor([0, 1, 0, 2, 1])
    unit = normalize(features, dim=-1)
    contrast = torch.cat(torch.unbind(unit, dim=1))
    logits = contrast @ contrast.T / TEMPERATURE
    mask = (labels[:, None] == labels).double().repeat(2, 2)
    logits_mask = 1 - torch.eye(10, dtype=torch.float64)
    mask = mask * logits_mask
    log_prob = logits - (logits.exp() * logits_mask).sum(1, keepdim=True).log()
    truth = -((mask * log_prob).sum(1) / mask.sum(1)).mean()

    views, both = torch.cat([features[:, 0], features[:, 1]]), labels.repeat(2)
    others = ~torch.eye(10, dtype=torch.bool)
    logits = cosine().all_pairs(views, views)
    ours = F.supervised_contrastive_loss(logits, (both[:, None] == both) & others, candidates=others)
    agree(ours, truth, [features])
    twin = reference.supervised_contrastive_loss(logits, (both[:, None] == both) & others, others)
    torch.testing.assert_close(ours, twin)


def test_the_supervised_contrastive_loss_between_two_views() -> None:
    """SupConLoss of pytorch-metric-learning with ref_emb: a view's positives are all second views of its class."""
    first, second, labels = drawn(6, 4), drawn(6, 4, seed=1), torch.tensor([0, 1, 0, 2, 1, 0])
    logits = normalize(first, dim=-1) @ normalize(second, dim=-1).T / TEMPERATURE
    same = labels[:, None] == labels
    truth = reference.supervised_contrastive_loss(logits, same, torch.ones_like(same))
    agree(infonce(positives="groups")(first, second, groups=labels), truth - math.log(6), [first, second])
    back = reference.supervised_contrastive_loss(logits.T, same, torch.ones_like(same))
    ours = infonce(positives="groups", symmetric=True)(first, second, groups=labels)
    agree(ours, (truth + back) / 2 - math.log(6), [first, second])


def test_positives_are_mapped_by_vmap() -> None:
    logits, positives = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4).bool()
    both = logits, torch.stack([positives, positives | (logits[0] > 0), positives.T])
    mapped = torch.func.vmap(F.supervised_contrastive_loss)(*both)
    one_by_one = [F.supervised_contrastive_loss(*each) for each in zip(*both, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))


def test_items_without_weight_need_no_positives_nor_finite_logits() -> None:
    logits, positives = drawn(4, 5), torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) > 0.5
    positives[:, 0], positives[2] = True, False
    broken = logits.detach().clone().index_fill_(0, torch.tensor([2]), math.nan).requires_grad_()
    keep = torch.tensor([True, True, False, True])
    ours = F.supervised_contrastive_loss(broken, positives, weights=keep)
    truth = reference.supervised_contrastive_loss(logits[keep], positives[keep], torch.ones_like(positives[keep]))
    torch.testing.assert_close(ours, truth)
    (gradient,) = torch.autograd.grad(ours, broken)
    assert gradient.isfinite().all()
    assert not gradient[2].any()


# Both directions


def literal_symmetric(logits: Tensor, groups: Tensor, mask: Tensor, positives: str) -> Tensor:
    """Return the loss (B, U) from logits (B, B, U), location by location, pair by pair."""
    batch, _, locations = logits.shape
    losses = torch.zeros(batch, locations, dtype=logits.dtype)
    for b in range(batch):
        for u in range(locations):
            told = []
            for scores, seen in ((logits[b, :, u], torch.ones(batch)), (logits[:, b, u], mask[:, u])):
                real = [n for n in range(batch) if n == b or (groups[n] == groups[b] and seen[n])]
                real = real if positives == "groups" else [b]
                fake = [n for n in range(batch) if groups[n] != groups[b] and seen[n]]
                among = scores[real + fake]
                told.append(math.log(len(among)) + scores[real].mean() - among.logsumexp(0))
            losses[b, u] = -(told[0] + told[1]) / 2
    return losses


@pytest.mark.parametrize("positives", ["own", "groups"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_symmetric_loss_is_its_equation(positives: Any, grouped: bool, masked: bool) -> None:
    if positives == "groups" and not grouped:
        return
    torch.manual_seed(0)
    local, summaries = drawn(5, 6, 3, 2), drawn(5, 4, seed=1)
    options: Any = {"objective": "infonce", "negatives": "all", "symmetric": True, "positives": positives}
    loss = LMIMLoss(6, 4, hidden_channels=8, reduction="none", dtype=torch.float64, **options)
    groups = torch.tensor([7, 2, 7, 7, 2]) if grouped else None
    mask = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(3)) > 0.4 if masked else None
    weights = tuple(loss.critic.parameters())
    logits = torch.stack([reference.concat_conv_logits(local, s.expand(5, -1), *weights) for s in summaries], 1)
    seen = torch.ones(5, 3, 2) if mask is None else mask
    numbers = torch.arange(5) if groups is None else groups
    truth = literal_symmetric(logits.flatten(2), numbers, seen.flatten(1), positives).view(5, 3, 2) * seen
    ours = loss(local, summaries, mask=mask, groups=groups)
    torch.testing.assert_close(ours, truth)
    agree(ours.tanh().sum(), truth.tanh().sum(), [local, summaries, *weights])
    loss.reduction = "mean"
    shown = loss.estimate(local, summaries, mask=mask, groups=groups, estimator="infonce")
    torch.testing.assert_close(shown, -truth.sum() / seen.sum())


@pytest.mark.parametrize("options", [
    {"symmetric": True},
    {"negatives": "given"},
    {"positives": "groups"},
    {"negatives": "queue", "queue_size": 6, "positives": "groups"},
], ids=str)  # fmt: skip
def test_further_losses_are_compiled_exported_and_traced_for_any_batch(options: Any) -> None:
    options = {"negatives": "all"} | options
    loss = LMIMLoss(6, 4, hidden_channels=8, objective="infonce", dtype=torch.float64, **options)

    def batch_of(size: int) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        further: dict[str, Tensor] = {}
        if options["negatives"] == "given":
            further["negative_features"] = drawn(size, 3, 4)
        if options.get("positives") == "groups":
            further["groups"] = torch.arange(size) // 2
        return (drawn(size, 6, 3), drawn(size, 4)), further

    batch = torch.export.Dim("batch", min=3)
    inputs, further = batch_of(5)
    shapes = {"local_features": {0: batch}, "global_features": {0: batch}} | {name: {0: batch} for name in further}
    program = torch.export.export(loss.eval(), inputs, further, dynamic_shapes=shapes).module()
    traced = torch.fx.symbolic_trace(loss)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 8):
        inputs, further = batch_of(size)
        torch.testing.assert_close(program(*inputs, **further), loss(*inputs, **further))
        torch.testing.assert_close(compiled(*inputs, **further), loss(*inputs, **further))
        torch.testing.assert_close(traced(*inputs, **further), loss(*inputs, **further))
    torch._dynamo.reset()


def test_a_traced_loss_refuses_what_it_does_not_use() -> None:
    loss = torch.fx.symbolic_trace(LMIMLoss(6, 4, hidden_channels=8))
    inputs = torch.zeros(3, 6, 2), torch.zeros(3, 4)
    loss(*inputs)
    with pytest.raises(ValueError, match="negative_features needs negatives 'given', got negatives='shift'"):
        loss(*inputs, negative_features=torch.zeros(3, 1, 4))


def test_a_loss_shows_in_which_ways_it_is_contrastive() -> None:
    assert infonce().extra_repr() == "objective='infonce', negatives='all', reduction='mean'"
    shown = infonce(symmetric=True, positives="groups").extra_repr()
    assert shown == "objective='infonce', negatives='all', symmetric=True, positives='groups', reduction='mean'"


# Given negatives


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_given_negatives_make_the_fake_pairs_in_every_objective(objective: Any) -> None:
    local, summaries, given = drawn(5, 6, 3), drawn(5, 4, seed=1), drawn(5, 2, 4, seed=2)
    critic = ConcatConvCritic(6, 4, hidden_channels=8, dtype=torch.float64)
    loss = LMIMLoss(6, 4, critic=critic, objective=objective, negatives="given").eval()
    real = critic(local, summaries)
    fake = torch.stack([critic(local, given[:, k]) for k in range(2)], 1)
    if objective == "infonce":
        truth = torch.cat([real.unsqueeze(1), fake], 1).logsumexp(1).sub(real).mean() - math.log(3)
    elif objective in ("dv", "mine"):
        truth = -F.dv_lower_bound(real, fake)
    else:
        terms = OBJECTIVES[objective]
        truth = -(terms.of_positive(real).mean() - terms.of_negative(fake).mean())
    agree(loss(local, summaries, negative_features=given), truth, [local, summaries, given, *critic.parameters()])


def test_given_negatives_serve_a_single_image_and_the_estimate() -> None:
    local, summaries, given = drawn(1, 6, 3), drawn(1, 4, seed=1), drawn(1, 5, 4, seed=2)
    loss = LMIMLoss(6, 4, hidden_channels=8, objective="infonce", negatives="given", dtype=torch.float64)
    shown = loss.estimate(local, summaries, negative_features=given, estimator="infonce")
    torch.testing.assert_close(shown, -loss(local, summaries, negative_features=given).detach())
    real, fake = loss.critic(local, summaries), loss.critic.all_pairs(local, torch.cat([summaries, given[0]]))[:, 1:]  # type: ignore[operator]
    shown = loss.estimate(local, summaries, negative_features=given)
    torch.testing.assert_close(shown, F.jsd_objective(real, fake).detach())


def test_an_image_without_weight_may_have_any_given_negatives() -> None:
    local, summaries, given = drawn(4, 6, 3), drawn(4, 4, seed=1), drawn(4, 2, 4, seed=2)
    loss = LMIMLoss(6, 4, hidden_channels=8, negatives="given", dtype=torch.float64)
    mask = torch.ones(4, 3).index_fill_(0, torch.tensor([2]), 0)
    whole = loss(local, summaries, negative_features=given, mask=mask)
    broken = given.detach().index_fill(0, torch.tensor([2]), math.nan).requires_grad_()
    ours = loss(local, summaries, negative_features=broken, mask=mask)
    assert torch.equal(ours, whole)
    assert torch.autograd.grad(ours, broken)[0].isfinite().all()


def test_given_negatives_under_autocast_may_be_of_either_dtype() -> None:
    loss = LMIMLoss(6, 4, critic=CosineCritic(6, 4), negatives="given")
    local, summaries, given = (drawn(*shape).float() for shape in ((3, 6, 2), (3, 4), (3, 2, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(local, summaries.bfloat16(), negative_features=given)
    torch.testing.assert_close(value, loss(local, summaries, negative_features=given), rtol=0.05, atol=0.05)


# The queue and groups


@pytest.mark.parametrize("positives", ["own", "groups"])
def test_the_queue_keeps_groups(positives: Any) -> None:
    """Rows of an image's own group in the queue are no fake pairs of it, and real ones where groups are positives."""
    torch.manual_seed(0)
    loss = LMIMLoss(
        6, 4, hidden_channels=8, objective="infonce", negatives="queue", queue_size=7, positives=positives,
        dtype=torch.float64,
    )  # fmt: skip
    earlier = [(drawn(5, 6, 3, seed=s), drawn(5, 4, seed=s + 10), torch.arange(5) * s % 4) for s in (1, 2)]
    for local, summaries, groups in earlier:
        loss(local, summaries, groups=groups)
    loss.eval()
    local, summaries, groups = drawn(3, 6, 3, seed=3), drawn(3, 4, seed=13), torch.tensor([0, 0, 2])
    candidates = torch.cat([summaries, *(s for _, s, _ in earlier)])[[0, 1, 2, *range(6, 13)]].detach()
    numbers = torch.cat([groups, *(g for _, _, g in earlier)])[[0, 1, 2, *range(6, 13)]]
    weights = tuple(loss.critic.parameters())
    logits = torch.stack([reference.concat_conv_logits(local, s.expand(3, -1), *weights) for s in candidates], 1)
    losses = []
    for b in range(3):
        same = numbers == groups[b]
        real = same if positives == "groups" else torch.arange(10) == b
        among = real | ~same
        log_share = logits[b].masked_fill(~among[:, None], -math.inf).log_softmax(0)
        losses.append(-log_share[real].mean(0) - math.log(among.sum()))
    torch.testing.assert_close(loss(local, summaries, groups=groups), torch.stack(losses).mean())
    assert 0 < (numbers[3:] == 0).sum() < 7


def queued() -> LMIMLoss:
    torch.manual_seed(0)
    loss = LMIMLoss(6, 4, hidden_channels=8, negatives="queue", queue_size=7, dtype=torch.float64)
    loss(drawn(5, 6, 3), drawn(5, 4), groups=torch.tensor([0, 1, 1, 2, 3]))
    return loss


def test_the_queue_s_groups_travel_with_the_state_and_older_states_load() -> None:
    loss, twin = queued(), LMIMLoss(6, 4, hidden_channels=8, negatives="queue", queue_size=7, dtype=torch.float64)
    state = loss.state_dict()
    assert list(state)[-3:] == ["queue.stored", "queue.seen", "queue.groups"]
    twin.load_state_dict(state)
    batch, groups = (drawn(4, 6, 3, seed=5), drawn(4, 4, seed=6)), torch.tensor([1, 1, 0, 4])
    assert torch.equal(twin.eval()(*batch, groups=groups), loss.eval()(*batch, groups=groups))
    older = {name: value for name, value in state.items() if name != "queue.groups"}
    for assign in (False, True):
        twin.load_state_dict(older, assign=assign)
        assert "queue.groups" not in older
        assert torch.equal(twin.queue.stored, loss.queue.stored)
        assert not torch.isin(twin.queue.groups, groups).any()
    assert torch.equal(twin(*batch), loss(*batch))
    unbuilt = LMIMLoss(6, 4, hidden_channels=8, negatives="queue", queue_size=7, dtype=torch.float64, device="meta")
    unbuilt.load_state_dict(older, assign=True)
    assert torch.equal(unbuilt.eval()(*batch, groups=groups), twin(*batch, groups=groups))


def test_weights_without_a_queue_leave_the_queue_and_its_groups_as_they_are() -> None:
    loss = queued()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    critic = {name: value for name, value in before.items() if name.startswith("critic.")}
    missing = loss.load_state_dict(critic, strict=False).missing_keys
    assert missing == ["queue.stored", "queue.seen", "queue.groups"]
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_summaries_without_groups_are_everyone_s_fake_pairs() -> None:
    loss = queued()
    for _ in range(2):
        loss(drawn(4, 6, 3, seed=3), drawn(4, 4, seed=4))
    groups = torch.tensor([0, 1, 2])
    loss.eval()
    batch = drawn(3, 6, 3, seed=5), drawn(3, 4, seed=6)
    torch.testing.assert_close(loss(*batch, groups=groups), loss(*batch))


def test_a_batch_of_one_group_meets_the_others_in_the_queue() -> None:
    loss = queued().eval()
    one = torch.tensor([1, 1])
    value = loss(drawn(2, 6, 3, seed=5), drawn(2, 4, seed=6), groups=one)
    assert value.isfinite()
    loss.reset_parameters()
    with pytest.raises(ValueError, match="got none for image 0"):
        loss(drawn(2, 6, 3, seed=5), drawn(2, 4, seed=6), groups=one)
