"""A site in every form against numpy, for random masks, degrees and shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.exporters.exporting import SITE, Array, assert_scaled, initializers, node_named, one_site, ops, run

FORMS = ["onnx", "spu", "crypten", "mask", "onnxruntime"]


def hybrid(x: Array, mask: NDArray[np.bool_], coefficients: Array | None) -> NDArray[np.float64]:
    """y = m relu(x) + (1 - m) p(x), term by term in float64."""
    wide, poly = x.astype(np.float64), x.astype(np.float64)
    if coefficients is not None:
        rows = coefficients.shape[:-1]
        columns = [
            coefficients[..., k].reshape(rows + (1,) * (mask.ndim - len(rows))) for k in range(coefficients.shape[-1])
        ]
        poly = sum((c.astype(np.float64) * wide**k for k, c in enumerate(columns)), np.zeros_like(wide))
    return np.where(mask, np.maximum(wide, 0), poly)


@st.composite
def sites(draw: st.DrawFn) -> tuple[Array, NDArray[np.bool_], Array | None, int]:
    """Inputs (N, *shape), mask, coefficients, degree; few, none and all elements kept are all likely."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    degree = draw(st.sampled_from([0, 1, 2]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = random.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    rows = shape if draw(st.booleans()) else shape[:1]
    coefficients = random.normal(size=(*rows, degree + 1)).astype(np.float32) if degree else None
    x = random.normal(scale=draw(st.sampled_from([0.1, 1.0, 10.0])), size=(draw(st.integers(1, 3)), *shape))
    return x.astype(np.float32), mask, coefficients, degree


@pytest.mark.parametrize("target", FORMS)
@given(site=sites())
@settings(max_examples=40, deadline=None)
def test_every_form_computes_the_hybrid_activation(
    target: str, site: tuple[Array, NDArray[np.bool_], Array | None, int]
) -> None:
    x, mask, coefficients, degree = site
    model = one_site(mask, coefficients, degree, target, batch=len(x))
    assert_scaled(run(model, x), hybrid(x, mask, coefficients), SITE)


@given(site=sites())
@settings(max_examples=40, deadline=None)
def test_relu_sees_exactly_the_kept_elements(site: tuple[Array, NDArray[np.bool_], Array | None, int]) -> None:
    x, mask, coefficients, degree = site
    model = onnx.shape_inference.infer_shapes(one_site(mask, coefficients, degree, "spu", batch=len(x)))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    shapes |= {"input": list(x.shape), "logits": list(x.shape)}
    seen = [int(np.prod(shapes[node.input[0]][1:])) for node in model.graph.node if node.op_type == "Relu"]
    assert seen == ([int(mask.sum())] if mask.any() else [])


@pytest.mark.parametrize("rows", [1, 5])
def test_the_batch_is_dynamic(rows: int) -> None:
    mask = np.arange(12).reshape(3, 2, 2) % 3 == 0
    coefficients = np.arange(9, dtype=np.float32).reshape(3, 3)
    x = np.random.default_rng(0).normal(size=(rows, 3, 2, 2)).astype(np.float32)
    assert_scaled(run(one_site(mask, coefficients, 2), x), hybrid(x, mask, coefficients), SITE)


def test_kept_elements_are_bit_equal_to_relu() -> None:
    mask = np.random.default_rng(0).random((3, 4, 4)) < 0.5
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    coefficients = np.ones((3, 3), dtype=np.float32)
    for target in ("onnx", "spu", "crypten", "onnxruntime"):
        found = run(one_site(mask, coefficients, 2, target, batch=2), x)
        assert np.array_equal(found[:, mask], np.maximum(x, 0)[:, mask]), target


def test_degree_one_multiplies_no_computed_values() -> None:
    mask = np.eye(3, dtype=bool)
    model = one_site(mask, np.ones((3, 2), dtype=np.float32), 1)
    (function,) = model.functions
    assert (function.name, [node.op_type for node in function.node]) == ("Affine", ["Mul", "Add"])


def test_horner_has_one_product_of_computed_values() -> None:
    model = one_site(np.zeros((3, 2, 2), dtype=bool), np.ones((3, 3), dtype=np.float32), 2)
    (function,) = model.functions
    products = [node for node in function.node if node.op_type == "Mul" and not set(node.input) & {"c0", "c1", "c2"}]
    assert function.name == "Polynomial"
    assert len(products) == 1
    assert ops(model) == ["Polynomial"]


def test_coefficients_broadcast_per_channel() -> None:
    mask = np.zeros((3, 2, 2), dtype=bool)
    channel = initializers(one_site(mask, np.ones((3, 3), dtype=np.float32), 2))
    element = initializers(one_site(mask, np.ones((3, 2, 2, 3), dtype=np.float32), 2))
    row = initializers(one_site(np.zeros(3, dtype=bool), np.ones((3, 3), dtype=np.float32), 2))
    assert {name: a.shape for name, a in channel.items()} == {f"act/c{k}": (3, 1, 1) for k in range(3)}
    assert {name: a.shape for name, a in element.items()} == {f"act/c{k}": (3, 2, 2) for k in range(3)}
    assert {name: a.shape for name, a in row.items()} == {f"act/c{k}": (3,) for k in range(3)}


def test_nothing_kept_at_degree_zero_leaves_a_valid_graph() -> None:
    assert ops(one_site(np.zeros((2, 2, 2), dtype=bool), None, 0)) == ["Identity"]


def test_nodes_are_named_after_the_site() -> None:
    model = one_site(np.arange(8).reshape(2, 2, 2) < 3, np.ones((2, 3), dtype=np.float32), 2)
    assert all(node.name.startswith("act/") for node in model.graph.node)
    assert node_named(model, "act/Relu").op_type == "Relu"
    assert node_named(model, "act/Polynomial").domain == "ai.aurep"


def test_select_puts_every_element_back() -> None:
    mask = np.array([True, False, False, True])
    model = one_site(mask, None, 0)
    stored = initializers(model)
    assert stored["act/relu_index"].tolist() == [0, 3]
    assert stored["act/select"].tolist() == [0, 3, 4, 1]
