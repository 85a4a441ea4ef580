"""The running mean of MINE, and the gradient it corrects."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from blan_layers import MINEObjective
from blan_layers import functional as F
from blan_layers.functional import reference

UNSEEN = torch.tensor(-math.inf, dtype=torch.float64)


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True),
            torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("momentum", [0.01, 0.5, 1.0])
def test_equals_its_literal_twin_in_value_gradient_and_state(momentum: float) -> None:
    log_mean, mean = UNSEEN, None
    for p, q in batches():
        value, log_mean = F.mine_objective(p, q, log_mean, momentum=momentum)
        mean = (q.exp().mean() if mean is None else reference.running_mean(q, mean, momentum)).detach()
        torch.testing.assert_close(log_mean, mean.log())
        torch.testing.assert_close(value, reference.dv_lower_bound(p, q))
        ours = torch.autograd.grad(value, (p, q))
        truth = torch.autograd.grad(reference.mine_gradient(p, q, mean), (p, q))
        for our, true in zip(ours, truth, strict=True):
            torch.testing.assert_close(our, true)
        assert not log_mean.requires_grad


def test_the_first_batch_has_the_gradient_of_dv() -> None:
    p, q = batches(1)[0]
    value, running = F.mine_objective(p, q, UNSEEN)
    torch.testing.assert_close(torch.autograd.grad(value, q), torch.autograd.grad(F.dv_lower_bound(p, q), q))
    torch.testing.assert_close(running, q.exp().mean().log())


def test_its_gradient_is_that_of_many_negatives_where_dvs_is_biased() -> None:
    """The mean over all batches of two negatives that are a or b, with a known mean of the exponentials."""
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.0, 3.0))
    population = (a.exp() + b.exp()) / 2
    (truth,) = torch.autograd.grad(-population.log(), b, retain_graph=True)
    pairs = [torch.stack(pair) for pair in itertools.product((a, b), repeat=2)]
    zero, running = torch.zeros(1, dtype=torch.float64), population.log().detach()
    corrected = torch.stack([F.mine_objective(zero, pair, running, momentum=1e-9).value for pair in pairs]).mean()
    plain = torch.stack([F.dv_lower_bound(zero, pair) for pair in pairs]).mean()
    (ours,), (biased,) = (torch.autograd.grad(x, b, retain_graph=True) for x in (corrected, plain))
    assert ours.item() == pytest.approx(truth.item(), rel=1e-6)
    assert abs(biased.item() - truth.item()) > 0.1


def test_a_running_mean_that_was_saved_in_half_precision_is_loaded_in_float32() -> None:
    objective = MINEObjective()
    for assign in (False, True):
        objective.load_state_dict({"running_log_mean": torch.tensor(2.0, dtype=torch.bfloat16)}, assign=assign)
        assert (objective.running_log_mean.dtype, objective.running_log_mean.item()) == (torch.float32, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("leap", [1e4, -1e4])
def test_a_leap_of_the_logits_is_finite_and_its_gradient_bounded(dtype: torch.dtype, leap: float) -> None:
    objective = MINEObjective(momentum=0.1)
    objective(torch.zeros(2), torch.zeros(3))
    logits = torch.full((3,), leap, dtype=dtype, requires_grad=True)
    value = objective(torch.zeros(2, dtype=dtype), logits)
    assert value.isfinite()
    assert objective.running_log_mean.isfinite()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() <= 10.1  # 1 / momentum


def test_the_module_keeps_the_running_mean_in_training_alone() -> None:
    objective, log_mean = MINEObjective(momentum=0.2, dtype=torch.float64), UNSEEN
    for p, q in batches():
        value, log_mean = F.mine_objective(p, q, log_mean, momentum=0.2)
        torch.testing.assert_close(objective(p, q), value)
        torch.testing.assert_close(objective.running_log_mean, log_mean)
    objective.eval()
    p, q = batches(1)[0]
    in_evaluation = objective(p, q)
    torch.testing.assert_close(objective.running_log_mean, log_mean, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(in_evaluation, q), torch.autograd.grad(F.dv_lower_bound(p, q), q))


@pytest.mark.parametrize("invalid", [math.inf, math.nan])
def test_a_batch_that_overflowed_leaves_no_trace(invalid: float) -> None:
    objective = MINEObjective()
    objective(torch.zeros(1), torch.tensor([2.0]))
    objective(torch.zeros(1), torch.tensor([2.0, invalid]))
    assert objective.running_log_mean == 2


@pytest.mark.parametrize("before", [float("nan"), float("inf")])
def test_a_running_mean_that_is_not_finite_starts_again(before: float) -> None:  # an average of minus infinity is NaN
    objective, fresh = MINEObjective(), MINEObjective()
    objective.running_log_mean.fill_(before)
    ((p, q),) = batches(1)
    torch.testing.assert_close(objective(p, q), fresh(p, q))
    torch.testing.assert_close(objective.running_log_mean, fresh.running_log_mean)


def test_the_running_mean_stays_the_buffer_it_is() -> None:
    objective = MINEObjective()
    buffer = objective.running_log_mean
    objective(*batches(1)[0])  # in float64
    assert objective.running_log_mean is buffer
    assert buffer.dtype == torch.float32


def test_weights_reach_the_running_mean() -> None:
    objective = MINEObjective(dtype=torch.float64)
    (p, q), keep = batches(1)[0], torch.tensor([True, False, True, False, False])
    value = objective(p, q, positive_weights=keep, negative_weights=keep[:, None].expand(5, 3))
    torch.testing.assert_close(value, F.dv_lower_bound(p[keep], q[keep]))
    torch.testing.assert_close(objective.running_log_mean, q[keep].exp().mean().log())
    torch.testing.assert_close(
        objective.eval()(p, q, positive_weights=keep, negative_weights=keep[:, None].expand(5, 3)), value
    )


def test_the_running_mean_travels_with_the_state() -> None:
    objective, twin = MINEObjective(), MINEObjective()
    assert list(objective.state_dict()) == ["running_log_mean"]
    for p, q in batches():
        objective(p.float(), q.float())
    twin.load_state_dict(objective.state_dict())
    for other in (twin, copy.deepcopy(objective)):
        assert torch.equal(other.running_log_mean, objective.running_log_mean)
    objective.reset_parameters()
    assert objective.running_log_mean == -math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_to_half_precision_leaves_the_running_mean_exact(dtype: torch.dtype) -> None:
    objective = MINEObjective()
    objective(torch.zeros(1), torch.tensor([1.2345678]))
    before = objective.running_log_mean.clone()
    objective.to(dtype)
    assert objective.running_log_mean.dtype == torch.float32
    assert torch.equal(objective.running_log_mean, before)
    assert objective.double().running_log_mean.dtype == torch.float64
    assert MINEObjective(dtype=dtype).running_log_mean.dtype == torch.float32


def test_a_batch_may_be_seen_before_the_last_one_s_backward() -> None:
    objective = MINEObjective(dtype=torch.float64)
    (p, q), (other_p, other_q) = batches(2)
    first = objective(p, q)
    second = objective(other_p, other_q)
    objective.running_log_mean.zero_()  # as a broadcast from another process does
    first.backward()
    second.backward()
    torch.testing.assert_close(q.grad, -torch.softmax(q.detach().flatten(), 0).view(5, 3))


def test_trains_compiled_without_a_graph_break() -> None:
    objective, plain = MINEObjective(dtype=torch.float64), MINEObjective(dtype=torch.float64)
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    for p, q in batches():
        torch.testing.assert_close(compiled(p, q), plain(p, q))
        torch.testing.assert_close(objective.running_log_mean, plain.running_log_mean)
    torch._dynamo.reset()
