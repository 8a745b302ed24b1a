"""Where constants live: initializers, or Constant nodes where the target wants public values.

CrypTen encrypts every initializer and cannot encrypt integers, so these become Constant nodes there:

1. indices, shapes, axes: whatever is no float;   2. the bounds of Clip and the exponent of Pow;
3. polynomial coefficients and masks, unless they are to be secret.

Weights always stay initializers. Every use gets a node of its own: CrypTen cannot read one constant twice in a node.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx_graphsurgeon as gs

from aurep.exporters.targets import Place, Target

# As `polynomial.add_polynomial` and the mask form name them; module paths hold no slash.
_COEFFICIENT = re.compile(r".*/(c[012]|kept|replaced)$")
_PARAMETERS = {"Clip": (1, 2), "Pow": (1,)}  # float inputs that say what an operator does


def place_constants(graph: gs.Graph, target: Target) -> None:
    taken = set(graph.tensors())
    for node in list(graph.nodes):
        for slot, tensor in enumerate(list(node.inputs)):
            if isinstance(tensor, gs.Constant) and _place(node, slot, tensor, target) == "constant":
                _make_node(graph, node, slot, taken)


def _place(node: gs.Node, slot: int, tensor: gs.Constant, target: Target) -> Place:
    if not np.issubdtype(tensor.dtype, np.floating) or slot in _PARAMETERS.get(node.op, ()):
        return target.integers_as
    return target.coefficients_as if _COEFFICIENT.match(tensor.name) else "initializer"


def _make_node(graph: gs.Graph, reader: gs.Node, slot: int, taken: set[str]) -> None:
    """Put a Constant node before `reader` for its input `slot`."""
    tensor = reader.inputs[slot]
    shared = len(tensor.outputs) > 1
    names = (f"{tensor.name}:{number}" for number in itertools.count(1))
    name = next(name for name in names if name not in taken) if shared else tensor.name
    taken.add(name)
    value = gs.Constant(name, np.asarray(tensor.values))
    result = gs.Variable(name, dtype=value.dtype, shape=value.shape)
    reader.inputs[slot] = result
    at = next(i for i, node in enumerate(graph.nodes) if node is reader)
    graph.nodes.insert(at, gs.Node("Constant", name, attrs={"value": value}, outputs=[result]))
