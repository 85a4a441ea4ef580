"""What score fusion promises beyond the contract."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrizations, prune

from blan_layers import AdaptiveScoreFusion
from blan_layers import functional as F


def test_starts_as_the_ensemble_of_the_summed_scores() -> None:
    fusion = AdaptiveScoreFusion(4, 40)
    scores = torch.randn(4, 3, 40, 2)
    assert torch.equal(fusion.weight, torch.full((5, 40), 0.2))
    torch.testing.assert_close(fusion(scores), 0.4 * scores.sum(0))  # 1/5 of each, and 1/5 of the sum
    assert torch.equal(fusion(scores).argmax(-1), scores.sum(0).argmax(-1))


def test_takes_a_sequence_or_a_stack() -> None:
    fusion = AdaptiveScoreFusion(3, 5)
    scores = torch.randn(3, 2, 5, 2)
    assert torch.equal(fusion(list(scores)), fusion(scores))
    assert torch.equal(fusion(tuple(scores)), fusion(scores))


def test_initial_weight_is_where_it_starts_and_returns_to() -> None:
    start = torch.rand(3, 4, dtype=torch.float64)
    fusion = AdaptiveScoreFusion(2, 4, initial_weight=start, dtype=torch.float64)
    assert torch.equal(fusion.weight, start)
    truth = start.clone()
    start.zero_()
    torch.nn.init.zeros_(fusion.weight)
    fusion.reset_parameters()
    assert torch.equal(fusion.weight, truth)
    with torch.device("meta"):
        later = AdaptiveScoreFusion(2, 4, initial_weight=0.5)
    later.to_empty(device="cpu").reset_parameters()
    for half in (AdaptiveScoreFusion(2, 4, initial_weight=0.5), later):
        assert torch.equal(half.weight, torch.full((3, 4), 0.5))


@pytest.mark.parametrize("start", [0.1, 1e39, Fraction(1, 3), np.float64(0.1), 3])
def test_a_number_is_not_rounded_before_it_is_the_weight(start: Any) -> None:
    fusion = AdaptiveScoreFusion(2, 4, initial_weight=start, dtype=torch.float64)
    assert fusion.weight.tolist() == [[float(start)] * 4] * 3


def test_a_parametrised_weight_returns_to_its_start_and_a_pruned_one_is_refused() -> None:
    fusion: Any = AdaptiveScoreFusion(2, 4, initial_weight=0.5)
    parametrizations.weight_norm(fusion)
    torch.nn.init.constant_(fusion.parametrizations.weight.original0, 7)
    fusion.reset_parameters()
    torch.testing.assert_close(fusion.weight, torch.full((3, 4), 0.5))
    fusion = prune.identity(AdaptiveScoreFusion(2, 4), "weight")
    with pytest.raises(ValueError, match=r"^AdaptiveScoreFusion: weight must be a parameter to be set, got one that"):
        fusion.reset_parameters()


def test_state_dict_holds_the_weight_alone() -> None:
    assert list(AdaptiveScoreFusion(2, 4, initial_weight=torch.rand(3, 4)).state_dict()) == ["weight"]


def test_scores_under_autocast_are_fused_in_float32() -> None:
    fusion = AdaptiveScoreFusion(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert fusion(torch.randn(2, 3, 4, 2, dtype=torch.bfloat16)).dtype == torch.float32


@settings(deadline=None)
@given(levels=st.integers(1, 5), attributes=st.integers(1, 6), classes=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_is_linear_in_scores_and_weight(levels: int, attributes: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    s, t = draw(2, levels, 3, attributes, classes)
    v, w = draw(2, levels + 1, attributes)
    torch.testing.assert_close(F.score_fusion(s + 2 * t, w), F.score_fusion(s, w) + 2 * F.score_fusion(t, w))
    torch.testing.assert_close(F.score_fusion(s, v + 3 * w), F.score_fusion(s, v) + 3 * F.score_fusion(s, w))
