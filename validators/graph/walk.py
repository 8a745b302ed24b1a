"""Walk a graph in order with the facts of every tensor, through functions.

Every node is visited, dead ones too (a PI framework interprets the file node by node). If, Loop and Scan are refused,
an If on a constant too: no PI framework takes them, and what runs within them cannot be probed for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import onnx

from aurep.validators.graph.alike import Tensor, likeness
from aurep.validators.graph.batching import keeps_rows
from aurep.validators.graph.binding import bound, versions
from aurep.validators.graph.call import Call
from aurep.validators.graph.costs import comparisons
from aurep.validators.graph.facts import OUT_OF_PROPORTION, UncountableError, describe
from aurep.validators.graph.infer import STANDARD, infer, tensor_fact
from aurep.validators.graph.pooling import is_pooling, keeps_uniform
from aurep.validators.graph.scope import Scope, check_fit

MAX_VISITS = 50_000  # nodes; a real network has thousands, a file of nested functions can have any number
MAX_DEPTH = 50  # nested functions
Inputs = tuple[Tensor | None, ...]
_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
RESERVED = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")  # a runtime may prefer its own kernel


@dataclass(frozen=True)
class Found:
    """What an operator gives: its outputs, whether any is computed, `elements` compared at each batch, by pooling or
    not."""

    outputs: tuple[Tensor, ...]
    computed: bool
    elements: tuple[int, ...]
    pooling: bool


class Visit(NamedTuple):
    """One evaluation of an operator on computed values.

    `outermost` is the node of the main graph that it belongs to: itself, or the one that made it.
    """

    node: onnx.NodeProto
    inputs: tuple[Tensor | None, ...]
    found: Found
    outermost: onnx.NodeProto

    def call(self, at: int) -> Call:
        """At the batch of index `at`."""
        return _call(self.node, self.inputs, self.found.outputs, at)


def _call(node: onnx.NodeProto, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], at: int) -> Call:
    given = tuple(None if tensor is None else tensor.facts[at] for tensor in inputs)
    return Call(node, given, tuple(tensor.facts[at] for tensor in outputs))


_MOST_SEEN = 2**14
_seen: dict[tuple[Any, ...], Found] = {}  # by `likeness`


@dataclass(frozen=True)
class _Place:
    """Where a node stands, and what encloses it."""

    opsets: Mapping[str, int]
    depth: int = 0
    outermost: onnx.NodeProto | None = None


@dataclass
class Walk:
    """One pass over `model` with the facts of its inputs given, at as many batches at once as these are given for.

    `pointwise` maps the output of a recognised site to its input: whatever rearranges values in between, they end where
    they began.

    Attributes:
        visits: every evaluation on computed values, in order.
        tensors: all different ones that nodes make.
        found: those of the main graph, by name.
    """

    model: onnx.ModelProto
    pointwise: Mapping[str, str] = field(default_factory=dict)
    dynamic: bool = False
    visits: list[Visit] = field(default_factory=list)
    tensors: dict[Tensor, None] = field(default_factory=dict)
    found: dict[str, Tensor] = field(default_factory=dict)
    nodes: int = 0  # visited, those on constants too

    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises UncountableError."""
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
        self.batches = len(next(iter(inputs.values())).facts) if inputs else 1
        self.found = self._graph(self.model.graph, inputs, _Place(versions(self.model.opset_import)))

    def _graph(self, graph: onnx.GraphProto, inputs: Mapping[str, Tensor], place: _Place) -> dict[str, Tensor]:
        scope = Scope()
        if graph.sparse_initializer:
            raise UncountableError(
                "the file holds sparse initializers, whose cost is unknown; export with dense tensors."
            )
        for name, tensor in inputs.items():
            scope.define(name, tensor)
        for stored in graph.initializer:
            if stored.name not in inputs:
                scope.define(stored.name, Tensor((tensor_fact(stored),), self.batches))
        for node in graph.node:
            self._visit(node, scope, place)
        return scope.tensors

    def _visit(self, node: onnx.NodeProto, scope: Scope, place: _Place) -> None:
        self.nodes += 1
        if self.nodes > MAX_VISITS or place.depth > MAX_DEPTH:
            raise UncountableError(
                f"the graph unfolds to more than {MAX_VISITS:,} nodes or nests deeper than {MAX_DEPTH} levels at "
                f"{describe(node)}; export a flat graph."
            )
        inputs = tuple([scope.find(name, node) if name else None for name in node.input])
        if (node.domain, node.op_type, node.overload) in self._functions:
            outputs = self._function(node, inputs, place)
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
            outputs = self._operator(node, inputs, place)
        check_fit(node, len(outputs) == len(node.output))
        for name, tensor in zip(node.output, outputs, strict=True):
            if name:
                source = self.pointwise.get(name) if place.depth == 0 else None
                scope.define(name, tensor if source is None else _as_uniform(tensor, scope.tensors[source]))
                self.tensors[tensor] = None

    def _operator(self, node: onnx.NodeProto, inputs: Inputs, place: _Place) -> tuple[Tensor, ...]:
        kind = likeness(node, inputs, place.opsets, self.dynamic)
        found = _seen.get(kind) if kind is not None else None
        if found is None:
            found = self._looked_at(node, inputs, place)
            if kind is not None:
                if len(_seen) >= _MOST_SEEN:
                    _seen.clear()
                _seen[kind] = found
        if found.computed:
            self.visits.append(Visit(node, inputs, found, place.outermost or node))
        return found.outputs

    def _looked_at(self, node: onnx.NodeProto, inputs: Inputs, place: _Place) -> Found:
        made, costs = [], []
        for at in range(self.batches):
            facts = [None if tensor is None else tensor.facts[at] for tensor in inputs]
            known = {name: fact for name, fact in zip(node.input, facts, strict=True) if fact is not None}
            call = Call(node, tuple(facts), infer(node, known, place.opsets, self.dynamic))
            computed = not (call.outputs and all(fact.constant for fact in call.outputs))
            compared = comparisons(call) if computed else 0
            uniform, rows = keeps_uniform(call), keeps_rows(call)
            made.append([replace(fact, uniform=uniform, rows=rows) for fact in call.outputs])
            costs.append((compared, computed, compared > 0 and is_pooling(call)))
        outputs = tuple(Tensor(facts, self.batches) for facts in zip(*made, strict=True))
        elements = tuple(compared for compared, _, _ in costs)
        (computed, pooling), *others = {(computed, pooling) for _, computed, pooling in costs}
        if others:
            raise UncountableError(OUT_OF_PROPORTION.format(f"what {describe(node)} compares"))
        return Found(outputs, computed, elements, pooling)

    def _function(self, node: onnx.NodeProto, inputs: Inputs, place: _Place) -> tuple[Tensor, ...]:
        function = self._functions[node.domain, node.op_type, node.overload]
        check_fit(node, len(node.input) <= len(function.input) and len(node.output) <= len(function.output))
        scope = Scope()
        for name, tensor in zip(function.input, inputs, strict=False):
            if tensor is not None:
                scope.define(name, tensor)
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        inner = _Place(versions(function.opset_import), place.depth + 1, place.outermost or node)
        for body_node in function.node:
            self._visit(bound(body_node, given), scope, inner)
        return tuple(scope.find(name, node) for name in function.output[: len(node.output)])


def _as_uniform(tensor: Tensor, source: Tensor) -> Tensor:
    pairs = zip(tensor.facts, source.facts, strict=True)
    return Tensor(tuple(replace(fact, uniform=like.uniform) for fact, like in pairs), len(tensor.facts))
