"""A graph loaded in parts computes what it computes as a whole, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurep.validators import session
from aurep.validators.graph.parts import parts_of
from aurep.validators.session import CannotRunError, Session
from tests.validators.graphs import parse


def tangled(seed: int, nodes: int) -> onnx.ModelProto:
    """Each node reads any two tensors before it, constants among them; some are read by none, and one is an integer."""
    rng, graph = np.random.default_rng(seed), onnx.GraphProto(name="tangled")
    names = ["x"]
    for index in range(nodes):
        if index % 3 == 0:
            stored = rng.normal(size=(3, 1)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(stored, f"c{index}"))
            names.append(f"c{index}")
        one, other = rng.choice(names[-12:], 2)
        kind = rng.choice(["Add", "Sub", "Max"])
        graph.node.append(helper.make_node(kind, ["x" if index == 0 else one, other], [f"t{index}"]))
        names.append(f"t{index}")
    graph.node.append(helper.make_node("Shape", ["x"], ["shape"]))
    graph.node.append(helper.make_node("Sum", [*names[-4:], "t0"], ["sum"]))
    graph.node.append(helper.make_node("Expand", ["sum", "shape"], ["y"]))
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 5]))
    for name in ("y", "t1"):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("most", [1, 4, 7, 1000])
def test_parts_compute_what_the_whole_does(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    for seed in range(5):
        model = tangled(seed, 20)
        whole = next(Session(model, "cpu").run_all(inputs))
        with monkeypatch.context() as patch:
            patch.setattr(session, "REWRITTEN", 0)
            patch.setattr(session, "PART", most)
            chained = Session(model, "cpu")
            found = next(chained.run_all(inputs))
        assert len(parts_of(model, most)) == -(-len(model.graph.node) // most)
        assert chained.outputs == ["y", "t1"]
        for name in chained.outputs:
            np.testing.assert_array_equal(found[name], whole[name])


def test_every_node_is_in_one_part() -> None:
    model = tangled(0, 20)
    parts = parts_of(model, 7)
    assert [node for part in parts for node in part.graph.node] == list(model.graph.node)


def test_a_graph_that_runs_another_stays_whole() -> None:
    """What the inner one reads of the outer is nowhere listed."""
    body = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["inner"])], "body", [], [onnx.ValueInfoProto(name="inner")]
    )
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { a = Neg(x) b = Neg(a) y = Neg(b) }")
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    assert parts_of(model, 1) == [model]


def test_a_part_that_cannot_be_loaded_is_the_model_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "REWRITTEN", 0)
    monkeypatch.setattr(session, "PART", 1)
    model = parse("g (float[N, 2] x) => (float[N, 2] y) { a = Neg(x) y = MatMul(a, a) }")
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(CannotRunError, match="cannot load"):
        Session(model, "cpu")
