"""Counts of ordinary graphs, against known numbers and against counting while the reference evaluator runs."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_relu import Relu

from aurep.errors import AurepError
from aurep.validators import UncountableError, count_relus
from aurep.validators.relu_count import count
from aurep.validators.sites.recovery import pointwise_sites
from tests.validators import graphs

CONV = "w = Constant<value = float[4, 1, 1, 1] {1.0, 2.0, 3.0, 4.0}>() h = Conv<group = 4>(x, w)"


@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("batch", ["N", "1", "3"])
def test_site_forms(form: str, batch: str) -> None:
    """The gather form compares what it keeps; all others compare every element."""
    found = count(graphs.hybrid(form, batch=batch).model)
    assert found.total == (20 if form == "gather" else 144)
    assert [site.name for site in found.sites] == ["act"]
    assert found.batch == (None if batch == "N" else int(batch))


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        (f"{CONV} r = Relu(h) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)", "N, 4, 3, 3"),
        (f"{CONV} y = GlobalMaxPool(h)", "N, 4, 1, 1"),
    ],
    ids=["MaxPool", "GlobalMaxPool"],
)
def test_pooling_proper_is_no_relu(lines: str, shape: str) -> None:
    found = count(graphs.body(lines, out=shape))
    assert found.pooling == {"N, 4, 3, 3": 4 * 9 * 3, "N, 4, 1, 1": 4 * 35}[shape]
    assert found.total == found.comparisons.get("Relu", 0)


def test_pooling_after_a_gathered_site_is_pooling() -> None:
    """A recognised site treats each position alone, whatever it rearranges in between."""
    made = graphs.hybrid()
    last = next(node for node in made.model.graph.node if node.name == "flatten")
    pool = onnx.helper.make_node("MaxPool", ["q"], ["pooled"], kernel_shape=[2, 2])
    made.model.graph.node.insert(list(made.model.graph.node).index(last), pool)
    assert count(made.model).pooling == 0
    found = count(made.model, pointwise_sites(made.model))
    assert (found.total, found.pooling) == (20, 4 * 25 * 3)


def test_a_shuffling_site_is_not_recognised() -> None:
    """Elements that end elsewhere than they began could set x beside another value for a pooling to compare."""
    made = graphs.hybrid()
    graphs.change_initializer("select", lambda a: a.__setitem__(slice(None), np.roll(a, 1)))(made.model)
    assert pointwise_sites(made.model) == {}


def test_constants_cost_nothing() -> None:
    lines = "c = Constant<value = float[6] {1.0, -1.0, 2.0, 0.0, 1.0, 1.0}>() r = Relu(c) s = Sqrt(r) y = Add(x, s)"
    assert count(graphs.body(lines)).comparisons == {}


@pytest.mark.parametrize(
    "lines",
    [
        "s = Mul(x, x) y = Add(s, x)",
        "k = Constant<value_float = 2.0>() y = Pow(x, k)",
        "y = Cast<to = 1>(x)",
        "k = Constant<value_float = 2.0>() y = Div(x, k)",
        "h = Shape(x) f = Flatten(x) y = Reshape(f, h)",
        "c = Constant<value_ints = [1]>() d = Cast<to = 9>(c) z = Neg(x) y = Where(d, x, z)",
    ],
)
def test_polynomials_and_shapes_are_free(lines: str) -> None:
    assert count(graphs.body(lines)).total == 0


@pytest.mark.parametrize("shape", ["N, 4, H, 6", "N, C, 6, 6"])
def test_only_the_batch_may_be_dynamic(shape: str) -> None:
    with pytest.raises(UncountableError, match="dynamic"):
        count(graphs.body("y = Relu(x)", shape=shape))


def test_quantised_operators_count() -> None:
    lines = "s = Constant<value_float = 0.5>() q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)"
    assert count(graphs.body(lines)).comparisons == {"QuantizeLinear": 2 * 144}


def test_old_files_list_initializers_among_the_inputs() -> None:
    model = graphs.parse("g (float[N, 4] x, float[4, 3] w) => (float[N, 3] y) { h = MatMul(x, w) y = Relu(h) }")
    graphs.add_initializers(model, w=np.ones((4, 3), np.float32))
    model.ir_version = 3
    assert count(model).total == 3


def test_count_relus_reads_files_and_bundles(bundle: Path) -> None:
    assert count_relus(bundle) == count_relus(bundle / "model.onnx")
    assert count_relus(str(bundle)).comparisons == {"Relu": 20}


def test_count_relus_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(AurepError, match="does not exist"):
        count_relus(tmp_path / "absent.onnx")


# A random network: each layer maps h to g, both (N, C, 6, 6) or (N, n); counted below by running it.
LAYERS = {
    "relu": "g = Relu(h)",
    "no comparison": "g = Neg(h)",
    "function": "g = evil.Hide(h)",
    "flat relu": "f@ = Flatten(h) r@ = Relu(f@) z@ = Shape(h) g = Reshape(r@, z@)",
    "some": """f@ = Flatten(h) i@ = Constant<value_ints = [0, 3, 5]>() k@ = Gather<axis = 1>(f@, i@) r@ = Relu(k@)
        j@ = Constant<value_ints = [1]>() s@ = ReduceSum<keepdims = 1>(r@, j@) g = Add(h, h)""",
    "double": "t@ = Concat<axis = 1>(h, h) r@ = Relu(t@) a@, b@ = Split<axis = 1>(r@) g = Add(a@, b@)",
    "slice": """b@ = Constant<value_ints = [1]>() e@ = Constant<value_ints = [3]>() x@ = Constant<value_ints = [1]>()
        u@ = Slice(h, b@, e@, x@) r@ = Relu(u@) g = Mul(h, h)""",
}
HIDE = '<domain: "evil", opset_import: ["" : 17]> Hide (a) => (b) { c = Relu(a) b = Relu(c) }'


def network(layers: list[str]) -> onnx.ModelProto:
    lines, last = [], "x"
    for index, name in enumerate(layers):
        text = LAYERS[name].replace("@", f"_{index}")
        words = {"h": last, "g": f"v{index}"}
        tokens = text.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").split()
        lines.append(" ".join(words.get(token, token) for token in tokens))
        last = f"v{index}"
    return graphs.parse(
        f"g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{ {' '.join(lines)} y = Identity({last}) }}{HIDE}"
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), max_size=5))
def test_counts_what_runs(layers: list[str]) -> None:
    """The oracle: elements that enter Relu while the ONNX reference evaluates two images."""
    model, seen = network(layers), 0
    original = Relu._run

    def counting(self: Relu, x: np.ndarray) -> tuple[np.ndarray]:
        nonlocal seen
        seen += x.size
        return original(self, x)

    with mock.patch.object(Relu, "_run", counting):
        ReferenceEvaluator(model).run(None, {"x": np.ones((2, 4, 6, 6), np.float32)})
    assert count(model).total * 2 == seen
