"""A site's training step against numpy: the formulas of `aurep.activation`, `powers` and `tails` written out, and their
gradients as difference quotients of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aurep import HybridActivation
from aurep.kernels import kernels_for, using
from tests.needs import needs_cpu_kernels
from tests.tolerances import BFLOAT16, FLOAT32

Array = NDArray[np.float64]
SHAPE, IMAGES, LIMIT, WEIGHT, EPSILON = (3, 2, 4), 6, 1.2, 0.3, 1e-5
STEP = 1e-5  # of quotients: in float64 they are good to 1e-9, far below what fp32 sums are
WAYS = [
    pytest.param("eager", torch.float64),
    pytest.param("compiled", torch.float32, marks=needs_cpu_kernels),
    pytest.param("compiled", torch.bfloat16, marks=needs_cpu_kernels),
]


class Oracle:
    """Inputs drawn from a seed, values that bf16 holds exactly, and what numpy makes of them."""

    def __init__(self, degree: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.degree = degree
        self.x, self.g = (exact_in_bf16(draw.normal(0.3, 1, (IMAGES, *SHAPE))) for _ in range(2))
        self.factors = draw.normal(size=(SHAPE[0], degree + 1))
        self.statistics = draw.uniform(0.5, 1.5, (2 * degree, SHAPE[0]))
        self.mask = draw.random(SHAPE) > 0.5
        self.alpha = draw.normal(size=SHAPE)

    def batch_statistics(self, x: Array) -> Array:
        powers = [x**k for k in range(1, self.degree + 1)]
        return np.concatenate([[p.mean((0, 2, 3)), p.var((0, 2, 3))] for p in powers])

    def outputs(self, x: Array, factors: Array) -> tuple[Array, Array]:
        """relu(x), p(x)."""
        seen = self.batch_statistics(x)
        polynomial = per_channel(factors[:, 0])
        for k in range(1, self.degree + 1):
            mean, variance = per_channel(seen[2 * k - 2]), per_channel(seen[2 * k - 1])
            polynomial = polynomial + per_channel(factors[:, k]) * (x**k - mean) / np.sqrt(variance + EPSILON)
        return np.maximum(x, 0), polynomial

    def y(self, x: Array, factors: Array) -> Array:
        rectified, polynomial = self.outputs(x, factors)
        return np.where(self.mask, rectified, polynomial)

    def excess(self, x: Array) -> float:
        seen = x[: -(-IMAGES // 4)]
        z = (seen - per_channel(self.statistics[0])) / np.sqrt(per_channel(self.statistics[1]) + EPSILON)
        return float((np.maximum(np.abs(z) - LIMIT, 0) ** 2).sum() / len(seen))

    def loss(self, x: Array, factors: Array) -> float:
        return float((self.g * self.y(x, factors)).sum() + WEIGHT * self.excess(x))

    def of_alpha(self) -> Array:
        """The straight-through estimator, which is no derivative of anything."""
        rectified, polynomial = self.outputs(self.x, self.factors)
        found: Array = np.log1p(np.exp(self.alpha)) * (self.g * (rectified - polynomial)).sum(0)
        return found


def exact_in_bf16(values: Array) -> Array:
    found: Array = torch.tensor(values).bfloat16().double().numpy()
    return found


def per_channel(values: Array) -> Array:
    return values[:, None, None]


def quotients(function: Callable[[Array], float], at: Array) -> Array:
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = STEP
        found[place] = (function(at + step) - function(at - step)) / (2 * STEP)
    return found


def same(found: Any, wanted: Array, tolerance: float) -> None:
    allowed = tolerance * float(np.abs(wanted).max() + 1)
    np.testing.assert_allclose(found.detach().double().numpy(), wanted, rtol=tolerance, atol=allowed)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("choice", "dtype"), WAYS)
def test_it_is_what_the_formulas_say(choice: Any, dtype: torch.dtype, degree: int, layout: torch.memory_format) -> None:
    oracle = Oracle(degree)
    site = HybridActivation(SHAPE, degree).train()
    if dtype == torch.float64:
        site.double()
    site.set_mask(torch.tensor(oracle.mask))
    site.alpha.data.copy_(torch.tensor(oracle.alpha))
    site.normalise(torch.tensor(oracle.statistics))
    assert site.factors is not None
    site.factors.data.copy_(torch.tensor(oracle.factors))
    site.limit = LIMIT
    x = torch.tensor(oracle.x).to(dtype).contiguous(memory_format=layout).requires_grad_()
    with using(choice):
        assert hasattr(kernels_for(x), "training_forward") == (choice == "compiled")
        y = site(x)
        seen, excess = site._seen, site.take_excess()
        ((torch.tensor(oracle.g) * y.double()).sum() + WEIGHT * excess).backward()
    rounding = BFLOAT16 if dtype == torch.bfloat16 else FLOAT32
    same(y, oracle.y(oracle.x, oracle.factors), rounding)
    assert float(excess.detach()) == pytest.approx(oracle.excess(oracle.x), rel=FLOAT32)
    same(seen, oracle.batch_statistics(oracle.x), FLOAT32)
    same(x.grad, quotients(lambda x: oracle.loss(x, oracle.factors), oracle.x), rounding)
    same(site.factors.grad, quotients(lambda f: oracle.loss(oracle.x, f), oracle.factors), FLOAT32)
    same(site.alpha.grad, oracle.of_alpha(), FLOAT32)
