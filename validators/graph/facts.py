"""What is known of a tensor without running the graph, and the refusal where too little is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from aurep.errors import AurepError

Shape = tuple[int, ...]
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


OUT_OF_PROPORTION = (
    "{} does not grow in proportion to the batch, so a count per image has no meaning; export with a fixed batch, or "
    "without operators that select or mix images."
)


class UncountableError(AurepError):
    """The comparisons of a graph cannot be bounded from the graph alone. The sentence names the node and the reason."""


@dataclass(frozen=True)
class Fact:
    """A tensor as static inference sees it.

    Args:
        elem_type: `TensorProto.DataType`; 0 where unknown or no tensor.
        shape: dimensions with the batch, None where they depend on values.
        constant: does not depend on the graph's inputs, so that it is known before the private inference starts.
        data: the value itself, for small constants that shapes may depend on.
        batched: the value was derived from the batch size.
        uniform: every spatial position holds the same function of a shifted input image (see `pooling`).
        rows: axis 0 is the batch and every row depends on its own image alone (see `batching`).
    """

    elem_type: int
    shape: Shape | None
    constant: bool = False
    data: NDArray[Any] | None = field(default=None, compare=False)
    batched: bool = False
    uniform: bool = False
    rows: bool = False

    @property
    def elements(self) -> int | None:
        return None if self.shape is None else prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.elem_type in FLOATS


def describe(node: onnx.NodeProto) -> str:
    """How a sentence names a node: `Relu node 'layer1.0.relu/Relu'`."""
    op = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    name = node.name or (node.output[0] if node.output else "")
    return f"{op} node {name!r}"


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name; sub-graphs as GraphProto."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type and not a.ref_attr_name}


def site_name(node: onnx.NodeProto) -> str:
    """The site that a node belongs to: `layer1.0.relu/Relu` to `layer1.0.relu`, torch's `/layer1/Relu` to `/layer1`."""
    name = node.name or (node.output[0] if node.output else node.op_type)
    return name.rpartition("/")[0] if name.startswith("/") else name.partition("/")[0]
