"""One implementation of the kernels against the eager one in float64, which other tests hold to the maths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aurep import HybridActivation
from aurep.kernels import Kernels, Needs, Norm, Training, TrainingKernels, eager
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
        # Away from zero: a deviation that divides is worth no more digits than the values it is found from.
        self.statistics = torch.rand(2 * self.degree, channels, generator=draw) + 0.5
        self.norms = [
            Norm(torch.randn(channels, generator=draw), scale, torch.ones(channels))
            for scale in torch.rand(2, channels, generator=draw) + 0.5
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


def compare_training(kernels: TrainingKernels, case: Case, limit: float) -> None:
    """Everything that a training step asks, against autograd through a site that does it piece by piece."""
    for residual, count in ((None, 0), (None, 1), (case.residual, 1), (case.residual, 2)):
        norms = case.norms[:count]
        exact = [Norm(*map(double, norm)) for norm in norms]
        site = HybridActivation(case.shape, case.degree).double().train()
        site.set_mask(case.mask)
        site.alpha.data.copy_(case.alpha)
        polynomial = case.coefficients
        if case.degree:
            site.normalise(case.statistics)
            assert site.factors is not None
            site.factors.data.copy_(case.coefficients)
        site.limit = limit
        u = eager._normed(double(case.x), double(residual), exact) if count else double(case.x)
        u.requires_grad_()
        y = site(u)
        seen = site._seen
        (y * double(case.g)).sum().backward(retain_graph=bool(limit))
        excess = site.take_excess() if limit else None
        if excess is not None:
            (0.3 * excess).backward()

        statistics = None if site.statistics is None else site.statistics.float()
        training = Training(statistics, limit)
        inputs = (case.x, residual, norms, case.mask)
        found, kept, found_excess = kernels.training_forward(*inputs, polynomial, training)
        same(found, y.detach(), case.dtype)
        assert (kept[1] is None) == (seen is None)
        if kept[1] is not None:
            same(kept[1], seen, torch.float32)
        if excess is not None:
            same(found_excess, excess.detach(), torch.float32)
        needs = Needs(True, True, case.degree > 0)
        du, *gradients, sums = kernels.training_backward(
            case.g, torch.tensor(0.3) if limit else None, *inputs, case.alpha, kept, limit, needs
        )
        of_factors = None if site.factors is None else site.factors.grad
        same_gradients((du, *gradients), (u.grad, site.alpha.grad, of_factors), case.dtype)
        others = (0, *range(2, u.dim()))
        wanted = [u.grad.sum(others)]
        for norm, raw in zip(exact, (case.x, residual), strict=False):
            wanted.append((u.grad * (double(raw) - eager.per_channel(norm.mean, raw))).sum(others))
        if count:
            same(sums, torch.stack(wanted), torch.float32)


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
