"""Nodes that are alike: of the many in a large graph, few are inferred and counted.

What a node does follows from its operator, its attributes and the facts of its inputs. Of small constants the values
belong to that, but where they can only be added or multiplied: there all that matters is whether they are huge.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

import onnx
from numpy.typing import NDArray

from aurep.operators import operators
from aurep.validators.graph.costs import ROUNDING, peak
from aurep.validators.graph.facts import Fact

_MOST_BYTES = 4096  # of attributes: a node that stores a tensor there is like no other
_ARITHMETIC = operators("Add Sub Mul Conv ConvTranspose Gemm MatMul BatchNormalization")
_MOST_KINDS = 2**16
_kinds: dict[Hashable, int] = {}
_numbers = count()


class Tensor:
    """What is known of a tensor, at every batch that a walk looks at.

    Args:
        facts: one for each of these, or one for all.
        batches: their number.
    """

    def __init__(self, facts: tuple[Fact, ...], batches: int) -> None:
        self._facts, self._kind, self._kind_as_term = facts, -1, -1
        self.facts = facts if len(facts) == batches else facts * batches
        self.constant = facts[0].constant

    @property
    def kind(self) -> int:
        """Equal for tensors that no operator tells apart."""
        if self._kind < 0:
            self._kind = self._number(_value)
        return self._kind

    @property
    def kind_as_term(self) -> int:
        """Equal for tensors that no operator tells apart which adds or multiplies them."""
        if self._kind_as_term < 0:
            self._kind_as_term = self.kind if self._facts[0].data is None else self._number(_term)
        return self._kind_as_term

    def _number(self, of_value: Callable[[NDArray[Any]], Hashable]) -> int:
        values = tuple([None if fact.data is None else of_value(fact.data) for fact in self._facts])
        key = self._facts, len(self.facts), values
        if key not in _kinds:
            if len(_kinds) >= _MOST_KINDS:
                _kinds.clear()  # what was numbered before is like nothing that comes after
            _kinds[key] = next(_numbers)
        return _kinds[key]


def _term(data: NDArray[Any]) -> Hashable:
    return peak(data) >= ROUNDING if data.dtype.kind == "f" else _value(data)


def _value(data: NDArray[Any]) -> Hashable:
    if data.dtype == object:
        return repr(data.tolist())
    return data.dtype.str, data.shape, blake2b(data.tobytes()).digest()


def likeness(
    node: onnx.NodeProto, inputs: Sequence[Tensor | None], opsets: Mapping[str, int], dynamic: bool
) -> tuple[Any, ...] | None:
    """Equal for nodes whose outputs have the same facts and that compare as much; None of a node to be looked at."""
    if len(inputs) > 1 and len(set(node.input)) < len(inputs):  # inference tells its inputs apart by their names
        return None
    op = node.op_type
    settings = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    if op == "Constant" or sum(map(len, settings)) > _MOST_BYTES:
        return None
    given = [tensor for tensor in inputs if tensor is not None]
    if op in _ARITHMETIC and not all(tensor.constant for tensor in given):
        kinds = [None if tensor is None else tensor.kind_as_term for tensor in inputs]
    else:
        kinds = [None if tensor is None else tensor.kind for tensor in inputs]
    return op, opsets.get("", 0), tuple(settings), tuple(kinds), tuple(map(bool, node.output)), dynamic
