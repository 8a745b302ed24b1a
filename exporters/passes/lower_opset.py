"""From the opset torch writes to the target's: 18 -> 17, operator by operator.

An operator whose definition did not change after the target's opset stays as it is. Those that did:

1. ReduceMean/Max/Min/Prod/L1/L2/LogSum/LogSumExp/SumSquare: axes move from an input to an attribute.
2. Split: `num_outputs` becomes explicit sizes.
3. Pad: `axes` are spelled out as pads of every axis.
4. Resize: without the attributes that opset 18 added, where they hold their defaults.
5. ScatterElements, ScatterND: unchanged unless `reduction` is one of the new max and min.

Anything else is refused: BitwiseAnd, Col2Im, GroupNormalization and such have no older form.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from aurep.errors import AurepError
from aurep.exporters.graph import values
from aurep.exporters.targets import Target

_REDUCTIONS = "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare"
_RESIZE_DEFAULTS = {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}


def lower_opset(graph: gs.Graph, target: Target) -> None:
    for node in graph.nodes:
        if node.domain not in (None, "", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op, graph.opset)
        if schema.since_version > target.framework.opset:
            _LOWERINGS.get(node.op, _refuse)(node, target)
    graph.opset = target.framework.opset
    graph.import_domains = None


def _refusal(node: gs.Node, target: Target, why: str) -> AurepError:
    return AurepError(
        f"{node.op}, which makes {node.outputs[0].name!r}, {why} at opset {target.framework.opset}; "
        "rewrite that part of the model with older operators."
    )


def _refuse(node: gs.Node, target: Target) -> None:
    raise _refusal(node, target, "does not exist")


def _reduction(node: gs.Node, target: Target) -> None:
    empty_is_nothing = node.attrs.pop("noop_with_empty_axes", 0)
    if len(node.inputs) < 2 and not empty_is_nothing:
        return
    axes = values(node.inputs[1]) if len(node.inputs) > 1 else np.zeros(0, np.int64)
    if axes is None or (axes.size == 0 and empty_is_nothing):
        raise _refusal(node, target, "cannot take computed or empty axes")
    if axes.size:
        node.attrs["axes"] = [int(axis) for axis in axes]
    node.inputs = node.inputs[:1]


def _split(node: gs.Node, target: Target) -> None:
    parts = node.attrs.pop("num_outputs", None)
    if parts is None:
        return
    shape, axis = node.inputs[0].shape, int(node.attrs.get("axis", 0))
    length = shape[axis] if shape is not None else None
    if not isinstance(length, int):
        raise _refusal(node, target, "cannot divide an axis of unknown length")
    size = -(-length // parts)
    sizes = [min(size, length - start) for start in range(0, length, size)]
    if len(sizes) != parts:
        raise _refusal(node, target, f"cannot divide {length} into {parts} parts")
    node.inputs = [node.inputs[0], gs.Constant(f"{node.outputs[0].name}/split", np.array(sizes, dtype=np.int64))]


def _pad(node: gs.Node, target: Target) -> None:
    if node.attrs.get("mode", "constant") == "wrap":
        raise _refusal(node, target, "has no mode 'wrap'")
    if len(node.inputs) < 4 or not node.inputs[3].name:
        return
    pads, axes, shape = values(node.inputs[1]), values(node.inputs[3]), node.inputs[0].shape
    if pads is None or axes is None or shape is None:
        raise _refusal(node, target, "cannot take computed pads or axes")
    full = np.zeros((2, len(shape)), dtype=np.int64)
    full[:, axes] = pads.reshape(2, -1)
    node.inputs = [node.inputs[0], gs.Constant(f"{node.outputs[0].name}/pads", full.reshape(-1)), *node.inputs[2:3]]


def _resize(node: gs.Node, target: Target) -> None:
    for key, default in _RESIZE_DEFAULTS.items():
        if node.attrs.pop(key, default) != default:
            raise _refusal(node, target, f"has no attribute {key!r}")
    if "axes" in node.attrs or node.attrs.get("coordinate_transformation_mode") == "half_pixel_symmetric":
        raise _refusal(node, target, "cannot be given axes or half_pixel_symmetric")


def _scatter(node: gs.Node, target: Target) -> None:
    if node.attrs.get("reduction", "none") in ("max", "min"):
        raise _refusal(node, target, "has no reduction by max or min")


_LOWERINGS: dict[str, Callable[[gs.Node, Target], None]] = {
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
}
