"""How the numbers of a graph are disturbed. What fails by it: `test_tricks`."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aurep.validators.checks.rounding import check_rounding, disturbed
from aurep.validators.checks.tolerances import DISTURBANCE, NEGLIGIBLE
from aurep.validators.session import Session
from tests.validators import graphs
from tests.validators.graphs import parse

HEAD = "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)"
IMAGES = np.random.default_rng(0).normal(size=(8, 4, 6, 6)).astype(np.float32)


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_what_thousands_of_layers_are_disturbed_by_does_not_drift() -> None:
    """Noise that a pool holds is met again and again: its mean is 1, its specks' is 0, and each element of it moves."""
    pools: dict[tuple[int, ...], list[np.ndarray]] = {}
    for name, values in stored(disturbed(parse(f"{HEAD} {{ a = Mul(x, x) y = Mul(a, a) }}"))).items():
        assert name.startswith("rounding/pool/")
        pools.setdefault(values.shape, []).append(values.astype(np.float64))
    noise, specks = np.stack(pools[8, 4, 6, 6]), np.stack(pools[()])
    assert len(pools) == 2
    np.testing.assert_allclose(noise.mean(0), 1, rtol=2**-24)  # each is rounded to fp32 once
    assert np.unique(np.round(np.abs(noise.mean((1, 2, 3, 4)) - 1) / DISTURBANCE, 6)).size > 10
    assert (noise[:, 0] != noise[:, 1]).mean() > 0.9  # of some sixty numbers that fp32 has there
    assert np.abs(noise - 1).max() < 3 * DISTURBANCE
    assert specks.sum() == 0
    assert np.abs(specks).min() >= 0.49 * NEGLIGIBLE


def test_a_sum_with_a_stored_constant_takes_one_node_more() -> None:
    """Of which a large graph may have thousands: of what is added to, the constant loses what lies below it."""
    weights = ", ".join(f"float[4, 1, 1] c{i} = {{0.5, 1.0, 2.0, -1.0}}" for i in range(3))
    model = parse(f"{HEAD} <{weights}> {{ a = Add(x, c0) b = Sub(c1, a) y = Sum(b, c2) }}")
    kinds = [node.op_type for node in disturbed(model).graph.node]
    assert kinds == ["Mul", "Add", "Add", "Mul", "Sub", "Mul", "Sum"]


@pytest.mark.parametrize("there", ["a = Add(t, z)", "a = Add(z, t)", "a = Sub(t, z)", "a = Sum(t, z)"])
def test_what_a_constant_was_added_to_is_no_step_either(there: str) -> None:
    """What is left of small numbers beside a large one is coarse, and so are those below the smallest."""
    back = there.replace("a = Sub", "b = Add").replace("a = Sum", "b = Sub").replace("a = Add", "b = Sub")
    back = back.replace("(t, z)", "(a, z)").replace("(z, t)", "(a, z)")
    beside = f"{{ t = Mul(x, d) {there} {back} s = Mul(b, u) y = Mul(s, x) }}"
    below = f"{{ v = Mul(x, d) t = Mul(v, d) {there} b = Mul(a, u) s = Mul(b, u) y = Mul(s, x) }}"
    for constant, small, steps in ((1.0, 1e-8, beside), (0.0, 1e-22, below), (1e-40, 1e-22, below)):
        model = parse(f"{HEAD} <float d = {{{small}}}, float u = {{{1 / small}}}, float z = {{{constant}}}> {steps}")
        assert check_rounding(model, Session(model, "cpu"), None, IMAGES) is not None


def test_a_network_is_not_moved_by_it() -> None:
    model = parse(f"{HEAD} <float[4, 1, 1] c = {{0.5, 1.0, 2.0, -1.0}}> {{ a = Add(x, c) r = Relu(a) y = Mul(r, a) }}")
    assert check_rounding(model, Session(model, "cpu"), None, IMAGES) is None


@pytest.mark.parametrize("images", [1, 5, 8, 11])
def test_any_number_of_images_is_disturbed(images: int) -> None:
    """Each has noise of its own; a fixed batch has as many as it holds."""
    for batch in ("N", "3", "20"):
        model = graphs.hybrid(batch=batch).model
        found = check_rounding(model, Session(model, "cpu"), None, np.resize(IMAGES, (images, *IMAGES.shape[1:])))
        assert found is None, (batch, found)


def test_large_images_are_disturbed_too() -> None:
    """Of which a session takes fewer at a time than there is noise for."""
    head = "g (float[N, 3, 224, 224] x) => (float[N, 3] y) <float[3] c = {0.5, 1.0, 2.0}>"
    model = parse(f"{head} {{ p = GlobalAveragePool(x) f = Flatten(p) q = Mul(f, c) y = Add(q, c) }}")
    session = Session(model, "cpu")
    assert session.rows < len(IMAGES)
    images = np.random.default_rng(0).random((len(IMAGES), 3, 224, 224), dtype=np.float32)
    assert check_rounding(model, session, None, images) is None


@pytest.mark.parametrize("height", [0.1, 0.03, 0.016])
def test_a_constant_that_all_logits_share_hides_no_step(height: float) -> None:
    """Around 1000 they vary by a few steps of a height of what their rounding is dozens of: fp32 has 6e-5 there."""
    weights = f"float d = {{1e-7}}, float o = {{1.0}}, float u = {{1e7}}, float k = {{{height / 1.1920929}}}"
    model = parse(f"""g (float[N, 1, 4, 4] x) => (float[N, 2] y)
        <int64[1] axis = {{1}}, {weights}, float[2] w = {{1.0, -1.0}}, float c = {{1000.0}}> {{
        f = Flatten(x) s = ReduceSum<keepdims = 1>(f, axis) t = Mul(s, d) a = Add(t, o) b = Sub(a, o) v = Mul(b, u)
        q = Mul(v, k) r = Mul(q, w) y = Add(r, c) }}""")
    session, images = Session(model, "cpu"), np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype(np.float32)
    for _ in range(20):  # the noise is drawn anew
        assert check_rounding(model, session, None, images) is not None
