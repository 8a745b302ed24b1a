"""Values of the constants of a graph, stored or computed from stored ones (compressed initialisers unfold that way).

Computed is only what every implementation computes alike, bit for bit (see `folding`), and sums and products of floats
only where an operand says the result: t + 0, 0 t, 1 t. Anything else could be one number here and another in a
runtime, and a mask could hang on it: a site that needs it is none. A constant may stand for any number (`unknown`):
NaN is its value then, 0 times it is 0, and whatever else is made of it is unknown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from aurep.validators.graph.binding import versions
from aurep.validators.graph.facts import Fact, attributes
from aurep.validators.graph.folding import evaluated, is_exact
from aurep.validators.graph.infer import STANDARD
from aurep.validators.sites.expression import NotASiteError

Array = NDArray[Any]


class Constants:
    """Constant tensors of the main graph by name, each evaluated once."""

    def __init__(self, model: onnx.ModelProto, facts: Mapping[str, Fact]) -> None:
        self.model, self.facts = model, facts
        self.opsets = versions(model.opset_import)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made = {output: node for node in model.graph.node for output in node.output if output}
        self.known: dict[str, Array] = {}

    def supposing(self, names: Iterable[str], value: float) -> Constants:
        """The constants as they would be if all elements of `names` were `value`; NaN: if they were unknown."""
        other = Constants(self.model, self.facts)
        other.known = {name: np.full(self.facts[name].shape or (), value, np.float32) for name in names}
        return other

    def value(self, name: str) -> Array:
        """Raises NotASiteError where `name` is no constant, or is computed in a way that implementations may differ."""
        pending = [name]
        while pending:
            current = pending[-1]
            missing = [other for other in self._needed(current) if other not in self.known]
            if missing:
                pending += missing
                continue
            if current not in self.known:
                self.known[current] = self._value(current)
            pending.pop()
        return self.known[name]

    def is_computed(self, name: str) -> bool:
        """Whether a node makes `name` from other constants."""
        return name not in self.stored and name in self.made and self.made[name].op_type != "Constant"

    def of_node(self, node: onnx.NodeProto) -> Array:
        """The value of a Constant node."""
        (value,) = list(attributes(node).values()) or [None]
        if isinstance(value, onnx.TensorProto):
            return _number(numpy_helper.to_array(value))
        if isinstance(value, int | float | list | tuple):
            array = np.asarray(value)
            return _number(array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32))
        raise NotASiteError("a constant is no dense tensor")

    def _needed(self, name: str) -> list[str]:
        """What `name` is computed from."""
        known = name in self.known or not self.is_computed(name)
        return [] if known else [other for other in self.made[name].input if other]

    def _value(self, name: str) -> Array:
        """Of what all that it needs is known."""
        fact = self.facts.get(name)
        if fact is None or not fact.constant:
            raise NotASiteError("an operand is no constant")
        if name in self.stored:
            return _number(numpy_helper.to_array(self.stored[name]))
        node = self.made[name]
        if node.op_type == "Constant":
            return self.of_node(node)
        feeds = {other: self.known[other] for other in node.input if other}
        operands = [self.known[other] for other in node.input if other]
        found = None
        if node.domain in STANDARD and node.op_type in _FLOATS and all(v.dtype == np.float32 for v in operands):
            found = _FLOATS[node.op_type](*operands) if len(operands) == 2 else None
        elif node.domain in STANDARD and is_exact(node, operands):
            results = dict(zip(node.output, evaluated(node, feeds, self.opsets) or (), strict=False))
            found = results.get(name)
        if found is None:
            raise NotASiteError(f"a constant is made by {node.op_type}, which implementations may compute differently")
        return found


def _number(stored: Array) -> Array:
    """`stored`, of which no element is NaN: that stands for what is unknown."""
    if np.issubdtype(stored.dtype, np.floating) and np.isnan(stored).any():
        raise NotASiteError("a stored constant is no number")
    return stored


def _sum(a: Array, b: Array) -> Array | None:
    exact = (a == 0) | (b == 0) | np.isnan(a) | np.isnan(b)
    return np.where(a == 0, b, np.where(b == 0, a, np.nan)).astype(np.float32) if exact.all() else None


def _product(a: Array, b: Array) -> Array | None:
    said = np.isin(a, (0, 1)) | np.isin(b, (0, 1)) | np.isnan(a) | np.isnan(b)
    if not said.all():
        return None
    with np.errstate(invalid="ignore"):
        product = np.where((np.isnan(a) & (b == 0)) | (np.isnan(b) & (a == 0)), 0, a * b)
    return product.astype(np.float32)


_FLOATS = {"Add": _sum, "Mul": _product}
