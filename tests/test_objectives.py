"""The objectives over logits: their literal twins, their steadiness, and the identities that tie them together."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from blan_layers import functional as F
from blan_layers.functional import reference
from blan_layers.functional.objectives import Divergence

DIVERGENCES = get_args(Divergence)
MINUS_INFINITY = torch.tensor(-math.inf, dtype=torch.float64)

PAIRED: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "bce_loss": (F.bce_loss, reference.bce_loss),
    "jsd_objective": (F.jsd_objective, reference.jsd_objective),
    "dv_lower_bound": (F.dv_lower_bound, reference.dv_lower_bound),
    "nwj_lower_bound": (F.nwj_lower_bound, reference.nwj_lower_bound),
    "tuba_lower_bound": (
        lambda p, q, **weights: F.tuba_lower_bound(p, q, 0.3, **weights),
        lambda p, q: reference.tuba_lower_bound(p, q, 0.3),
    ),
    "smile_estimate": (F.smile_estimate, reference.smile_estimate),
    "smile_estimate-1": (
        lambda p, q, **weights: F.smile_estimate(p, q, clip=1.0, **weights),
        lambda p, q: reference.smile_estimate(p, q, 1.0),
    ),
    "mine_objective": (  # of a momentum of 1 the gradient is the value's own
        lambda p, q, **weights: F.mine_objective(p, q, MINUS_INFINITY, momentum=1.0, **weights).value,
        reference.dv_lower_bound,
    ),
    "club_upper_bound": (F.club_upper_bound, reference.club_upper_bound),
    **{
        f"f_divergence_objective-{name}": (
            lambda p, q, name=name, **weights: F.f_divergence_objective(p, q, divergence=name, **weights),
            lambda p, q, name=name: reference.f_divergence_objective(p, q, name),
        )
        for name in DIVERGENCES
    },
}
BASELINE = torch.linspace(-1, 1, 5, dtype=torch.float64)
SQUARE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "infonce_lower_bound": (F.infonce_lower_bound, reference.infonce_lower_bound),
    **{
        f"alpha_lower_bound-{alpha}": (
            lambda x, baseline=BASELINE, alpha=alpha, **options: F.alpha_lower_bound(
                x, baseline.to(x), alpha=alpha, **options
            ),
            lambda x, alpha=alpha: reference.alpha_lower_bound(x, BASELINE, alpha),
        )
        for alpha in (0.0, 0.3, 1.0)
    },
}
every_pair = pytest.mark.parametrize(("ours", "twin"), PAIRED.values(), ids=PAIRED)
every_square = pytest.mark.parametrize(("ours", "twin"), SQUARE.values(), ids=SQUARE)


def logits(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for shape in ((6,), (3, 4)))
    p, q = (x.requires_grad_() for x in draws)
    return p, q


def table(seed: int = 0) -> Tensor:
    return (torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2).requires_grad_()


def assert_twins(
    ours: Tensor, truth: Tensor, inputs: tuple[Tensor, ...], of_truth: tuple[Tensor, ...] | None = None
) -> None:
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)
    of_truth = inputs if of_truth is None else of_truth
    for our, true in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, of_truth), strict=True):
        torch.testing.assert_close(our, true, rtol=1e-10, atol=1e-12)


@every_pair
def test_equals_its_literal_twin_in_value_and_gradient(ours: Any, twin: Any) -> None:
    inputs = logits()
    assert_twins(ours(*inputs), twin(*inputs), inputs)


@every_square
def test_over_all_pairs_equals_its_literal_twin_in_value_and_gradient(ours: Any, twin: Any) -> None:
    inputs = (table(),)
    assert_twins(ours(*inputs), twin(*inputs), inputs)


@every_pair
def test_passes_gradcheck_to_the_second_order(ours: Any, twin: Any) -> None:
    assert torch.autograd.gradcheck(ours, logits())
    if ours is not PAIRED["mine_objective"][0]:  # the running mean is held constant
        assert torch.autograd.gradgradcheck(ours, logits())


@every_square
def test_over_all_pairs_passes_gradcheck_to_the_second_order(ours: Any, twin: Any) -> None:
    assert torch.autograd.gradcheck(ours, (table(),))
    assert torch.autograd.gradgradcheck(ours, (table(),))


@every_pair
def test_whole_weights_repeat_a_score(ours: Any, twin: Any) -> None:
    p, q = (x.detach() for x in logits())
    times_p, times_q = torch.tensor([1, 0, 2, 3, 1, 0]), torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1], [0, 0, 3, 0]])
    repeated = p.repeat_interleave(times_p), q.flatten().repeat_interleave(times_q.flatten())
    weighted = ours(p, q, positive_weights=times_p.double(), negative_weights=times_q.float())
    torch.testing.assert_close(weighted, twin(*repeated))
    masked = ours(p, q, positive_weights=times_p > 0, negative_weights=times_q > 0)
    torch.testing.assert_close(masked, twin(p[times_p > 0], q[times_q > 0]))


@pytest.mark.parametrize("weight", [1e-45, 1e38, 1e-300, 1e300])
@every_pair
def test_weights_have_no_scale(ours: Any, twin: Any, weight: float) -> None:
    p, q = (x.detach().float() for x in logits())
    dtype = torch.float32 if weight in (1e-45, 1e38) else torch.float64
    both = [torch.full_like(x, weight, dtype=dtype) / (x.numel() if weight > 1 else 1) for x in (p, q)]
    value = ours(p, q, positive_weights=both[0], negative_weights=both[1])
    torch.testing.assert_close(value, ours(p, q))


@every_square
def test_weights_of_items_have_no_scale(ours: Any, twin: Any) -> None:
    x = table().detach().float()
    for weight in (1e-300, 1e300):
        torch.testing.assert_close(ours(x, weights=torch.full((5,), weight, dtype=torch.float64)), ours(x))


@every_pair
def test_gradients_of_weights_hold_to_the_second_order(ours: Any, twin: Any) -> None:
    p, q = (x.detach() for x in logits())
    weights = tuple(torch.rand_like(x).add(0.1).requires_grad_() for x in (p, q))

    def of_weights(positive: Tensor, negative: Tensor) -> Tensor:
        value: Tensor = ours(p, q, positive_weights=positive, negative_weights=negative)
        return value

    assert torch.autograd.gradcheck(of_weights, weights)
    if ours is not PAIRED["mine_objective"][0]:  # the running mean is held constant
        assert torch.autograd.gradgradcheck(of_weights, weights)


@every_pair
def test_weights_are_mapped_by_vmap(ours: Any, twin: Any) -> None:
    p, q = (x.detach().expand(2, *x.shape) for x in logits())
    weights = torch.rand(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mapped = torch.func.vmap(lambda p, q, w: ours(p, q, positive_weights=w))(p, q, weights)
    one_by_one = [ours(*inputs, positive_weights=w) for *inputs, w in zip(p, q, weights, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))


@every_square
def test_weights_of_items_are_mapped_by_vmap(ours: Any, twin: Any) -> None:
    x, weights = table().detach(), torch.rand(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mapped = torch.func.vmap(lambda w: ours(x, weights=w))(weights)
    torch.testing.assert_close(mapped, torch.stack([ours(x, weights=w) for w in weights]))


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
@every_pair
def test_a_score_without_weight_may_be_anything(ours: Any, twin: Any, nothing: float) -> None:
    p, q = logits()
    counts_p, counts_q = torch.arange(6) % 3 > 0, torch.arange(12).view(3, 4) % 5 > 0
    weights = {"positive_weights": counts_p, "negative_weights": counts_q}
    invalid = p.detach().masked_fill(~counts_p, nothing), q.detach().masked_fill(~counts_q, nothing)
    inputs = tuple(x.requires_grad_() for x in invalid)
    value, truth = ours(*inputs, **weights), ours(p, q, **weights)
    torch.testing.assert_close(value, truth, rtol=0, atol=0)
    assert_twins(value, truth, inputs, (p, q))


@every_square
def test_an_item_without_weight_may_have_any_scores(ours: Any, twin: Any) -> None:
    x, weights = table(), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    invalid = x.detach().clone()
    invalid[1] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0])
    invalid.requires_grad_()
    assert_twins(ours(invalid, weights=weights), ours(x, weights=weights), (invalid,), (x,))


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_an_item_without_weight_may_have_any_baseline(nothing: float) -> None:
    x, weights = table(), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    baselines = tuple(BASELINE.index_fill(0, torch.tensor(1), b).requires_grad_() for b in (nothing, 0.5))
    of_rows = weights.unsqueeze(-1).expand(5, 5)
    for bound in (
        lambda b: F.alpha_lower_bound(x, b, alpha=0.3, weights=weights),
        lambda b: F.tuba_lower_bound(x.diag(), x, b, positive_weights=weights, negative_weights=of_rows.T),
    ):
        assert_twins(*(bound(b) for b in baselines), *((b,) for b in baselines))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [
    lambda value: F.smile_estimate(*logits(), clip=value),
    lambda value: F.tuba_lower_bound(*logits(), value),
    lambda value: F.alpha_lower_bound(table(), value, alpha=0.5),
    lambda value: F.alpha_lower_bound(table(), 0.1, alpha=value),
    lambda value: F.mine_objective(*logits(), MINUS_INFINITY, momentum=value).value,
])  # fmt: skip
def test_an_option_is_any_real_number(options: Any) -> None:
    assert torch.equal(options(Fraction(1, 3)), options(1 / 3))


def test_numbers_beyond_the_dtype_of_the_logits_are_infinite() -> None:
    p, q = (x.float() for x in logits())
    assert torch.equal(F.smile_estimate(p, q, clip=1e39), F.smile_estimate(p, q, clip=math.inf))
    assert not F.alpha_lower_bound(table().float(), 1e39, alpha=0.5).isfinite()


UNBOUNDED_BELOW = ("club_upper_bound", "rkl", "chi_squared", "wasserstein")


@pytest.mark.parametrize("name", [name for name in PAIRED if not name.endswith(UNBOUNDED_BELOW)])
def test_a_fake_pair_that_is_ruled_out_has_an_exponential_of_zero(name: str) -> None:
    """A logit of minus infinity: what float16 makes of -1e5, and what people mask candidates with."""
    ours, twin = PAIRED[name]
    p, q = logits()
    place = torch.arange(12).view(3, 4) == 5
    ruled_out, far = (q.detach().masked_fill(place, x).requires_grad_() for x in (-math.inf, -700.0))
    assert_twins(ours(p, ruled_out), twin(p, far), (p, ruled_out), (p, far))


@every_square
def test_leading_axes_are_averaged_over_and_weights_weigh_items(ours: Any, twin: Any) -> None:
    batches = torch.stack([table(seed).detach() for seed in range(3)])
    options = {"baseline": BASELINE.expand(3, 5)} if "baseline" in ours.__code__.co_varnames else {}
    separate = torch.stack([twin(batch) for batch in batches])
    torch.testing.assert_close(ours(batches, **options), separate.mean())
    weights = torch.tensor([0.0, 2.0, 1.0])[:, None].expand(3, 5)
    torch.testing.assert_close(ours(batches, weights=weights, **options), (2 * separate[1] + separate[2]) / 3)


@every_square
def test_a_weighed_item_counts_beside_all_candidates(ours: Any, twin: Any) -> None:
    x, chosen = table().detach(), torch.tensor([False, True, False, False, False])
    others = [0, 2, 3, 4]
    if twin is reference.infonce_lower_bound:
        expected = x[1].log_softmax(0)[1] + math.log(5)
    else:
        alpha = ours.__defaults__[-1]
        base, scores = BASELINE[1].exp(), x[1].exp()
        mixed = [(1 - alpha) * base + alpha * scores[[k for k in range(5) if k != j]].mean() for j in range(5)]
        real = torch.stack([(scores[1] / mixed[j]).log() for j in others]).mean()
        expected = 1 + real - (scores[others] / mixed[1]).mean()
    torch.testing.assert_close(ours(x, weights=chosen), expected)


HUGE = [(torch.float64, 1e4), (torch.float32, 1e4), (torch.float32, 100.0), (torch.bfloat16, 1e4)]
HUGE += [(torch.float16, 1e4), (torch.float16, 6e4), (torch.float16, 30.0)]
every_size = pytest.mark.parametrize(("dtype", "size"), HUGE, ids=str)


@every_size
@every_pair
def test_huge_logits_give_a_finite_value_and_gradient(ours: Any, twin: Any, dtype: torch.dtype, size: float) -> None:
    for p_sign, q_sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        p = torch.tensor([p_sign * size, 0.0], dtype=dtype, requires_grad=True)
        q = torch.tensor([[q_sign * size, 0.0], [size, -size]], dtype=dtype, requires_grad=True)
        value = ours(p, q)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (p, q)))


@every_size
@every_square
def test_huge_logits_of_all_pairs_do_too(ours: Any, twin: Any, dtype: torch.dtype, size: float) -> None:
    for sign in (1, -1):
        x = torch.zeros(5, 5, dtype=dtype).fill_diagonal_(sign * size)
        x[0, 3], x[3, 0] = size, -size
        x.requires_grad_()
        value = ours(x)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite()
        assert torch.autograd.grad(value, x)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_pair
def test_half_precision_logits_are_taken_as_they_are(ours: Any, twin: Any, dtype: torch.dtype) -> None:
    p, q = (x.detach().to(dtype) for x in logits())
    torch.testing.assert_close(ours(p, q), twin(p.double(), q.double()).float(), rtol=1e-5, atol=1e-5)


def test_an_exponential_is_exact_up_to_e_to_the_60_and_then_its_tangent() -> None:
    q = torch.tensor([59.0, 70.0], requires_grad=True)
    limit = math.log(torch.finfo(torch.float32).max) - 28
    for index, expected in ((0, math.exp(58)), (1, math.exp(limit) * (1 + 69 - limit))):
        value = -F.nwj_lower_bound(torch.zeros(1), q[index : index + 1])
        assert value.item() == pytest.approx(expected, rel=1e-5)
        slope = math.exp(min(58.0, limit)) if index == 0 else math.exp(limit)
        assert torch.autograd.grad(value, q)[0][index].item() == pytest.approx(slope, rel=1e-5)
    half = torch.tensor([20.0], dtype=torch.float16, requires_grad=True)
    value = -F.nwj_lower_bound(torch.zeros(1), half)
    assert value.item() == pytest.approx(math.exp(19), rel=1e-5)  # of the value alone is the range float32's
    assert torch.autograd.grad(value, half)[0].item() == pytest.approx(math.exp(11), rel=1e-3)


MAXIMISED = [name for name in PAIRED if name not in ("bce_loss", "club_upper_bound")]


@pytest.mark.parametrize("name", MAXIMISED)
def test_rises_with_real_pairs_scores_and_falls_with_fake_ones(name: str) -> None:
    p, q = (x.detach().abs().requires_grad_() for x in logits())  # chi-squared falls only above -2
    of_p, of_q = torch.autograd.grad(PAIRED[name][0](p, q), (p, q))
    assert (of_p > 0).all()
    assert (of_q <= 0).all()
    assert (of_q < 0).any()


@every_square
def test_over_all_pairs_rises_with_the_diagonal_and_falls_with_the_rest(ours: Any, twin: Any) -> None:
    x = table()
    (gradient,) = torch.autograd.grad(ours(x), x)
    assert gradient.diagonal().sum() > 0
    assert gradient.sum() - gradient.diagonal().sum() < 0


def test_jsd_is_twice_log_two_less_bce() -> None:
    p, q = logits()
    torch.testing.assert_close(F.jsd_objective(p, q), 2 * math.log(2) - F.bce_loss(p, q))
    torch.testing.assert_close(F.f_divergence_objective(p, q, divergence="jsd"), F.jsd_objective(p, q))
    torch.testing.assert_close(F.f_divergence_objective(p, q, divergence="gan"), -F.bce_loss(p, q))


def test_the_kl_divergence_is_nwj_and_so_is_tuba_with_a_log_baseline_of_one() -> None:
    p, q = logits()
    nwj = F.nwj_lower_bound(p, q)
    torch.testing.assert_close(F.f_divergence_objective(p, q, divergence="kl"), nwj)
    torch.testing.assert_close(F.tuba_lower_bound(p, q, 1.0), nwj)
    torch.testing.assert_close(F.tuba_lower_bound(p, q, torch.ones(1)), nwj)


def test_the_best_constant_baseline_of_tuba_gives_dv() -> None:
    p, q = logits()
    best = q.exp().mean().log()
    torch.testing.assert_close(F.tuba_lower_bound(p, q, best), F.dv_lower_bound(p, q))
    for away in (-0.5, 0.5):
        assert F.tuba_lower_bound(p, q, best + away) < F.dv_lower_bound(p, q)


def test_a_baseline_for_each_row_broadcasts_to_real_and_fake_pairs() -> None:
    p, q = torch.randn(4, 1, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    baseline = torch.randn(4, 1, dtype=torch.float64)
    expected = 1 + (p - baseline).mean() - (q - baseline).exp().mean()
    torch.testing.assert_close(F.tuba_lower_bound(p, q, baseline), expected)


def test_a_constant_added_to_all_logits_leaves_dv_and_infonce() -> None:
    p, q = logits()
    torch.testing.assert_close(F.dv_lower_bound(p + 7, q + 7), F.dv_lower_bound(p, q))
    constants = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(F.infonce_lower_bound(table() + constants), F.infonce_lower_bound(table()))


def test_smile_without_a_clip_is_dv() -> None:
    p, q = logits()
    torch.testing.assert_close(F.smile_estimate(p, q, clip=math.inf), F.dv_lower_bound(p, q))


def test_alpha_goes_from_tuba_to_infonce_with_one_candidate_left_out() -> None:
    x = table().detach()
    off = ~torch.eye(5, dtype=torch.bool)
    tuba = F.tuba_lower_bound(x.diagonal(), x[off], 0.3)
    torch.testing.assert_close(F.alpha_lower_bound(x, 0.3, alpha=0.0), tuba)
    each = []
    for left_out in range(5):
        kept = [i for i in range(5) if i != left_out]
        rows = x[kept][:, kept]
        each.append(F.infonce_lower_bound(rows))
    torch.testing.assert_close(F.alpha_lower_bound(x, 0.3, alpha=1.0), torch.stack(each).mean())


def test_what_passes_for_certain_reaches_the_cap() -> None:
    certain = torch.eye(8, dtype=torch.float64) * 2e3 - 1e3
    assert F.infonce_lower_bound(certain).item() == pytest.approx(math.log(8))
    assert F.alpha_lower_bound(certain, 0.0, alpha=1.0).item() == pytest.approx(math.log(7))
    assert F.alpha_lower_bound(certain, 0.0, alpha=0.1).item() == pytest.approx(1 + math.log(70))
    p, q = torch.full((3,), 1e3), torch.full((3,), -1e3)
    assert F.jsd_objective(p, q).item() == pytest.approx(2 * math.log(2))
    assert F.f_divergence_objective(p, q, divergence="squared_hellinger").item() == pytest.approx(2)
    assert F.f_divergence_objective(p, q, divergence="gan").item() == 0


@pytest.mark.parametrize("name", [name for name in PAIRED if "mine" not in name])
def test_compiles_without_a_graph_break_for_any_number_of_scores(name: str) -> None:
    compiled = torch.compile(PAIRED[name][0], fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 5):
        p, q = torch.randn(count), torch.randn(count, 4)
        torch.testing.assert_close(compiled(p, q), PAIRED[name][0](p, q))
    torch._dynamo.reset()


@pytest.mark.parametrize("ours", [F.infonce_lower_bound, lambda x: F.alpha_lower_bound(x, 1.0, alpha=0.5)])
def test_over_all_pairs_exports_for_any_batch(ours: Any) -> None:
    class Bound(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = ours(x)
            return result

    items = torch.export.Dim("items", min=3)
    program = torch.export.export(Bound(), (torch.randn(4, 4),), dynamic_shapes=({0: items, 1: items},))
    x = torch.randn(7, 7)
    torch.testing.assert_close(program.module()(x), ours(x))


@pytest.mark.parametrize("name", [name for name in PAIRED if "mine" not in name])
def test_needs_no_wait_for_the_device(name: str) -> None:
    assert PAIRED[name][0](torch.empty(3, device="meta"), torch.empty(4, 2, device="meta")).is_meta


def test_mine_and_all_pairs_need_none_either() -> None:
    p, q, x = (torch.empty(shape, device="meta") for shape in ((3,), (4, 2), (5, 5)))
    assert F.mine_objective(p, q, torch.empty((), device="meta")).value.is_meta
    assert F.infonce_lower_bound(x).is_meta
    assert F.alpha_lower_bound(x, 0.0, alpha=0.5).is_meta
