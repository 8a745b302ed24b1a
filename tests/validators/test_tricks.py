"""No disguise of a ReLU goes uncounted: each graph counts at least its elements, or is refused with a sentence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
import tricks

from aurep.validators import UncountableError, count_relus, validate
from aurep.validators.relu_count import count

GRAPHS = {
    **{name: (graphs.body, lines) for name, lines in tricks.BODIES.items()},
    **{name: (graphs.parse, text) for name, text in tricks.FILES.items()},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_disguised_relu_is_counted_or_refused(name: str, tmp_path: Path) -> None:
    build, text = GRAPHS[name]
    file = graphs.save(build(text), tmp_path / "trick.onnx")
    with suppress(UncountableError):
        assert count_relus(file).total >= tricks.ELEMENTS
    report = validate(file, budget=tricks.ELEMENTS - 1)
    assert "relu-count" in [check.name for check in report.checks if not check.passed]


def test_planted_shapes_do_not_mislead() -> None:
    model = graphs.body("h = Neg(x) r = Relu(h) y = Identity(r)")
    for name in ("h", "r"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]))
    assert count(model).total == tricks.ELEMENTS


def test_planted_output_shape_does_not_mislead() -> None:
    assert count(graphs.body("y = Relu(x)", out="N, 1, 1, 1")).total == tricks.ELEMENTS


@pytest.mark.parametrize(
    "lines",
    [
        # the batch folded into what looks like one image
        "s = Constant<value_ints = [1, -1, 6, 6]>() t = Constant<value_ints = [-1, 4, 6, 6]>() "
        "u = Reshape(x, s) r = Relu(u) y = Reshape(r, t)",
        # and spread over the channels
        "s = Constant<value_ints = [4, -1]>() t = Constant<value_ints = [-1, 4, 6, 6]>() "
        "u = Reshape(x, s) r = Relu(u) y = Reshape(r, t)",
    ],
    ids=["front", "back"],
)
def test_folding_the_batch_changes_nothing(lines: str) -> None:
    assert count(graphs.body(lines)).total == tricks.ELEMENTS


def test_a_batch_of_one_image_in_many_rows_is_refused() -> None:
    """Dividing by a batch that the output does not have would hide all but one row's work."""
    lines = "s = Constant<value_ints = [1, 16, 4, 144]>() r = Relu(x) y = Reshape(r, s)"
    assert count(graphs.body(lines, shape="16, 4, 6, 24", out="1, 16, 4, 144")).total == 16 * 4 * 144


@pytest.mark.parametrize(
    "lines",
    [
        # as many ReLUs as the batch squared
        "s = Constant<value_ints = [-1, 1, 4, 6, 6]>() v = Identity(x) a = Reshape(v, s) z = Mul(a, x) r = Relu(z) "
        "y = Identity(x)",
        # a trip count that depends on the batch in a way no test batch need show
        "h = Shape(x) i = Constant<value_int = 0>() n = Gather(h, i) k = Constant<value_int = 7>() e = Equal(n, k) "
        "m = Cast<to = 7>(e) c = Constant<value_int = 1>() d = Cast<to = 9>(c) y = Loop(m, d, x) "
        "<body = l (int64 j, bool go, float[N, 4, 6, 6] s) => (bool stay, float[N, 4, 6, 6] r) "
        "{ stay = Identity(go) r = Relu(s) }>",
        # a ReLU of fixed size, however many images
        "k = Constant<value = float[2] {1.0, 2.0}>() h = ReduceSum<keepdims = 0>(x) m = Mul(h, k) r = Relu(m) "
        "y = Identity(x)",
    ],
    ids=["squared", "one batch", "fixed"],
)
def test_a_cost_out_of_proportion_to_the_batch_is_refused(lines: str) -> None:
    with pytest.raises(UncountableError):
        count(graphs.body(lines))


def test_nested_functions_without_end_are_refused_quickly() -> None:
    """Ten calls in each of twenty levels would be 10^20 nodes."""
    levels = [
        f'<domain: "evil", opset_import: ["" : 17, "evil" : 1]> F{i} (a) => (b) '
        "{ " + " ".join(f"c{j} = evil.F{i + 1}(a)" for j in range(10)) + " b = Identity(c0) }"
        for i in range(20)
    ]
    last = '<domain: "evil", opset_import: ["" : 17]> F20 (a) => (b) { b = Relu(a) }'
    model = graphs.parse(
        "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.F0(x) }" + "".join([*levels, last])
    )
    with pytest.raises(UncountableError, match="nodes"):
        count(model)


def test_a_tensor_defined_twice_is_refused() -> None:
    model = graphs.body("h = Neg(x) y = Relu(h)")
    model.graph.node.insert(1, onnx.helper.make_node("Abs", ["x"], ["h"]))
    with pytest.raises(UncountableError, match="twice"):
        count(model)


def test_a_function_defined_twice_is_refused() -> None:
    """Which body runs would be the runtime's choice."""
    text = """g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.F(x) }
    <domain: "evil", opset_import: ["" : 17]> F (a) => (b) { b = Relu(a) }"""
    model = graphs.parse(text)
    model.functions.add().CopyFrom(model.functions[0])
    model.functions[1].node[0].op_type = "Neg"
    with pytest.raises(UncountableError, match="twice"):
        count(model)


def test_two_versions_of_the_standard_operators_are_refused() -> None:
    model = graphs.body("y = Neg(x)")
    model.opset_import.add(domain="ai.onnx", version=9)
    with pytest.raises(UncountableError, match="twice"):
        count(model)


def test_vendor_functions_are_refused() -> None:
    """A runtime may prefer its own FusedConv over the harmless body in the file."""
    model = graphs.parse(
        "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) { y = evil.F(x) }"
        '<domain: "evil", opset_import: ["" : 17]> F (a) => (b) { b = Neg(a) }'
    )
    for part in (model.functions[0], model.graph.node[0]):
        part.domain = "com.microsoft"
    with pytest.raises(UncountableError, match="runtimes"):
        count(model)


def test_function_attributes_reach_the_body() -> None:
    """A pooling window handed in as an attribute counts as large as it is."""
    text = """g (float[N, 4, 6, 6] x) => (float[N, 4, 5, 6] y) { y = evil.P<window = [2, 1]>(x) }
    <domain: "evil", opset_import: ["" : 17]> P <window> (a) => (b) { b = MaxPool<kernel_shape: ints = @window>(a) }"""
    assert count(graphs.parse(text)).comparisons == {"MaxPool": 4 * 5 * 6}


def test_a_loop_counts_its_trips() -> None:
    assert count(graphs.body(tricks.BODIES["loop"])).total == 3 * tricks.ELEMENTS


def test_a_default_input_is_not_taken_for_a_constant() -> None:
    """A caller can replace it, so what it decides is unknown."""
    model = graphs.parse(
        "g (float[N, 4, 6, 6] x, float[4, 6, 6] d) => (float[N, 4, 6, 6] y) { r = Relu(d) y = Add(x, r) }"
    )
    graphs.add_initializers(model, d=np.zeros(graphs.SHAPE, np.float32))
    with pytest.raises(UncountableError):  # 144 elements whatever the batch
        count(model)
