"""Comparisons per image by operator, as the file claims them (`aurep.comparisons`).

Sums, products and rearrangements by public indices are free. Everything else is counted as comparisons of the elements
it yields, times what it takes for one: private-inference frameworks evaluate such functions by comparisons or tables.
Operators on constants alone cost nothing. The validators count again, by code of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnx import helper, inliner, numpy_helper, shape_inference

from aurep.errors import AurepError
from aurep.exporters.capture import INPUT
from aurep.exporters.maps import feature_maps
from aurep.exporters.site import Site
from aurep.operators import MAX_POWER, operators

_FREE = operators(
    "Add Sub Mul Neg Sum Mean MatMul Gemm Conv ConvTranspose Einsum AveragePool GlobalAveragePool Flatten Transpose "
    "Concat DepthToSpace SpaceToDepth Identity And Or Not Xor Where Squeeze Unsqueeze ReduceSum ReduceMean "
    "ReduceSumSquare ReduceProd Reshape Split Gather GatherElements GatherND CumSum Expand Tile Trilu Slice "
    "Pad Resize ConstantOfShape Constant BatchNormalization Dropout Shape Size"
)
_ONCE_AN_OUTPUT = operators(
    "Relu LeakyRelu PRelu ThresholdedRelu Elu Selu Celu Abs Sign Sigmoid Tanh Softplus Softsign Gelu Mish Erf Exp Log "
    "Sqrt Reciprocal Sin Cos Tan Floor Ceil Round Mod Greater GreaterOrEqual Less LessOrEqual Equal IsInf IsNaN "
    "ReduceL2 ReduceLogSum"
)
_TWICE_AN_OUTPUT = operators("HardSigmoid HardSwish Shrink")
_ONCE_AN_INPUT = operators("InstanceNormalization LayerNormalization LRN LpNormalization ReduceL1")
_TWICE_AN_INPUT = operators("Softmax LogSoftmax Hardmax ReduceLogSumExp")
_REDUCTIONS = operators("ReduceMax ReduceMin ArgMax ArgMin GlobalMaxPool")


@dataclass(frozen=True)
class _Node:
    """A node with the element counts around it, for a batch of one."""

    node: onnx.NodeProto
    sizes: tuple[int, ...]  # of its inputs
    leaving: int
    narrows: bool  # from a type of more bits
    constant: tuple[bool, ...]
    values: dict[str, Any]  # of constants, by name

    @property
    def entering(self) -> int:
        return self.sizes[0]

    @property
    def attributes(self) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}


@dataclass(frozen=True)
class Comparisons:
    """Elements compared per image by operator: all, and those of ReLU-like nodes outside of sites."""

    all: dict[str, int]
    outside: dict[str, int]
    places: dict[str, int]  # nodes that the latter are of


def count_comparisons(model: onnx.ModelProto, sites: Sequence[Site] = ()) -> Comparisons:
    """All sorted, without the operators that compare nothing. Whatever pools no feature map is ReLU-like.

    Raises:
        AurepError: an operator of unknown cost, or a shape that depends on values.
    """
    flat = _for_one_image(model)
    shapes, types = _inferred(flat)
    stored = {tensor.name: tensor for tensor in flat.graph.initializer}
    for node in flat.graph.node:
        if node.op_type == "Constant":
            stored[node.output[0]] = node.attribute[0].t
    values = {name: numpy_helper.to_array(t) for name, t in stored.items() if prod(t.dims) == 1}
    constant = _constants(flat.graph, stored)
    maps = feature_maps(flat.graph, {**shapes, **{n: tuple(t.dims) for n, t in stored.items()}}, constant, sites)
    names = {site.name for site in sites}
    everything, outside, places = Counter[str](), Counter[str](), Counter[str]()
    for node in flat.graph.node:
        if constant.issuperset(node.output):
            continue
        read, leaving = [name for name in node.input if name], shapes.get(node.output[0])
        if read[0] not in shapes or leaving is None:
            raise AurepError(f"the shape of {node.output[0]!r} depends on values; export a model of static shapes.")
        sizes = tuple(prod(shapes.get(name, ())) for name in read)
        narrows = _BITS.get(types[node.output[0]], 0) < _BITS.get(types[read[0]], 0)
        call = _Node(node, sizes, prod(leaving), narrows, tuple(name in constant for name in read), values)
        cost = _cost(call)
        everything[node.op_type] += cost
        if node.name.partition("/")[0] not in names and not _pools(call, maps):
            outside[node.op_type] += cost
            places[node.op_type] += cost > 0
    return Comparisons(*(dict(sorted((+found).items())) for found in (everything, outside, places)))


def _constants(graph: onnx.GraphProto, stored: Collection[str]) -> set[str]:
    """What depends on no image: shapes are known before there is one."""
    found = set(stored)
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or all(name in found for name in node.input if name):
            found.update(node.output)
    return found


def _pools(call: _Node, maps: set[str]) -> bool:
    dilated = any(step != 1 for step in call.attributes.get("dilations", ()))
    pool = call.node.op_type in ("MaxPool", "GlobalMaxPool") and call.node.input[0] in maps
    return pool and not dilated and len(call.node.output) == 1


def _for_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions and with a batch of one."""
    flat = inliner.inline_local_functions(model)
    del flat.graph.value_info[:]
    for value in (*flat.graph.input, *flat.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        if value.name == INPUT:
            first.dim_value = 1
    return flat


def _inferred(flat: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and element types by name."""
    graph = shape_inference.infer_shapes(flat, check_type=True, strict_mode=True, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found, types


def _cost(call: _Node) -> int:
    op = call.node.op_type
    if op in _FREE:
        return 0
    if op in _ONCE_AN_OUTPUT | _TWICE_AN_OUTPUT:
        return (1 + (op in _TWICE_AN_OUTPUT)) * call.leaving
    if op in _ONCE_AN_INPUT | _TWICE_AN_INPUT:
        return (1 + (op in _TWICE_AN_INPUT)) * call.entering
    if op in _REDUCTIONS:
        return max(call.entering - call.leaving, 0)
    if op not in _SPECIAL:
        raise AurepError(
            f"{op}, which makes {call.node.output[0]!r}, costs an unknown number of comparisons; rewrite that part "
            "of the model with common operators."
        )
    return _SPECIAL[op](call)


def _extremum(call: _Node) -> int:
    """n - 1 comparisons an element; constants fold into one operand."""
    computed = call.constant.count(False)
    return (computed + any(call.constant) - 1) * call.leaving


def _clip(call: _Node) -> int:
    return sum(1 for name in call.node.input[1:] if name) * call.leaving


def _window(call: _Node) -> int:
    indices_read = len(call.node.output) > 1
    elements: int = prod(call.attributes["kernel_shape"])
    return max(elements - 1, int(indices_read)) * call.leaving


def _division(call: _Node) -> int:
    return 0 if call.constant[1] else call.leaving


def _power(call: _Node) -> int:
    """Free by a small constant natural number: repeated products."""
    exponent = call.values.get(call.node.input[1])
    natural = exponent is not None and float(exponent.item()) in range(MAX_POWER + 1)
    return 0 if natural else call.leaving


def _cast(call: _Node) -> int:
    """Free into floats that hold every value of the source."""
    return 0 if call.attributes.get("to") in _BITS and not call.narrows else call.leaving


def _scatter(call: _Node) -> int:
    """Any number of updates may meet in one element, and a maximum takes a comparison for each."""
    return call.sizes[2] if call.attributes.get("reduction") in (b"max", b"min") else 0


_SPECIAL: dict[str, Callable[[_Node], int]] = {
    "Max": _extremum,
    "Min": _extremum,
    "Clip": _clip,
    "MaxPool": _window,
    "Div": _division,
    "Pow": _power,
    "Cast": _cast,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
}
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
}
