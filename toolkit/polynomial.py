"""Distribution-aware polynomial approximation (DaPa): the least-squares fit of ReLU under a site's input distribution.

Minimise E[(relu(x) - p(x))^2] over polynomials p of degree d. Two ways to the answer:

closed form, x ~ N(mu, sigma^2), t = mu / sigma, phi and Phi the standard normal density and distribution function
    d = 2:  c2 = phi(t) / (2 sigma),   c1 = Phi(t) - t phi(t),   c0 = sigma phi(t) (1 + t^2) / 2
    d = 1:  c1 = Phi(t),               c0 = sigma phi(t)
    d = 0:  c0 = E[relu(x)] = mu Phi(t) + sigma phi(t)
empirical moments: with z = (x - mu) / sigma, solve  sum_j E[z^(i+j)] b_j = E[relu(x) z^i],  i, j = 0..d,
    then expand p(x) = sum_j b_j z^j into powers of x.

Source: Peng et al., "AutoReP: Automatic ReLU Replacement for Fast Private Network Inference", ICCV 2023 (DaPa); the
closed form here takes the standard deviation, where the paper's code passes the variance.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from aurep.errors import AurepError

DEGREES = (0, 1, 2)
Fit = Literal["moments", "damped", "bounded", "normal", "autorep"]  # see `Moments.fit`
_SIGMA_FLOOR = 0.05  # of the site's root-mean-square sigma: a dead channel gets c2 <= 4 / that, not infinity
_LEAST_SIGMA = 1e-3  # taken for that mean where a whole site is dead: it still gets a finite c2, at most 4e3
_DAMPED = 0.7  # of the curvature that least squares gives
_BEYOND = 2.0  # of the largest input seen, up to which a bounded fit does not enlarge any
_AUTOREP_FLOOR = 0.5  # of the variance, in the code released with AutoReP
_RIDGE = 1e-9  # keeps the standardised Gram matrix invertible for inputs of two or three distinct values


def check_degree(degree: int) -> int:
    """Return `degree` if it is 0, 1 or 2, else raise AurepError."""
    if degree not in DEGREES:
        raise AurepError(f"degree {degree!r} is not supported; choose 0, 1 or 2.")
    return degree


def dapa(mean: Tensor | float, std: Tensor | float, degree: int = 2) -> Tensor:
    """Best polynomial of `degree` for ReLU under N(mean, std^2).

    Args:
        mean, std: same or broadcastable shapes (...,). `std` >= 0; zero is treated as the smallest positive normal.
        degree: 0, 1 or 2. (Degree 0 is the best constant. A hybrid activation of degree 0 uses the identity instead.)

    Returns:
        Ascending coefficients (c0, c1, ...), shape (..., degree + 1), dtype of the inputs (float64 for numbers).
    """
    check_degree(degree)
    mu, sigma = torch.broadcast_tensors(_as_tensor(mean), _as_tensor(std))
    if bool((sigma < 0).any()):
        raise AurepError("dapa: a standard deviation is negative; pass sigma, not a log or a centred value.")
    dtype = torch.promote_types(mu.dtype, sigma.dtype)
    mu = mu.double()
    sigma = sigma.double().clamp_min(torch.finfo(torch.float64).tiny)
    t = mu / sigma
    density = torch.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    cumulative = 0.5 * torch.erfc(-t / math.sqrt(2))
    scaled = torch.where(density > 0, t * density, 0.0)  # inf * 0 where sigma is tiny
    if degree == 0:
        columns = [mu * cumulative + sigma * density]
    elif degree == 1:
        columns = [sigma * density, cumulative]
    else:
        curvature = torch.where(density > 0, sigma * t * scaled, 0.0)
        columns = [(sigma * density + curvature) / 2, cumulative - scaled, density / (2 * sigma)]
    return torch.stack(columns, -1).to(dtype)


def _as_tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.double()
    return torch.as_tensor(value, dtype=torch.float64)


class Moments:
    """E[x^k], k = 0..4, and E[relu(x) x^k], k = 0..2, accumulated in float64.

    Args:
        shape: activation shape without the batch, (C, ...).
        per_element: moments per element (shape) instead of per channel (C,).
    """

    def __init__(self, shape: tuple[int, ...], per_element: bool = False) -> None:
        self.shape = shape
        self.per_element = per_element
        self.count = 0
        self.powers: Tensor | None = None  # (5, ...)
        self.products: Tensor | None = None  # (3, ...)
        self.largest: Tensor | None = None  # |x|, (...)

    def add(self, x: Tensor) -> None:
        """Accumulate a batch x of shape (N, C, ...)."""
        x = x.detach().double()
        dims = (0,) if self.per_element else (0, *range(2, x.dim()))
        powers = [torch.full_like(x.sum(dims), x.numel() / x.sum(dims).numel())]
        products = []
        power, rectified = torch.ones_like(x), x.clamp_min(0)
        for _ in range(3):
            products.append((power * rectified).sum(dims))
            power = power * x
            powers.append(power.sum(dims))
        powers.append((power * x).sum(dims))
        stacked, crossed = torch.stack(powers), torch.stack(products)
        self.powers = stacked if self.powers is None else self.powers + stacked
        self.products = crossed if self.products is None else self.products + crossed
        largest = x.abs().amax(dims)
        self.largest = largest if self.largest is None else self.largest.maximum(largest)
        self.count += x.shape[0]

    def fit(self, degree: int, method: Fit = "moments") -> Tensor:
        """Ascending coefficients, shape (C, degree + 1) or (*shape, degree + 1), float64.

        Args:
            degree: 0, 1 or 2.
            method: "moments", least squares under the inputs seen; "normal", under the normal distribution of their
                mean and deviation; "autorep", the first coefficients of the code released with AutoReP, to compare
                with: the closed form given the variance, at least 0.5, for sigma, then c0 / 5 and c2 / 100; "damped",
                the first with 0.7 of its curvature, and the mean kept: what a network of many polynomials is
                trained from, since each doubles an outlier's exponent; "bounded", the first, then flattened until
                |c1 x + c2 x^2| <= |x| up to twice the largest input seen, with the mean kept: worse for most inputs,
                but parabola upon parabola enlarges no outlier.

        What "autorep" does not follow: that code takes running averages over training and validation batches where
        these moments are of the batches seen; it sets the coefficients anew every 10 steps until step 508, training
        them in between; and it holds c2 tenfold, so that Adam moves it at a tenth of the others' rate.

        Channels whose sigma is under a twentieth of the site's get the closed form at that floor, and so do elements
        seen in fewer than 3 * (degree + 1) samples: neither determines a parabola.
        """
        check_degree(degree)
        if self.powers is None or self.products is None:
            raise AurepError("no batch was seen; polynomials are fitted on at least one batch of inputs.")
        raw = self.powers / self.powers[0]
        cross = self.products / self.powers[0]
        mu = raw[1]
        variance = (raw[2] - mu * mu).clamp_min(0)
        floor = _SIGMA_FLOOR * variance.mean().sqrt().clamp_min(_LEAST_SIGMA)
        sigma = variance.sqrt().maximum(floor)
        if method == "autorep":
            scale = (0.2, 1.0, 0.01)[: degree + 1]
            return dapa(mu, variance.clamp_min(_AUTOREP_FLOOR), degree) * torch.tensor(
                scale, dtype=mu.dtype, device=mu.device
            )
        closed = dapa(mu, sigma, degree)
        if method == "normal":
            return closed
        undetermined = variance.sqrt() <= floor
        if self.per_element and self.count < 3 * (degree + 1):
            undetermined = torch.ones_like(undetermined)
        fitted = torch.where(undetermined[..., None], closed, _solve(raw, cross, mu, sigma, degree))
        if method == "moments":
            return fitted
        if method == "damped":
            fitted[..., 2:] *= _DAMPED
        else:
            self._flatten(fitted)
        fitted[..., 0] = cross[0] - sum(fitted[..., k] * raw[k] for k in range(1, degree + 1))  # the mean is kept
        return fitted

    def _flatten(self, fitted: Tensor) -> None:
        assert self.largest is not None
        slopes, curvatures = fitted[..., 1:2].clamp_(-1, 1), fitted[..., 2:]
        most = (1 - slopes.abs()) / (_BEYOND * self.largest).clamp_min(_LEAST_SIGMA)[..., None]
        curvatures.copy_(curvatures.minimum(most).maximum(-most))


def _solve(raw: Tensor, cross: Tensor, mu: Tensor, sigma: Tensor, degree: int) -> Tensor:
    z_powers = [_central(raw, mu, k) / sigma**k for k in range(2 * degree + 1)]
    z_cross = [_central(cross, mu, k) / sigma**k for k in range(degree + 1)]
    size = degree + 1
    gram = torch.stack([torch.stack([z_powers[i + j] for j in range(size)], -1) for i in range(size)], -2)
    gram = gram + _RIDGE * torch.eye(size, dtype=gram.dtype, device=gram.device)
    b = torch.linalg.solve(gram, torch.stack(z_cross, -1)[..., None])[..., 0]
    b = [b[..., k] / sigma**k for k in range(size)]  # in powers of (x - mu)
    if degree == 0:
        columns = [b[0]]
    elif degree == 1:
        columns = [b[0] - b[1] * mu, b[1]]
    else:
        columns = [b[0] - b[1] * mu + b[2] * mu * mu, b[1] - 2 * b[2] * mu, b[2]]
    return torch.stack(columns, -1)


def _central(moments: Tensor, mu: Tensor, k: int) -> Tensor:
    """E[w (x - mu)^k] from E[w x^j] = moments[j]."""
    terms = [math.comb(k, j) * moments[j] * (-mu) ** (k - j) for j in range(k + 1)]
    return torch.stack(terms).sum(0)
