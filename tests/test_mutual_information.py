"""What the critic, the negatives, the objectives and the loss promise beyond the contract."""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from blan_layers import ConcatConvCritic, LMIMLoss
from blan_layers import functional as F
from blan_layers.functional import reference
from blan_layers.mutual_information.negatives import shifted_indices

CPU = torch.device("cpu")


class DotCritic(nn.Module):
    """A critic of a user's own, without the means to share work between real and fake pairs."""

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        return torch.einsum("bc...,bc->b...", local_features, global_features)


def features(batch: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 6, 3, 4, generator=generator, dtype=dtype),
        torch.randn(batch, 4, generator=generator, dtype=dtype),
    )


def loss_of(**options: Any) -> LMIMLoss:
    torch.manual_seed(0)
    return LMIMLoss(6, 4, hidden_channels=8, dtype=torch.float64, **options).eval()


def literal_terms(loss: LMIMLoss, local: Tensor, summary: Tensor, shift: int = 1) -> tuple[Tensor, Tensor]:
    weights = tuple(loss.critic.state_dict().values())
    positive = reference.concat_conv_logits(local, summary, *weights)
    negative = reference.concat_conv_logits(local, summary.roll(-shift, 0), *weights)
    return torch.log1p(torch.exp(-positive)), torch.log1p(torch.exp(negative))


@given(batch=st.integers(2, 200), random=st.booleans())
def test_a_shift_is_a_permutation_without_fixed_point(batch: int, random: bool) -> None:
    indices = shifted_indices(batch, CPU, random=random)
    assert sorted(indices.tolist()) == list(range(batch))
    assert not (indices == torch.arange(batch)).any()


def test_training_draws_every_shift_equally_often_and_evaluation_takes_one() -> None:
    torch.manual_seed(0)
    drawn = torch.tensor([shifted_indices(5, CPU, random=True)[0].item() for _ in range(4000)])
    counts = torch.bincount(drawn, minlength=5).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75) for count in counts[1:])
    assert shifted_indices(5, CPU, random=False).tolist() == [1, 2, 3, 4, 0]


def test_training_shift_comes_from_the_default_generator() -> None:
    loss, (local, summary) = loss_of().train(), features()
    values = []
    for seed in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(seed)
        values.append(loss(local, summary).item())
    assert values[0] == values[1]
    assert len(set(values)) > 1
    terms = [literal_terms(loss, local, summary, shift) for shift in (1, 2, 3, 4)]
    possible = [(real.mean() + fake.mean()).item() for real, fake in terms]
    assert all(min(abs(value - p) for p in possible) < 1e-12 for value in values)


@pytest.mark.parametrize("objective", ["bce", "jsd"])
def test_reductions_agree(objective: Any) -> None:
    local, summary = features()
    none = loss_of(objective=objective, reduction="none")(local, summary)
    assert none.shape == (5, 3, 4)
    torch.testing.assert_close(none.mean(), loss_of(objective=objective)(local, summary))
    torch.testing.assert_close(none.sum(), loss_of(objective=objective, reduction="sum")(local, summary))


def test_each_location_of_the_unreduced_loss_is_the_literal_one() -> None:
    loss, (local, summary) = loss_of(reduction="none"), features()
    real, fake = literal_terms(loss, local, summary)
    torch.testing.assert_close(loss(local, summary), real + fake, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["boolean", "weights"])
def test_a_mask_weighs_both_terms_at_the_maps_location(kind: str) -> None:
    local, summary = features()
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(5, 3, 4, generator=generator, dtype=torch.float64)
    mask = weights > 0.5 if kind == "boolean" else weights
    loss = loss_of()
    real, fake = literal_terms(loss, local, summary)
    expected = ((real + fake) * mask).sum() / mask.sum()
    torch.testing.assert_close(loss(local, summary, mask=mask), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss_of(reduction="sum")(local, summary, mask=mask), ((real + fake) * mask).sum())
    torch.testing.assert_close(loss_of(reduction="none")(local, summary, mask=mask), (real + fake) * mask)


def test_masked_out_locations_get_no_gradient() -> None:
    local, summary = features()
    local.requires_grad_()
    mask = torch.ones(5, 3, 4, dtype=torch.bool)
    mask[:, 1] = False
    (gradient,) = torch.autograd.grad(loss_of()(local, summary, mask=mask), local)
    assert not gradient[:, :, 1].any()
    assert gradient[:, :, 0].any()


@pytest.mark.parametrize("nothing", [math.nan, math.inf])
def test_what_stands_where_the_mask_is_zero_is_never_looked_at(nothing: float) -> None:
    loss, (local, summary) = loss_of(), features()
    mask = torch.ones(5, 3, 4, dtype=torch.bool)
    mask[:, 1] = False
    invalid = local.clone()
    invalid[:, :, 1] = nothing
    assert torch.equal(loss(invalid, summary, mask=mask), loss(local, summary, mask=mask))
    gradients = torch.autograd.grad(loss(invalid, summary, mask=mask), list(loss.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_masked_loss_compiles_exports_and_runs_on_meta() -> None:
    loss, (local, summary) = loss_of(), features()
    mask = torch.rand(5, 3, 4, dtype=torch.float64)
    truth = loss(local, summary, mask=mask)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(local, summary, mask=mask), truth)
    torch._dynamo.reset()
    program = torch.export.export(loss, (local, summary), {"mask": mask})
    torch.testing.assert_close(program.module()(local, summary, mask=mask), truth)
    meta = LMIMLoss(6, 4, device="meta")
    arguments = [tensor.to("meta", torch.float32) for tensor in (local, summary, mask)]
    assert meta(arguments[0], arguments[1], mask=arguments[2]).is_meta


def test_losses_of_different_widths_compile_one_after_the_other() -> None:
    for width in (4, 5, 6):
        loss = LMIMLoss(6, width, hidden_channels=8)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        assert compiled(torch.randn(4, 6, 3), torch.randn(4, width)).isfinite()
    torch._dynamo.reset()


def test_the_map_is_projected_once_for_real_and_fake() -> None:
    projections: list[int] = []

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
                projections.append(args[-2].shape[-1] == 6)  # a product over the map's six channels
            return func(*args, **(kwargs or {}))

    local, summary = features()
    loss = loss_of()
    with Products():
        loss(local, summary)
    assert sum(projections) == 1


def test_a_mask_of_ones_changes_nothing() -> None:
    local, summary = features()
    torch.testing.assert_close(loss_of()(local, summary, mask=torch.ones(5, 3, 4)), loss_of()(local, summary))


def test_jsd_is_bce_less_twice_the_log_of_two() -> None:
    local, summary = features()
    difference = loss_of()(local, summary) - loss_of(objective="jsd")(local, summary)
    assert difference.item() == pytest.approx(2 * math.log(2), abs=1e-12)


def test_estimates_are_the_literal_ones_and_carry_no_gradient() -> None:
    loss, (local, summary) = loss_of().train(), features()
    real, fake = literal_terms(loss, local, summary)
    jsd = loss.estimate(local, summary)
    assert len({loss.estimate(local, summary).item() for _ in range(20)}) == 1  # whatever is drawn in training
    torch.testing.assert_close(jsd, 2 * math.log(2) - real.mean() - fake.mean())
    logits = reference.concat_conv_logits(local, summary, *loss.critic.state_dict().values())
    torch.testing.assert_close(loss.estimate(local, summary, estimator="positive_logit"), logits.mean())
    mask = torch.zeros(5, 3, 4)
    mask[2, 1, 1] = 3.0
    masked = loss.estimate(local, summary, estimator="positive_logit", mask=mask)
    torch.testing.assert_close(masked, logits[2, 1, 1])
    masked = loss.estimate(local, summary, mask=mask)
    torch.testing.assert_close(masked, 2 * math.log(2) - real[2, 1, 1] - fake[2, 1, 1])
    assert not jsd.requires_grad


def test_a_critic_of_ones_own_is_scored_with_shifted_summaries() -> None:
    local, summary = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    loss = LMIMLoss(6, 6, critic=DotCritic()).eval()
    critic = DotCritic()
    expected = reference.bce_loss(critic(local, summary), critic(local, summary.roll(-1, 0)))
    torch.testing.assert_close(loss(local, summary), expected)


def test_gradient_reaches_critic_map_and_summary() -> None:
    loss, (local, summary) = loss_of(), features()
    local.requires_grad_()
    summary.requires_grad_()
    gradients = torch.autograd.grad(loss(local, summary), [local, summary, *loss.parameters()])
    assert all(gradient.any() for gradient in gradients)


def test_weights_of_the_literal_convolutions_fit_by_a_view() -> None:
    local, summary = features(dtype=torch.float32)
    literal = nn.Sequential(nn.Conv2d(10, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    critic = ConcatConvCritic(6, 4, hidden_channels=8)
    views = [weight.view(critic_weight.shape) for weight, critic_weight in zip(
        literal.state_dict().values(), critic.state_dict().values(), strict=True)]  # fmt: skip
    critic.load_state_dict(dict(zip(critic.state_dict(), views, strict=True)))
    replicated = summary[:, :, None, None].expand(-1, -1, 3, 4)
    torch.testing.assert_close(critic(local, summary), literal(torch.cat([local, replicated], 1)).squeeze(1))


def test_contrast_equals_two_separate_scores() -> None:
    local, summary = features()
    critic: Any = loss_of().critic
    indices = torch.tensor([3, 4, 0, 2, 1])
    positive, negative = critic.contrast(local, summary, indices)
    torch.testing.assert_close(positive, critic(local, summary))
    torch.testing.assert_close(negative, critic(local, summary[indices]))


def test_the_replicated_concatenation_never_exists() -> None:
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(
                r.numel() for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Tensor)
            )
            return result

    local, summary = torch.randn(4, 2, 16, 16), torch.randn(4, 64)
    loss = LMIMLoss(2, 64, hidden_channels=8)
    with Sizes():
        loss(local, summary)
    assert max(sizes) == 2 * 4 * 16 * 16 * 8  # a hidden layer of both pairs; a concatenation would be 4 * 16 * 16 * 66


def test_no_wait_for_the_device_in_a_training_step() -> None:
    with torch.device("meta"):  # where reading a value is an error
        loss = LMIMLoss(6, 4, hidden_channels=8)
        loss(torch.empty(4, 6, 3, 3, requires_grad=True), torch.empty(4, 4)).backward()


@settings(deadline=None)
@example([25.0], [-25.0])
@example([-25.0, 30.0], [33.0])
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20), st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=9))
def test_objectives_are_exact_and_keep_their_identity(positive: list[float], negative: list[float]) -> None:
    p, q = torch.tensor(positive, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    truth = torch.logaddexp(-p, zero).mean() + torch.logaddexp(q, zero).mean()
    torch.testing.assert_close(F.bce_loss(p, q), truth, rtol=1e-14, atol=1e-300)
    torch.testing.assert_close(F.bce_loss(p, q), reference.bce_loss(p, q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(F.jsd_objective(p, q), 2 * math.log(2) - truth)
    assert F.jsd_objective(p, q) <= 2 * math.log(2)


def test_each_set_of_logits_is_averaged_by_itself() -> None:
    p, q = torch.tensor([1.0, 3.0]), torch.tensor([[0.0, -1.0, 2.0]])
    expected = nn.functional.softplus(-p).mean() + nn.functional.softplus(q).mean()
    torch.testing.assert_close(F.bce_loss(p, q), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_finite_float32_loss(dtype: torch.dtype) -> None:
    logits = torch.tensor([-6e4, -20.0, 0.0, 20.0, 6e4], dtype=dtype)
    value = F.bce_loss(logits, logits)
    assert value.dtype == torch.float32
    assert value.isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_estimates_of_half_precision_come_in_float32(dtype: torch.dtype) -> None:
    loss = LMIMLoss(6, 4, hidden_channels=8, dtype=dtype)
    local, summary = (tensor.to(dtype) for tensor in features())
    assert loss.estimate(local, summary).dtype == torch.float32
    assert loss.estimate(local, summary, estimator="positive_logit").dtype == torch.float32


def test_learns_the_information_that_is_there_and_none_where_there_is_none() -> None:
    """Two-valued summaries, told by the map's sign: one bit, of which the bound can show log 2 to 2 log 2 - 0.954."""
    torch.manual_seed(0)
    loss = LMIMLoss(1, 1, hidden_channels=16)
    optimiser = torch.optim.Adam(loss.parameters(), 1e-2)

    def sample(dependent: bool) -> tuple[Tensor, Tensor]:
        summary = torch.randint(0, 2, (64, 1)).float() * 2 - 1
        source = summary if dependent else torch.randint(0, 2, (64, 1)).float() * 2 - 1
        return source[:, :, None].expand(64, 1, 4).clone(), summary

    for _ in range(150):
        optimiser.zero_grad()
        loss(*sample(dependent=True)).backward()
        optimiser.step()
    estimates = [torch.stack([loss.estimate(*sample(d)) for _ in range(50)]).mean().item() for d in (True, False)]
    # Optimal: real pairs always agree, half of the fake ones do, so that the posterior of an agreeing pair is 2/3.
    optimum = 2 * math.log(2) - (math.log(1.5) + 0.5 * math.log(3))
    assert estimates[0] == pytest.approx(optimum, abs=0.03)
    assert estimates[1] < 0.0
    logit = loss.estimate(*sample(dependent=True), estimator="positive_logit").item()
    assert logit == pytest.approx(math.log(2), abs=0.1)  # one bit in nats
