"""Values of constants, computed with the ONNX reference implementation.

Only what every implementation computes alike is folded: integers, and floats that are merely moved. (The last bit of a
Tanh differs between runtimes, and a graph can make its shape, or its mask, hang on it.) Where shapes are inferred,
nothing beyond `FOLD_LIMIT` elements is folded: shape arithmetic needs a handful, and folding must never cost memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from aurep.operators import operators
from aurep.validators.graph.facts import Fact, attributes, describe
from aurep.validators.stages import stage

FOLD_LIMIT = 4096  # elements
_EXACT_FLOAT = 2**24  # integers below are numbers of fp32
_MOVES = operators(
    "Identity Reshape Flatten Squeeze Unsqueeze Transpose Concat Gather GatherElements GatherND Slice Split Expand "
    "Tile Where Neg"
)
_INTEGER = operators(
    "Add Sub Mul Max Min Range ReduceSum ReduceProd ReduceMax ReduceMin Equal Greater Less Not And Or CumSum "
    "ConstantOfShape NonZero"
)
_QUOTIENTS = operators("Div Mod")
_FLOATS = (np.float32, np.float64)


def measured(node: onnx.NodeProto, source: Fact, fact: Fact, dynamic: bool) -> Fact:
    """Shape and Size are known as soon as the shape is, whatever the values are."""
    if source.shape is None:
        return fact
    values = attributes(node)
    part = source.shape[values.get("start", 0) : values.get("end", None)]
    data = np.asarray(prod(source.shape) if node.op_type == "Size" else part, dtype=np.int64)
    return Fact(fact.elem_type, data.shape, True, data, batched=dynamic)


def folded(node: onnx.NodeProto, known: Mapping[str, Fact], facts: list[Fact], opsets: Mapping[str, int]) -> list[Fact]:
    """`facts` with values where all inputs are small known constants and so are the results."""
    feeds = {name: known[name].data for name in node.input if name}
    small = all(fact.elements is not None and fact.elements <= FOLD_LIMIT for fact in facts)
    bounded = node.op_type == "NonZero"  # no larger than a few times its input
    if not (small or bounded) or any(value is None for value in feeds.values()):
        return facts
    given = {name: value for name, value in feeds.items() if value is not None}
    arrays = evaluated(node, given, opsets) if is_exact(node, list(given.values())) else None
    if arrays is None:
        return facts
    return [
        Fact(fact.elem_type, array.shape, True, array) if isinstance(array, np.ndarray) else fact
        for fact, array in zip(facts, arrays, strict=True)
    ]


def is_exact(node: onnx.NodeProto, values: Sequence[NDArray[Any]]) -> bool:
    """Whether every implementation computes the same bits from `values`."""
    whole = all(value.dtype == bool or np.issubdtype(value.dtype, np.integer) for value in values)
    if node.op_type in _QUOTIENTS:  # of negative numbers, or by zero, implementations differ
        return whole and len(values) == 2 and bool(np.all(values[0] >= 0) and np.all(values[1] > 0))
    if node.op_type == "Cast":
        wide = helper.tensor_dtype_to_np_dtype(attributes(node).get("to", 0) or onnx.TensorProto.FLOAT)
        numbers = np.asarray(values[0], np.float64) if np.issubdtype(values[0].dtype, np.floating) else values[0]
        with np.errstate(invalid="ignore"):
            exact = bool(np.all(np.abs(numbers) < _EXACT_FLOAT) and np.all(numbers == np.trunc(numbers)))
        widened = whole and np.issubdtype(wide, np.integer) and np.can_cast(values[0].dtype, wide)
        return widened or values[0].dtype == wide or (exact and wide in (bool, np.int32, np.int64, *_FLOATS))
    if node.op_type == "ScatterElements":
        return _scatters_in_any_order(node, values)
    return node.op_type in _MOVES or (whole and node.op_type in _INTEGER)


def _scatters_in_any_order(node: onnx.NodeProto, values: Sequence[NDArray[Any]]) -> bool:
    """Whether no two updates meet, and none lies outside: implementations differ in what they make of those."""
    settings, (data, indices) = attributes(node), values[:2]
    axis = settings.get("axis", 0)
    if settings.get("reduction", b"none") != b"none" or not -data.ndim <= axis < data.ndim:
        return False
    length = data.shape[axis]
    within = bool(np.all((indices >= -length) & (indices < length)))
    ordered = np.sort(np.where(indices < 0, indices + length, indices), axis=axis)
    return within and bool(np.all(np.diff(ordered, axis=axis)))


def evaluated(
    node: onnx.NodeProto, feeds: Mapping[str, NDArray[Any]], opsets: Mapping[str, int]
) -> list[NDArray[Any] | None] | None:
    """The outputs of `node` by the reference implementation; None where that cannot evaluate it."""
    inputs = [helper.make_value_info(n, type_of(Fact(_kind(v), v.shape))) for n, v in feeds.items()]
    names = [name for name in node.output if name]
    outputs = [helper.make_value_info(name, onnx.TypeProto()) for name in names]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.get("", 0))])
    try:
        with (
            stage(f"while folding constants at the {describe(node)}"),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            found = dict(zip(names, ReferenceEvaluator(model).run(None, dict(feeds)), strict=True))
    except MemoryError:
        raise
    except Exception:  # whatever the reference cannot evaluate stays unknown, which can only make a graph uncountable
        return None
    return [np.asarray(found[name]) if name in found else None for name in node.output]


def _kind(array: NDArray[Any]) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def type_of(fact: Fact) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(fact.elem_type, fact.shape)
