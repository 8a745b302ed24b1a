"""No disguise of a ReLU goes uncounted: each graph counts at least its elements, or is refused with a sentence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from aurep.validators import UncountableError, count_relus, validate
from aurep.validators.relu_count import count
from aurep.validators.session import Session
from tests.validators import graphs, tricks

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


def test_a_reduction_over_nothing_cancels_no_relu() -> None:
    """A maximum over an empty axis takes no comparison, not minus one."""
    text = """r = Relu(x) a = Constant<value_ints = [4]>() z = Constant<value_ints = [0]>() u = Unsqueeze(x, a)
        s = Slice(u, z, z, a) m = ReduceMax<axes = [4], keepdims = 0>(s) y = Identity(r)"""
    assert count(graphs.body(text)).comparisons == {"Relu": tricks.ELEMENTS}


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


@pytest.mark.parametrize("name", ["if", "loop", "scan"])
def test_control_flow_is_refused(name: str) -> None:
    """A constant condition or trip count too: no private-inference framework runs it."""
    with pytest.raises(UncountableError, match="a graph of its own"):
        count(graphs.body(tricks.BODIES[name]))


def test_a_default_input_is_not_taken_for_a_constant() -> None:
    """A caller can replace it, so what it decides is unknown."""
    model = graphs.parse(
        "g (float[N, 4, 6, 6] x, float[4, 6, 6] d) => (float[N, 4, 6, 6] y) { r = Relu(d) y = Add(x, r) }"
    )
    graphs.add_initializers(model, d=np.zeros(graphs.SHAPE, np.float32))
    with pytest.raises(UncountableError):  # 144 elements whatever the batch
        count(model)


def test_positions_that_padding_adds_are_no_pooling() -> None:
    """On a map one element wide, a border beside it makes a maximum over two positions max(x, 0)."""
    lines = """u = Conv(x, one) c = Conv<group = 144, pads = [0, 1, 0, 1]>(u, right)
        p = MaxPool<kernel_shape = [1, 2]>(c) s = Constant<value_ints = [-1, 4, 6, 6]>() y = Reshape(p, s)"""
    model = graphs.body(lines)
    right = np.zeros((144, 1, 1, 2), np.float32)
    right[..., 1] = 1
    graphs.add_initializers(model, one=np.eye(144, dtype=np.float32).reshape(144, 4, 6, 6), right=right)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(graphs.reference(model, inputs), np.maximum(inputs, 0))
    assert (count(model).total, count(model).pooling) == (tricks.ELEMENTS, 0)


def test_positions_that_a_pooling_adds_are_no_pooling_for_the_next() -> None:
    """A maximum over (x, nothing) and (nothing, x) makes two positions of one: a convolution that sees the zero beside
    one of them has x there and 0 at the other."""
    lines = """u = Conv(x, one) g = MaxPool<kernel_shape = [1, 2], pads = [0, 1, 0, 1]>(u)
        c = Conv<group = 144, pads = [0, 1, 0, 0]>(g, step) p = MaxPool<kernel_shape = [1, 2]>(c)
        s = Constant<value_ints = [-1, 4, 6, 6]>() y = Reshape(p, s)"""
    model = graphs.body(lines)
    step = np.broadcast_to(np.array([-1, 1], np.float32), (144, 1, 1, 2)).copy()
    graphs.add_initializers(model, one=np.eye(144, dtype=np.float32).reshape(144, 4, 6, 6), step=step)
    inputs = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(Session(model, "cpu").run(inputs), np.maximum(inputs, 0))
    assert (count(model).total, count(model).pooling) == (tricks.ELEMENTS, 2 * tricks.ELEMENTS)


def test_a_site_that_sets_zeros_between_keeps_no_pooling(tmp_path: Path) -> None:
    """It is pointwise, but it treats neighbours differently: a maximum over them is max(x, 0)."""
    model = graphs.body(
        """["site/Mul"] a = Mul(x, columns) ["site/Add"] b = Add(a, zero)
        ["pool/MaxPool"] y = MaxPool<kernel_shape = [1, 2], strides = [1, 2]>(b)""",
        out="N, 4, 6, 3",
    )
    columns = np.zeros((4, 6, 6), np.float32)
    columns[..., ::2] = 1
    graphs.add_initializers(model, columns=columns, zero=np.zeros((4, 1, 1), np.float32))
    found = count_relus(graphs.save(model, tmp_path / "model.onnx"))
    assert (found.total, found.pooling) == (4 * 6 * 3, 0)


# Twice the ReLUs, but only at a batch of 7: `e` is 1 there and 0 at any other that is likely to be tried.
SEVEN = """h = Shape(x) z = Constant<value_ints = [0]>() n = Gather(h, z) k = Constant<value_ints = [7]>()
    o = Constant<value_ints = [1]>() d = Sub(n, k) {e} t = Add(o, e) r = Concat<axis = 0>(o, t, o, o) w = Tile(x, r)
    v = Relu(w) y = Identity(x)"""
AT_SEVEN = {
    "cast to bool": "b = Cast<to = 9>(d) c = Cast<to = 7>(b) e = Sub(o, c)",
    "cast to byte": "f = Mul(d, d) b = Cast<to = 2>(f) c = Cast<to = 9>(b) g = Cast<to = 7>(c) e = Sub(o, g)",
    "table": """p = Constant<value_ints = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]>() b = Cast<to = 2>(n) c = Cast<to = 9>(b)
        g = Cast<to = 7>(c) m = Mul(g, k) e = Gather(p, m)""",
    "slice of a table": """p = Constant<value_ints = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]>() q = Add(n, o) u = Slice(p, n, q)
        e = ReduceSum<keepdims = 1>(u, z)""",
    "comparison": "b = Equal(n, k) e = Cast<to = 7>(b)",
    "quotient": "f = Add(d, o) g = Div(o, f) j = Constant<value_ints = [0]>() e = Mul(g, j)",
    "overflow": """b = Constant<value_ints = [4611686018427387904]>() c = Mul(n, b) f = Mul(c, b) e = Add(f, z)""",
    "cast to a float": "f = Cast<to = 1>(d) g = Cast<to = 9>(f) c = Cast<to = 7>(g) e = Sub(o, c)",
}


@pytest.mark.parametrize("name", AT_SEVEN)
def test_what_hangs_on_the_batch_must_be_affine(name: str) -> None:
    """However unlikely the batch is at which it costs more."""
    model = graphs.body(SEVEN.format(e=AT_SEVEN[name]))
    with pytest.raises(UncountableError):
        count(model)


@pytest.mark.parametrize("width", [8, 100, 2**40])
def test_a_piece_of_the_batch_is_not_a_share_of_it(width: int) -> None:
    text = f"""a = Constant<value_ints = [3]>() b = Constant<value_ints = [{width}]>() z = Constant<value_ints = [0]>()
        u = Slice(x, a, b, z) r = Relu(u) y = Identity(x)"""
    with pytest.raises(UncountableError, match="proportion"):
        count(graphs.body(text))


@pytest.mark.parametrize("half", ["h = Cast<to = 10>(x) r = Add(h, h) y = Cast<to = 1>(r)", "y = Cast<to = 16>(x)"])
def test_arithmetic_in_half_precision_is_refused(half: str) -> None:
    with pytest.raises(UncountableError, match="16-bit"):
        count(graphs.body(half))


def test_weights_in_half_precision_are_not() -> None:
    lines = "w = Constant<value = float16[4, 1, 1] {1, 2, 3, 4}>() v = Cast<to = 1>(w) h = Mul(x, v) y = Relu(h)"
    assert count(graphs.body(lines)).comparisons == {"Relu": tricks.ELEMENTS}


FIRST = """a = Constant<value_ints = [0]>() b = Constant<value_ints = [1]>() s = Constant<value_ints = [8, 4, 6, 6]>()
    u = Slice(x, a, b, a) r = Relu(u) y = Expand(r, s)"""
SPREAD = """z = Constant<value_ints = [0, 0, 0, 0, 0, 0, 0, 0]>() w = Gather(x, z) k = Constant<value_float = 2.0>()
    r = Relu(w) y = Mul(r, k)"""


@pytest.mark.parametrize(("lines", "elements"), [(FIRST, 144), (SPREAD, 8 * 144)], ids=["first", "spread"])
def test_a_fixed_batch_that_serves_one_image_is_not_divided(lines: str, elements: int) -> None:
    assert count(graphs.body(lines, shape="8, 4, 6, 6")).total == elements


@pytest.mark.parametrize(
    "lines",
    [
        "n = Flatten(x) r = Relu(n) s = Constant<value_ints = [8, 4, 6, 6]>() y = Reshape(r, s)",
        "t = Transpose<perm = [0, 2, 3, 1]>(x) r = Relu(t) y = Transpose<perm = [0, 3, 1, 2]>(r)",
        "a, b = Split<axis = 1>(x) r = Relu(a) q = Relu(b) y = Concat<axis = 1>(q, r)",
        "k = Constant<value_ints = [-1]>() m = ReduceMean<axes = [2, 3]>(x) c = Sub(x, m) y = Relu(c)",
        "p = Constant<value_ints = [0, 0, 1, 1, 0, 0, 0, 0]>() q = Pad(x, p) "
        "a = Constant<value_ints = [1, 1]>() b = Constant<value_ints = [7, 7]>() e = Constant<value_ints = [2, 3]>() "
        "z = Constant<value_ints = [2, 3]>() y0 = Slice(q, a, b, z) y = Relu(y0)",
        "s = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() q = Resize(x, , s) k = Constant<value_ints = [2, 2]>() "
        "p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(q) y = Relu(p)",
        "m = ReduceMean<axes = [3]>(x) s = Constant<value_ints = [8, 4, 6, 6]>() e = Expand(m, s) y = Relu(e)",
        "m = ReduceMean<axes = [3]>(x) s = Constant<value_ints = [1, 1, 1, 6]>() e = Tile(m, s) y = Relu(e)",
        "w = Constant<value = float[2, 2] {1.0, 2.0, 3.0, 4.0}>() s = Constant<value_ints = [8, 4, 18, 2]>() "
        'u = Reshape(x, s) e = Einsum<equation = "bchw,wv->bchv">(u, w) t = Constant<value_ints = [8, 4, 6, 6]>() '
        "v = Reshape(e, t) y = Relu(v)",
    ],
    ids=["flat", "transposed", "split", "mean", "padded", "resized", "expanded", "tiled", "einsum"],
)
def test_a_fixed_batch_of_independent_images_is_divided(lines: str) -> None:
    assert count(graphs.body(lines, shape="8, 4, 6, 6")).total == tricks.ELEMENTS


def test_a_normalised_fixed_batch_is_divided() -> None:
    """A layer normalisation compares what it takes in; images are its rows."""
    lines = "s = Constant<value_float = 1.0>() n = LayerNormalization<axis = 1>(x, one, one) y = Relu(n)"
    model = graphs.add_initializers(graphs.body(lines, shape="8, 4, 6, 6"), one=np.ones(graphs.SHAPE, np.float32))
    assert count(model).comparisons == {"LayerNormalization": tricks.ELEMENTS, "Relu": tricks.ELEMENTS}


@pytest.mark.parametrize(
    "lines",
    [
        "s = Constant<value_floats = [1.1, 1.0, 1.0, 1.0]>() u = Resize(x, , s) y = Relu(u)",  # 8.8, cut to 8 rows
        "o = Constant<value_float = 1.0>() b = Constant<value_float = 0.0>() n = LayerNormalization<axis = 0>(x, w, w) "
        "y = Relu(n)",
        'u = Einsum<equation = "bchw,ab->achw">(x, v) y = Relu(u)',
    ],
    ids=["resized", "normalised", "einsum"],
)
def test_a_fixed_batch_whose_images_mix_is_not_divided(lines: str) -> None:
    model = graphs.body(lines, shape="8, 4, 6, 6")
    graphs.add_initializers(model, w=np.ones((8, *graphs.SHAPE), np.float32), v=np.ones((8, 8), np.float32))
    assert count(model).comparisons["Relu"] == 8 * tricks.ELEMENTS


@pytest.mark.parametrize(
    ("inputs", "outputs", "lines", "elements"),
    [
        ("144", "144", "y = Relu(x)", 144),  # a vector of features: nothing says that it is a batch of numbers
        ("3, 6, 8", "3, 6, 8", "y = Relu(x)", 48),
        ("3, 6, 8", "8", "r = Relu(x) a = Constant<value_ints = [0, 1]>() y = ReduceSum<keepdims = 0>(r, a)", 144),
        (
            "8, 4, 6, 6",
            "8",
            "r = Relu(x) a = Constant<value_ints = [1, 2, 3]>() y = ReduceSum<keepdims = 0>(r, a)",
            144,
        ),
    ],
    ids=["vector", "rows", "an image alone", "a number an image"],
)
def test_inputs_and_outputs_of_any_rank(inputs: str, outputs: str, lines: str, elements: int, tmp_path: Path) -> None:
    model = graphs.body(lines, shape=inputs, out=outputs)
    assert count(model).total == elements
    assert validate(graphs.save(model, tmp_path / "model.onnx"), budget=elements).passed


# Steps made of rounding that no single constant gives away.
ROUNDED = {
    "scaled down": """d = Constant<value_float = 1e-8>() o = Constant<value_float = 1.0>()
        u = Constant<value_float = 1e8>() t = Mul(x, d) a = Add(t, o) b = Sub(a, o) s = Mul(b, u) y = Mul(s, x)""",
    "below the smallest": """d = Constant<value_float = 1e-22>() u = Constant<value_float = 1e22>()
        a = Mul(x, d) b = Mul(a, d) c = Mul(b, u) s = Mul(c, u) y = Mul(s, x)""",
    "in one sum": """b = Constant<value_float = 30000.0>() n = Constant<value_float = -30000.0>()
        d = Constant<value_float = 1e-3>() u = Constant<value_float = 1e3>() t = Mul(x, d) a = Sum(t, b, n)
        s = Mul(a, u) y = Mul(s, x)""",
    "in doubles": """d = Constant<value = double[1] {1e-16}>() o = Constant<value = double[1] {1.0}>()
        u = Constant<value = double[1] {1e16}>() w = Cast<to = 11>(x) t = Mul(w, d) a = Add(t, o) b = Sub(a, o)
        s = Mul(b, u) y = Cast<to = 1>(s)""",
    "averaged": """d = Constant<value_float = 1e-8>() o = Constant<value_float = 1.0>()
        u = Constant<value_float = 1e8>() i = Constant<value_ints = [4]>() t = Mul(x, d) a = Add(t, o)
        v = Unsqueeze(a, i) z = Constant<value_ints = [1, 1, 1, 1, 1000]>() w = Expand(v, z) b = Sub(w, o)
        m = ReduceMean<axes = [4], keepdims = 0>(b) s = Mul(m, u) y = Mul(s, x)""",
    "in a function": "y = evil.Step(x)",
}
STEP = """<domain: "evil", opset_import: ["" : 17]> Step (p) => (q)
    { d = Constant<value_float = 1e-8>() o = Constant<value_float = 1.0>() u = Constant<value_float = 1e8>()
    t = Mul(p, d) a = Add(t, o) b = Sub(a, o) s = Mul(b, u) q = Mul(s, p) }"""


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_is_no_free_step(name: str, tmp_path: Path) -> None:
    """Whatever the scale and the disguise, a result that hangs on the last bits fails."""
    text = f"g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{ {ROUNDED[name]} }}{STEP}"
    report = validate(graphs.save(graphs.parse(text), tmp_path / "trick.onnx"), budget=10**6)
    assert {"rounding"} <= {check.name for check in report.checks if not check.passed}


@pytest.mark.parametrize("lines", ["y = If<>(c)", "y = Loop<>(m, c, x)", "y = Scan<num_scan_inputs = 1>(x)"])
def test_control_flow_without_a_body_is_refused(lines: str, tmp_path: Path) -> None:
    model = graphs.body(f"m = Constant<value_int = 1>() c = Cast<to = 9>(m) {lines}".replace("<>", ""))
    with pytest.raises(UncountableError, match="lacks its attribute"):
        count(model)
    assert not validate(graphs.save(model, tmp_path / "model.onnx"), budget=0).passed


def test_an_endless_loop_is_not_run(tmp_path: Path) -> None:
    file = graphs.save(graphs.body(tricks.BODIES["endless loop"]), tmp_path / "model.onnx")
    report = validate(file, budget=10**9)
    assert report.provider is None
    assert not report.passed
