"""The compiled kernels of `cpu.cpp`: tensors brought into its order, tables made for it, and its sums taken apart.

`aurep.kernels.cpu_build` builds and loads it, which has to come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aurep.kernels.cpu_build import WIDTH

if TYPE_CHECKING:
    from aurep.kernels import Needs, Norm

DTYPES = (torch.float32, torch.bfloat16)


def forward(x: Tensor, mask: Tensor, coefficients: Tensor | None) -> Tensor:
    return normed_forward(x, None, (), mask, coefficients)


def backward(
    g: Tensor, x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None, needs: Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return normed_backward(g, x, None, (), mask, alpha, coefficients, needs)[:3]


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    z = _dense(z)
    centre = z[0].float().reshape(z.shape[1], -1).mean(1)  # near the mean: no digits are lost to cancellation
    sums = _channel_sums(_operators().statistics(z, _spread(centre[None], z)), z)
    first, second = sums / (z.numel() // z.shape[1])
    return centre + first, (second - first.square()).clamp_min_(0)


def normed_forward(
    z: Tensor, residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
) -> Tensor:
    z = _dense(z)
    kept, tables = _reorder(mask, z), _tables(z, norms, coefficients)
    y: Tensor = _operators().forward(z, _like(residual, z), kept, tables)
    return y


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
    z = _dense(z)
    kept, tables = _reorder(mask, z), _tables(z, norms, coefficients)
    du, indicator, sums = _operators().backward(_like(g, z), z, _like(residual, z), kept, tables)
    grad_alpha = grad_coefficients = None
    if needs.alpha:
        grad_alpha = (F.softplus(alpha) * _restore(indicator.view(_layout(z)[0]), z)).to(alpha.dtype)
    if needs.coefficients and coefficients is not None:
        powers = sums[: coefficients.shape[-1]]
        per_element = coefficients.dim() > 2 or mask.dim() == 1
        parts = [_restore(p, z) for p in _elements(powers, z)] if per_element else list(_channel_sums(powers, z))
        grad_coefficients = torch.stack(parts, -1).view(coefficients.shape).to(coefficients.dtype)
    return du, grad_alpha, grad_coefficients, _channel_sums(sums[3:], z)


def norm_input(du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False) -> Tensor:
    z = _dense(z)
    tables = _spread(torch.stack([mean, a, b, c]), z)
    dz: Tensor = _operators().norm_input(_like(du, z), z, tables, spent)
    return dz


def _tables(z: Tensor, norms: Sequence[Norm], coefficients: Tensor | None) -> Tensor:
    """(3 + ..., elements or channels) in z's order, as cpu.cpp describes."""
    rows: list[Tensor] = []
    if norms:
        rows = [sum((norm.shift for norm in norms[1:]), norms[0].shift)]
        rows += [part for norm in norms for part in (norm.mean, norm.scale)]
    channels = z.shape[1]
    if coefficients is None:
        polynomial = [torch.full((channels,), value) for value in (0.0, 1.0, 0.0)]
    else:
        polynomial = list(coefficients.detach().float().unbind(-1))
        polynomial += [torch.zeros_like(polynomial[0])] * (3 - len(polynomial))
    if polynomial[0].dim() == 1:
        return _spread(torch.stack([*polynomial, *rows]), z)
    own = torch.stack([_reorder(part, z).flatten() for part in polynomial])
    return torch.cat([own, _expand(torch.stack(rows), z)]) if rows else own


def _spread(rows: Tensor, z: Tensor) -> Tensor:
    """(rows, C), as it is where channels come last and one period of them fits a block, else (rows, elements)."""
    return rows if _layout(z)[1] and z.shape[1] <= WIDTH else _expand(rows, z)


def _layout(z: Tensor) -> tuple[tuple[int, int], bool]:
    """One image's shape as it lies in memory, (positions, channels) where channels come last, and whether they do."""
    channels, positions = z.shape[1], z[0, 0].numel()
    last = not z.is_contiguous()
    return ((positions, channels) if last else (channels, positions)), last


def _expand(rows: Tensor, z: Tensor) -> Tensor:
    """(rows, C) -> (rows, elements) in z's order."""
    (first, second), last = _layout(z)
    wide = rows[:, None, :] if last else rows[:, :, None]
    return wide.expand(-1, first, second).reshape(len(rows), -1).contiguous()


def _reorder(values: Tensor, z: Tensor) -> Tensor:
    """(C, ...) as it would lie in one image of z."""
    (_, second), last = _layout(z)
    return values.reshape(second, -1).t().contiguous() if last else values.contiguous()


def _restore(values: Tensor, z: Tensor) -> Tensor:
    """The inverse of `_reorder`, of z's shape without the batch."""
    return (values.t() if _layout(z)[1] else values).reshape(z.shape[1:])


def _channel_sums(sums: Tensor, z: Tensor) -> Tensor:
    """(k, blocks, width) as the operators give them -> (k, C)."""
    if sums.shape[1] * sums.shape[2] < z[0].numel():  # the channels, block by block
        return sums.sum(1)
    return _elements(sums, z).sum(1 if _layout(z)[1] else 2)


def _elements(sums: Tensor, z: Tensor) -> Tensor:
    """(k, blocks, width), a sum for every element and what the last block leaves over -> (k, *layout)."""
    return sums.flatten(1)[:, : z[0].numel()].view(len(sums), *_layout(z)[0])


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _like(x: Tensor | None, z: Tensor) -> Tensor | None:
    """x with z's dtype and memory order."""
    if x is None:
        return None
    return x.to(z.dtype).contiguous(memory_format=torch.channels_last if _layout(z)[1] else torch.contiguous_format)


def _operators() -> Any:
    return torch.ops.aurep_cpu
