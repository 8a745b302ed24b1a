"""What every pass needs of an onnx-graphsurgeon graph: replace a node in place, take one out, find readers.

Nodes keep their order in the list, so that the written file follows the network and is the same on every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray


class Builder:
    """Collects the nodes that take one node's place, all named after `owner`."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.nodes: list[gs.Node] = []

    def constant(self, label: str, values: NDArray[Any]) -> gs.Constant:
        return gs.Constant(f"{self.owner}/{label}", np.array(values, order="C"))

    def add(self, op: str, *inputs: gs.Tensor, label: str = "", domain: str | None = None, **attrs: Any) -> gs.Variable:
        """Append a node `owner/label` (the operator's name by default) and return its output."""
        name = f"{self.owner}/{label or op}"
        output = gs.Variable(name)
        self.nodes.append(gs.Node(op, name, attrs=attrs, inputs=list(inputs), outputs=[output], domain=domain))
        return output

    def replace(self, graph: gs.Graph, node: gs.Node, result: gs.Tensor) -> None:
        """Put the collected nodes where `node` stands; `result` takes the place of its first output."""
        if not self.nodes:
            bypass(graph, node, result)
            return
        output, last = node.outputs[0], result.inputs[0]
        node.inputs.clear()
        node.outputs.clear()
        last.outputs = [output]
        at = index_of(graph, node)
        graph.nodes[at : at + 1] = self.nodes


def index_of(graph: gs.Graph, node: gs.Node) -> int:
    """Position of this very node; nodes compare by value."""
    return next(i for i, other in enumerate(graph.nodes) if other is node)


def bypass(graph: gs.Graph, node: gs.Node, source: gs.Tensor) -> None:
    """Let the readers of `node`'s output read `source` instead, and drop `node`.

    A graph whose output would be its own input, or a constant, keeps an Identity: ONNX wants a node between.
    """
    output = node.outputs[0]
    is_result = any(output is tensor for tensor in graph.outputs)
    if is_result and not source.inputs:
        node.op, node.domain, node.attrs, node.inputs = "Identity", None, {}, [source]
        return
    for reader in list(output.outputs):
        for slot, tensor in enumerate(reader.inputs):
            if tensor is output:
                reader.inputs[slot] = source
    if is_result:
        source.shape, source.dtype = output.shape, output.dtype
        graph.outputs = [source if tensor is output else tensor for tensor in graph.outputs]
    node.inputs.clear()
    node.outputs.clear()
    del graph.nodes[index_of(graph, node)]


def only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The one node that reads `tensor`, once, where nothing else does and it is no output of the graph."""
    readers = tensor.outputs
    if len(readers) != 1 or any(tensor is output for output in graph.outputs):
        return None
    reader: gs.Node = readers[0]
    return reader if sum(slot is tensor for slot in reader.inputs) == 1 else None


def values(tensor: gs.Tensor | None) -> NDArray[Any] | None:
    """The value of a constant, None of anything else."""
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None


def static(shape: Any) -> tuple[int, ...] | None:
    """Dimensions after the batch where all of them are known."""
    if shape is None or not shape or not all(isinstance(dim, int) for dim in shape[1:]):
        return None
    return tuple(shape[1:])
