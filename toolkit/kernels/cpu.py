"""The compiled kernels, as operators of `cpu.cpp`, which `aurep.kernels.cpu_build` has to have built and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    mean, variance = _operators().statistics(z)
    return mean, variance


def normed_forward(
    z: Tensor, residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
) -> Tensor:
    y: Tensor = _operators().forward(z, residual, _flat(norms), mask, coefficients)
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
    wanted = (needs.alpha, needs.coefficients and coefficients is not None)
    du, *gradients, sums = _operators().backward(g, z, residual, _flat(norms), mask, alpha, coefficients, *wanted)
    of_alpha, of_coefficients = (gradient if want else None for gradient, want in zip(gradients, wanted, strict=True))
    return du, of_alpha, of_coefficients, sums


def norm_input(du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False) -> Tensor:
    dz: Tensor = _operators().norm_input(du, z, mean, a, b, c, spent)
    return dz


def _flat(norms: Sequence[Norm]) -> list[Tensor]:
    return [part for norm in norms for part in norm]


def _operators() -> Any:
    return torch.ops.aurep_cpu
