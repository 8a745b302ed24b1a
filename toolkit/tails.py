"""How far a site's inputs reach: what a penalty on their tails adds up, and its gradient.

    excess = mean over images of sum over elements of max(0, |x - mean| / sigma - limit)^2

with mean and sigma of the element's channel, taken as constants: tails shall come in, not deviations go out. Images
are drawn at random, so the first quarter of a batch stands for all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aurep.kernels.eager import per_channel, widen
from aurep.powers import power_statistics

_IMAGES_SHARE = 4  # one image in so many is looked at
_LEAST_VARIANCE = 1e-5  # that of batch norms: a dead channel has no tails


def excess_over(x: Tensor, statistics: Tensor | None, limit: float) -> Tensor:
    """The excess of x (N, C, ...) over `limit` deviations, a scalar; deviations by `statistics` (2 or 4, C), whose
    first rows are mean and variance, or by those of the images looked at."""
    x = x[: -(-len(x) // _IMAGES_SHARE)]
    mean, variance = (power_statistics(x.detach(), 1) if statistics is None else statistics)[:2]
    inverse = torch.rsqrt(variance + _LEAST_VARIANCE)
    excess: Tensor = _Excess.apply(x, mean, inverse, limit)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return excess


class _Excess(torch.autograd.Function):
    """(z - clamp(z, -limit, limit))^2 with z = (x - mean) / sigma, summed, over images. Saves x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x, mean, inverse)
        ctx.limit = limit
        return _beyond(x, mean, inverse, limit).square_().sum() / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, mean, inverse = ctx.saved_tensors
        factor = per_channel(2 / len(x) * grads[0] * inverse, x)
        return _beyond(x, mean, inverse, ctx.limit).mul_(factor).to(x.dtype), None, None, None


def _beyond(x: Tensor, mean: Tensor, inverse: Tensor, limit: float) -> Tensor:
    z = (widen(x) - per_channel(mean, x)).mul_(per_channel(inverse, x))
    return z.sub_(z.clamp(-limit, limit))
