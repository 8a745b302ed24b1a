"""The exporter claims what the validator counts: two pieces of code, one price of every operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from aurep.errors import AurepError
from aurep.exporters.capture import INPUT
from aurep.exporters.comparisons import count_comparisons
from aurep.validators.relu_count import count
from tests.validators import graphs, tricks

# Constants so large that adding them rounds are a trick of a file's author; a network that adds such ones is refused
# by its validation, and no claim would help it.
ROUNDS = {"rounding", "rounding by a bias"}


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """As an export has it: constants as initializers, and the input by the name that captures give it."""
    graph = model.graph
    for node in list(graph.node):
        if node.op_type == "Constant":
            (attribute,) = node.attribute
            value = helper.get_attribute_value(attribute)
            dtype = np.int64 if "int" in attribute.name else np.float32
            array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value, dtype)
            graph.initializer.append(numpy_helper.from_array(np.array(array), node.output[0]))
            graph.node.remove(node)
        for place, name in enumerate(node.input):
            node.input[place] = INPUT if name == "x" else name
    graph.input[0].name = INPUT
    return model


def both() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Graphs that both can count."""
    for name, lines in tricks.BODIES.items():
        with suppress(AurepError):
            count(graphs.body(lines))
            count_comparisons(folded(graphs.body(lines)))
            yield name, folded(graphs.body(lines))


GRAPHS = dict(both())


def test_most_graphs_can_be_counted_by_both() -> None:
    assert len(GRAPHS) > 50


@pytest.mark.parametrize("name", sorted(GRAPHS.keys() - ROUNDS))
def test_claim_and_count_agree(name: str) -> None:
    ours, theirs = count(GRAPHS[name]), count_comparisons(GRAPHS[name])
    assert theirs.all == ours.comparisons
    assert sum(theirs.outside.values()) == ours.total


@pytest.mark.parametrize("reduction", ["none", "add", "max", "min"])
@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_a_scatter_compares_each_update(op: str, reduction: str) -> None:
    """Six updates into two elements of an image."""
    indices, axis, updates = "[1, 6] {0, 1, 0, 1, 0, 1}", "axis = 1, ", "x"
    if op == "ScatterND":
        indices, axis, updates = "[6, 2] {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}", "", "u"
    lines = f"""t = Constant<value_ints = [6]>() u = Reshape(x, t) i = Constant<value = int64{indices}>()
     s = {op}<{axis}reduction = "{reduction}">(x, i, {updates}) y = Identity(s)"""
    model = folded(graphs.body(lines, "1, 6", opset=18))
    expected = {op: 6} if reduction in ("max", "min") else {}
    found = count_comparisons(model)
    assert found.all == found.outside == expected == count(model).comparisons
