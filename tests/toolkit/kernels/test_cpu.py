"""The C++ kernels, where a compiler is found."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aurep import AurepError, HybridActivation
from aurep.kernels import Needs, cpu, eager, kernels_for, using
from tests.needs import needs_cpu_kernels
from tests.toolkit.kernels.comparing import Case, compare_all, compare_training


@needs_cpu_kernels
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(3, 5, 4), (7,), (2, 6), (40, 3, 3), (2, 30, 30)]),  # the last spans several blocks of elements
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_equals_eager_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype, degree: int, per_element: bool, channels_last: bool, seed: int
) -> None:
    compare_all(cpu, Case(shape, dtype, degree, per_element, channels_last and len(shape) == 3, seed=seed))


@needs_cpu_kernels
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(3, 5, 4), (7,), (2, 6), (40, 3, 3), (2, 30, 30)]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 2**31),
)
def test_a_training_step_equals_its_pieces_in_float64(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    degree: int,
    channels_last: bool,
    limit: float,
    seed: int,
) -> None:
    case = Case(shape, dtype, degree, channels_last=channels_last and len(shape) == 3, images=9, seed=seed)
    compare_training(cpu, case, limit)


@needs_cpu_kernels
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    case = Case((16, 12, 12), images=8)
    needs = Needs(True, True, True)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(cpu.backward(case.g, case.x, case.mask, case.alpha, case.coefficients, needs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_cpu_kernels
def test_nan_is_not_rectified_away() -> None:
    site = HybridActivation((2,))
    with using("compiled"):
        assert kernels_for(torch.zeros(1, 2)) is cpu
        assert site(torch.tensor([[float("nan"), -1.0]])).isnan().tolist() == [[True, False]]


@needs_cpu_kernels
def test_a_transposed_input_is_taken_in_its_logical_order() -> None:
    case = Case((3, 5, 4))
    y = cpu.forward(case.x.transpose(2, 3).contiguous().transpose(2, 3), case.mask, case.coefficients)
    assert torch.equal(y, cpu.forward(case.x, case.mask, case.coefficients))


def test_dtypes_it_lacks_go_to_eager() -> None:
    with using("compiled"):
        assert kernels_for(torch.zeros(1, 2, dtype=torch.float64)) is eager


def test_default_on_a_cpu_is_eager() -> None:
    assert kernels_for(torch.zeros(1, 2)) is eager
    with pytest.raises(AurepError, match=r"fast.*compiled"), using("fast"):
        pass
