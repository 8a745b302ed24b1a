"""What `aurep inspect` says beyond the count: depths and estimates."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from aurep.frameworks import FRAMEWORKS
from aurep.validators.inspection import Inspection, inspect
from tests.validators import graphs

ELEMENTS = 144
SLOPE = "s = Constant<value = float {0.1}>()"
# Operators that compare, as calls of one input, with the comparisons an element that each costs.
COMPARING = {
    "Relu": ("Relu({})", 1),
    "Gelu": ("Gelu({})", 1),
    "Abs": ("Abs({})", 1),
    "Tanh": ("Tanh({})", 1),
    "PRelu": ("PRelu({}, s)", 1),
    "Softplus": ("Softplus({})", 1),
    "HardSigmoid": ("HardSigmoid({})", 2),
    "Max": ("Max({}, s)", 1),
}


def looked_at(model: onnx.ModelProto, folder: Path) -> Inspection:
    return inspect(graphs.save(model, folder / "m.onnx"))


@pytest.mark.parametrize("op", COMPARING)
def test_what_the_count_counts_is_a_comparison_on_the_path(op: str, tmp_path: Path) -> None:
    """Two one after the other are two; two beside each other one."""
    call, cost = COMPARING[op]
    lines = f"{SLOPE} a = {call.format('x')} b = {call.format('a')} c = {call.format('a')} y = Add(b, c)"
    found = looked_at(graphs.body(lines, opset=20), tmp_path)
    assert found.comparisons == {op: 3 * cost * ELEMENTS}
    assert (found.depth, found.compared_depth) == (0, 2)
    assert found.counts == {"compared": 3 * cost * ELEMENTS}


def test_a_function_is_as_deep_as_its_body(tmp_path: Path) -> None:
    made = graphs.parse(
        """g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { h = evil.Twice(x) y = evil.Twice(h) }
        <domain: "evil", opset_import: ["" : 17]> Twice (a) => (d) { b = Relu(a) c = Mul(b, b) d = Relu(c) }"""
    )
    found = looked_at(made, tmp_path)
    assert (found.depth, found.compared_depth) == (2, 4)
    assert found.counts == {"compared": 4 * ELEMENTS, "products": 2 * ELEMENTS}


def test_constants_are_on_no_path(tmp_path: Path) -> None:
    found = looked_at(graphs.body(f"{SLOPE} t = Mul(s, s) u = Abs(t) y = Mul(x, u)"), tmp_path)
    assert (found.depth, found.compared_depth) == (1, 0)


def test_every_measured_protocol_is_estimated(bundle: Path) -> None:
    """Bytes are linear in the counts: written out here from the counts that are shown."""
    found = inspect(bundle)
    measured = {(f.name, p.name): p for f in FRAMEWORKS.values() for p in f.protocols if p.bytes_per is not None}
    assert {(row["framework"], row["protocol"]) for row in found.estimates} == set(measured)
    assert found.counts is not None
    for row in found.estimates:
        per = {str(unit): cost for unit, cost in (measured[row["framework"], row["protocol"]].bytes_per or {}).items()}
        assert row["bytes"] == sum(per.get(unit, 0) * count for unit, count in found.counts.items())
        assert row["weight_opening"] == per.get("weights", 0) * found.counts["weights"]
        assert row["bytes"] == sum(row["sites"].values())
