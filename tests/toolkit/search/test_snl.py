"""SNL against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aurep import HybridActivation
from aurep.search.snl import Snl
from aurep.training.config import SearchConfig
from aurep.training.optim import make_optimizer, set_learning_rate
from tests.tolerances import FLOAT64
from tests.toolkit.search.searching import TOTAL, Search


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("per_element", [False, True], ids=["channel", "element"])
def test_blend_is_a_relu_plus_the_rest(degree: int, per_element: bool) -> None:
    draw = torch.Generator().manual_seed(degree)
    site = HybridActivation((2, 3, 3), degree, "s", per_element).double()
    site.alpha.data.copy_(torch.randn(2, 3, 3, generator=draw))
    if site.coefficients is not None:
        site.coefficients.data.copy_(torch.randn(site.coefficients.shape, generator=draw))
    site.blend = True
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=draw)
    a, z = site.alpha.detach().numpy(), x.numpy()
    fallback = z
    if site.coefficients is not None:
        c = site.coefficients.detach().numpy()
        c = c if per_element else c[:, None, None]
        fallback = sum(c[..., k] * z**k for k in range(degree + 1))
    expected = a * np.maximum(z, 0) + (1 - a) * fallback
    np.testing.assert_allclose(site(x).detach().numpy(), expected, rtol=FLOAT64, atol=FLOAT64)


def test_gradient_to_the_factor_is_the_true_one() -> None:
    site = HybridActivation((2, 3), 2).double()
    site.blend = True
    x = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def call(alpha: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(site, {"alpha": alpha}, (x,))

    assert torch.autograd.gradcheck(call, (torch.rand(2, 3, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blend_keeps_the_dtype(dtype: torch.dtype) -> None:
    site = HybridActivation((2, 3))
    site.blend = True
    assert site(torch.randn(3, 2, 3).to(dtype)).dtype == dtype


def test_blend_adds_no_state() -> None:
    site = HybridActivation((2, 3))
    names = set(site.state_dict())
    site.blend = True
    assert set(site.state_dict()) == names == {"mask", "alpha", "coefficients"}


def test_factors_start_at_one_so_that_the_network_starts_as_the_teacher() -> None:
    search = Search("snl", 10)
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(search.student(x), search.teacher(x))


def test_penalty_is_lambda_times_the_l1_norm() -> None:
    search = Search("snl", 10, options={"penalty": 0.25})
    draw = torch.Generator().manual_seed(0)
    for site in search.sites:
        site.alpha.data.copy_(torch.randn(site.shape, generator=draw))
    penalty = search.policy.penalty()
    assert penalty is not None
    expected = 0.25 * sum(float(np.abs(site.alpha.detach().numpy()).sum()) for site in search.sites)
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(51, TOTAL), min_size=1, max_size=14), st.integers(0, 8))
def test_lambda_grows_where_a_check_finds_no_new_minimum_or_one_too_late(counts: list[int], growth_from: int) -> None:
    """Of 16 steps, every second is a check."""
    options = {"growth": 1.5, "growth_from": growth_from / 8, "checks": 8}
    policy = Search("snl", 50, options=options, epochs=1, steps=16).policy
    assert isinstance(policy, Snl)
    expected, lowest = 1e-5, TOTAL
    for step, count in enumerate(counts, 1):
        set_count(policy, count)
        policy.after_step(step / 16)
        if step % 2 == 0:
            too_late = count - 50 > (16 - step) / 2 * (lowest - count)
            expected *= 1.5 if step / 16 > growth_from / 8 and (count >= lowest or too_late) else 1.0
            lowest = min(lowest, count)
        assert policy.strength == pytest.approx(expected)
        assert not policy.settled


def test_published_schedule_comes_out_at_the_published_length() -> None:
    """lambda may grow after every epoch of 352 steps from the sixth on, and the factors' rate is 1e-3."""
    policy = Search("snl", 50, epochs=200, steps=352).policy
    assert isinstance(policy, Snl)
    assert [(group["lr"], group["betas"]) for group in policy.parameter_groups()] == [(1e-3, (0.9, 0.999))]
    assert policy.threshold == 1e-2
    for epoch in range(1, 9):
        for step in (epoch * 352 - 1, epoch * 352):
            before = policy.strength
            policy.after_step(step / (200 * 352))
            assert policy.strength == pytest.approx(before * (1.1 if step == epoch * 352 and epoch > 5 else 1.0))


def test_factors_move_at_a_constant_rate_and_weights_along_the_schedule() -> None:
    """As in the paper's code. A rate that fell with the weights' would leave a short search above its budget."""
    search = Search("snl", 50, epochs=1, steps=40)
    config = SearchConfig(method="snl", warmup=0.25, final_lr=0.0, lr=3e-3)
    optimizer = make_optimizer(search.student, config, search.policy.parameter_groups())
    rates = []
    for step in range(40):
        set_learning_rate(optimizer, config, step, 40)
        rates.append({group["lr"] for group in optimizer.param_groups if group.get("constant")})
    (peak,) = rates[0]
    assert all(rate == {peak} for rate in rates)
    assert optimizer.param_groups[0]["lr"] < 1e-9


def test_a_search_of_few_steps_can_raise_lambda_as_far_as_a_long_one() -> None:
    short, long = (Search("snl", 50, options={"growth_from": 0.0}, epochs=1, steps=steps).policy for steps in (10, 400))
    for policy, steps in ((short, 10), (long, 400)):
        assert isinstance(policy, Snl)
        for step in range(1, steps + 1):
            policy.after_step(step / steps)
        assert policy.strength == pytest.approx(1e-5 * 1.1**200)


def set_count(policy: Snl, count: int) -> None:
    """`count` factors above the threshold, the others at it or far below."""
    values = torch.where(torch.arange(TOTAL) < count, policy.threshold + 0.01, policy.threshold)
    values[-1] = 0.9 if count == TOTAL else -3.0
    for site, part in zip(policy.sites, values.split([site.mask.numel() for site in policy.sites]), strict=True):
        site.alpha.data.copy_(part.view(site.shape))


def test_reaching_the_budget_freezes_the_masks_at_exactly_it() -> None:
    """Fewer than B factors are above the threshold: the largest of the others fill up."""
    search = Search("snl", 50)
    policy = search.policy
    assert isinstance(policy, Snl)
    set_count(policy, 20)
    policy.after_step(1 / 6)
    assert policy.settled
    assert policy.found == 20
    assert sum(search.counts()) == 50
    frozen = [site.mask.clone() for site in search.sites]
    search.run()
    assert policy.penalty() is None
    assert all(torch.equal(site.mask, mask) for site, mask in zip(search.sites, frozen, strict=True))


def test_binarisation_ranks_by_value_not_by_size() -> None:
    search = Search("snl", 3)
    for site in search.sites:
        site.alpha.data.fill_(-5.0)
    search.sites[1].alpha.data.view(-1)[:3] = torch.tensor([0.1, 0.2, 0.3])
    search.policy.finish()
    assert search.sites[1].mask.view(-1).nonzero().flatten().tolist() == [0, 1, 2]
