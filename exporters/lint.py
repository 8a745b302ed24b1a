"""The target's rules, checked on the graph that is about to be written. Each rule names the node, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper, numpy_helper

from aurep.errors import AurepError
from aurep.exporters.site import DOMAIN
from aurep.exporters.targets import Target, operators

_COMPARING = operators("Relu MaxPool Max Min Clip LeakyRelu PRelu Abs Sign HardSigmoid HardSwish Sigmoid")
_EXACT_IN_FLOAT32 = 2**24  # CrypTen turns indices into float32
_SHOWN = 3


def lint(model: onnx.ModelProto, target: Target) -> None:
    """Raise AurepError, naming the first violations, unless `model` obeys the rules of `target`."""
    found = [*_operators(model, target)]
    if target.strict:
        found += _crypten(model)
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        raise AurepError(f"target {target.name} cannot take this model: {'; '.join(found[:_SHOWN])}{more}.")


def _operators(model: onnx.ModelProto, target: Target) -> Iterator[str]:
    for node in model.graph.node:
        where = f"{node.op_type} node {node.name!r}"
        if node.domain == DOMAIN:
            if not target.functions:
                yield f"{where} is a function call; write it out"
        elif node.domain:
            yield f"{where} is a custom operator; use operators of torch that ONNX has"
        elif not target.comparisons and node.op_type in _COMPARING:
            yield f"{where} compares; {_without_comparisons(node.op_type)}"
        elif target.operators is not None and node.op_type not in target.operators:
            yield f"{where} is an operator that {target.name} does not know; rewrite that part of the model"


def _without_comparisons(op: str) -> str:
    if op == "MaxPool":
        return "prepare the model with maxpool='avg'"
    return "search with budget 0, so that every activation is a polynomial" if op == "Relu" else "replace it"


def _crypten(model: onnx.ModelProto) -> Iterator[str]:
    constants = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    arrays = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant"
    }
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            yield f"initializer {tensor.name!r} is not float32 and would be encrypted; make it a Constant node"
    for node in model.graph.node:
        where, attributes = f"{node.op_type} node {node.name!r}", {a.name: a for a in node.attribute}
        given = [name for name in node.input if name]
        if len(set(given)) != len(given):
            yield f"{where} reads one input twice; write x + x as 2 * x and x * x as a power"
        if node.op_type == "Mul" and node.input[0] in constants:
            yield f"{where} has its constant first; swap the factors"
        if node.op_type == "Concat" and any(name in constants for name in node.input):
            yield f"{where} joins a constant; pad the tensor in another way"
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and _asymmetric(attributes.get("pads")):
            yield f"{where} has asymmetric pads, which CrypTen gets silently wrong; pad symmetrically"
        if node.op_type == "Reshape" and 0 in arrays.get(node.input[1], ()):
            yield f"{where} has a 0 in its shape; use -1"
        if node.op_type == "Gather" and arrays[node.input[1]].max(initial=0) >= _EXACT_IN_FLOAT32:
            yield f"{where} has indices of 2^24 and more, which CrypTen rounds; use a smaller input"


def _asymmetric(pads: onnx.AttributeProto | None) -> bool:
    values = list(helper.get_attribute_value(pads)) if pads is not None else []
    half = len(values) // 2
    return values[:half] != values[half:]
