"""What follows from a range, against brute force."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aurep.frameworks import FixedPoint
from aurep.ranges import certified, headroom_bits, largest_magnitude, padded, polynomial_error

small = st.floats(-4, 4, width=16)


@given(small, small, small, small, st.floats(0, 6, width=16))
def test_polynomial_error_is_the_largest_on_the_range(c0: float, c1: float, c2: float, low: float, span: float) -> None:
    found = float(polynomial_error(np.array([c0, c1, c2]), low, low + span))
    x = np.linspace(low, low + span, 20_001)
    seen = float(np.abs((c2 * x + c1) * x + c0 - np.maximum(x, 0)).max())
    # Between two points of the grid the error bends by at most c2 (step / 2)^2 and, at ReLU's kink, by a step.
    step = span / 20_000
    assert seen - 1e-9 <= found <= seen + abs(c2) * step**2 + step + 1e-9


def test_certified_bounds_are_wider_and_silent_channels_get_the_sites_span() -> None:
    low, high = certified([-1.0, 0.0, -2.0], [1.0, 0.0, 2.0])
    assert low.tolist() == [-2, -1, -4]
    assert high.tolist() == [2, 1, 4]


def test_headroom() -> None:
    """2^(63 - 32) is where 64:16 wraps; 2^10 is 21 bits below."""
    assert headroom_bits(2.0**10, FixedPoint(64, 16)) == 21
    assert headroom_bits(2.0**32, FixedPoint(64, 16)) == -1
    assert math.isfinite(headroom_bits(0.0, FixedPoint(64, 16)))


def test_magnitude_counts_squares_and_the_polynomial() -> None:
    terms = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.25]])
    assert largest_magnitude(terms, np.array([-3.0, -8.0]), np.array([20.0, 2.0])) == 64  # 8^2
    assert largest_magnitude(terms[:1], -3.0, 20.0) == 20
    assert largest_magnitude(np.array([[0.0, 30.0, 0.0]]), -3.0, 2.0) == 90


def test_padded() -> None:
    assert padded(None, (2, 3), 0)[..., 1].all()
    found = padded(np.array([[1.0, 2.0], [3.0, 4.0]]), (2, 2, 2), 1)
    assert found[1, 0, 1].tolist() == [3, 4, 0]
