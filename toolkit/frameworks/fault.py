"""A broken rule of a framework, and the view of a graph that rules are written against.

numpy and onnx are imported where a graph is looked at, not where a rule is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Fault:
    """`rule` is its name, `where` the node or tensor, `problem` what is wrong, `fix` what to do."""

    rule: str
    where: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where} {self.problem}; {self.fix} [{self.rule}]"


@dataclass(frozen=True)
class Graph:
    """A model's main graph. Frameworks see no functions and no sub-graphs, so nor do the rules."""

    model: onnx.ModelProto

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Values of Constant nodes, by output."""
        constants = (node for node in self.model.graph.node if node.op_type == "Constant" and not node.domain)
        return {node.output[0]: _value(node) for node in constants if node.output}

    @property
    def calls(self) -> Iterator[Call]:
        return (Call(node, self) for node in self.model.graph.node)


def _value(node: onnx.NodeProto) -> NDArray[Any]:
    """What a Constant node holds, in whichever of its attributes; empty where that is no tensor of numbers."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute) if attribute.type else None
        if isinstance(value, TensorProto):
            return numpy_helper.to_array(value)
        if attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
            return np.asarray(value)
    return np.zeros(0)


@dataclass(frozen=True)
class Call:
    """A node of the graph."""

    node: onnx.NodeProto
    graph: Graph

    @property
    def op(self) -> str:
        return self.node.op_type

    @property
    def where(self) -> str:
        op = f"{self.node.domain}::{self.op}" if self.node.domain else self.op
        return f"{op} node {self.node.name or (self.node.output[0] if self.node.output else '')!r}"

    @cached_property
    def attributes(self) -> dict[str, Any]:
        from onnx import helper

        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.type}

    def name(self, slot: int) -> str:
        return self.node.input[slot] if slot < len(self.node.input) else ""

    def constant(self, slot: int) -> NDArray[Any]:
        """The value of an input that is a Constant node; empty where it is none."""
        import numpy as np

        return self.graph.constants.get(self.name(slot), np.zeros(0, dtype=np.int64))

    def known(self, slot: int) -> NDArray[Any] | None:
        """The value of an input that is a Constant node or an initializer; None where it is computed."""
        from onnx import numpy_helper

        name = self.name(slot)
        if name in self.graph.initializers:
            return numpy_helper.to_array(self.graph.initializers[name])
        return self.graph.constants.get(name)


Broken = Callable[[Call], bool]
# (name, what tells a node that breaks the rule, what is wrong with it, what to do)
Rule = tuple[str, Broken, str, str]


def apply(rules: tuple[Rule, ...], graph: Graph) -> Iterator[Fault]:
    for call in graph.calls:
        for name, broken, problem, fix in rules:
            if broken(call):
                yield Fault(name, call.where, problem, fix)
