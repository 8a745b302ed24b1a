"""The compact mask unfolds to the mask, in the reference and in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from aurep.exporters.graph import Builder
from aurep.exporters.mask import add_mask

masks = arrays.arrays(np.bool_, arrays.array_shapes(max_dims=4, max_side=6)).filter(np.any)
far_apart = st.sets(st.integers(0, 99_999), min_size=1, max_size=5)  # gaps of one, two and four bytes


def written(mask: NDArray[np.bool_]) -> ModelProto:
    builder = Builder("site")
    result = add_mask(builder, mask)
    result.dtype, result.shape = np.bool_, mask.shape
    return gs.export_onnx(gs.Graph(builder.nodes, outputs=[result], opset=17, ir_version=8))


def check(mask: NDArray[np.bool_]) -> None:
    model = written(mask)
    assert np.array_equal(ReferenceEvaluator(model).run(None, {})[0], mask)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {})[0], mask)


@given(masks)
@settings(max_examples=50, deadline=None)
def test_any_mask_unfolds(mask: NDArray[np.bool_]) -> None:
    check(mask)


@given(far_apart)
@settings(max_examples=30, deadline=None)
def test_elements_far_apart(kept: set[int]) -> None:
    mask = np.zeros((10, 100, 100), dtype=np.bool_)
    mask.reshape(-1)[list(kept)] = True
    check(mask)


@pytest.mark.parametrize(("step", "bytes_each"), [(1, 1), (255, 1), (256, 2), (70_000, 4)])
def test_each_kept_element_takes_the_bytes_of_the_largest_gap(step: int, bytes_each: int) -> None:
    mask = np.zeros(4 * step, dtype=np.bool_)
    mask[step - 1 :: step] = True
    mask[-1] = True
    (gaps,) = (t for t in written(mask).graph.initializer if t.name == "site/gaps")
    assert len(gaps.raw_data) == bytes_each * mask.sum()
