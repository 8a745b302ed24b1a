"""Values of the small constants that shapes may depend on, computed with the ONNX reference implementation.

Nothing beyond `FOLD_LIMIT` elements is folded: shape arithmetic needs a handful, and folding must never cost memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from aurep.validators.graph.facts import Fact, attributes

FOLD_LIMIT = 4096  # elements


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
    bounded = node.op_type in ("NonZero", "Unique", "Compress")  # no larger than a few times their inputs
    if not (small or bounded) or any(value is None for value in feeds.values()):
        return facts
    arrays = _evaluate(node, {name: value for name, value in feeds.items() if value is not None}, opsets)
    if arrays is None:
        return facts
    return [
        Fact(fact.elem_type, array.shape, True, array) if isinstance(array, np.ndarray) else fact
        for fact, array in zip(facts, arrays, strict=True)
    ]


def _evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, NDArray[Any]], opsets: Mapping[str, int]
) -> list[NDArray[Any] | None] | None:
    inputs = [helper.make_value_info(n, type_of(Fact(_kind(v), v.shape))) for n, v in feeds.items()]
    names = [name for name in node.output if name]
    outputs = [helper.make_value_info(name, onnx.TypeProto()) for name in names]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opsets.get("", 0))])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = dict(zip(names, ReferenceEvaluator(model).run(None, dict(feeds)), strict=True))
    except Exception:  # whatever the reference cannot evaluate stays unknown, which can only make a graph uncountable
        return None
    return [np.asarray(found[name]) if name in found else None for name in node.output]


def _kind(array: NDArray[Any]) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def type_of(fact: Fact) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(fact.elem_type, fact.shape)
