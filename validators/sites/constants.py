"""Values of the constants of a graph, stored or computed from stored ones (compressed initialisers unfold that way)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aurep.validators.graph.facts import Fact, attributes
from aurep.validators.sites.expression import NotASiteError
from aurep.validators.stages import stage


class Constants:
    """Constant tensors of the main graph by name, each evaluated once."""

    def __init__(self, model: onnx.ModelProto, facts: Mapping[str, Fact]) -> None:
        self.model, self.facts = model, facts
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made = {output: node for node in model.graph.node for output in node.output if output}
        self.known: dict[str, NDArray[Any]] = {}

    def value(self, name: str) -> NDArray[Any]:
        """Raises NotASiteError where `name` is no constant, or cannot be evaluated."""
        if name not in self.known:
            self.known[name] = self._value(name)
        return self.known[name]

    def is_computed(self, name: str) -> bool:
        """Whether a node makes `name` from other constants."""
        return name not in self.stored and name in self.made and self.made[name].op_type != "Constant"

    def of_node(self, node: onnx.NodeProto) -> NDArray[Any]:
        """The value of a Constant node."""
        (value,) = list(attributes(node).values()) or [None]
        if isinstance(value, onnx.TensorProto):
            return numpy_helper.to_array(value)
        if isinstance(value, int | float | list | tuple):
            array = np.asarray(value)
            return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)
        raise NotASiteError("a constant is no dense tensor")

    def _value(self, name: str) -> NDArray[Any]:
        fact = self.facts.get(name)
        if fact is None or not fact.constant:
            raise NotASiteError("an operand is no constant")
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name])
        node = self.made[name]
        if node.op_type == "Constant":
            return self.of_node(node)
        feeds = {i: self.value(i) for i in node.input if i}
        types = [helper.make_tensor_value_info(i, self.facts[i].elem_type, v.shape) for i, v in feeds.items()]
        graph = helper.make_graph([node], "constant", types, [helper.make_value_info(name, onnx.TypeProto())])
        model = helper.make_model(graph, opset_imports=list(self.model.opset_import))
        try:
            with stage(f"while computing the constant {name!r}"):
                found: list[Any] = list(ReferenceEvaluator(model).run(None, feeds))
            return np.asarray(found[0])
        except MemoryError:
            raise
        except Exception as error:  # whatever the reference cannot evaluate is no part of a form that aurep writes
            raise NotASiteError(f"a constant cannot be evaluated: {error}") from None
