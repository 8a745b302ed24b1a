"""The compiled kernels, as operators of `cpu.cpp`, which `aurep.kernels.cpu_build` has to have built and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from aurep.kernels import Needs, Norm, Seen, Training

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
    y: Tensor = _operators().forward(z, residual, _flat(norms), mask, coefficients, None, 0.0)[0]
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
    plain = (coefficients, None, None, 0.0)
    found = _operators().backward(g, None, z, residual, _flat(norms), mask, alpha, *plain, needs.alpha)
    return _wanted(found, needs)


def norm_input(du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False) -> Tensor:
    dz: Tensor = _operators().norm_input(du, z, mean, a, b, c, spent)
    return dz


def training_forward(
    z: Tensor,
    residual: Tensor | None,
    norms: Sequence[Norm],
    mask: Tensor,
    polynomial: Tensor | None,
    training: Training,
) -> tuple[Tensor, Seen, Tensor | None]:
    y, *seen, excess = _operators().forward(z, residual, _flat(norms), mask, polynomial, *training)
    coefficients = polynomial if training.statistics is None else seen[0]
    return y, (coefficients, seen[1], seen[2]), excess


def training_backward(
    g: Tensor,
    of_excess: Tensor | None,
    z: Tensor,
    residual: Tensor | None,
    norms: Sequence[Norm],
    mask: Tensor,
    alpha: Tensor,
    seen: Seen,
    limit: float,
    needs: Needs,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    found = _operators().backward(g, of_excess, z, residual, _flat(norms), mask, alpha, *seen, limit, needs.alpha)
    return _wanted(found, needs)


def _wanted(found: Sequence[Any], needs: Needs) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    du, of_alpha, of_polynomial, sums = found
    return du, of_alpha if needs.alpha else None, of_polynomial if needs.coefficients else None, sums


def _flat(norms: Sequence[Norm]) -> list[Tensor]:
    return [part for norm in norms for part in norm]


def _operators() -> Any:
    return torch.ops.aurep_cpu
