"""Polynomials over batch-normalised powers of the input: the form in which deep polynomial networks are trained.

A square on a residual sum doubles the exponent of its outliers. Sum after sum, plain coefficients let one value of a
batch grow until the loss overflows. So in training each power is normalised per channel over the batch,

    y = f0 + f1 (x - m1) / s1 + f2 (x^2 - m2) / s2,    m_k = E[x^k],  s_k = sqrt(Var[x^k] + eps)

where f are the trained factors: the heavier the tail, the larger s2 and the flatter the parabola, and a factor is of
order 1 whatever the scale of its channel, so that one rate suits all. For given statistics y is a polynomial in x,

    c2 = f2 / s2,   c1 = f1 / s1,   c0 = f0 - f1 m1 / s1 - f2 m2 / s2

and with running statistics, kept as batch norm keeps them, these are the coefficients that evaluation and export use.

Statistics are tensors (2 d, C) for degree d: m1, Var[x], then m2, Var[x^2] at degree 2.

Source: Park et al., "AESPA: Accuracy Preserving Low-degree Polynomial Activation for Fast Private Inference", 2022
(arXiv:2201.06699), which normalises Hermite polynomials; a batch norm of h_2(x) = (x^2 - 1) / sqrt(2) is one of x^2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aurep.distributed import rank_count, sum_over_ranks
from aurep.kernels.eager import per_channel, widen

_MOMENTUM = 0.1  # share of a batch in the running statistics, as in nn.BatchNorm2d
_EPSILON = 1e-5  # likewise
_REACH = 2.0  # deviations that a batch's mean, and times that its deviation, may be off by and count whole


def power_statistics(x: Tensor, degree: int) -> Tensor:
    """Mean and biased variance of x, ..., x^degree per channel, over all ranks; differentiable.

    Args:
        x: (N, C, ...).
        degree: 1 or 2.

    Returns:
        (2 * degree, C), fp32 for inputs of half precision.
    """
    statistics: Tensor = _Statistics.apply(x, degree)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return statistics


def fold(factors: Tensor, statistics: Tensor) -> Tensor:
    """Ascending coefficients (..., d + 1) from factors (C, d + 1) or (C, ..., d + 1) and statistics (2 d, C)."""
    constant, *scaled = factors.unbind(-1)
    columns = []
    for factor, mean, scale in zip(scaled, *_means_and_scales(statistics, factors), strict=True):
        columns.append(factor / scale)
        constant = constant - columns[-1] * mean
    return torch.stack([constant, *columns], -1)


def moving(statistics: Tensor, seen: Tensor) -> Tensor:
    """Running `statistics` (2 d, C) after a batch with those of `seen`, winsorised.

    A single image with an outlier has a batch's E[x^4] a million times the usual. Averaged as it is, that would flatten
    the parabolas of evaluation for hundreds of steps; so no batch counts as further off than `_REACH` deviations.
    """
    means, variances = statistics[::2], statistics[1::2]
    wide = variances + _EPSILON
    reach = _REACH * wide.sqrt()
    means = means + _MOMENTUM * (seen[::2] - means).nan_to_num(0.0).clamp(-reach, reach)
    variances = torch.lerp(variances, seen[1::2].nan_to_num(torch.inf).minimum(_REACH**2 * wide), _MOMENTUM)
    return torch.stack([means, variances], 1).flatten(0, 1)


def unfold(coefficients: Tensor, statistics: Tensor) -> Tensor:
    """The factors that `fold` makes `coefficients` of."""
    constant, *columns = coefficients.unbind(-1)
    factors = []
    for column, mean, scale in zip(columns, *_means_and_scales(statistics, coefficients), strict=True):
        factors.append(column * scale)
        constant = constant + column * mean
    return torch.stack([constant, *factors], -1)


def _means_and_scales(statistics: Tensor, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Per power, to broadcast against a column (C, ...) of `like`."""
    rows = [row.view(-1, *(1,) * (like.dim() - 2)) for row in statistics.to(like.dtype)]
    return rows[::2], [torch.sqrt(variance + _EPSILON) for variance in rows[1::2]]


class _Statistics(torch.autograd.Function):
    """Saves x alone. With a gradient G_k for row k and M values per channel, and the rows m1, v1, m2, v2:

    dL/dx = (G_0 - 2 m1 G_1) / M + x (2 G_1 + 2 G_2 - 4 m2 G_3) / M + x^3 4 G_3 / M
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, degree: int) -> Tensor:
        power = rows(x)
        found = [*_mean_and_variance(power)]
        if degree == 2:
            found += _mean_and_variance(power * power)
        statistics = torch.stack(found)
        ctx.save_for_backward(x, statistics)
        return statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, statistics = ctx.saved_tensors
        wide = widen(x)
        g = sum_over_ranks(grads[0]) / (x.numel() // x.shape[1] * rank_count())
        constant, slope = g[0] - 2 * statistics[0] * g[1], 2 * g[1]
        if len(g) == 2:
            return torch.addcmul(per_channel(constant, x), per_channel(slope, x), wide).to(x.dtype), None
        slope = slope + 2 * g[2] - 4 * statistics[2] * g[3]
        inner = wide * wide
        torch.addcmul(per_channel(slope, x), per_channel(4 * g[3], x), inner, out=inner)
        return torch.addcmul(per_channel(constant, x), inner, wide, out=inner).to(x.dtype), None


def rows(x: Tensor) -> Tensor:
    """x (N, C, ...) in fp32 or wider, as it lies in memory where channels come last: (N * ..., C)."""
    return widen(x.permute(0, *range(2, x.dim()), 1)).reshape(-1, x.shape[1])


def _mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows (M, C), in two passes. A sum down a matrix is many times faster than torch.var_mean over three axes."""
    mean = values.mean(0)
    variance = (values - mean).square_().mean(0)
    ranks = rank_count()
    if ranks == 1:
        return mean, variance
    middle = sum_over_ranks(mean) / ranks
    return middle, sum_over_ranks(variance + (mean - middle).square()) / ranks
