"""Walk a graph in order with the facts of every tensor, through functions.

Every node is visited, dead ones too (a PI framework interprets the file node by node). If, Loop and Scan are refused,
an If on a constant too: no PI framework takes them, and what runs within them cannot be probed for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from aurep.validators.graph.alike import likeness
from aurep.validators.graph.batching import keeps_rows
from aurep.validators.graph.binding import bound, versions
from aurep.validators.graph.call import Call
from aurep.validators.graph.costs import comparisons
from aurep.validators.graph.facts import Fact, UncountableError, describe, site_name
from aurep.validators.graph.infer import STANDARD, infer, tensor_fact
from aurep.validators.graph.pooling import is_pooling, keeps_uniform
from aurep.validators.graph.scope import Scope, check_fit

MAX_VISITS = 50_000  # nodes; a real network has thousands, a file of nested functions can have any number
MAX_DEPTH = 50  # nested functions
_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
RESERVED = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")  # a runtime may prefer its own kernel


@dataclass(frozen=True)
class Comparison:
    """`elements` comparisons for the whole batch by one node.

    `node` is the first output of the main graph's node that they belong to, `site` the site that its name speaks of.
    """

    op_type: str
    site: str
    node: str
    elements: int
    pooling: bool


@dataclass(frozen=True)
class Visit:
    """One evaluation of an operator on computed values; `compared` elements.

    `outermost` is the node of the main graph that it belongs to: itself, or the one that calls it.
    """

    call: Call
    outermost: onnx.NodeProto
    compared: int


@dataclass(frozen=True)
class _Found:
    """What an operator gives: facts of its outputs, whether any is computed, `elements` compared, by pooling or not."""

    outputs: tuple[Fact, ...]
    computed: bool
    elements: int
    pooling: bool


_MOST_SEEN = 2**14
_seen: dict[tuple[Any, ...], _Found] = {}  # by `likeness`


@dataclass(frozen=True)
class _Place:
    """Where a node stands, and what encloses it."""

    opsets: Mapping[str, int]
    depth: int = 0
    outermost: onnx.NodeProto | None = None


@dataclass
class Walk:
    """One pass over `model` with the facts of its inputs given. `pointwise` maps the output of a recognised site to its
    input: whatever rearranges values in between, they end where they began.

    Attributes:
        visits: every evaluation on computed values, in order.
        tensors: the facts of all that nodes make, in order.
        rows: every computed tensor has rows (see `batching`), so that the count may be divided by a fixed batch.
    """

    model: onnx.ModelProto
    pointwise: Mapping[str, str] = field(default_factory=dict)
    dynamic: bool = False
    comparisons: list[Comparison] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    largest: int = 0  # elements of the largest tensor
    tensors: list[Fact] = field(default_factory=list)
    rows: bool = True
    nodes: int = 0  # visited, those on constants too

    def run(self, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        """Facts of every tensor of the main graph. Raises UncountableError."""
        self._functions = {(f.domain, f.name, f.overload): f for f in self.model.functions}
        imports = ["" if entry.domain in STANDARD else entry.domain for entry in self.model.opset_import]
        if len(self._functions) < len(self.model.functions) or len(set(imports)) < len(imports):
            raise UncountableError(
                "the file defines a function or imports an opset twice, so which one runs is unknown; export it again."
            )
        for function in self.model.functions:
            if not function.domain or function.domain.startswith(RESERVED):
                raise UncountableError(
                    f"the file defines the function {function.domain}::{function.name} in a domain that runtimes "
                    "define themselves, so what runs is unknown; export without functions in such domains."
                )
        return self._graph(self.model.graph, inputs, _Place(versions(self.model.opset_import)))

    def _graph(self, graph: onnx.GraphProto, inputs: Mapping[str, Fact], place: _Place) -> dict[str, Fact]:
        scope = Scope()
        if graph.sparse_initializer:
            raise UncountableError(
                "the file holds sparse initializers, whose cost is unknown; export with dense tensors."
            )
        for name, fact in inputs.items():
            scope.define(name, fact)
        for tensor in graph.initializer:
            if tensor.name not in inputs:
                scope.define(tensor.name, tensor_fact(tensor))
        for node in graph.node:
            self._visit(node, scope, place)
        return scope.facts

    def _visit(self, node: onnx.NodeProto, scope: Scope, place: _Place) -> None:
        self.nodes += 1
        if self.nodes > MAX_VISITS or place.depth > MAX_DEPTH:
            raise UncountableError(
                f"the graph unfolds to more than {MAX_VISITS:,} nodes or nests deeper than {MAX_DEPTH} levels at "
                f"{describe(node)}; export a flat graph."
            )
        inner = _Place(place.opsets, place.depth + 1, place.outermost or node)
        inputs = tuple(scope.find(name, node) if name else None for name in node.input)
        if (node.domain, node.op_type, node.overload) in self._functions:
            outputs = self._function(node, inputs, inner)
        elif node.domain not in STANDARD:
            raise UncountableError(
                f"{describe(node)} is a custom operator that the file does not define, so its comparisons cannot be "
                "counted; export with standard operators."
            )
        elif any(attribute.type in _BODIES for attribute in node.attribute):
            raise UncountableError(
                f"{describe(node)} runs a graph of its own, which no private-inference framework does, a constant "
                "condition or number of trips notwithstanding; export a flat graph."
            )
        else:
            outputs = self._operator(node, inputs, inner)
        check_fit(node, len(outputs) == len(node.output))
        for name, fact in zip(node.output, outputs, strict=True):
            if name:
                source = self.pointwise.get(name) if place.depth == 0 else None
                uniform = fact.uniform if source is None else scope.facts[source].uniform
                scope.define(name, fact if fact.uniform == uniform else replace(fact, uniform=uniform))
                self.tensors.append(fact)
                self.largest = max(self.largest, fact.elements or 0)
                self.rows &= fact.rows or fact.constant

    def _operator(self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], place: _Place) -> tuple[Fact, ...]:
        kind = likeness(node, inputs, place.opsets, self.dynamic)
        found = _seen.get(kind) if kind is not None else None
        if found is None:
            found = self._looked_at(node, inputs, place)
        if kind is not None:
            if len(_seen) >= _MOST_SEEN:
                _seen.clear()
            _seen[kind] = found
        if found.computed:
            outermost = place.outermost or node
            self.visits.append(Visit(Call(node, inputs, found.outputs), outermost, found.elements))
            if found.elements:
                site, first = site_name(outermost), outermost.output[0]
                self.comparisons.append(Comparison(node.op_type, site, first, found.elements, found.pooling))
        return found.outputs

    def _looked_at(self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], place: _Place) -> _Found:
        known = {name: fact for name, fact in zip(node.input, inputs, strict=True) if fact is not None}
        outputs = infer(node, known, place.opsets, self.dynamic)
        call = Call(node, inputs, outputs)
        computed = not (outputs and all(fact.constant for fact in outputs))
        elements = comparisons(call) if computed else 0
        uniform, rows = keeps_uniform(call), keeps_rows(call)
        outputs = tuple(replace(fact, uniform=uniform, rows=rows) for fact in outputs)
        return _Found(outputs, computed, elements, elements > 0 and is_pooling(call))

    def _function(self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], place: _Place) -> tuple[Fact, ...]:
        function = self._functions[node.domain, node.op_type, node.overload]
        check_fit(node, len(node.input) <= len(function.input) and len(node.output) <= len(function.output))
        scope = Scope()
        for name, fact in zip(function.input, inputs, strict=False):
            if fact is not None:
                scope.define(name, fact)
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        inner = replace(place, opsets=versions(function.opset_import))
        for body_node in function.node:
            self._visit(bound(body_node, given), scope, inner)
        return tuple(scope.find(name, node) for name in function.output[: len(node.output)])
