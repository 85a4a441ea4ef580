r"""Pairs of variables with mutual information known in closed form.

Correlated Gaussians, ``y = rho x + sqrt(1 - rho^2) e`` in d dimensions, have ``I = -(d / 2) log(1 - rho^2)`` nats: d
independent pairs of normal variables. Invertible maps of either side, such as the cube, do not change it.

Student's t. Vectors x of m and y of n numbers with a joint t distribution of nu degrees of freedom and scale matrix S
have the information of Gaussians with covariance S plus ``f(nu) + f(nu + m + n) - f(nu + m) - f(nu + n)``
with ``f(u) = log Gamma(u / 2) - (u / 2) psi(u / 2)``. It follows from ``I = h(x) + h(y) - h(x, y)`` and the entropy of
a t distribution in k dimensions,

``h = log det(S) / 2 + log((nu pi)^(k / 2) Gamma(nu / 2) / Gamma((nu + k) / 2))
+ (nu + k) / 2 (psi((nu + k) / 2) - psi(nu / 2))``:

The marginals of x and y are t distributed with nu degrees of freedom too. The powers of nu pi cancel, log Gamma(nu / 2)
occurs twice for x and y and once for both together, and the factors of psi(nu / 2) sum to -nu / 2. The additional term
is the information through the common scale of x and y, which exists without any correlation.

All variables are scaled to unit variance, which does not change the information.

Maps. At every location u of a map ``F(u) = rho T + sqrt(1 - rho^2) e_u``, so that each location has the information of
correlated Gaussians with the summary T.

Reference:
    Belghazi et al., "Mutual information neural estimation", ICML 2018, section 4.1 (Gaussians); Poole et al., "On
    variational bounds of mutual information", ICML 2019, section 4 (the staircase, the cube). Of Student's t:
    Arellano-Valle, Contreras-Reyes, Genton, "Shannon entropy and mutual information for multivariate skew-elliptical
    distributions", Scandinavian Journal of Statistics 40, 2013; Czyz et al., "Beyond normal: on the evaluation of
    mutual information estimators", NeurIPS 2023; De Keyser and Gijbels, "Parametric dependence between random vectors
    via copula-based divergence measures", Journal of Multivariate Analysis 203, 2024.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

TaskName: TypeAlias = Literal["gaussian", "cubed", "student", "spatial"]

Pairs: TypeAlias = tuple[Tensor, Tensor]
"""Variables x (n, d), or (n, d, *S) for maps, and y (n, d), drawn together row by row."""

DEGREES_OF_FREEDOM = 5
LOCATIONS = (2, 2)


@dataclass(frozen=True)
class Task:
    """Pairs of variables with known information."""

    title: str
    draw: Callable[[int, int, float, Generator], Pairs]
    """Function (n, d, information in nats, generator) -> pairs."""
    least: Callable[[int], float] = lambda dimensions: 0.0
    """Information in nats without any correlation."""
    maps: bool = False
    """Whether x is a map; the information is then that of each location."""


def correlation(information: float, dimensions: int) -> float:
    """Return the correlation of Gaussians that have this information in nats."""
    return math.sqrt(-math.expm1(-2 * information / dimensions))


def common_scale_information(degrees_of_freedom: int, m: int, n: int) -> float:
    """Return the mutual information in nats of uncorrelated, jointly t-distributed vectors of m and n numbers."""
    halves = torch.tensor([0, m + n, m, n], dtype=torch.float64).add(degrees_of_freedom) / 2
    f = torch.lgamma(halves) - halves * torch.digamma(halves)
    return float(f[0] + f[1] - f[2] - f[3])


def _gaussian(count: int, dimensions: int, information: float, generator: Generator) -> Pairs:
    rho = correlation(information, dimensions)
    x, noise = (torch.randn(count, dimensions, generator=generator) for _ in range(2))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def _cubed(count: int, dimensions: int, information: float, generator: Generator) -> Pairs:
    x, y = _gaussian(count, dimensions, information, generator)
    return x, y**3 / math.sqrt(15)


def _student_least(dimensions: int) -> float:
    return common_scale_information(DEGREES_OF_FREEDOM, dimensions, dimensions)


def _student(count: int, dimensions: int, information: float, generator: Generator) -> Pairs:
    x, y = _gaussian(count, dimensions, information - _student_least(dimensions), generator)
    chi_squared = torch.randn(count, DEGREES_OF_FREEDOM, generator=generator).square().sum(1, keepdim=True)
    scale = ((DEGREES_OF_FREEDOM - 2) / chi_squared).sqrt()
    return scale * x, scale * y


def _spatial(count: int, dimensions: int, information: float, generator: Generator) -> Pairs:
    rho = correlation(information, dimensions)
    summary = torch.randn(count, dimensions, generator=generator)
    noise = torch.randn(count, dimensions, *LOCATIONS, generator=generator)
    return rho * summary[:, :, None, None] + math.sqrt(1 - rho**2) * noise, summary


TASKS: dict[TaskName, Task] = {
    "gaussian": Task("Gaussian", _gaussian),
    "cubed": Task("cubed", _cubed),
    "student": Task("Student's t", _student, least=_student_least),
    "spatial": Task("maps", _spatial, maps=True),
}
