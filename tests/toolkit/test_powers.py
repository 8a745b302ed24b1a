"""Normalised powers against their definition, written out with autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aurep import HybridActivation
from aurep.powers import fold, power_statistics, unfold
from tests.tolerances import FLOAT32, FLOAT64

EPSILON = 1e-5  # batch norm's


def inputs(shape: tuple[int, ...], seed: int, images: int = 6) -> Tensor:
    """Channels of other means and deviations each, with tails."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *shape, dtype=torch.float64, generator=draw)
    scale = torch.rand(shape[0], *(1,) * (len(shape) - 1), dtype=torch.float64, generator=draw) + 0.2
    return (x + 0.2 * x**3) * scale + torch.randn(scale.shape, dtype=torch.float64, generator=draw)


def normalised(power: Tensor) -> Tensor:
    others = (0, *range(2, power.dim()))
    return (power - power.mean(others, keepdim=True)) / (power.var(others, correction=0, keepdim=True) + EPSILON).sqrt()


def definition(factors: Tensor, x: Tensor) -> Tensor:
    """f0 + f1 norm(x) + f2 norm(x^2), by autograd through the statistics."""
    columns = [c.reshape(*c.shape, *(1,) * (x.dim() - 1 - c.dim())) for c in factors.unbind(-1)]
    y = columns[0] + columns[1] * normalised(x)
    return y + columns[2] * normalised(x**2) if len(columns) > 2 else y


def site_over(x: Tensor, degree: int, per_element: bool, seed: int) -> HybridActivation:
    site = HybridActivation(tuple(x.shape[1:]), degree, "s", per_element).double()
    assert site.coefficients is not None
    draw = torch.Generator().manual_seed(seed)
    site.set_coefficients(torch.randn(site.coefficients.shape, generator=draw).double())
    site.normalise(power_statistics(x, degree))
    return site


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(3, 5, 4), (7,), (2, 6)]), st.sampled_from([1, 2]), st.booleans(), st.integers(0, 2**31))
def test_value_and_gradients_equal_the_definition(shape: Any, degree: int, per_element: bool, seed: int) -> None:
    x = inputs(shape, seed)
    site = site_over(x, degree, per_element, seed)
    site.set_mask(torch.zeros(shape))
    assert site.factors is not None
    twin = site.factors.detach().clone().requires_grad_()
    x, z = x.requires_grad_(), x.detach().clone().requires_grad_()
    y, expected = site(x), definition(twin, z)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    # Gradients through Var[x^2] are sums of fourth powers: some hundred times the values' rounding.
    for found, wanted, slack in [(y, expected, 10), (x.grad, z.grad, 1000), (site.factors.grad, twin.grad, 10)]:
        assert wanted is not None
        atol = slack * FLOAT64 * float(wanted.detach().abs().max())
        torch.testing.assert_close(found, wanted, rtol=slack * FLOAT64, atol=atol)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(3, 5, 4), (7,)]), st.sampled_from([1, 2]), st.booleans(), st.integers(0, 2**31))
def test_normalising_changes_no_value_and_settling_neither(
    shape: Any, degree: int, per_element: bool, seed: int
) -> None:
    x = inputs(shape, seed)
    plain = site_over(x, degree, per_element, seed)
    plain.settle()
    assert {name for name, _ in plain.named_parameters()} == {"alpha", "coefficients"}
    site = site_over(x, degree, per_element, seed)
    wanted = plain(x)
    scale = FLOAT64 * 100 * float(wanted.detach().abs().max())  # factors and back: a few roundings of the largest term
    for mode in (True, False):  # over the very batch that the statistics are of, training and evaluation agree
        torch.testing.assert_close(site.train(mode)(x), wanted, rtol=0, atol=scale)
    site.settle()
    torch.testing.assert_close(site(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("per_element", [False, True])
def test_fold_is_the_inverse_of_unfold(per_element: bool) -> None:
    x = inputs((4, 3, 3), 1)
    coefficients = torch.randn((4, 3, 3, 3) if per_element else (4, 3), dtype=torch.float64)
    statistics = power_statistics(x, 2)
    torch.testing.assert_close(
        fold(unfold(coefficients, statistics), statistics), coefficients, rtol=100 * FLOAT64, atol=100 * FLOAT64
    )


def test_coefficients_follow_running_statistics_as_batch_norms_would() -> None:
    x = inputs((3, 4, 4), 2).float()
    site = HybridActivation((3, 4, 4), 2, "s")
    site.normalise(power_statistics(x, 2))
    norm = torch.nn.BatchNorm2d(3, affine=False)
    assert site.statistics is not None
    norm.running_mean = site.statistics[0].clone()
    batch = x * 1.1 + 0.1
    site(batch)
    before = site.statistics.clone()
    torch.testing.assert_close(site.statistics, before, rtol=0, atol=0)  # forward changes no state
    norm(batch)
    site.follow()
    assert site.factors is not None
    assert norm.running_mean is not None
    torch.testing.assert_close(site.statistics[0], norm.running_mean, rtol=FLOAT32, atol=FLOAT32)
    assert site.coefficients is not None
    torch.testing.assert_close(site.coefficients, fold(site.factors, site.statistics), rtol=0, atol=0)
    moved = site.statistics.clone()
    site.follow()  # no batch since: nothing moves
    torch.testing.assert_close(site.statistics, moved, rtol=0, atol=0)


@pytest.mark.parametrize("outlier", [1e6, 1e30, float("inf"), float("nan")])
def test_no_batch_moves_running_statistics_further_than_two_deviations(outlier: float) -> None:
    """A tenth of the way to twice the deviation, that is: what a batch of another scale would do counts whole."""
    x = inputs((3, 4, 4), 2).float()
    site = HybridActivation((3, 4, 4), 2, "s")
    site.normalise(power_statistics(x, 2))
    assert site.statistics is not None
    before = site.statistics.clone()
    batch = x.clone()
    batch[0, 1, 0, 0] = outlier
    site(batch)
    site.follow()
    deviations = before[1::2].sqrt()
    assert ((site.statistics[::2] - before[::2]).abs() <= 0.1 * 2 * deviations * (1 + 1e-3)).all()  # eps in a deviation
    assert (site.statistics[1::2] <= (0.9 + 0.1 * 4) * before[1::2] * (1 + 1e-3)).all()
    torch.testing.assert_close(site.statistics[:, [0, 2]], before[:, [0, 2]], rtol=1e-3, atol=1e-3)  # the same batch
    assert site.statistics[3, 1] > 1.29 * before[3, 1]  # it did count


def test_statistics_of_half_precision_are_those_of_its_values_in_fp32() -> None:
    x = inputs((3, 8, 8), 4).to(torch.bfloat16)
    torch.testing.assert_close(power_statistics(x, 2), power_statistics(x.float(), 2), rtol=0, atol=0)


def test_an_outlier_flattens_the_parabola_instead_of_growing() -> None:
    """What the form is for: behind a chain of squares a plain polynomial overflows, the normalised one stays put."""
    torch.manual_seed(0)
    x = torch.randn(16, 4, 8, 8)
    x[0, :, 0, 0] = 30.0
    plain, normalised_ = x, x
    for _ in range(8):
        site = HybridActivation((4, 8, 8), 2, "s")
        site.set_mask(torch.zeros(4, 8, 8))
        plain = site(plain) + plain
        site.normalise(power_statistics(torch.randn(64, 4, 8, 8), 2))
        normalised_ = site(normalised_) + normalised_
    assert not bool(torch.isfinite(plain).all()) or float(plain.detach().abs().max()) > 1e20
    assert float(normalised_.detach().abs().max()) < 1e3
