"""ONNX operators as private inference sees them: which of them multiply, and how deep a graph of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def operators(names: str) -> frozenset[str]:
    """A set of ONNX operators from their names, separated by blanks."""
    return frozenset(names.split())


LINEAR = operators("Conv ConvTranspose Gemm MatMul")  # their second input is a weight
MAX_POWER = 16  # higher powers are steps in all but name, and counted as such
PRODUCTS = LINEAR | operators("Mul Pow")  # a level of homomorphic encryption each, by a public factor too


def depth(graph: onnx.GraphProto, weight: Callable[[onnx.NodeProto], int]) -> int:
    """The largest sum of `weight` along a path from an input of the graph to an output. Constants start no path."""
    stored = {tensor.name for tensor in graph.initializer}
    reached = {value.name: 0 for value in graph.input if value.name not in stored}
    for node in graph.node:
        above = [reached[name] for name in node.input if name in reached]
        if above:
            reached.update(dict.fromkeys(node.output, max(above) + weight(node)))
    return max((reached.get(value.name, 0) for value in graph.output), default=0)
