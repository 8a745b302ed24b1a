"""The hybrid activation on CUDA, one pass over memory in each direction. `aurep.activation` has the maths.

Here work is cut up and the programs of `cuda_programs` are launched.

x of shape (N, C, P positions), contiguous or channels_last, is cut into tiles of channels by positions and into chunks
of images. One program goes through the images of one chunk at one tile: its constants are read once, each element of x
(g, the residual) once. Sums over images take two stages in fixed order, so that results repeat: each program writes the
sums of its chunk, per element for alpha and per channel for the rest, and a second kernel adds up the chunks.

Everything is computed and added up in fp32, whatever the dtype of x. How much is fused in front of the activation:

    norms = 0:  u = x          norms = 1:  u = scale (x - mean) + shift [+ residual]
    norms = 2:  u = scale (x - mean) + shift + scale' (residual - mean')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from aurep.kernels import cuda_programs as programs

if TYPE_CHECKING:
    from aurep.kernels import Needs, Norm

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE = 1024  # elements: 8 to each thread of 4 warps
_PROGRAMS = 512  # about this many at once fill a large GPU; fixed, so that every GPU adds up in the same order
# Sums per channel, by number of norms: S_0, S_1, S_2; sum du, sum du (x - mean); sum du (residual - mean').
_SUMS = (3, 5, 6)


def forward(x: Tensor, mask: Tensor, coefficients: Tensor | None) -> Tensor:
    return normed_forward(x, None, (), mask, coefficients)


def backward(
    g: Tensor, x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None, needs: Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return normed_backward(g, x, None, (), mask, alpha, coefficients, needs)[:3]


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    z = _dense(z)
    grid, sizes, blocks = _plan(z)
    rows, channels = grid[1] * grid[2], z.shape[1]
    parts = torch.empty((rows, 3, channels), device=z.device)
    mean, variance = torch.empty((2, channels), device=z.device)
    programs.statistics[grid](z, parts, *sizes, **blocks)
    programs.merge_statistics[(triton.cdiv(channels, 16),)](
        parts, mean, variance, channels, rows, float(z.numel() // channels), BLOCK_C=16, ROWS=64
    )
    return mean, variance


def normed_forward(
    z: Tensor, residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
) -> Tensor:
    z = _dense(z)
    grid, sizes, blocks = _plan(z)
    y = torch.empty_like(z)
    other = z if residual is None else _like(residual, z)
    programs.forward[grid](
        z, other, _rows(norms, z), _bytes(mask), _given(coefficients, z), y, *sizes,
        **_variant(residual, norms, mask, coefficients), **blocks,
    )  # fmt: skip
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
    grid, sizes, blocks = _plan(z)
    variant = _variant(residual, norms, mask, coefficients)
    chunks, rows, elements, channels = grid[2], grid[1] * grid[2], mask.numel(), z.shape[1]
    count = _SUMS[len(norms)]
    du = torch.empty_like(z)
    of_alpha = torch.empty((chunks, elements), device=z.device)
    of_elements = torch.empty((3, chunks, elements) if variant["PER_ELEMENT"] else (1,), device=z.device)
    of_channels = torch.empty((rows, count, channels), device=z.device)
    other = z if residual is None else _like(residual, z)
    programs.backward[grid](
        _like(g, z), z, other, _rows(norms, z), _bytes(mask), _given(coefficients, z), du, of_alpha, of_elements,
        of_channels, *sizes, **variant, **blocks, SUMS=count,
    )  # fmt: skip
    grad_alpha, sums = torch.empty_like(alpha), torch.empty((count, channels), device=z.device)
    first, columns = triton.cdiv(elements, _TILE), count * channels
    programs.finish_sums[(first + triton.cdiv(columns, 16),)](
        of_alpha, of_channels, alpha.contiguous(), grad_alpha, sums, elements, columns, chunks, rows, first,
        BLOCK=_TILE, ROWS=64,
    )  # fmt: skip
    grad_coefficients = None
    if needs.coefficients and coefficients is not None:
        powers = of_elements.sum(1) if variant["PER_ELEMENT"] else sums
        stacked = powers[: coefficients.shape[-1]].movedim(0, -1)
        grad_coefficients = stacked.reshape(coefficients.shape).to(coefficients.dtype)
    return du, grad_alpha if needs.alpha else None, grad_coefficients, sums[3:]


def norm_input(du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False) -> Tensor:
    z = _dense(z)
    grid, sizes, blocks = _plan(z)
    dz = torch.empty_like(z)
    programs.norm_input[grid](_like(du, z), z, torch.stack([mean, a, b, c]), dz, *sizes, **blocks)
    return dz


def _plan(z: Tensor) -> tuple[tuple[int, int, int], tuple[int, ...], dict[str, int]]:
    """The grid (channel tiles, position tiles, chunks); N, C, P, strides of C and P, images per chunk; tile sizes."""
    images, channels, positions = z.shape[0], z.shape[1], z[0, 0].numel()
    last = not z.is_contiguous()
    fast, slow = (channels, positions) if last else (positions, channels)
    block_fast = min(triton.next_power_of_2(fast), 128 if last else _TILE)
    block_slow = min(triton.next_power_of_2(slow), max(1, _TILE // block_fast))
    block_c, block_p = (block_fast, block_slow) if last else (block_slow, block_fast)
    tiles = (triton.cdiv(channels, block_c), triton.cdiv(positions, block_p))
    chunks = max(1, min(images, _PROGRAMS // (tiles[0] * tiles[1])))
    chunk = triton.cdiv(images, chunks)
    strides = (1, channels) if last else (positions, 1)
    grid = (*tiles, triton.cdiv(images, chunk))
    return grid, (images, channels, positions, *strides, chunk), {"BLOCK_C": block_c, "BLOCK_P": block_p}


def _variant(
    residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
) -> dict[str, Any]:
    return {
        "NORMS": len(norms),
        "RESIDUAL": residual is not None,
        "TERMS": 0 if coefficients is None else coefficients.shape[-1],
        "PER_ELEMENT": coefficients is not None and coefficients.dim() > 2 and mask.dim() > 1,
    }


def _rows(norms: Sequence[Norm], z: Tensor) -> Tensor:
    """shift, then mean and scale of each norm: (1 + 2 norms, C)."""
    if not norms:
        return z
    shift = norms[0].shift if len(norms) == 1 else norms[0].shift + norms[1].shift
    return torch.stack([shift, *(part for norm in norms for part in (norm.mean, norm.scale))]).float()


def _given(coefficients: Tensor | None, z: Tensor) -> Tensor:
    """A pointer has to be passed even where nothing is read from it."""
    return z if coefficients is None else coefficients.contiguous()


def _bytes(mask: Tensor) -> Tensor:
    return mask.contiguous().view(torch.uint8)


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _like(x: Tensor, z: Tensor) -> Tensor:
    """x in z's memory order."""
    return x.contiguous(memory_format=torch.contiguous_format if z.is_contiguous() else torch.channels_last)
