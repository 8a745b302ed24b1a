"""What follows from the range of a site's inputs: room in a fixed-point ring, and what its polynomial does there.

A range is measured on some images; others go a little beyond it. So what is certified is the measured range widened by
`MARGIN` of its span at either end: about one bit. Of two sets of N and M images, the larger maximum lies among the M
with probability M / (N + M), so that a bound without a margin would fail on nearly every honest test set.

The error of c0 + c1 x + c2 x^2 against ReLU over [low, high] is largest at an end, at 0, or where a slope ends:
x = -c1 / (2 c2) left of 0, x = (1 - c1) / (2 c2) right of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.frameworks import FixedPoint

Array = NDArray[np.float64]
QUANTILES = (0.001, 0.01, 0.5, 0.99, 0.999)
MARGIN = 0.5


def certified(low: Any, high: Any) -> tuple[Array, Array]:
    """Measured bounds (C,) -> the bounds that the certificate vouches for.

    A channel is given at least the span that the site's channels have in the middle: one that is silent on the
    calibration images need not be so on others.
    """
    least, most = np.asarray(low, np.float64), np.asarray(high, np.float64)
    span = most - least
    wide = MARGIN * np.maximum(span, np.median(span))
    return least - wide, most + wide


def largest_magnitude(coefficients: Any, low: Any, high: Any) -> float:
    """The largest number within a site, however its polynomial is written: x, x^2, (|c2| x + |c1|) x + |c0|.

    Args:
        coefficients: (..., 3), ascending; zeros where an element stays ReLU.
        low, high: bounds that broadcast against `coefficients` without its last axis.
    """
    c0, c1, c2 = np.moveaxis(np.abs(np.asarray(coefficients, np.float64)), -1, 0)
    x = np.maximum(np.abs(low), np.abs(high))
    found = np.maximum.reduce([x + np.zeros_like(c0), (c2 > 0) * x**2, (c2 * x + c1) * x + c0])
    return float(found.max(initial=0.0))


def headroom_bits(magnitude: float, form: FixedPoint) -> float:
    """Bits between `magnitude` and where a product wraps around; negative beyond."""
    return float(np.floor(100 * np.log2(form.limit / max(magnitude, 2.0**-form.fraction))) / 100)


def polynomial_error(coefficients: Any, low: Any, high: Any) -> Array:
    """max |p(x) - relu(x)| over low <= x <= high, element by element.

    Args:
        coefficients: (..., 3), ascending.
        low, high: bounds that broadcast against `coefficients` without its last axis.
    """
    c0, c1, c2 = np.moveaxis(np.asarray(coefficients, np.float64), -1, 0)
    least, most = np.asarray(low, np.float64) + np.zeros_like(c0), np.asarray(high, np.float64) + np.zeros_like(c0)
    twice = np.where(c2 == 0, 1, 2 * c2)
    left, right = np.minimum(-c1 / twice, 0), np.maximum((1 - c1) / twice, 0)
    places = [np.clip(at, least, most) for at in (least, most, np.zeros_like(c0), left, right)]
    found: Array = np.maximum.reduce([np.abs((c2 * x + c1) * x + c0 - np.maximum(x, 0)) for x in places])
    return found


def padded(coefficients: Any, shape: tuple[int, ...], degree: int) -> Array:
    """Coefficients (C, degree + 1) or (*shape, degree + 1), None for the identity -> (*shape, 3)."""
    found = np.zeros((*shape, 3))
    if coefficients is None:
        found[..., 1] = 1
        return found
    given = np.asarray(coefficients, np.float64)
    rows = given.shape[:-1]
    found[..., : degree + 1] = given.reshape(*rows, *(1,) * (len(shape) - len(rows)), degree + 1)
    return found


def columns(bounds: Any, shape: tuple[int, ...]) -> Array:
    """Bounds (C,) so that they broadcast against `shape` (C, ...)."""
    found: Array = np.asarray(bounds, np.float64).reshape(-1, *(1,) * (len(shape) - 1))
    return found
