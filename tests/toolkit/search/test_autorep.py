"""AutoReP against its definition, and at lengths other than the published."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aurep.search.autorep import AutoRep, published_penalty
from aurep.search.lengths import due, indicator_group, stretched
from tests.toolkit.search.searching import SIZES, TOTAL, Search


@pytest.mark.parametrize(
    ("share", "expected"), [(9_000 / 491_520, 140), (80_000 / 491_520, 80), (0.0, 140), (1.0, 80), (0.0546, 106)]
)
def test_penalty_is_the_published_one_at_its_shares(share: float, expected: float) -> None:
    """sqrt(9,000 x 80,000) elements are 5.46 %, halfway in the logarithm: sqrt(140 x 80) = 106."""
    assert published_penalty(share) == pytest.approx(expected, rel=5e-3)


def test_a_rate_is_stretched_so_that_indicators_travel_as_far() -> None:
    assert stretched(1e-3, 200 * 352) == 1e-3
    assert stretched(1e-3, 10 * 352) == pytest.approx(0.02)
    assert stretched(1e-3, 400 * 352) == pytest.approx(5e-4)
    assert stretched(1e-3, 1_000) == stretched(1e-3, 156) == pytest.approx(0.02), "bounded"
    assert 39 * stretched(1e-3, 39) == pytest.approx(156 * stretched(1e-3, 156)), "but never short of the way"
    assert stretched(1e-3, 0) == stretched(1e-3, 1)


@pytest.mark.parametrize(
    ("steps", "betas"),
    [(400 * 352, (0.9, 0.999)), (200 * 352, (0.9, 0.999)), (50 * 352, (0.6, 0.996)), (156, (0, 0.98))],
)
def test_adam_reaches_back_over_the_same_share_of_the_search(steps: int, betas: tuple[float, float]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    group = indicator_group([parameter], 1e-3, steps)
    assert group["betas"] == pytest.approx(betas)
    torch.optim.AdamW([group])
    torch.optim.SGD([group], lr=1.0)


@pytest.mark.parametrize(("steps", "times"), [(70_400, 200), (312, 200), (312, 15), (7, 1), (5, 9)])
def test_moments_are_evenly_spread_and_the_last_step_is_one(steps: int, times: int) -> None:
    found = [step for step in range(1, steps + 1) if due(step, steps, times)]
    assert found[-1] == steps
    assert len(found) == min(times, steps)
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1


def test_mask_follows_the_indicator_with_hysteresis() -> None:
    search = Search("autorep", 20, options={"hysteresis": 0.1})
    alpha, mask = search.sites[2].alpha.data, search.sites[2].mask
    seen = []
    for value in (0.05, -0.05, -0.15, -0.05, 0.05, 0.15):
        alpha.fill_(value)
        search.policy.after_step(0.5)
        seen.append(bool(mask.all()))
        assert mask.all() or not mask.any()
    assert seen == [True, True, False, False, False, True]


def test_penalty_pulls_at_every_indicator_until_the_budget_is_met() -> None:
    search = Search("autorep", SIZES[1], options={"penalty": 3.0})
    assert isinstance(search.policy, AutoRep)
    for site in search.sites:
        site.alpha.requires_grad_(True)
    penalty = search.policy.penalty()
    assert float(penalty.detach()) == pytest.approx(3.0 * (TOTAL - SIZES[1]) / TOTAL)
    penalty.backward()
    for site in search.sites:
        expected = 3.0 / TOTAL * np.log1p(np.exp(site.alpha.detach().numpy()))
        np.testing.assert_allclose(site.alpha.grad.numpy(), expected, rtol=1e-5)
    search.sites[0].mask.fill_(False), search.sites[2].mask.fill_(False)
    assert float(search.policy.penalty().detach()) == 0.0


def test_the_projection_takes_the_largest_indicators_and_notes_what_was_kept() -> None:
    search = Search("autorep", 3)
    for site in search.sites:
        site.alpha.data.fill_(-1.0)
    search.sites[1].alpha.data.view(-1)[:5] = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.05])
    search.policy.after_step(0.5)
    search.policy.finish()
    assert search.sites[1].mask.view(-1).nonzero().flatten().tolist() == [1, 2, 3]
    assert search.policy.found == 5
