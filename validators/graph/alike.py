"""Nodes that are alike: of the many in a large graph, few are inferred and counted.

What a node does follows from its operator, its attributes and the facts of its inputs. Of small constants the values
belong to that, but where they can only be added or multiplied: there all that matters is whether they are huge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from aurep.operators import operators
from aurep.validators.graph.costs import ROUNDING, peak
from aurep.validators.graph.facts import Fact

_MOST_BYTES = 4096  # of attributes: a node that stores a tensor there is like no other
_ARITHMETIC = operators("Add Sub Mul Conv ConvTranspose Gemm MatMul BatchNormalization")


def likeness(
    node: onnx.NodeProto, inputs: Sequence[Fact | None], opsets: Mapping[str, int], dynamic: bool
) -> tuple[Any, ...] | None:
    """Equal for nodes whose outputs have the same facts and that compare as much; None of a node to be looked at."""
    if len(set(node.input)) < len(node.input):  # inference tells its inputs apart by their names
        return None
    settings = [attribute.SerializeToString(deterministic=True) for attribute in node.attribute]
    if node.op_type == "Constant" or sum(map(len, settings)) > _MOST_BYTES:
        return None
    computed = any(fact is not None and not fact.constant for fact in inputs)
    summed = computed and node.op_type in _ARITHMETIC
    values = tuple(None if fact is None or fact.data is None else _value(fact.data, summed) for fact in inputs)
    outputs = tuple(map(bool, node.output))
    return (node.op_type, opsets.get("", 0), tuple(sorted(settings)), tuple(inputs), values, outputs, dynamic)


def _value(data: NDArray[Any], summed: bool) -> Any:
    if summed and data.dtype.kind == "f":
        return peak(data) >= ROUNDING
    return data.dtype.str, data.shape, data.tobytes() if data.dtype != object else repr(data.tolist())
