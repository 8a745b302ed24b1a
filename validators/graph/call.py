"""One evaluation of a node, as the rules of cost, pooling and batches look at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx

from aurep.validators.graph.facts import Fact, UncountableError, attributes, describe


@dataclass(frozen=True)
class Call:
    """One evaluation of a node: what is known of its inputs (None where omitted) and outputs."""

    node: onnx.NodeProto
    inputs: tuple[Fact | None, ...]
    outputs: tuple[Fact, ...]

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return attributes(self.node)

    def given(self, index: int) -> Fact | None:
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def entering(self) -> int:
        return self._elements(self.inputs[0] if self.inputs else None)

    @property
    def leaving(self) -> int:
        return self._elements(self.outputs[0] if self.outputs else None)

    def _elements(self, fact: Fact | None) -> int:
        elements = None if fact is None else fact.elements
        if elements is None:
            raise UncountableError(
                f"{describe(self.node)} compares a tensor whose shape depends on values, so its cost is unknown; "
                "export with static shapes (only the batch may be dynamic)."
            )
        return elements

    def refuse(self, reason: str) -> UncountableError:
        return UncountableError(
            f"{describe(self.node)} {reason}, so its comparisons cannot be counted; export without it."
        )
