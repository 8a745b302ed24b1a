"""Attributes as importers want them: what they need is explicit, what only restates a default is gone.

1. Conv: kernel_shape, strides, pads, dilations, group.   2. MaxPool, AveragePool: kernel_shape, strides, pads.
3. Gemm: alpha, beta, transA, transB.   4. `auto_pad = NOTSET` and zero-valued pool options are dropped.
"""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from aurep.exporters.targets import Target

_RESTATED = {"auto_pad": "NOTSET", "storage_order": 0, "ceil_mode": 0, "allowzero": 0, "noop_with_empty_axes": 0}


def explicit_attributes(graph: gs.Graph, target: Target) -> None:
    for node in graph.nodes:
        if node.domain not in (None, "", "ai.onnx"):
            continue
        kept = {key: value for key, value in node.attrs.items() if _RESTATED.get(key) != value or key not in _RESTATED}
        explicit = {**_defaults(node, kept), **kept}
        node.attrs = {key: explicit[key] for key in sorted(explicit)}


def _defaults(node: gs.Node, given: dict[str, Any]) -> dict[str, Any]:
    if node.op == "Gemm":
        return {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    if node.op not in ("Conv", "MaxPool", "AveragePool") or "auto_pad" in given:
        return {}
    kernel = given.get("kernel_shape")
    if kernel is None:
        kernel = [int(dim) for dim in node.inputs[1].shape[2:]]
    ones = [1] * len(kernel)
    found: dict[str, Any] = {"kernel_shape": list(kernel), "strides": ones, "pads": [0] * 2 * len(kernel)}
    return found | ({"dilations": ones, "group": 1} if node.op == "Conv" else {})
