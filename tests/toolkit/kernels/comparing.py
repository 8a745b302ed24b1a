"""One implementation of the kernels against the eager one in float64, which other tests hold to the maths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aurep import HybridActivation
from aurep.kernels import Kernels, Needs, Norm, eager
from tests.tolerances import BFLOAT16, FLOAT16, FLOAT32

ROUNDING = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


@dataclass
class Case:
    """Inputs of a site, drawn from `seed`."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    degree: int = 2
    per_element: bool = False
    channels_last: bool = False
    images: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        site = HybridActivation(self.shape, self.degree, per_element=self.per_element)
        self.mask = torch.rand(self.shape, generator=draw) > 0.5
        self.alpha = torch.randn(self.shape, generator=draw)
        self.coefficients = None
        if site.coefficients is not None:
            self.coefficients = torch.randn(site.coefficients.shape, generator=draw)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.x, self.g, self.residual = (
            torch.randn(self.images, *self.shape, generator=draw).to(self.dtype).contiguous(memory_format=layout)
            for _ in range(3)
        )
        channels = self.shape[0]
        self.norms = [
            Norm(torch.randn(channels, generator=draw), torch.rand(channels, generator=draw), torch.ones(channels))
            for _ in range(2)
        ]


def compare_all(kernels: Kernels, case: Case) -> None:
    compare_bare(kernels, case)
    for residual, count in ((None, 1), (case.residual, 1), (case.residual, 2)):
        compare_normed(kernels, case, residual, case.norms[:count])
    compare_norm(kernels, case)


def compare_bare(kernels: Kernels, case: Case) -> None:
    needs = Needs(True, True, case.coefficients is not None)
    rest = (case.mask, case.alpha, case.coefficients, needs)
    y = kernels.forward(case.x, case.mask, case.coefficients)
    assert y.dtype == case.dtype
    assert y.stride() == case.x.stride()
    same(y, eager.forward(double(case.x), case.mask, double(case.coefficients)), case.dtype)
    found = kernels.backward(case.g, case.x, *rest)
    same_gradients(found, eager.backward(double(case.g), double(case.x), *map(double, rest)), case.dtype)


def compare_normed(kernels: Kernels, case: Case, residual: Tensor | None, norms: list[Norm]) -> None:
    needs = Needs(True, True, case.coefficients is not None)
    exact = [Norm(*map(double, norm)) for norm in norms]
    y = kernels.normed_forward(case.x, residual, norms, case.mask, case.coefficients)
    inputs = (double(case.x), double(residual), exact)
    same(y, eager.normed_forward(*inputs, case.mask, double(case.coefficients)), case.dtype)
    rest = (case.mask, case.alpha, case.coefficients, needs)
    *found, sums = kernels.normed_backward(case.g, case.x, residual, norms, *rest)
    *wanted, exact_sums = eager.normed_backward(double(case.g), *inputs, *map(double, rest))
    same_gradients(found, wanted, case.dtype)
    same(sums, exact_sums, torch.float32)


def compare_norm(kernels: Kernels, case: Case) -> None:
    offset = 100.0 if case.dtype == torch.float32 else 1.0  # a mean far from zero costs a naive variance its digits
    shifted = case.x + offset
    for found, wanted in zip(kernels.statistics(shifted), eager.statistics(double(shifted)), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=FLOAT32, atol=FLOAT32)
    parts = [part for norm in case.norms for part in norm][:4]
    wanted = eager.norm_input(double(case.g), double(case.x), *map(double, parts))
    before = case.g.clone()
    same(kernels.norm_input(case.g, case.x, *parts), wanted, case.dtype)
    assert torch.equal(case.g, before)  # it may be overwritten only where it is spent
    same(kernels.norm_input(before, case.x, *parts, spent=True), wanted, case.dtype)


def same_gradients(found: Any, wanted: Any, dtype: torch.dtype) -> None:
    same(found[0], wanted[0], dtype)
    same(found[1], wanted[1], torch.float32)  # sums are fp32 whatever x is
    assert (found[2] is None) == (wanted[2] is None)
    if found[2] is not None:
        same(found[2], wanted[2], torch.float32)


def same(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    tolerance = ROUNDING[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max() + 1))


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
