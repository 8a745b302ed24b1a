"""Shapes and small constants of one node, from its operator's schema and the facts of its inputs alone.

A file's own `value_info` is never looked at: it can be planted. Constants that shapes may depend on are folded with the
ONNX reference implementation, within `FOLD_LIMIT` elements.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from aurep.validators.graph.facts import Fact, Shape, UncountableError, attributes, describe

FOLD_LIMIT = 4096  # elements: shape arithmetic needs a handful, and folding must never cost memory
STANDARD = ("", "ai.onnx")

# What may be done to a number derived from the batch size: anything affine. The rest (comparing it, dividing by it)
# could make a graph cheap at the batch sizes that are tried and expensive at others.
_BATCH_ARITHMETIC = frozenset(
    {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape", "Expand", "Tile", "Constant"}
    | {"ConstantOfShape", "Mul", "Add", "Sub", "Shape", "Size", "ReduceProd"}
)


def tensor_fact(tensor: onnx.TensorProto, constant: bool = True) -> Fact:
    """The fact of a stored tensor; its value only where small."""
    shape = tuple(tensor.dims)
    small = constant and prod(shape) <= FOLD_LIMIT and tensor.data_type != onnx.TensorProto.STRING
    return Fact(tensor.data_type, shape, constant, numpy_helper.to_array(tensor) if small else None)


def type_fact(type_proto: onnx.TypeProto, constant: bool = False) -> Fact:
    """The fact of a declared or inferred type; unknown or symbolic dimensions leave the shape unknown."""
    if not type_proto.HasField("tensor_type"):
        return Fact(0, None, constant)
    tensor = type_proto.tensor_type
    known = tensor.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim)
    shape: Shape | None = tuple(d.dim_value for d in tensor.shape.dim) if known else None
    return Fact(tensor.elem_type, shape, constant)


def infer(
    node: onnx.NodeProto, known: Mapping[str, Fact], opsets: Mapping[str, int], dynamic: bool = False
) -> tuple[Fact, ...]:
    """Facts of the outputs of `node`, an operator of the standard domain without sub-graphs.

    Args:
        node: reads the tensors of `known`.
        known: facts by name.
        opsets: version by domain, as in the enclosing model or function.
        dynamic: the batch size is symbolic, so what is measured of a shape depends on it.

    Raises:
        UncountableError: the operator does not exist, or its inputs do not fit it.
    """
    if node.op_type == "Constant":
        return (_constant(node),)
    inputs = [known[name] for name in node.input if name]
    seed = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
    constant = all(fact.constant for fact in inputs) and not seed
    facts = [_with_constancy(fact, constant) for fact in _inferred(node, known, opsets)]
    if node.op_type in ("Shape", "Size"):
        facts = [_measured(node, inputs[0], fact, dynamic) for fact in facts]
    elif constant:
        facts = _folded(node, known, facts, opsets)
    batched = any(fact.batched for fact in inputs)
    if batched and node.op_type not in _BATCH_ARITHMETIC and any(fact.data is not None for fact in facts):
        raise UncountableError(
            f"{describe(node)} computes with the batch size beyond sums and products, so the cost per image is "
            "unknown; export with a fixed batch."
        )
    return tuple(_with_batch(fact, batched) for fact in facts)


def schema_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Any:
    """The operator's schema. Raises UncountableError where the opset has none, or `node` does not fit it."""
    version = opsets.get("", 0)
    found = _schema(node.op_type, version)
    if found is None:
        raise UncountableError(
            f"{describe(node)} is no operator of ONNX opset {version}; export with standard operators."
        )
    schema, inputs, outputs, wanted = found
    if not (inputs[0] <= len(node.input) <= inputs[1] and len(node.output) <= outputs):
        raise UncountableError(
            f"{describe(node)} has {len(node.input)} inputs and {len(node.output)} outputs, which its operator does "
            "not take; export the model again."
        )
    given = {attribute.name: attribute.type for attribute in node.attribute if not attribute.ref_attr_name}
    for name, (kind, required) in wanted.items():
        if (required and name not in given) or given.get(name, kind) != kind:
            problem = "has a wrong type of attribute" if name in given else "lacks its attribute"
            raise UncountableError(f"{describe(node)} {problem} {name!r}; export the model again.")
    return schema


@cache
def _schema(op_type: str, version: int) -> tuple[Any, tuple[int, int], int, dict[str, tuple[int, bool]]] | None:
    """A schema, its numbers of inputs, its outputs at most, and attribute -> type and whether it is required."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    wanted = {name: (int(cast(Any, a.type).value), a.required) for name, a in schema.attributes.items()}
    return None if schema.deprecated else (schema, (schema.min_input, schema.max_input), schema.max_output, wanted)


def _inferred(node: onnx.NodeProto, known: Mapping[str, Fact], opsets: Mapping[str, int]) -> list[Fact]:
    schema = schema_of(node, opsets)
    names = {name for name in node.input if name}
    types = {name: _type_of(known[name]) for name in names}
    data = {name: numpy_helper.from_array(value, name) for name in names if (value := known[name].data) is not None}
    imports = [helper.make_opsetid("", opsets.get("", 0))]
    try:
        found = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise UncountableError(
            f"{describe(node)} does not fit its inputs ({reason}); export the model again."
        ) from None
    return [type_fact(found[name]) if name in found else Fact(0, None) for name in node.output]


def _type_of(fact: Fact) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(fact.elem_type, fact.shape)


def _constant(node: onnx.NodeProto) -> Fact:
    values = attributes(node)
    tensor = values.get("value")
    if isinstance(tensor, onnx.TensorProto):
        return tensor_fact(tensor)
    if len(values) != 1 or "sparse_value" in values or any("string" in key for key in values):
        raise UncountableError(f"{describe(node)} holds no plain tensor; export with dense tensors.")
    (key, value), *_ = values.items()
    array = np.asarray(value, dtype=np.int64 if "int" in key else np.float32)
    kind = onnx.TensorProto.INT64 if "int" in key else onnx.TensorProto.FLOAT
    return Fact(kind, array.shape, True, array if array.size <= FOLD_LIMIT else None)


def _measured(node: onnx.NodeProto, source: Fact, fact: Fact, dynamic: bool) -> Fact:
    """Shape and Size are known as soon as the shape is, whatever the values are."""
    if source.shape is None:
        return fact
    values = attributes(node)
    part = source.shape[values.get("start", 0) : values.get("end", None)]
    data = np.asarray(prod(source.shape) if node.op_type == "Size" else part, dtype=np.int64)
    return Fact(fact.elem_type, data.shape, True, data, batched=dynamic)


def _folded(
    node: onnx.NodeProto, known: Mapping[str, Fact], facts: list[Fact], opsets: Mapping[str, int]
) -> list[Fact]:
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
    inputs = [helper.make_value_info(n, _type_of(Fact(_kind(v), v.shape))) for n, v in feeds.items()]
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


def _with_constancy(fact: Fact, constant: bool) -> Fact:
    return Fact(fact.elem_type, fact.shape, constant, fact.data)


def _with_batch(fact: Fact, batched: bool) -> Fact:
    return Fact(fact.elem_type, fact.shape, fact.constant, fact.data, fact.batched or batched)
