"""The mean over all positions, in the one form the target knows.

1. ReduceMean over exactly the spatial axes of (N, C, H, W): GlobalAveragePool (with Flatten where keepdims = 0).
2. GlobalAveragePool, for a target without it: AveragePool with a kernel of the full size.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from aurep.exporters.graph import Builder, static, values
from aurep.exporters.targets import Target


def canonical_pooling(graph: gs.Graph, target: Target) -> None:
    for node in list(graph.nodes):
        if node.domain or node.op not in ("ReduceMean", "GlobalAveragePool"):
            continue
        shape = static(node.inputs[0].shape)
        if shape is None or len(shape) != 3:
            continue
        if node.op == "GlobalAveragePool" or _axes(node) == {2, 3}:
            _rewrite(graph, node, shape, target)


def _axes(node: gs.Node) -> set[int]:
    given = values(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("axes")
    return set() if given is None else {int(axis) % 4 for axis in given}


def _rewrite(graph: gs.Graph, node: gs.Node, shape: tuple[int, ...], target: Target) -> None:
    x, keep = node.inputs[0], node.op == "GlobalAveragePool" or bool(node.attrs.get("keepdims", 1))
    builder = Builder(node.outputs[0].name)
    if target.global_pool == "AveragePool":
        size = list(shape[1:])
        pooled = builder.add("AveragePool", x, kernel_shape=size, strides=size, pads=[0, 0, 0, 0])
    else:
        pooled = builder.add("GlobalAveragePool", x)
    for made in builder.nodes:
        made.name = ""  # a name of its own would hide that it belongs to no module; `naming` gives one
    pooled.dtype, pooled.shape = x.dtype, [x.shape[0], shape[0], 1, 1]
    result = pooled if keep else builder.add("Flatten", pooled, axis=1)
    builder.nodes[-1].name = ""
    builder.replace(graph, node, result)
