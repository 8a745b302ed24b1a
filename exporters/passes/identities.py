"""Nodes that do nothing are taken out: private-inference importers know neither Identity nor Dropout at inference.

1. Identity.   2. Dropout in inference form (its mask unread).   3. Cast and CastLike to the type at hand.
4. Add or Sub of all zeros, Mul or Div by all ones, where the constant does not widen the shape.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx.helper import tensor_dtype_to_np_dtype

from aurep.exporters.graph import bypass, values
from aurep.exporters.targets import Target

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def remove_identities(graph: gs.Graph, target: Target) -> None:
    for node in list(graph.nodes):
        if not node.domain and _does_nothing(node):
            bypass(graph, node, node.inputs[0])


def _does_nothing(node: gs.Node) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = values(node.inputs[2]) if len(node.inputs) > 2 else np.False_
        mask_read = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
        return training is not None and not training.any() and not mask_read
    if node.op == "Cast":
        source = node.inputs[0].dtype
        return source is not None and np.dtype(source) == tensor_dtype_to_np_dtype(int(node.attrs["to"]))
    if node.op == "CastLike":
        return node.inputs[0].dtype is not None and node.inputs[0].dtype == node.inputs[1].dtype
    return _adds_nothing(node)


def _adds_nothing(node: gs.Node) -> bool:
    constant = values(node.inputs[1]) if node.op in _NEUTRAL else None
    if constant is None:
        return False
    data, result = node.inputs[0], node.outputs[0]
    if data.shape is None or data.shape != result.shape:
        return False
    return bool(np.all(constant == _NEUTRAL[node.op]))
