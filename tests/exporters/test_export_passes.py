"""Each pass on a graph of a few nodes: the operator is gone, the numbers are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx.reference import ReferenceEvaluator

from aurep import AurepError
from aurep.exporters.targets import TARGETS
from tests.exporters.exporting import NET, Array, assert_scaled, initializers, ops, passed, run, variable

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def chain(shape: list[int], *steps: tuple[str, list[Any], dict[str, Any], list[int]]) -> gs.Graph:
    """A graph of one node after another: (operator, further inputs, attributes, shape of the output)."""
    x = tensor = variable("input", ["batch", *shape])
    nodes = []
    for number, (op, others, attributes, after) in enumerate(steps):
        result = variable(f"t{number}", ["batch", *after])
        constants = [gs.Constant(f"n{number}.w{i}", np.asarray(value)) for i, value in enumerate(others)]
        nodes.append(gs.Node(op, "", attributes, [tensor, *constants], [result]))
        tensor = result
    return gs.Graph(nodes, [x], [tensor], opset=18)


def before_and_after(graph: gs.Graph, x: Array, target: str = "onnx") -> onnx.ModelProto:
    """The graph after the passes, once it computes the same as before them."""
    expected = ReferenceEvaluator(gs.export_onnx(graph)).run(None, {"input": x})[0]
    model = passed(graph, target)
    assert_scaled(run(model, x), expected, NET)
    return model


def statistics(channels: int) -> list[Array]:
    return [normal(channels), normal(channels), normal(channels), np.abs(normal(channels)) + 0.1]


NORM = {"epsilon": 1e-3}


@pytest.mark.parametrize(
    ("op", "weights", "attributes"),
    [
        ("Conv", [normal(4, 2, 3, 3)], {"pads": [1, 1, 1, 1]}),
        ("Conv", [normal(4, 2, 3, 3), normal(4)], {"pads": [1, 1, 1, 1]}),
        ("Conv", [normal(4, 1, 3, 3), normal(4)], {"pads": [1, 1, 1, 1], "group": 2}),
        ("ConvTranspose", [normal(2, 4, 1, 1), normal(4)], {}),
    ],
    ids=["no-bias", "bias", "depthwise", "transposed"],
)
def test_batch_norm_folds_into_convolutions(op: str, weights: list[Array], attributes: dict[str, Any]) -> None:
    graph = chain(
        [2, 5, 5], (op, weights, attributes, [4, 5, 5]), ("BatchNormalization", statistics(4), NORM, [4, 5, 5])
    )
    assert ops(before_and_after(graph, normal(2, 2, 5, 5))) == [op]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [[], [normal(3)]], ids=["no-bias", "bias"])
def test_batch_norm_folds_into_gemm(transposed: int, bias: list[Array]) -> None:
    weight = normal(3, 5) if transposed else normal(5, 3)
    graph = chain(
        [5], ("Gemm", [weight, *bias], {"transB": transposed}, [3]), ("BatchNormalization", statistics(3), NORM, [3])
    )
    assert ops(before_and_after(graph, normal(2, 5))) == ["Gemm"]


def test_batch_norm_folds_through_two_in_a_row() -> None:
    norm = ("BatchNormalization", statistics(4), NORM, [4, 5, 5])
    graph = chain([2, 5, 5], ("Conv", [normal(4, 2, 1, 1)], {}, [4, 5, 5]), norm, norm)
    assert ops(before_and_after(graph, normal(2, 2, 5, 5))) == ["Conv"]


def test_batch_norm_stays_apart_from_a_convolution_that_others_read() -> None:
    graph = chain(
        [2, 5, 5], ("Conv", [normal(4, 2, 1, 1)], {}, [4, 5, 5]), ("BatchNormalization", statistics(4), NORM, [4, 5, 5])
    )
    total = variable("sum", ["batch", 4, 5, 5])
    graph.nodes.append(gs.Node("Add", "", {}, [graph.nodes[0].outputs[0], graph.outputs[0]], [total]))
    graph.outputs = [total]
    assert ops(before_and_after(graph, normal(2, 2, 5, 5))) == ["Conv", "Mul", "Add", "Add"]


def test_batch_norm_never_changes_a_shared_weight() -> None:
    graph = chain(
        [2, 5, 5], ("Conv", [normal(2, 2, 1, 1)], {}, [2, 5, 5]), ("BatchNormalization", statistics(2), NORM, [2, 5, 5])
    )
    last = variable("second", ["batch", 2, 5, 5])
    graph.nodes.append(gs.Node("Conv", "", {}, [graph.outputs[0], graph.nodes[0].inputs[1]], [last]))
    graph.outputs = [last]
    assert ops(before_and_after(graph, normal(2, 2, 5, 5))) == ["Conv", "Conv"]


def test_batch_norm_without_a_layer_before_it_is_a_product_and_a_sum() -> None:
    image = chain([3, 4, 4], ("BatchNormalization", statistics(3), NORM, [3, 4, 4]))
    model = before_and_after(image, normal(2, 3, 4, 4))
    assert ops(model) == ["Mul", "Add"]
    assert {array.shape for array in initializers(model).values()} == {(3, 1, 1)}
    row = before_and_after(chain([3], ("BatchNormalization", statistics(3), NORM, [3])), normal(2, 3))
    assert {array.shape for array in initializers(row).values()} == {(3,)}


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("target", "op"), [("onnx", "GlobalAveragePool"), ("helayers", "AveragePool")])
def test_mean_over_positions_is_global_pooling(keep: int, target: str, op: str) -> None:
    after = [3, 1, 1] if keep else [3]
    graph = chain([3, 4, 5], ("ReduceMean", [np.array([-1, -2])], {"keepdims": keep}, after))
    assert ops(before_and_after(graph, normal(2, 3, 4, 5), target)) == [op] + ["Flatten"] * (1 - keep)


REDUCTIONS = [
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
]


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_get_their_axes_as_an_attribute(op: str) -> None:
    model = before_and_after(chain([3, 4], (op, [np.array([2])], {"keepdims": 1}, [3, 1])), normal(2, 3, 4))
    (node,) = model.graph.node
    assert list(node.input) == ["input"]
    assert {a.name: list(a.ints) or a.i for a in node.attribute} == {"axes": [2], "keepdims": 1}


@pytest.mark.parametrize("length", [6, 5])
def test_split_gets_explicit_sizes(length: int) -> None:
    x, total = variable("input", ["batch", length]), variable("y", ["batch", length])
    parts = [variable("a", ["batch", 3]), variable("b", ["batch", length - 3])]
    split = gs.Node("Split", "", {"axis": 1, "num_outputs": 2}, [x], parts)
    swap = gs.Node("Concat", "", {"axis": 1}, parts[::-1], [total])
    model = before_and_after(gs.Graph([split, swap], [x], [total], opset=18), normal(2, length))
    assert [a.tolist() for a in initializers(model).values()] == [[3, length - 3]]


def test_pad_axes_are_spelled_out() -> None:
    zero, axes = np.float32(0), np.array([2])
    graph = chain([3, 4], ("Pad", [np.array([1, 2]), zero, axes], {"mode": "constant"}, [3, 7]))
    (pads,) = (a.tolist() for a in initializers(before_and_after(graph, normal(2, 3, 4))).values() if a.ndim)
    assert pads == [0, 0, 1, 0, 0, 2]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (("Mish", [], {}, [3]), "Mish"),
        (("Resize", [np.float32([]), np.float32([1, 2])], {"antialias": 1, "mode": "linear"}, [6]), "antialias"),
        (("Pad", [np.array([0, 1, 0, 1])], {"mode": "wrap"}, [5]), "wrap"),
    ],
    ids=["Mish", "Resize", "Pad"],
)
def test_what_opset_17_lacks_is_refused_in_a_sentence(step: Any, reason: str) -> None:
    with pytest.raises(AurepError, match=rf"{reason}.* at opset 17; rewrite that part"):
        passed(chain([3], step))


@pytest.mark.parametrize(
    "step",
    [
        ("Identity", [], {}, [3, 4]),
        ("Dropout", [], {}, [3, 4]),
        ("Cast", [], {"to": onnx.TensorProto.FLOAT}, [3, 4]),
        ("Add", [np.float32(0)], {}, [3, 4]),
        ("Mul", [np.ones((3, 1), np.float32)], {}, [3, 4]),
        ("Reshape", [np.array([-1, 3, 4])], {}, [3, 4]),
    ],
    ids=lambda step: step[0],
)
def test_what_does_nothing_is_taken_out(step: Any) -> None:
    graph = chain([3, 4], ("Neg", [], {}, [3, 4]), step, ("Neg", [], {}, [3, 4]), step)
    assert ops(before_and_after(graph, normal(2, 3, 4))) == ["Neg", "Neg"]


def test_a_sum_that_widens_is_kept() -> None:
    graph = chain([3, 1], ("Add", [np.zeros((3, 4), np.float32)], {}, [3, 4]))
    assert ops(before_and_after(graph, normal(2, 3, 1))) == ["Add"]


@pytest.mark.parametrize(
    ("shape", "after", "op"),
    [([0, -1], [12], "Flatten"), ([0, 4, 3], [4, 3], "Reshape"), ([-1, 4, 1, 3], [4, 1, 3], "Reshape")],
)
def test_reshapes_keep_the_batch_by_minus_one(shape: list[int], after: list[int], op: str) -> None:
    model = before_and_after(chain([3, 4], ("Reshape", [np.array(shape)], {}, after)), normal(2, 3, 4))
    assert ops(model) == [op]
    assert [a.tolist() for a in initializers(model).values()] == ([[-1, *after]] if op == "Reshape" else [])


def test_a_computed_shape_is_dropped() -> None:
    x, shape, size = variable("input", ["batch", 3, 4]), variable("s", [1], np.int64), variable("all", [3], np.int64)
    y = variable("y", ["batch", 4, 3])
    nodes = [
        gs.Node("Shape", "", {"end": 1}, [x], [shape]),
        gs.Node("Concat", "", {"axis": 0}, [shape, gs.Constant("rest", np.array([4, 3]))], [size]),
        gs.Node("Reshape", "", {"allowzero": 1}, [x, size], [y]),
    ]
    assert ops(before_and_after(gs.Graph(nodes, [x], [y], opset=18), normal(2, 3, 4))) == ["Reshape"]


def test_nodes_on_constants_are_computed() -> None:
    x, y, half = variable("input", ["batch", 3]), variable("y", ["batch", 3]), variable("half", [3])
    value = gs.Constant("v", np.float32([2, 4, 6]))
    two = variable("two", [])
    nodes = [
        gs.Node("Constant", "", {"value_float": 2.0}, [], [two]),
        gs.Node("Div", "", {}, [value, two], [half]),
        gs.Node("Mul", "", {}, [x, half], [y]),
    ]
    model = before_and_after(gs.Graph(nodes, [x], [y], opset=18), normal(2, 3))
    assert ops(model) == ["Mul"]
    assert [a.tolist() for a in initializers(model).values()] == [[1, 2, 3]]


def test_attributes_are_explicit() -> None:
    graph = chain(
        [2, 4, 4],
        ("Conv", [normal(3, 2, 1, 1)], {"auto_pad": "NOTSET"}, [3, 4, 4]),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 0}, [3, 2, 2]),
        ("Flatten", [], {}, [12]),
        ("Gemm", [normal(12, 3)], {}, [3]),
    )
    found = {n.op_type: {a.name for a in n.attribute} for n in before_and_after(graph, normal(1, 2, 4, 4)).graph.node}
    assert found["Conv"] == {"kernel_shape", "strides", "pads", "dilations", "group"}
    assert found["MaxPool"] == {"kernel_shape", "strides", "pads"}
    assert found["Gemm"] == {"alpha", "beta", "transA", "transB"}


def test_every_target_lowers_to_its_own_opset() -> None:
    for name, target in TARGETS.items():
        model, framework = passed(chain([3], ("Neg", [], {}, [3])), name), target.framework
        assert (model.opset_import[0].version, model.ir_version) == (framework.opset, framework.ir_version)
