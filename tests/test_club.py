"""CLUB: an upper bound for the true conditional, of known value for Gaussians, and a network that comes near."""

import math

import pytest
import torch
from torch import Tensor, nn

from blan_layers import CLUB
from blan_layers import functional as F


def correlated(pairs: int, rho: float, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, pairs, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def whitened(pairs: int, rho: float) -> tuple[Tensor, Tensor]:
    """Return x and y whose sample means, variances and correlation are 0, 1 and rho to the last digit."""
    both = torch.cat(correlated(pairs, 0.0), 1)
    both = both - both.mean(0)
    both = both @ torch.linalg.inv(torch.linalg.cholesky(both.T @ both / pairs)).T
    return both[:, :1], rho * both[:, :1] + math.sqrt(1 - rho**2) * both[:, 1:]


def true_conditional(rho: float) -> CLUB:
    """Return the bound with mean rho x and variance 1 - rho^2, in a network with two hidden units."""
    club = CLUB(1, 1, hidden_channels=2, dtype=torch.float64)
    net = club.conditional
    with torch.no_grad():
        for parameter in club.parameters():
            parameter.zero_()
        net.fc1.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net.fc2.weight.copy_(torch.eye(2))
        net.fc3.weight[0] = torch.tensor([rho, -rho], dtype=torch.float64)
        net.fc3.bias[1] = 10 * math.atanh(math.log(1 - rho**2) / 10)
    return club


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 0.9, 0.99])
def test_with_the_true_conditional_it_has_the_closed_value_of_gaussians(rho: float) -> None:
    """E_P log q - E_Q log q = -1/2 + E_Q (y - rho x)^2 / (2 (1 - rho^2)) = rho^2 / (1 - rho^2)."""
    club, (x, y) = true_conditional(rho), whitened(50, rho)
    closed = rho**2 / (1 - rho**2)
    assert club(x, y).item() == pytest.approx(50 / 49 * closed, rel=1e-11, abs=1e-13)  # of 50 pairs, not of the paper's
    assert closed >= -math.log(1 - rho**2) / 2  # the information
    entropy = math.log(2 * math.pi * math.e * (1 - rho**2)) / 2
    assert club.learning_loss(x, y).item() == pytest.approx(entropy, rel=1e-11)


def test_it_is_unbiased_however_few_the_pairs() -> None:
    club, rho, batches = true_conditional(0.6), 0.6, 20000
    x, y = correlated(3 * batches, rho)
    values = torch.stack([club.estimate(*batch) for batch in zip(x.split(3), y.split(3), strict=True)])
    deviation = values.std().item() / math.sqrt(batches)
    assert values.mean().item() == pytest.approx(rho**2 / (1 - rho**2), abs=4 * deviation)
    assert deviation < 0.01


def test_it_is_the_function_of_its_likelihoods() -> None:
    torch.manual_seed(0)
    club, (x, y) = CLUB(3, 2, hidden_channels=8, dtype=torch.float64), (torch.randn(6, 3), torch.randn(6, 2))
    x, y = x.double(), y.double()
    mean, raw = club.conditional(x).chunk(2, 1)
    normal = torch.distributions.Normal(mean.unsqueeze(1), (10 * torch.tanh(raw / 10)).exp().sqrt().unsqueeze(1))
    scores = normal.log_prob(y).sum(2)
    truth = F.club_upper_bound(scores.diagonal(), scores[~torch.eye(6, dtype=torch.bool)])
    torch.testing.assert_close(club(x, y), truth)
    torch.testing.assert_close(club.estimate(x, y), truth.detach())
    torch.testing.assert_close(club.learning_loss(x, y), -scores.diagonal().mean())


def test_learning_reaches_the_network_alone() -> None:
    club = CLUB(3, 2, hidden_channels=8)
    x, y = torch.randn(6, 3, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    loss = club.learning_loss(x, y)
    assert torch.autograd.grad(loss, [x, y], allow_unused=True, retain_graph=True) == (None, None)
    assert all(g.any() for g in torch.autograd.grad(loss, list(club.parameters())))
    assert all(g.any() for g in torch.autograd.grad(club(x, y), [x, y]))
    assert not club.estimate(x, y).requires_grad


def test_it_starts_near_the_standard_normal() -> None:
    torch.manual_seed(0)
    for club in (CLUB(20, 20), CLUB(20, 20)):
        club.reset_parameters()
        x, y = torch.randn(2, 64, 20)
        assert abs(club(x, y)) < 0.3
        normal = (y.square().sum(1).mean() + 20 * math.log(2 * math.pi)) / 2
        assert abs(club.learning_loss(x, y) - normal) < 0.5


def test_the_log_variance_is_bounded() -> None:
    club = CLUB(1, 1, hidden_channels=2)
    with torch.no_grad():
        club.conditional.fc3.bias.copy_(torch.tensor([0.0, -1e6]))
    x, y = torch.zeros(4, 1), torch.arange(4.0)[:, None]
    assert club.learning_loss(x, y).isfinite()
    assert club(x, y).abs() < 8 * math.exp(10)
    assert all(g.isfinite().all() for g in torch.autograd.grad(club(x, y), list(club.parameters())))


def test_a_fitted_network_is_near_the_closed_value_and_bounds_the_information() -> None:
    torch.manual_seed(0)
    rho, channels = 0.6, 2
    club = CLUB(channels, channels, hidden_channels=32)
    optimizer = torch.optim.Adam(club.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=1000)
    for step in range(1000):
        x, y = (v.float() for v in correlated(256, rho, channels, seed=step))
        optimizer.zero_grad()
        club.learning_loss(x, y).backward()
        optimizer.step()
        schedule.step()
    shown = club.estimate(*(v.float() for v in correlated(20000, rho, channels, seed=1000))).item()
    assert shown == pytest.approx(channels * rho**2 / (1 - rho**2), rel=0.1)
    assert shown > -channels * math.log(1 - rho**2) / 2


def test_minimising_it_takes_the_information_out_of_an_encoder() -> None:
    """Of two inputs one tells y: the encoder, which is to keep both of them, lets go of that one."""
    torch.manual_seed(0)
    club, gate = CLUB(2, 1, hidden_channels=32), nn.Parameter(torch.ones(2))
    fitting, training = torch.optim.Adam(club.parameters(), 3e-3), torch.optim.Adam([gate], 1e-2)
    for step in range(500):
        told, y = (v.float() for v in correlated(256, 0.9, seed=step))
        x = torch.cat([told, torch.randn(256, 1)], 1) * gate + 0.3 * torch.randn(256, 2)
        fitting.zero_grad()
        club.learning_loss(x, y).backward()
        fitting.step()
        training.zero_grad()
        (club(x, y) + 0.1 * (1 - gate).square().sum()).backward()
        training.step()
    assert gate[0].abs() < 0.3
    assert gate[1] > 0.7
