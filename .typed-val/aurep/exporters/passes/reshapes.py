"""One way to say Reshape, good for any batch: frameworks stumble over 0, `allowzero` and computed shapes.

With (N, ...) -> (N, static...) known from torch's shapes:

1. (N, C, ...) -> (N, F): Flatten(axis=1).
2. Otherwise: Reshape to the constant [-1, static...], whatever computed the shape before.
3. Squeeze of trailing axes of size 1 down to (N, F): Flatten(axis=1) as well.

A Reshape that moves the batch, or whose result is not static, keeps its form.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from aurep.exporters.graph import bypass, static
from aurep.exporters.targets import Target


def canonical_reshapes(graph: gs.Graph, target: Target) -> None:
    for node in list(graph.nodes):
        if node.op not in ("Reshape", "Squeeze", "Flatten") or node.domain:
            continue
        source, result = node.inputs[0], node.outputs[0]
        before, after = static(source.shape), static(result.shape)
        if before is None or after is None or source.shape[0] != result.shape[0] or 0 in (*before, *after):
            continue
        if before == after:
            bypass(graph, node, source)
        elif len(after) == 1:
            node.op, node.attrs, node.inputs = "Flatten", {"axis": 1}, [source]
        else:
            shape = gs.Constant(f"{result.name}/shape", np.array([-1, *after], dtype=np.int64))
            node.op, node.attrs, node.inputs = "Reshape", {}, [source, shape]
