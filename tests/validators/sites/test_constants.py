"""Constants that a site hangs on: only those that no two implementations compute differently."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from aurep.validators import validate
from aurep.validators.sites.recovery import recover_sites
from tests.validators import graphs

ADD0 = "act/Add0"  # reads e0, the constant terms


def computed(*nodes: onnx.NodeProto, **arrays: np.ndarray) -> graphs.Hybrid:
    """A model whose constant terms are what `nodes` make of e0 as `made`."""
    made = graphs.hybrid("max")
    graphs.add_initializers(made.model, **arrays)
    at = next(i for i, node in enumerate(made.model.graph.node) if node.name == ADD0)
    made.model.graph.node[at].input[1] = "made"
    for node in reversed(nodes):
        made.model.graph.node.insert(at, node)
    return made


def node(op: str, *inputs: str, out: str = "made", **settings: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [out], f"act/{out}", **settings)


ZERO, ONE, ALL = np.zeros((), np.float32), np.ones((), np.float32), np.arange(144)
# Fewer than 144 updates meet: which of two that do is left, implementations decide.
MEETING = np.where(ALL == 1, 0, ALL)
DIFFERING = {
    "the last bit of a Tanh": computed(node("Tanh", "e0")),
    "a square root": computed(node("Sqrt", "e0")),
    "a Dropout that trains": computed(
        node("Dropout", "e0", "ratio", "training"), ratio=ZERO + np.float32(0.5), training=np.array(True)
    ),
    "a sum that rounds": computed(node("Add", "e0", "rest"), rest=np.full((), 1 / 3, np.float32)),
    "a product that rounds": computed(node("Mul", "e0", "rest"), rest=np.full((), 1 / 3, np.float32)),
    "a matrix product": computed(node("MatMul", "e0", "eye"), eye=np.eye(6, dtype=np.float32)),
    "a convolution": computed(
        node("Reshape", "e0", "map", out="first"),
        node("Conv", "first", "dot", out="second"),
        node("Squeeze", "second", "front"),
        map=np.array([1, 4, 6, 6]),
        dot=np.eye(4, dtype=np.float32)[..., None, None],
        front=np.array([0]),
    ),
    "updates that meet": computed(
        node("Reshape", "e0", "row", out="first"),
        node("ScatterElements", "first", "meeting", "first", out="second"),
        node("Reshape", "second", "shape"),
        row=np.array([-1]),
        meeting=MEETING,
        shape=np.array(graphs.SHAPE),
    ),
    "a quotient of negative integers": computed(
        node("Div", "negative", "three", out="first"),
        node("Gather", "e0", "first", axis=0, out="second"),
        node("Expand", "second", "shape"),
        negative=np.array([-1]),
        three=np.array([2]),
        shape=np.array(graphs.SHAPE),
    ),
    "a cast that truncates": computed(
        node("Cast", "e0", to=onnx.TensorProto.INT32, out="first"), node("Cast", "first", to=onnx.TensorProto.FLOAT)
    ),
    "no number": computed(node("Add", "e0", "nan"), nan=np.full((), np.nan, np.float32)),
}
EXACT = {
    "moved": computed(
        node("Transpose", "e0", perm=[2, 1, 0], out="first"),
        node("Gather", "first", "all", axis=0, out="second"),
        node("Transpose", "second", perm=[2, 1, 0]),
        all=np.arange(6),
    ),
    "a sum with zero": computed(node("Add", "zero", "e0"), zero=ZERO),
    "a product with one": computed(node("Mul", "e0", "one"), one=ONE),
    "chosen": computed(node("Where", "yes", "e0", "one"), yes=np.array(True), one=ONE),
    "scattered by distances": computed(
        node("Cast", "gaps", to=onnx.TensorProto.INT64, out="first"),
        node("CumSum", "first", "axis", out="second"),
        node("Reshape", "e0", "row", out="third"),
        node("ScatterElements", "none", "second", "third", out="fourth"),
        node("Reshape", "fourth", "shape"),
        gaps=np.array([0] + [1] * 143, np.uint8),
        axis=np.array(0),
        row=np.array([-1]),
        none=np.zeros(144, np.float32),
        shape=np.array(graphs.SHAPE),
    ),
    "sliced by integers": computed(
        node("Concat", "e0", "e0", axis=0, out="first"),
        node("Sub", "five", "one_", out="second"),
        node("Mul", "second", "two_", out="third"),
        node("Slice", "first", "second", "third"),
        five=np.array([5]),
        one_=np.array([1]),
        two_=np.array([2]),
    ),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_what_implementations_may_compute_differently_is_no_part_of_a_site(name: str) -> None:
    assert recover_sites(DIFFERING[name].model) == {}


@pytest.mark.parametrize("name", EXACT)
def test_what_all_compute_alike_is(name: str) -> None:
    made = EXACT[name]
    site = recover_sites(made.model)["act"]
    wanted = np.broadcast_to(made.coefficients[:, None, None], (*graphs.SHAPE, 3))
    assert site.coefficients[~made.mask].tobytes() == wanted[~made.mask].tobytes()


def test_a_file_whose_mask_hangs_on_a_tanh_does_not_pass(tmp_path: Path) -> None:
    """Its floor is absent here and a number in a runtime whose Tanh is one bit off, or the other way round."""
    made = graphs.hybrid("max")
    node_at = next(i for i, n in enumerate(made.model.graph.node) if n.name == "act/Max")
    tanh = helper.make_node("Tanh", ["half"], ["t"])
    same = helper.make_node("Equal", ["t", "reference"], ["same"])
    floor = helper.make_node("Where", ["same", "floor", "zero"], ["hanging"])
    half = np.full((), 0.5, np.float32)
    graphs.add_initializers(made.model, half=half, reference=np.tanh(half), zero=ZERO)
    made.model.graph.node[node_at].input[1] = "hanging"
    for step in (floor, same, tanh):
        made.model.graph.node.insert(node_at, step)
    metadata = graphs.claim(made, target="onnxruntime", comparisons={"Max": 144})
    report = validate(graphs.bundle(tmp_path / "second", made, metadata))
    assert "sites" in [check.name for check in report.checks if not check.passed]


@pytest.mark.parametrize("op", ["Identity", "Add"])
def test_thousands_of_constants_in_a_chain(op: str) -> None:
    operands = ("zero",) if op == "Add" else ()
    names = ["e0", *(f"link{i}" for i in range(4999)), "made"]
    links = [node(op, a, *operands, out=b) for a, b in itertools.pairwise(names)]
    made = computed(*links, zero=ZERO)
    assert np.array_equal(recover_sites(made.model)["act"].mask, made.mask)
