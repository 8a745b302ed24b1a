"""The hybrid activation in torch operations. `aurep.activation` has the maths.

Only operations that are fast on CPUs: addcmul, maximum, threshold_backward. A full-size `where` or `masked_fill` takes
20 times as long there; those below work on constants of one image's size. Temporaries are written over where they can
be: fresh memory costs more than arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from aurep.kernels import Needs, Norm


def forward(x: Tensor, mask: Tensor, coefficients: Tensor | None) -> Tensor:
    wide = widen(x)
    floor = _laid_out_like(wide, torch.where(mask, 0.0, -torch.inf).to(wide.dtype))
    if coefficients is None:
        return torch.maximum(wide, floor).to(x.dtype)
    constant, slope, *curvature = _blended(mask, coefficients, wide)
    if curvature:
        y = torch.addcmul(slope, curvature[0], wide)
        torch.addcmul(constant, y, wide, out=y)
    else:
        y = torch.addcmul(constant, slope, wide)
    return torch.maximum(y, floor, out=y).to(x.dtype)


def backward(
    g: Tensor, x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None, needs: Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    g, wide = widen(g), widen(x)
    grad_x = _grad_x(g, wide, mask, coefficients).to(x.dtype) if needs.x else None
    if not (needs.alpha or needs.coefficients):
        return grad_x, None, None
    gx = g * wide
    sums = [_over_images(g), _over_images(gx)]  # S_k
    rectified = None
    if needs.alpha:
        rectified = _over_images(torch.ops.aten.threshold_backward(gx, wide, 0))
    if coefficients is not None and coefficients.shape[-1] == 3:
        sums.append(_over_images(gx.mul_(wide)))
    grad_alpha = grad_coefficients = None
    if rectified is not None:
        factors: Sequence[float | Tensor] = (0.0, 1.0)
        if coefficients is not None:
            factors = columns(coefficients, g.dtype, mask.dim())
        replaced = torch.zeros_like(sums[0])
        for factor, total in zip(factors, sums, strict=False):
            replaced += factor * total
        grad_alpha = (F.softplus(alpha) * (rectified - replaced)).to(alpha.dtype)
    if needs.coefficients and coefficients is not None:
        stacked = torch.stack(sums[: coefficients.shape[-1]], -1) * ~mask[..., None]
        spatial = tuple(range(1, mask.dim())) if coefficients.dim() == 2 and mask.dim() > 1 else ()
        grad_coefficients = (stacked.sum(spatial) if spatial else stacked).to(coefficients.dtype)
    return grad_x, grad_alpha, grad_coefficients


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(widen(z), _all_but_channel(z), correction=0)
    return mean, variance


def normed_forward(
    z: Tensor, residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
) -> Tensor:
    return forward(_normed(z, residual, norms), mask, coefficients).to(z.dtype)


def normed_backward(
    g: Tensor,
    z: Tensor,
    residual: Tensor | None,
    norms: Sequence[Norm],
    mask: Tensor,
    alpha: Tensor,
    coefficients: Tensor | None,
    needs: Needs,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    u = _normed(z, residual, norms)
    du, grad_alpha, grad_coefficients = backward(g, u, mask, alpha, coefficients, needs._replace(x=True))
    assert du is not None
    sums = [du.sum(_all_but_channel(z))]
    for norm, raw in zip(norms, (z, residual), strict=False):
        assert raw is not None
        sums.append((du * (widen(raw) - per_channel(norm.mean, raw))).sum(_all_but_channel(z)))
    return du.to(z.dtype), grad_alpha, grad_coefficients, torch.stack(sums)


def norm_input(du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False) -> Tensor:
    centred = widen(z) - per_channel(mean, z)
    offset = torch.addcmul(per_channel(c, z), per_channel(b, z), centred)
    return torch.addcmul(offset, per_channel(a, z), widen(du)).to(z.dtype)


def widen(x: Tensor) -> Tensor:
    """Half precision as fp32, since that is what everything is computed in."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def columns(coefficients: Tensor, dtype: torch.dtype, dims: int) -> list[Tensor]:
    """Ascending coefficient tensors that broadcast against an activation of `dims` dimensions without the batch."""
    parts = coefficients.to(dtype).unbind(-1)
    return [c.reshape(*c.shape, *(1,) * (dims - c.dim())) for c in parts]


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """`values` (C,) to broadcast against x (N, C, ...)."""
    return values.view(-1, *(1,) * (x.dim() - 2))


def _normed(z: Tensor, residual: Tensor | None, norms: Sequence[Norm]) -> Tensor:
    u = _affine(z, norms[0])
    if residual is not None:
        u = u + (_affine(residual, norms[1]) if len(norms) > 1 else widen(residual))
    return u


def _affine(z: Tensor, norm: Norm) -> Tensor:
    mean, scale, shift = (per_channel(part, z) for part in norm)
    return torch.addcmul(shift, widen(z) - mean, scale)


def _all_but_channel(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _over_images(x: Tensor) -> Tensor:
    """sum_n x, of x's shape without the batch."""
    if _channels_last(x):  # as it lies in memory: a sum over a permuted tensor is several times slower
        return x.permute(0, 2, 3, 1).sum(0).permute(2, 0, 1)
    return x.sum(0)


def _grad_x(g: Tensor, x: Tensor, mask: Tensor, coefficients: Tensor | None) -> Tensor:
    always = torch.where(mask, -torch.inf, 1.0).to(x.dtype)  # a replaced element passes whatever its sign
    gate = torch.maximum(x, _laid_out_like(x, always))
    if coefficients is None:
        grad, out = g, gate
    else:
        _, slope, *curvature = _blended(mask, coefficients, x)
        grad = out = torch.addcmul(slope, curvature[0], x, value=2).mul_(g) if curvature else g * slope
    passed: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, gate, 0, grad_input=out)
    return passed


def _blended(mask: Tensor, coefficients: Tensor, x: Tensor) -> list[Tensor]:
    """Ascending coefficients per element: the polynomial's where replaced, those of x itself where kept."""
    identity = (0.0, 1.0, 0.0)
    parts = columns(coefficients, x.dtype, mask.dim())
    return [_laid_out_like(x, torch.where(mask, identity[k], c)) for k, c in enumerate(parts)]


def _laid_out_like(x: Tensor, constant: Tensor) -> Tensor:
    """`constant` (C, H, W) in x's memory format, so that elementwise kernels walk both in step."""
    if _channels_last(x):
        return constant[None].contiguous(memory_format=torch.channels_last)
    return constant


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
