"""The Triton programs that `aurep.kernels.cuda` launches; it says how work is cut up, and checks what they are given.

Written in Triton's own subset of Python, whose values are no Python objects: not type-checked.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(C, P, stride_c, stride_p, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Channels (1, BLOCK_C); canonical and memory offsets (BLOCK_P, BLOCK_C) of this tile; what of it is inside."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    return c, c * P + p, c * stride_c + p * stride_p, (c < C) & (p < P)


@triton.jit
def _polynomial(coefficients, c, canonical, inside, C, TERMS: tl.constexpr, PER_ELEMENT: tl.constexpr):
    """c0, c1, c2 of a tile; degree 0 is the identity."""
    c0, c1, c2 = 0.0, 1.0, 0.0
    if TERMS > 0:
        where = coefficients + (canonical if PER_ELEMENT else c) * TERMS
        valid = inside if PER_ELEMENT else c < C
        c0 = tl.load(where, valid, 0.0).to(tl.float32)
        c1 = tl.load(where + 1, valid, 0.0).to(tl.float32)
        if TERMS == 3:
            c2 = tl.load(where + 2, valid, 0.0).to(tl.float32)
    return c0, c1, c2


@triton.jit
def _norm(norms, c, C, NORMS: tl.constexpr):
    """shift, mean, scale, mean', scale' of a tile's channels; the rows of `norms` (5, C)."""
    shift, mean, scale, mean_r, scale_r = 0.0, 0.0, 1.0, 0.0, 1.0
    if NORMS > 0:
        shift = tl.load(norms + c, c < C, 0.0)
        mean = tl.load(norms + C + c, c < C, 0.0)
        scale = tl.load(norms + 2 * C + c, c < C, 0.0)
    if NORMS == 2:
        mean_r = tl.load(norms + 3 * C + c, c < C, 0.0)
        scale_r = tl.load(norms + 4 * C + c, c < C, 0.0)
    return shift, mean, scale, mean_r, scale_r


@triton.jit
def forward(
    x, residual, norms, mask, coefficients, y, N, C, P, stride_c, stride_p, chunk,
    NORMS: tl.constexpr, RESIDUAL: tl.constexpr, TERMS: tl.constexpr, PER_ELEMENT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    c, canonical, offset, inside = _tile(C, P, stride_c, stride_p, BLOCK_C, BLOCK_P)
    c0, c1, c2 = _polynomial(coefficients, c, canonical, inside, C, TERMS, PER_ELEMENT)
    shift, mean, scale, mean_r, scale_r = _norm(norms, c, C, NORMS)
    kept = tl.load(mask + canonical, inside, 0) != 0
    first = tl.program_id(2) * chunk
    for n in range(first, tl.minimum(first + chunk, N)):
        at = offset + tl.cast(n, tl.int64) * (C * P)
        u = scale * (tl.load(x + at, inside, 0.0).to(tl.float32) - mean) + shift
        if RESIDUAL:
            u += scale_r * (tl.load(residual + at, inside, 0.0).to(tl.float32) - mean_r)
        rectified = tl.where(u < 0, 0.0, u)  # this way round NaN stays NaN
        value = tl.where(kept, rectified, (c2 * u + c1) * u + c0)
        tl.store(y + at, value.to(y.dtype.element_ty), inside)


@triton.jit
def backward(
    g, x, residual, norms, mask, coefficients, du, of_alpha, of_elements, of_channels,
    N, C, P, stride_c, stride_p, chunk,
    NORMS: tl.constexpr, RESIDUAL: tl.constexpr, TERMS: tl.constexpr, PER_ELEMENT: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    c, canonical, offset, inside = _tile(C, P, stride_c, stride_p, BLOCK_C, BLOCK_P)
    c0, c1, c2 = _polynomial(coefficients, c, canonical, inside, C, TERMS, PER_ELEMENT)
    shift, mean, scale, mean_r, scale_r = _norm(norms, c, C, NORMS)
    kept = tl.load(mask + canonical, inside, 0) != 0
    indicator = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    s0, s1, s2 = indicator, indicator, indicator
    d0, d1, d2 = indicator, indicator, indicator
    first = tl.program_id(2) * chunk
    for n in range(first, tl.minimum(first + chunk, N)):
        at = offset + tl.cast(n, tl.int64) * (C * P)
        gradient = tl.load(g + at, inside, 0.0).to(tl.float32)
        centred = tl.load(x + at, inside, 0.0).to(tl.float32) - mean
        u = scale * centred + shift
        if RESIDUAL:
            centred_r = tl.load(residual + at, inside, 0.0).to(tl.float32) - mean_r
            u += scale_r * centred_r
        polynomial = (c2 * u + c1) * u + c0
        replaced = tl.where(kept, 0.0, gradient)
        through = tl.where(kept, tl.where(u > 0, gradient, 0.0), gradient * (2.0 * c2 * u + c1))
        tl.store(du + at, through.to(du.dtype.element_ty), inside)
        indicator += gradient * (tl.where(u < 0, 0.0, u) - polynomial)
        s0 += replaced
        s1 += replaced * u
        s2 += replaced * u * u
        if NORMS > 0:
            through = tl.where(inside, through, 0.0)
            d0 += through
            d1 += through * centred
        if NORMS == 2:
            d2 += through * centred_r
    image = tl.program_id(2) * (C * P)
    tl.store(of_alpha + image + canonical, indicator, inside)
    if PER_ELEMENT:
        images = tl.num_programs(2) * (C * P)
        tl.store(of_elements + image + canonical, s0, inside)
        tl.store(of_elements + images + image + canonical, s1, inside)
        tl.store(of_elements + 2 * images + image + canonical, s2, inside)
    row = of_channels + (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * SUMS * C + c
    tl.store(row, tl.sum(s0, 0)[None, :], c < C)
    tl.store(row + C, tl.sum(s1, 0)[None, :], c < C)
    tl.store(row + 2 * C, tl.sum(s2, 0)[None, :], c < C)
    if NORMS > 0:
        tl.store(row + 3 * C, tl.sum(d0, 0)[None, :], c < C)
        tl.store(row + 4 * C, tl.sum(d1, 0)[None, :], c < C)
    if NORMS == 2:
        tl.store(row + 5 * C, tl.sum(d2, 0)[None, :], c < C)


@triton.jit
def finish_sums(
    of_alpha, of_channels, alpha, grad_alpha, sums, elements, columns, chunks, rows, alpha_programs,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The second stage: dL/dalpha, element by element, by the first programs; sums per channel by the others."""
    if tl.program_id(0) < alpha_programs:
        e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for k in range(chunks):
            total += tl.load(of_alpha + k * elements + e, e < elements, 0.0)
        a = tl.load(alpha + e, e < elements, 0.0).to(tl.float32)
        slope = tl.maximum(a, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(a)))  # softplus without overflow
        tl.store(grad_alpha + e, (slope * total).to(grad_alpha.dtype.element_ty), e < elements)
    else:
        column = (tl.program_id(0) - alpha_programs) * 16 + tl.arange(0, 16)[None, :]
        sum_of_rows = tl.zeros((ROWS, 16), tl.float32)
        for start in range(0, rows, ROWS):
            r = start + tl.arange(0, ROWS)[:, None]
            sum_of_rows += tl.load(of_channels + r * columns + column, (r < rows) & (column < columns), 0.0)
        tl.store(sums + column, tl.sum(sum_of_rows, 0)[None, :], column < columns)


@triton.jit
def statistics(x, of_channels, N, C, P, stride_c, stride_p, chunk, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Per chunk and tile: count of values, their mean, and their summed squared distance from it, per channel."""
    c, _, offset, inside = _tile(C, P, stride_c, stride_p, BLOCK_C, BLOCK_P)
    first = tl.program_id(2) * chunk
    last = tl.minimum(first + chunk, N)
    count = tl.sum(inside.to(tl.float32), 0)[None, :] * (last - first)
    # Distances from the first image's mean of the tile, so that no digits are lost where the mean is large.
    start = tl.load(x + offset + tl.cast(first, tl.int64) * (C * P), inside, 0.0).to(tl.float32)
    centre = tl.sum(start, 0)[None, :] / tl.maximum(tl.sum(inside.to(tl.float32), 0)[None, :], 1.0)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for n in range(first, last):
        value = tl.load(x + offset + tl.cast(n, tl.int64) * (C * P), inside, 0.0).to(tl.float32)
        distance = tl.where(inside, value - centre, 0.0)
        total += distance
        squares += distance * distance
    shift = tl.sum(total, 0)[None, :] / tl.maximum(count, 1.0)
    row = of_channels + (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * 3 * C + c
    tl.store(row, count, c < C)
    tl.store(row + C, centre + shift, c < C)
    tl.store(row + 2 * C, tl.sum(squares, 0)[None, :] - count * shift * shift, c < C)


@triton.jit
def merge_statistics(of_channels, mean, variance, C, rows, total, BLOCK_C: tl.constexpr, ROWS: tl.constexpr):
    """Chan et al.'s merge of means and squared distances (1983), over all rows of `_statistics`."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    weighted = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)[:, None]
        valid = (r < rows) & (c < C)
        row = of_channels + r * 3 * C + c
        weighted += tl.load(row, valid, 0.0) * tl.load(row + C, valid, 0.0)
    middle = tl.sum(weighted, 0)[None, :] / total
    squares = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for start in range(0, rows, ROWS):
        r = start + tl.arange(0, ROWS)[:, None]
        valid = (r < rows) & (c < C)
        row = of_channels + r * 3 * C + c
        distance = tl.load(row + C, valid, 0.0) - middle
        squares += tl.load(row + 2 * C, valid, 0.0) + tl.load(row, valid, 0.0) * distance * distance
    tl.store(mean + c, middle, c < C)
    tl.store(variance + c, tl.maximum(tl.sum(squares, 0)[None, :] / total, 0.0), c < C)


@triton.jit
def norm_input(du, x, tables, dx, N, C, P, stride_c, stride_p, chunk, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    c, _, offset, inside = _tile(C, P, stride_c, stride_p, BLOCK_C, BLOCK_P)
    mean = tl.load(tables + c, c < C, 0.0)
    a = tl.load(tables + C + c, c < C, 0.0)
    b = tl.load(tables + 2 * C + c, c < C, 0.0)
    constant = tl.load(tables + 3 * C + c, c < C, 0.0)
    first = tl.program_id(2) * chunk
    for n in range(first, tl.minimum(first + chunk, N)):
        at = offset + tl.cast(n, tl.int64) * (C * P)
        centred = tl.load(x + at, inside, 0.0).to(tl.float32) - mean
        value = a * tl.load(du + at, inside, 0.0).to(tl.float32) + b * centred + constant
        tl.store(dx + at, value.to(dx.dtype.element_ty), inside)
