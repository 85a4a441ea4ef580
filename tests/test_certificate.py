"""The certificate: the least information that goes with a binary cross entropy."""

import math
from decimal import Decimal, localcontext

import pytest
import torch

from blan_layers import functional as F
from blan_layers.functional import reference
from tests.test_known_information import expected, joints, js, kl, product

LOG2 = math.log(2)


def exact(mean_bce: float) -> float:
    """Return the certificate to 40 digits, by bisection."""
    with localcontext() as context:
        context.prec = 60
        wanted, low, high = Decimal(mean_bce), Decimal(0), Decimal(800)
        for _ in range(170):
            middle = (low + high) / 2
            s = (-middle).exp()
            of_one = (1 + s) * (1 + s).ln() if middle < 60 else s + s * s / 2
            low, high = (middle, high) if of_one + s * middle > 2 * wanted else (low, middle)
        return float(low)


CROSS_ENTROPIES = [
    *(LOG2 - 10.0**-k for k in range(1, 16)),
    *(LOG2 * k / 13 for k in range(1, 13)),
    *(10.0**-k for k in (3, 6, 12, 30, 100, 200, 307)),
]


def test_is_exact_from_nearly_nothing_to_nearly_all() -> None:
    ours = F.mutual_information_certificate(torch.tensor(CROSS_ENTROPIES, dtype=torch.float64))
    truth = torch.tensor([exact(h) for h in CROSS_ENTROPIES], dtype=torch.float64)
    torch.testing.assert_close(ours, truth, rtol=4e-15, atol=2e-15)


def test_equals_its_literal_twin() -> None:
    mean_bce = torch.linspace(0.02, 0.69, 40, dtype=torch.float64)
    twin = torch.tensor([reference.mutual_information_certificate(h) for h in mean_bce.tolist()], dtype=torch.float64)
    torch.testing.assert_close(F.mutual_information_certificate(mean_bce), twin, rtol=1e-12, atol=1e-12)


def test_is_never_above_the_information_for_any_critic() -> None:
    generator = torch.Generator().manual_seed(0)
    for joint in joints(40):
        information = kl(joint, product(joint))
        ratio = (joint / product(joint)).log()
        for scale in (0.0, 0.1, 1.0, 5.0):
            critic = ratio + scale * torch.randn(joint.shape, generator=generator, dtype=torch.float64)
            certificate = F.mutual_information_certificate(expected(F.bce_loss, critic, joint) / 2)
            assert 0 <= certificate <= information
        assert certificate <= F.mutual_information_certificate(LOG2 - js(joint, product(joint)))


@pytest.mark.parametrize("values", [2, 3, 10, 1000])
def test_two_copies_of_a_uniform_variable_attain_it(values: int) -> None:
    positive = torch.tensor([math.log(values)], dtype=torch.float64)  # of every pair drawn together
    negative = torch.tensor([math.log(values), -1e4], dtype=torch.float64)
    shares = torch.tensor([1 / values, 1 - 1 / values], dtype=torch.float64)
    mean_bce = F.bce_loss(positive, negative, negative_weights=shares) / 2
    torch.testing.assert_close(F.mutual_information_certificate(mean_bce), positive[0], rtol=1e-13, atol=0)


def test_is_the_lower_edge_of_all_pairs_of_distributions_on_two_points() -> None:
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    p, q = (torch.stack([x, 1 - x]) for x in torch.meshgrid(grid, grid[1:-1], indexing="ij"))
    middle = (p + q) / 2
    truth = torch.xlogy(p, p / q).sum(0)
    divergence = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum(0) / 2
    certificates = F.mutual_information_certificate((LOG2 - divergence).clamp(max=LOG2))
    assert (certificates <= truth + 1e-12).all()
    torch.testing.assert_close(certificates[0], truth[0], rtol=1e-10, atol=1e-12)  # p = (0, 1)


def test_nothing_is_certified_from_log_two_on_and_everything_at_zero() -> None:
    values = F.mutual_information_certificate(torch.tensor([LOG2, 0.7, 5.0, math.inf, 0.0], dtype=torch.float64))
    assert values.tolist() == [0.0, 0.0, 0.0, 0.0, math.inf]


def test_falls_and_is_convex() -> None:
    values = F.mutual_information_certificate(torch.linspace(1e-3, 0.75, 2000, dtype=torch.float64))
    assert (values.diff() <= 0).all()
    assert (values.diff().diff() >= -1e-12).all()


def test_differentiates_twice_and_has_the_slope_it_names() -> None:
    mean_bce = torch.tensor([1e-4, 0.05, 0.3, 0.69], dtype=torch.float64, requires_grad=True)
    information = F.mutual_information_certificate(mean_bce)
    (slope,) = torch.autograd.grad(information.sum(), mean_bce)
    torch.testing.assert_close(slope, -2 * information.exp() / torch.nn.functional.softplus(information))
    assert torch.autograd.gradcheck(F.mutual_information_certificate, (mean_bce[1:],))
    assert torch.autograd.gradgradcheck(F.mutual_information_certificate, (mean_bce[1:],))
    above = torch.tensor([0.7, 3.0], requires_grad=True)
    assert not torch.autograd.grad(F.mutual_information_certificate(above).sum(), above)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_comes_in_float32_and_is_solved_in_float64(dtype: torch.dtype) -> None:
    mean_bce = torch.tensor([[0.69, 0.5], [0.1, 1e-4]], dtype=dtype)
    ours = F.mutual_information_certificate(mean_bce)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, F.mutual_information_certificate(mean_bce.double()).float(), rtol=0, atol=0)


def test_is_mapped_by_vmap() -> None:
    means = torch.tensor([0.8, 0.5, 0.1])
    mapped = torch.func.vmap(F.mutual_information_certificate)(means)
    torch.testing.assert_close(mapped, F.mutual_information_certificate(means))


def test_compiles_without_a_graph_break() -> None:
    compiled = torch.compile(F.mutual_information_certificate, fullgraph=True, backend="aot_eager")
    mean_bce = torch.tensor([0.1, 0.5, 0.8])
    torch.testing.assert_close(compiled(mean_bce), F.mutual_information_certificate(mean_bce))
    torch._dynamo.reset()
