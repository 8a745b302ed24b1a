"""DaPa against numerical integration and numpy's least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aurep
from aurep.polynomial import Moments, dapa
from tests.tolerances import LEAST_SQUARES, QUADRATURE


def least_squares_under_normal(mean: float, std: float, degree: int) -> np.ndarray:
    """The same minimiser by Gauss-Legendre quadrature on either side of the kink, solved in powers of z."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    kink = float(np.clip(-mean / std, -12, 12))
    z, w = [], []
    for low, high in ((-12.0, kink), (kink, 12.0)):
        half = (high - low) / 2
        z.append(low + half * (nodes + 1))
        w.append(half * weights)
    z, w = np.concatenate(z), np.concatenate(w)
    w = w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    design = np.stack([z**k for k in range(degree + 1)], 1)
    gram = design.T @ (w[:, None] * design)
    b = np.linalg.solve(gram, design.T @ (w * np.maximum(mean + std * z, 0)))
    polynomial = np.polynomial.Polynomial(b)(np.polynomial.Polynomial([-mean / std, 1 / std]))
    return np.pad(polynomial.coef, (0, degree + 1 - len(polynomial.coef)))


def test_standard_normal_gives_the_published_coefficients() -> None:
    assert dapa(0.0, 1.0, 2).tolist() == pytest.approx([0.19947, 0.5, 0.19947], abs=5e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 10), st.sampled_from([0, 1, 2]))
def test_closed_form_minimises_the_error(mean: float, std: float, degree: int) -> None:
    expected = least_squares_under_normal(mean, std, degree)
    np.testing.assert_allclose(dapa(mean, std, degree).numpy(), expected, rtol=QUADRATURE, atol=QUADRATURE * (1 + std))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(-2, 2), st.floats(0.05, 20), st.sampled_from([1, 2]))
def test_empirical_fit_equals_numpy_least_squares(seed: int, mean: float, std: float, degree: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(mean, std, (8, 3, 6, 6)) + random.exponential(std, (8, 3, 6, 6))
    moments = Moments((3, 6, 6))
    for part in np.split(x, 4):
        moments.add(torch.from_numpy(part))
    fitted = moments.fit(degree).numpy()
    for channel in range(3):
        values = x[:, channel].ravel()
        oracle = np.polynomial.polynomial.polyfit(values, np.maximum(values, 0), degree)
        residual = np.polynomial.polynomial.polyval(values, oracle - fitted[channel])
        assert np.abs(residual).max() <= LEAST_SQUARES * (1 + np.abs(values).max())


def test_per_element_fit_has_a_polynomial_for_each_element() -> None:
    x = torch.randn(200, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, :, 0, 0] += 3
    moments = Moments((2, 3, 3), per_element=True)
    moments.add(x)
    fitted = moments.fit(2)
    assert fitted.shape == (2, 3, 3, 3)
    values = x[:, 1, 0, 0].numpy()
    oracle = np.polynomial.polynomial.polyfit(values, np.maximum(values, 0), 2)
    np.testing.assert_allclose(fitted[1, 0, 0].numpy(), oracle, rtol=LEAST_SQUARES, atol=LEAST_SQUARES)


@pytest.mark.parametrize("constant", [0.0, 1e-8, 5.0, -5.0])
def test_dead_channel_does_not_blow_up(constant: float) -> None:
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    x[:, 1] = constant
    moments = Moments((2, 4, 4))
    moments.add(x)
    fitted = moments.fit(2)
    assert torch.isfinite(fitted).all()
    value = float(sum(c * constant**k for k, c in enumerate(fitted[1].tolist())))
    assert abs(value - max(constant, 0)) < 0.05  # the floor of sigma is a twentieth of the site's, about 0.04 here
    assert fitted[1].abs().max() < 10


def test_two_valued_inputs_are_fitted_exactly() -> None:
    x = torch.tensor([-1.0, 2.0]).repeat(50).reshape(100, 1, 1, 1)
    moments = Moments((1, 1, 1))
    moments.add(x)
    c = moments.fit(2)[0].tolist()
    assert [c[0] - c[1] + c[2], c[0] + 2 * c[1] + 4 * c[2]] == pytest.approx([0, 2], abs=LEAST_SQUARES)


def test_shapes_and_dtype_follow_the_inputs() -> None:
    result = dapa(torch.zeros(4, 1), torch.ones(3), 1)
    assert result.shape == (4, 3, 2)
    assert result.dtype == torch.float32


@pytest.mark.parametrize(("mean", "std", "degree"), [(0.0, 1.0, 3), (0.0, -1.0, 2)], ids=["degree 3", "negative sigma"])
def test_bad_arguments_are_refused(mean: float, std: float, degree: int) -> None:
    with pytest.raises(aurep.AurepError):
        dapa(mean, std, degree)


def test_zero_sigma_is_finite_where_relu_is_smooth() -> None:
    assert dapa(2.0, 0.0, 1).tolist() == [0.0, 1.0]
    assert dapa(-2.0, 0.0, 2).tolist() == [0.0, 0.0, 0.0]


def test_normal_fit_is_the_closed_form_of_mean_and_deviation() -> None:
    x = torch.randn(64, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) ** 3 + 0.3
    moments = Moments((2, 4, 4))
    moments.add(x)
    for channel in range(2):
        mean, std = x[:, channel].mean(), x[:, channel].std(correction=0)
        expected = least_squares_under_normal(float(mean), float(std), 2)
        np.testing.assert_allclose(
            moments.fit(2, "normal")[channel].numpy(), expected, rtol=QUADRATURE, atol=QUADRATURE
        )


@pytest.mark.parametrize(("degree", "scale"), [(1, [1 / 5, 1.0]), (2, [1 / 5, 1.0, 1 / 10 * 0.1])])
def test_first_coefficients_of_the_released_autorep_code(degree: int, scale: list[float]) -> None:
    """It passes the variance, 0.5 at least, for sigma, divides c0 by 5 and c2 by 10, and multiplies x^2 by 0.1."""
    x = torch.randn(64, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2 - 0.5
    x[:, 1] /= 5
    moments = Moments((2, 4, 4))
    moments.add(x)
    for channel, floor in ((0, 0.0), (1, 0.5)):
        mean, variance = float(x[:, channel].mean()), float(x[:, channel].var(correction=0))
        expected = least_squares_under_normal(mean, max(variance, floor), degree) * scale
        found = moments.fit(degree, "autorep")[channel].numpy()
        np.testing.assert_allclose(found, expected, rtol=QUADRATURE, atol=QUADRATURE)
