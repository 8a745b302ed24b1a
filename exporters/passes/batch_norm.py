"""BatchNormalization at inference is y = s x + t with s = gamma / sqrt(var + eps), t = beta - mean s.

1. After a Conv that nothing else reads: W' = s W (per output channel), b' = s b + t.
2. After a ConvTranspose that nothing else reads (one group): the same along its second axis.
3. After a Gemm that nothing else reads (alpha = beta = 1): W' = s W along the output axis, b' = s b + t.
4. Anywhere else (pre-activation networks, after an Add): Mul by s and Add of t, of shape [C, 1, 1] or [F].

Computed in float64: folding must not cost a bit more than the rounding of the result. Weights may be shared between
nodes, so they are never changed, always replaced. torch's own optimiser folds most of 1 to 3 before us.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.exporters.graph import Builder, bypass, only_reader, values
from aurep.exporters.targets import Target

_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}


def fold_batch_norm(graph: gs.Graph, target: Target) -> None:
    written: Counter[str] = Counter()
    for node in list(graph.nodes):
        if node.op == "BatchNormalization" and not node.domain:
            scale, shift = _affine(node)
            if _foldable_into(graph, node):
                _fold(node.inputs[0].inputs[0], scale, shift)
                bypass(graph, node, node.inputs[0])
            else:
                _write_out(graph, node, scale, shift, written)


def _affine(node: gs.Node) -> tuple[NDArray[Any], NDArray[Any]]:
    """s and t in float64, each of shape (C,)."""
    found = [values(tensor) for tensor in node.inputs[1:5]]
    if any(array is None for array in found) or node.attrs.get("training_mode", 0):
        raise AurepError(
            f"the batch normalisation that makes {node.outputs[0].name!r} uses statistics of its batch; give it "
            "running statistics (track_running_stats=True) and export in eval mode."
        )
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in found)
    scale = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return scale, beta - mean * scale


def _foldable_into(graph: gs.Graph, node: gs.Node) -> bool:
    source = node.inputs[0]
    if not source.inputs or only_reader(graph, source) is None:
        return False
    producer = source.inputs[0]
    if any(values(tensor) is None for tensor in producer.inputs[1:]) or len(producer.inputs) < 2:
        return False
    if producer.op == "Gemm":
        bias = values(producer.inputs[2]) if len(producer.inputs) > 2 else np.zeros(1)
        plain = all(float(producer.attrs.get(key, 1.0)) == 1.0 for key in ("alpha", "beta"))
        return plain and bias is not None and bias.ndim == 1
    grouped = producer.op == "ConvTranspose" and producer.attrs.get("group", 1) != 1
    return producer.op in _CHANNEL_AXIS and not producer.domain and not grouped


def _fold(producer: gs.Node, scale: NDArray[Any], shift: NDArray[Any]) -> None:
    weight = np.asarray(producer.inputs[1].values, dtype=np.float64)
    bias = np.asarray(producer.inputs[2].values, dtype=np.float64) if len(producer.inputs) > 2 else 0.0
    axis = _CHANNEL_AXIS.get(producer.op, 0 if producer.attrs.get("transB", 0) else 1)
    along = [1] * weight.ndim
    along[axis] = -1
    name = producer.inputs[1].name
    producer.inputs = [
        producer.inputs[0],
        gs.Constant(name, (weight * scale.reshape(along)).astype(np.float32)),
        gs.Constant(f"{name}_bias", np.broadcast_to(bias * scale + shift, shift.shape).astype(np.float32)),
    ]


def _write_out(graph: gs.Graph, node: gs.Node, scale: NDArray[Any], shift: NDArray[Any], written: Counter[str]) -> None:
    x, rank = node.inputs[0], len(node.inputs[0].shape or ())
    if not rank:
        raise AurepError(f"the shape of {x.name!r}, which a batch normalisation reads, is unknown; use static shapes.")
    owner = node.inputs[1].name.rpartition(".")[0] or node.outputs[0].name
    # torch stores equal parameters once, as fresh batch norms have them, so that several share the first one's name.
    written[owner] += 1
    builder = Builder(owner if written[owner] == 1 else f"{owner}:{written[owner] - 1}")
    along = (-1, *(1,) * (rank - 2))
    factor = builder.constant("scale", scale.astype(np.float32).reshape(along))
    offset = builder.constant("shift", shift.astype(np.float32).reshape(along))
    scaled = builder.add("Mul", x, factor)
    scaled.dtype, scaled.shape = x.dtype, x.shape
    builder.replace(graph, node, builder.add("Add", scaled, offset))
