"""Shapes and small constants of one node, from its operator's schema and the facts of its inputs alone.

A file's own `value_info` is never looked at: it can be planted.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any, cast

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from aurep.operators import operators
from aurep.validators.graph.facts import Fact, Shape, UncountableError, attributes, describe
from aurep.validators.graph.folding import FOLD_LIMIT, folded, measured, type_of
from aurep.validators.stages import say

STANDARD = ("", "ai.onnx")

# Which inputs of which operators may hold numbers derived from a batch that is not fixed: those of which the result is
# a sum or product again (of Reshape, Expand and Tile, a shape). What others do with one (cut at it, compare with it,
# look it up in a table) could make a graph cheap at the batches that are tried and expensive at others: they see none.
_ALL = range(1000)
_BATCH_PLACES: dict[str, Container[int]] = {
    **dict.fromkeys(operators("Add Sub Mul Concat Reshape Expand Tile Shape Size"), _ALL),
    **dict.fromkeys(operators("Gather Slice Unsqueeze Squeeze Identity ReduceProd Cast ConstantOfShape"), (0,)),
}
_SHAPED = operators(
    "Reshape Expand Tile ConstantOfShape"
)  # by numbers: of results the shapes are known, not the values


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
    say(f"while inferring shapes at the {describe(node)}")
    batched = any(fact.batched for fact in known.values())
    if batched:
        known = _without_batch(node, known)
    inputs = [known[name] for name in node.input if name]
    constant = all(fact.constant for fact in inputs) and not _is_random(node)
    facts = [_with_constancy(fact, constant) for fact in _inferred(node, known, opsets)]
    if node.op_type in ("Shape", "Size"):
        facts = [measured(node, inputs[0], fact, dynamic) for fact in facts]
    elif constant and not (batched and node.op_type in _SHAPED):
        facts = folded(node, known, facts, opsets)
    return tuple(replace(fact, batched=True) if batched and not fact.batched else fact for fact in facts)


def _without_batch(node: onnx.NodeProto, known: Mapping[str, Fact]) -> Mapping[str, Fact]:
    """`known` without what `node` may not know of the batch (see `_BATCH_PLACES`)."""
    places = _BATCH_PLACES.get(node.op_type, ())
    narrow = node.op_type == "Cast" and attributes(node).get("to") != onnx.TensorProto.INT64
    hidden = {
        name: replace(known[name], data=None)
        for place, name in enumerate(node.input)
        if name and known[name].batched and (narrow or place not in places)
    }
    return {**known, **hidden}


def _is_random(node: onnx.NodeProto) -> bool:
    """Whether constants do not make it a constant. A Dropout may be told to train by its third input."""
    training = node.op_type == "Dropout" and len(node.input) > 2
    return training or node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


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
    types = {name: type_of(known[name]) for name in names}
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


def _with_constancy(fact: Fact, constant: bool) -> Fact:
    return Fact(fact.elem_type, fact.shape, constant, fact.data)
