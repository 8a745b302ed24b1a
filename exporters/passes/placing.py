"""Where constants live: initializers, or Constant nodes where the target wants public values.

CrypTen encrypts every initializer and cannot encrypt integers, so indices, shapes and, unless they are to be secret,
polynomial coefficients become Constant nodes. Weights always stay initializers.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_graphsurgeon as gs

from aurep.exporters.targets import Target

_COEFFICIENT = re.compile(r".*/c[012]$")  # as `polynomial.add_polynomial` names them; module paths hold no slash


def place_constants(graph: gs.Graph, target: Target) -> None:
    for node in list(graph.nodes):
        for tensor in list(node.inputs):
            if isinstance(tensor, gs.Constant) and _place(tensor, target) == "constant":
                _make_node(graph, tensor)


def _place(tensor: gs.Constant, target: Target) -> str:
    if not np.issubdtype(tensor.dtype, np.floating):
        return target.integers
    return target.coefficients if _COEFFICIENT.match(tensor.name) else "initializer"


def _make_node(graph: gs.Graph, tensor: gs.Constant) -> None:
    """Put a Constant node before the first node that reads `tensor`."""
    value = gs.Constant(tensor.name, np.asarray(tensor.values))
    result = gs.Variable(tensor.name, dtype=value.dtype, shape=value.shape)
    readers = [node for node in graph.nodes if any(slot is tensor for slot in node.inputs)]
    first = next(i for i, node in enumerate(graph.nodes) if node is readers[0])
    for reader in readers:
        for slot, given in enumerate(reader.inputs):
            if given is tensor:
                reader.inputs[slot] = result
    graph.nodes.insert(first, gs.Node("Constant", tensor.name, attrs={"value": value}, outputs=[result]))
