"""The Triton kernels under Triton's interpreter; run by test_cuda.py in a process of its own."""

from __future__ import annotations

import pytest
import torch

from aurep.kernels import cuda
from tests.toolkit.kernels.comparing import Case, compare_all, compare_bare, compare_norm

# Few and small: the interpreter takes a millisecond for every operation of every program.
ALL = {
    "bf16 channels_last": Case((5, 4, 3), torch.bfloat16, channels_last=True, images=3),
    "fp16 contiguous": Case((5, 4, 3), torch.float16, images=3),
}
BARE = {
    "fp32 channels_last": Case((20, 3, 3), channels_last=True),
    "degree 1": Case((6, 2, 5), degree=1),
    "identity": Case((6, 2, 5), degree=0, images=3),
    "per element": Case((3, 5, 4), per_element=True),
    "per element, channels_last": Case((3, 5, 4), channels_last=True, per_element=True, degree=1),
    "features": Case((7,)),
    "one image": Case((3, 4), images=1),
}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_PROGRAMS", 2)  # several images to a program, and the last chunk smaller


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_everything_equals_eager_in_float64(case: Case) -> None:
    compare_all(cuda, case)


@pytest.mark.parametrize("case", BARE.values(), ids=BARE.keys())
def test_the_activation_alone_equals_eager_in_float64(case: Case) -> None:
    compare_bare(cuda, case)


def test_more_tiles_than_one_in_each_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_TILE", 16)
    for case in (Case((5, 3, 7), images=3), Case((19, 3, 2), images=3, channels_last=True)):
        compare_bare(cuda, case)
        compare_norm(cuda, case)
