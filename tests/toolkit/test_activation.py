"""The hybrid activation against its definition, written out naively in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from aurep import AurepError, HybridActivation
from tests.tolerances import BFLOAT16, FLOAT16, FLOAT32, FLOAT64

SHAPES = [(3, 5, 4), (7,), (2, 6)]


def make(shape: tuple[int, ...], degree: int, per_element: bool, seed: int = 0) -> HybridActivation:
    draw = torch.Generator().manual_seed(seed)
    site = HybridActivation(shape, degree, "s", per_element)
    site.mask.copy_(torch.rand(shape, generator=draw) > 0.5)
    site.alpha.data.copy_(torch.randn(shape, generator=draw))
    if site.coefficients is not None:
        site.coefficients.data.copy_(torch.randn(site.coefficients.shape, generator=draw))
    return site


def naive(site: HybridActivation, x: Tensor) -> Tensor:
    """y = m relu(x) + (1 - m) p(x), with the straight-through estimator spelled out for autograd."""
    mask = site.mask.to(x.dtype)
    slope = F.softplus(site.alpha.detach()) * site.alpha
    m = mask + (slope - slope.detach())
    return m * x.relu() + (1 - m) * polynomial(site, x)


def polynomial(site: HybridActivation, x: Tensor) -> Tensor:
    if site.coefficients is None:
        return x
    columns = [c.reshape(*c.shape, *(1,) * (len(site.shape) - c.dim())) for c in site.coefficients.unbind(-1)]
    return sum((c * x**k for k, c in enumerate(columns)), torch.zeros_like(x))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from([0, 1, 2]), st.booleans(), st.integers(0, 2**31))
def test_value_and_gradients_equal_the_definition(shape: Any, degree: int, per_element: bool, seed: int) -> None:
    site = make(shape, degree, per_element, seed).double()
    twin = copy.deepcopy(site)
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    z = x.detach().clone().requires_grad_()
    y, expected = site(x), naive(twin, z)
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for found, wanted in [(y, expected), (x.grad, z.grad), *zip(grads(site), grads(twin), strict=True)]:
        torch.testing.assert_close(found, wanted, rtol=FLOAT64, atol=FLOAT64)


def grads(site: HybridActivation) -> list[Tensor]:
    return [p.grad for p in site.parameters() if p.grad is not None]


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("per_element", [False, True], ids=["channel", "element"])
def test_gradcheck(degree: int, per_element: bool) -> None:
    site = make((2, 3, 3), degree, per_element).double()
    site.alpha.requires_grad_(False)  # a straight-through gradient is not the derivative of the forward
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def call(x: Tensor, *coefficients: Tensor) -> Tensor:
        return torch.func.functional_call(site, {"coefficients": coefficients[0]} if coefficients else {}, (x,))

    extra = () if site.coefficients is None else (site.coefficients,)
    assert torch.autograd.gradcheck(call, (x, *extra))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_all_kept_is_bit_equal_to_relu(dtype: torch.dtype, degree: int) -> None:
    site = HybridActivation((3, 8, 8), degree)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 300
    assert torch.equal(site(x), x.relu())
    assert site(x).dtype == dtype


def test_huge_inputs_stay_finite_in_fp16_where_the_result_is() -> None:
    """x**2 of 300 overflows fp16; the polynomial of a kept element must not turn it into NaN."""
    site = make((4,), 2, False)
    site.mask.copy_(torch.tensor([True, False, True, False]))
    site.coefficients.data.copy_(torch.tensor([[0.0, 0.5, 1e-3]] * 4))
    x = torch.tensor([[60000.0, 300.0, -60000.0, -300.0]], dtype=torch.float16, requires_grad=True)
    y = site(x)
    assert y.tolist() == [[60000.0, 240.0, 0.0, -60.0]]
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_channels_last_gives_the_same_and_keeps_the_format(degree: int) -> None:
    site = make((6, 5, 4), degree, False)
    x = torch.randn(3, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = site(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, site(x), rtol=0, atol=0)
    y.square().sum().backward()
    plain = x.clone().requires_grad_()
    site(plain).square().sum().backward()
    torch.testing.assert_close(last.grad, plain.grad, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, BFLOAT16), (torch.float16, FLOAT16)])
def test_autocast(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), make((6, 6, 6), 2, False), torch.nn.Flatten())
    exact = copy.deepcopy(net).double()
    x = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype):
        y = net(x)
    assert y.dtype == dtype
    y.float().mean().backward()
    z = exact(x.double())
    z.mean().backward()
    torch.testing.assert_close(y.double(), z, rtol=tolerance, atol=tolerance)
    for p, q in zip(net.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=tolerance, atol=tolerance)


def test_backward_saves_only_the_input_beside_parameters() -> None:
    site = make((8, 16, 16), 2, False)
    x = torch.randn(32, 8, 16, 16, requires_grad=True)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        site(x)
    assert sorted(saved) == sorted([x.numel(), site.mask.numel(), site.alpha.numel(), 8 * 3])


def test_forward_changes_no_state_in_train_mode() -> None:
    site = make((3, 5, 4), 2, False).train()
    before = {k: v.clone() for k, v in site.state_dict().items()}
    site(torch.randn(4, 3, 5, 4)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in site.state_dict().items())


@pytest.mark.parametrize(("degree", "keys"), [(2, {"alpha", "mask", "coefficients"}), (0, {"alpha", "mask"})])
def test_state_is_one_clean_group(degree: int, keys: set[str]) -> None:
    assert set(HybridActivation((3, 4, 4), degree).state_dict()) == keys


def test_wrong_input_size_names_site_and_shapes() -> None:
    with pytest.raises(AurepError, match=r"layer1.*\(3, 4, 4\).*\(3, 8, 8\)"):
        HybridActivation((3, 4, 4), site="layer1")(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("mask", [torch.ones(3), torch.full((3, 4, 4), 0.5)], ids=["shape", "not 0 or 1"])
def test_bad_masks_are_refused(mask: Tensor) -> None:
    with pytest.raises(AurepError, match="mask"):
        HybridActivation((3, 4, 4)).set_mask(mask)
