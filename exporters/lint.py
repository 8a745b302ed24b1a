"""The target's rules, checked on the graph that is about to be written. Each rule names the node, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from aurep.errors import AurepError
from aurep.exporters.crypten import crypten_faults
from aurep.exporters.site import DOMAIN
from aurep.exporters.targets import Target, operators

_COMPARING = operators("Relu MaxPool Max Min Clip LeakyRelu PRelu Abs Sign HardSigmoid HardSwish Sigmoid")
_SHOWN = 3


def lint(model: onnx.ModelProto, target: Target) -> None:
    """Raise AurepError, naming the first violations, unless `model` obeys the rules of `target`."""
    found = [] if target.comparisons else list(_comparing(model))
    found = found or list(_operators(model, target))  # what surrounds a forbidden ReLU goes with it
    if target.strict:
        found += crypten_faults(model)
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        raise AurepError(f"target {target.name} cannot take this model: {'; '.join(found[:_SHOWN])}{more}.")


def _comparing(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if not node.domain and node.op_type in _COMPARING:
            yield f"{node.op_type} node {node.name!r} compares; {_without_comparisons(node.op_type)}"


def _operators(model: onnx.ModelProto, target: Target) -> Iterator[str]:
    for node in model.graph.node:
        where = f"{node.op_type} node {node.name!r}"
        if node.domain == DOMAIN:
            if not target.functions:
                yield f"{where} is a function call; write it out"
        elif node.domain:
            yield f"{where} is a custom operator; use operators of torch that ONNX has"
        elif target.operators is not None and node.op_type not in target.operators:
            yield f"{where} is an operator that {target.name} does not know; rewrite that part of the model"


def _without_comparisons(op: str) -> str:
    if op == "MaxPool":
        return "prepare the model with maxpool='avg'"
    return "search with budget 0, so that every activation is a polynomial" if op == "Relu" else "replace it"
