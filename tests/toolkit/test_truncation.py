"""Fixed point as simulated, against integers modulo 2^64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from aurep.frameworks import FixedPoint
from aurep.truncation import Truncation, encode, fraction_bits, in_fixed_point, predict

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 6] x) => (float[N, 3] y)
 { h = MatMul(x, first) s = Pow(h, two) p = Mul(s, slope) q = Add(p, h) y = MatMul(q, second) }"""
TENSORS = {"h", "s", "p", "q", "y"}


def network(scale: float = 1.0) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    stored = {
        "first": (scale * rng.normal(size=(6, 8))).astype(np.float32),
        "second": rng.normal(size=(8, 3)).astype(np.float32),
        "slope": np.float32(0.2).reshape(()),
        "two": np.float32(2).reshape(()),
    }
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in stored.items())
    return model, stored


def run(model: onnx.ModelProto, inputs: NDArray[Any]) -> Iterator[Mapping[str, NDArray[Any]]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    yield dict(zip(names, session.run(None, {"x": inputs}), strict=True))


def exact(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = next(iter(run(model, inputs)))["y"]
    return logits


def in_integers(stored: Mapping[str, NDArray[Any]], inputs: NDArray[Any], fraction: int) -> NDArray[np.float64]:
    """The same network in int64, whose products wrap around by themselves; a shift right is a floor."""
    x, first, second, slope = (
        np.trunc(value.astype(np.float64) * 2**fraction).astype(np.int64)
        for value in (inputs, stored["first"], stored["second"], stored["slope"])
    )
    with np.errstate(over="ignore"):
        h = (x @ first) >> fraction
        p = (((h * h) >> fraction) * slope) >> fraction
        return np.asarray(((p + h) @ second) >> fraction, np.float64) / 2**fraction


@pytest.mark.parametrize("fraction", [4, 8, 12])
def test_deterministic_truncation_is_integer_arithmetic(fraction: int) -> None:
    model, stored = network()
    inputs = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    form = FixedPoint(64, fraction, "deterministic")
    found = predict(model, TENSORS, form, form.truncation, inputs, exact(model, inputs), run)
    # fp32 holds these values to more than `fraction` bits; a product next to a whole number may fall the other way.
    assert np.abs(found.logits - in_integers(stored, inputs, fraction)).max() <= 2 * 2.0**-fraction


def test_overflow_wraps_as_integers_do() -> None:
    """Beyond the ring fp32 keeps 24 bits of what int64 keeps whole: both are noise of the ring's size."""
    model, stored = network(3e3)
    inputs = np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)
    form = FixedPoint(64, 20, "deterministic")
    found = predict(model, TENSORS, form, form.truncation, inputs, exact(model, inputs), run)
    assert found.peak > form.limit
    assert found.where == "s"
    reached = np.abs(in_integers(stored, inputs, 20)).max()
    assert reached / 2 < np.abs(found.logits).max() < 2 * reached


def test_probabilistic_truncation_is_unbiased() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 1] x) => (float[N, 1] y) { y = Mul(x, c) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.25).reshape(()), "c"))
    form, count = FixedPoint(64, 4), 100_000
    inputs = np.full((count, 1), 5 / 16, np.float32)  # the product, 1.25 / 16, lies a quarter of a step above 1 / 16
    simulated, _ = in_fixed_point(model, {"y"}, form, "probabilistic")
    steps = exact(simulated, encode(inputs, 4)) * 16
    assert set(np.unique(steps)) == {1, 2}
    assert abs(steps.mean() - 1.25) < 5 * np.sqrt(0.25 * 0.75 / count)  # five standard deviations


@pytest.mark.parametrize("truncation", ["deterministic", "probabilistic"])
def test_fewest_fraction_bits(truncation: Truncation) -> None:
    """One bit less does not keep the logits, and a ring with too little room for any has none."""
    model, _ = network()
    inputs = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
    logits = exact(model, inputs)

    def error(fraction: int) -> float:
        form = FixedPoint(64, fraction)
        return predict(model, TENSORS, form, truncation, inputs, logits, run).scaled_error

    bits = fraction_bits(model, TENSORS, FixedPoint(64, 16), truncation, inputs, logits, run)
    assert bits is not None
    assert error(bits) <= 0.01 < error(bits - 1)
    assert fraction_bits(model, TENSORS, FixedPoint(16, 6), truncation, inputs, logits, run) is None


def test_encoding_is_towards_zero() -> None:
    assert encode(np.array([0.99, -0.99, 1.26, -np.inf]), 2).tolist() == [0.75, -0.75, 1.25, -np.inf]
