"""Constants become initializers, and nodes that read only constants become constants.

1. A Constant node becomes an initializer (`placing` later gives Constant nodes to the targets that want them).
2. A node of the standard domain whose inputs are all constants is run once, by the ONNX reference evaluator.
   Random operators and nodes with sub-graphs stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from aurep.exporters.graph import values
from aurep.exporters.targets import Target
from aurep.operators import operators

_FOLD_LIMIT = 1 << 24  # elements: an Expand can make a small file a large one
_RANDOM = operators("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial")


def fold_constants(graph: gs.Graph, target: Target) -> None:
    for node in list(graph.nodes):
        if node.op == "Constant" and not node.domain:
            _freeze(graph, node, [_constant_value(node)])
        elif _foldable(node):
            _freeze(graph, node, _evaluate(node, graph.opset))


def _foldable(node: gs.Node) -> bool:
    standard = node.domain in (None, "", "ai.onnx") and node.op not in _RANDOM
    constant = bool(node.inputs) and all(isinstance(tensor, gs.Constant) for tensor in node.inputs)
    return standard and constant and not any(isinstance(value, gs.Graph) for value in node.attrs.values())


def _constant_value(node: gs.Node) -> NDArray[Any]:
    ((key, value),) = node.attrs.items()
    if isinstance(value, gs.Constant):
        return np.asarray(value.values)
    return np.asarray(value, dtype=np.int64 if "int" in key else np.float32)


def _evaluate(node: gs.Node, opset: int) -> list[NDArray[Any]]:
    proto = OnnxExporter.export_node(node)
    untyped = onnx.TypeProto()
    inputs = [onnx.helper.make_value_info(tensor.name, untyped) for tensor in node.inputs]
    outputs = [onnx.helper.make_value_info(tensor.name, untyped) for tensor in node.outputs]
    body = onnx.helper.make_graph([proto], "fold", inputs, outputs)
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {tensor.name: values(tensor) for tensor in node.inputs}
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]


def _freeze(graph: gs.Graph, node: gs.Node, arrays: list[NDArray[Any]]) -> None:
    if sum(array.size for array in arrays) > _FOLD_LIMIT or any(o is t for o in graph.outputs for t in node.outputs):
        return
    outputs = list(node.outputs)
    node.inputs.clear()
    node.outputs.clear()
    for tensor, array in zip(outputs, arrays, strict=True):
        tensor.to_constant(np.ascontiguousarray(array).reshape(array.shape))
