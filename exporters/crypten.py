"""What CrypTen 0.4.1's importer gets wrong, silently or with an error far from its cause. One sentence a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_EXACT_IN_FLOAT32 = 2**24  # constants become float32 tensors, so larger indices are rounded
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class _Node:
    node: onnx.NodeProto
    constants: dict[str, NDArray[Any]]  # of Constant nodes, by name

    @property
    def attributes(self) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}

    def constant(self, slot: int) -> NDArray[Any]:
        return self.constants.get(self.node.input[slot], _NONE) if slot < len(self.node.input) else _NONE


def crypten_faults(model: onnx.ModelProto) -> Iterator[str]:
    """Sentences about what CrypTen cannot take, or would take for something else."""
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            yield f"initializer {tensor.name!r} is not float32 and would be encrypted; make it a Constant node"
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant"
    }
    for node in model.graph.node:
        for broken, advice in _RULES:
            if broken(_Node(node, constants)):
                yield f"{node.op_type} node {node.name!r} {advice}"


def _input_twice(call: _Node) -> bool:
    given = [name for name in call.node.input if name]
    return len(set(given)) != len(given)


def _constant_first(call: _Node) -> bool:
    return call.node.op_type == "Mul" and call.constant(0).size > 0


def _joins_a_constant(call: _Node) -> bool:
    return call.node.op_type == "Concat" and any(name in call.constants for name in call.node.input)


def _uneven(call: _Node) -> bool:
    """One number is taken for all four pads; of a pool, one for both kernel sizes and strides as well."""
    keys = {"Conv": ("pads",)}.get(call.node.op_type, ("pads", "kernel_shape", "strides"))
    windowed = call.node.op_type in ("Conv", "MaxPool", "AveragePool")
    return windowed and any(len(set(call.attributes.get(key, ()))) > 1 for key in keys)


def _dilated_pool(call: _Node) -> bool:
    return call.node.op_type == "MaxPool" and any(step != 1 for step in call.attributes.get("dilations", ()))


def _pads_left_out(call: _Node) -> bool:
    pool = call.node.op_type == "AveragePool" and any(call.attributes.get("pads", ()))
    return pool and not call.attributes.get("count_include_pad", 0)


def _zero_in_shape(call: _Node) -> bool:
    return call.node.op_type == "Reshape" and 0 in call.constant(1)


def _large_index(call: _Node) -> bool:
    return call.node.op_type == "Gather" and bool(call.constant(1).max(initial=0) >= _EXACT_IN_FLOAT32)


def _open_slice(call: _Node) -> bool:
    if call.node.op_type != "Slice":
        return False
    bounds, steps = np.concatenate([call.constant(1), call.constant(2)]), call.constant(4)
    return bool((bounds < 0).any() or (bounds >= _EXACT_IN_FLOAT32).any() or (steps != 1).any())


def _half_clip(call: _Node) -> bool:
    return call.node.op_type == "Clip" and not (call.constant(1).size and call.constant(2).size)


_RULES: tuple[tuple[Callable[[_Node], bool], str], ...] = (
    (_input_twice, "reads one input twice; write x + x as 2 * x and x * x as a power"),
    (_constant_first, "has its constant first; swap the factors"),
    (_joins_a_constant, "joins a constant; pad the tensor in another way"),
    (_uneven, "has uneven pads, kernel or strides, which CrypTen gets silently wrong; use the same along both axes"),
    (_dilated_pool, "is dilated, which CrypTen ignores; use a dense window"),
    (_pads_left_out, "leaves its padding out of the mean, which CrypTen counts in; use count_include_pad=True"),
    (_zero_in_shape, "has a 0 in its shape; use -1"),
    (_large_index, "has indices of 2^24 and more, which CrypTen rounds; use a smaller input"),
    (_open_slice, "has negative, open or stepped bounds, which CrypTen gets wrong; slice with plain numbers"),
    (_half_clip, "lacks a constant bound; give both min and max"),
)
