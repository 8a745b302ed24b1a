"""Walk a graph in order with the facts of every tensor, through functions and the bodies of If, Loop and Scan.

Every node is visited, dead ones too (a PI framework interprets the file node by node). Both branches of an If count,
since under a secret condition both run; a Loop or Scan counts its body times its trips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import onnx

from aurep.validators.graph.batching import keeps_rows
from aurep.validators.graph.binding import bound, versions
from aurep.validators.graph.call import Call
from aurep.validators.graph.costs import comparisons
from aurep.validators.graph.facts import Fact, UncountableError, attributes, describe, site_name
from aurep.validators.graph.infer import STANDARD, infer, schema_of, tensor_fact
from aurep.validators.graph.pooling import is_pooling, keeps_uniform
from aurep.validators.graph.scope import Scope, as_carried, check_carried, check_fit, either, results_of, stacked

MAX_VISITS = 50_000  # nodes; a real network has thousands, a file of nested functions can have any number
MAX_DEPTH = 50  # nested functions and bodies
MAX_TRIPS = 1000  # of nested loops together; a loop of 2^60 would never end once run
RESERVED = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")  # a runtime may prefer its own kernel


@dataclass(frozen=True)
class Comparison:
    """`elements` comparisons for the whole batch by one node; `site` names the outermost node they belong to."""

    op_type: str
    site: str
    elements: int
    pooling: bool


@dataclass(frozen=True)
class Visit:
    """One evaluation of an operator on computed values, `trips` times over; `compared` elements by all of them.

    `outermost` is the node of the main graph that it belongs to: itself, or the one that calls or repeats it.
    """

    call: Call
    outermost: onnx.NodeProto
    trips: int
    compared: int


@dataclass(frozen=True)
class _Place:
    """Where a node stands: what encloses it and how often it runs."""

    opsets: Mapping[str, int]
    trips: int = 1
    depth: int = 0
    outermost: onnx.NodeProto | None = None


@dataclass
class Walk:
    """One pass over `model` with the facts of its inputs given. `pointwise` maps the output of a recognised site to its
    input: whatever rearranges values in between, they end where they began.

    Attributes:
        visits: every evaluation on computed values, in order.
        sizes: elements of every computed tensor of known shape but scalars, in order; an empty axis counts as one.
        rows: every computed tensor has rows (see `batching`), so that the count may be divided by a fixed batch.
    """

    model: onnx.ModelProto
    pointwise: Mapping[str, str] = field(default_factory=dict)
    dynamic: bool = False
    comparisons: list[Comparison] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    largest: int = 0  # elements of the largest tensor
    sizes: list[int] = field(default_factory=list)
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
        return self._graph(self.model.graph, {}, inputs, _Place(versions(self.model.opset_import)))

    def _graph(
        self, graph: onnx.GraphProto, outer: Mapping[str, Fact], inputs: Mapping[str, Fact], place: _Place
    ) -> dict[str, Fact]:
        scope = Scope(outer)
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
        inner = replace(place, depth=place.depth + 1, outermost=place.outermost or node)
        inputs = tuple(scope.find(name, node) if name else None for name in node.input)
        if (node.domain, node.op_type, node.overload) in self._functions:
            outputs = self._function(node, inputs, inner)
        elif node.domain not in STANDARD:
            raise UncountableError(
                f"{describe(node)} is a custom operator that the file does not define, so its comparisons cannot be "
                "counted; export with standard operators."
            )
        elif node.op_type in ("If", "Loop", "Scan"):
            schema_of(node, place.opsets)
            outputs = getattr(self, f"_{node.op_type.lower()}")(node, inputs, scope, inner)
        else:
            outputs = self._operator(node, inputs, scope, inner)
        check_fit(node, len(outputs) == len(node.output))
        for name, fact in zip(node.output, outputs, strict=True):
            if name:
                source = self.pointwise.get(name) if place.depth == 0 else None
                uniform = fact.uniform if source is None else scope.facts[source].uniform
                scope.define(name, replace(fact, uniform=uniform))
                self._measure(fact, place)

    def _measure(self, fact: Fact, place: _Place) -> None:
        self.largest = max(self.largest, fact.elements or 0)
        if not fact.constant:
            self.rows &= fact.rows
            if fact.shape:
                self.sizes.append(prod(dim for dim in fact.shape if dim) * place.trips)

    def _operator(
        self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], scope: Scope, place: _Place
    ) -> tuple[Fact, ...]:
        known = {name: fact for name, fact in zip(node.input, inputs, strict=True) if fact is not None}
        outputs = infer(node, known, place.opsets, self.dynamic)
        call = Call(node, attributes(node), inputs, outputs)
        if not (outputs and all(fact.constant for fact in outputs)):
            outermost, elements = place.outermost or node, comparisons(call) * place.trips
            self.visits.append(Visit(call, outermost, place.trips, elements))
            if elements:
                self.comparisons.append(Comparison(node.op_type, site_name(outermost), elements, is_pooling(call)))
        uniform, rows = keeps_uniform(call), keeps_rows(call)
        return tuple(replace(fact, uniform=uniform, rows=rows) for fact in outputs)

    def _function(self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], place: _Place) -> tuple[Fact, ...]:
        function = self._functions[node.domain, node.op_type, node.overload]
        check_fit(node, len(node.input) <= len(function.input) and len(node.output) <= len(function.output))
        scope = Scope({})
        for name, fact in zip(function.input, inputs, strict=False):
            if fact is not None:
                scope.define(name, fact)
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        inner = replace(place, opsets=versions(function.opset_import))
        for body_node in function.node:
            self._visit(bound(body_node, given), scope, inner)
        return tuple(scope.find(name, node) for name in function.output[: len(node.output)])

    def _if(
        self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], scope: Scope, place: _Place
    ) -> tuple[Fact, ...]:
        bodies = attributes(node)
        branches = []
        for key in ("then_branch", "else_branch"):
            facts = self._graph(bodies[key], scope.everything, {}, place)
            branches.append(results_of(bodies[key], facts, scope, node))
        check_fit(node, len(branches[0]) == len(branches[1]))
        fixed = inputs[0] is not None and inputs[0].constant
        return tuple(either(a, b, fixed) for a, b in zip(*branches, strict=True))

    def _loop(
        self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], scope: Scope, place: _Place
    ) -> tuple[Fact, ...]:
        body, trip = attributes(node)["body"], inputs[0]
        if trip is None or trip.data is None or trip.data.size != 1:
            raise UncountableError(
                f"{describe(node)} runs a number of times that depends on values, so its comparisons cannot be "
                "counted; unroll the loop or give it a constant trip count."
            )
        trips = max(0, int(trip.data.reshape(())))
        carried = [as_carried(fact) for fact in inputs[2:]]
        flags = [Fact(onnx.TensorProto.INT64, ()), Fact(onnx.TensorProto.BOOL, ())]
        results = self._body(node, body, [*flags, *carried], scope, _repeated(node, place, trips))
        check_fit(node, len(results) > len(carried))
        check_carried(node, carried, results[1 : 1 + len(carried)])
        return (*carried, *(stacked(fact, trips, 0) for fact in results[1 + len(carried) :]))

    def _scan(
        self, node: onnx.NodeProto, inputs: tuple[Fact | None, ...], scope: Scope, place: _Place
    ) -> tuple[Fact, ...]:
        values = attributes(node)
        body, scans = values["body"], values["num_scan_inputs"]
        check_fit(node, 0 < scans <= len(inputs) and len(values.get("scan_input_axes", [0] * scans)) == scans)
        states = [as_carried(fact) for fact in inputs[: len(inputs) - scans]]
        axes = values.get("scan_input_axes", [0] * scans)
        slices, trips = [], 0
        for fact, axis in zip(inputs[len(states) :], axes, strict=True):
            if fact is None or not fact.shape or place.opsets.get("", 0) < 9:
                raise UncountableError(f"{describe(node)} scans a tensor of unknown length; unroll it.")
            axis %= len(fact.shape)
            trips = fact.shape[axis]
            slices.append(Fact(fact.elem_type, fact.shape[:axis] + fact.shape[axis + 1 :]))
        results = self._body(node, body, [*states, *slices], scope, _repeated(node, place, trips))
        outputs = results[len(states) :]
        out_axes = values.get("scan_output_axes", [0] * len(outputs))
        check_fit(node, len(results) >= len(states) and len(out_axes) == len(outputs))
        check_carried(node, states, results[: len(states)])
        return (*states, *(stacked(fact, trips, axis) for fact, axis in zip(outputs, out_axes, strict=True)))

    def _body(
        self, node: onnx.NodeProto, body: onnx.GraphProto, given: list[Fact], scope: Scope, place: _Place
    ) -> list[Fact]:
        check_fit(node, len(given) == len(body.input))
        inputs = {value.name: fact for value, fact in zip(body.input, given, strict=True)}
        return results_of(body, self._graph(body, scope.everything, inputs, place), scope, node)


def _repeated(node: onnx.NodeProto, place: _Place, trips: int) -> _Place:
    """`place` within a body that runs `trips` times."""
    if place.trips * trips > MAX_TRIPS:
        raise UncountableError(
            f"{describe(node)} runs {place.trips * trips:,} times, more than the {MAX_TRIPS:,} that can be followed; "
            "export a flat graph."
        )
    return replace(place, trips=place.trips * trips)
