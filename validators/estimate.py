"""What one private inference will send, estimated from the graph: counts times what each protocol was measured to cost.

Counts, per image (weights: per inference, whatever its batch):

    compared     elements that a comparison protocol runs on (ReLU, and what else compares)
    squares      elements squared: x^p by one masked value
    products     elements of a product of two computed values, as in Horner's form
    scalings     elements times a public factor: local, but fixed point is truncated after it
    stored       of these, elements and factors where the factor is an initializer, which CrypTen takes for a secret
    inputs, patches, weights, outputs
                 of convolutions and matrix products with secret weights: input elements; the same laid out as the
                 matrix that a product runs on (each input once per window it lies in); weight elements; output
                 elements

A protocol's bytes are a linear function of these counts, with the coefficients that its framework's file gives
(`aurep.frameworks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from aurep.frameworks import FRAMEWORKS, Protocol
from aurep.frameworks.framework import Unit
from aurep.operators import LINEAR, PRODUCTS, depth, operators
from aurep.validators.graph.batch import Walks
from aurep.validators.graph.call import Call
from aurep.validators.graph.facts import Fact, site_name

_AVERAGES = operators("AveragePool GlobalAveragePool ReduceMean")
Counts = Counter[Unit]
Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a graph costs.

    Attributes:
        nodes: (site or layer, counts per image) of every evaluation that costs something, in order.
        depth: products, linear layers included, on the path that has most.
        compared_depth: comparisons on the path that has most.
    """

    nodes: tuple[tuple[str, Counts], ...]
    depth: int
    compared_depth: int

    @property
    def counts(self) -> Counts:
        return sum((counts for _, counts in self.nodes), Counts())


def count_work(given: onnx.ModelProto | Walks) -> Work:
    """Raises UncountableError."""
    walks = Walks.of(given)
    graph, at = walks.model.graph, walks.at
    stored = {tensor.name for tensor in graph.initializer}
    nodes = []
    products, compared = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    known: dict[tuple[int, tuple[bool, ...]], Counts] = {}
    for visit in walks.walk().visits:
        node, outermost, found = visit.node, visit.outermost, visit.found
        secret = () if node is not outermost else tuple(name in stored for name in node.input)
        key = id(found), secret
        if key not in known:
            counts = _of_call(visit.call(at), found.elements[at], secret)
            known[key] = +Counts({key: n if key == "weights" else n // walks.batch for key, n in counts.items()})
        if known[key]:
            nodes.append((site_name(outermost), known[key]))
        if node.op_type in PRODUCTS:
            products[tuple(outermost.output)] += 1
        if found.elements[at]:
            compared[tuple(outermost.output)] += 1
    return Work(
        tuple(nodes),
        depth(graph, lambda node: products[tuple(node.output)]),
        depth(graph, lambda node: compared[tuple(node.output)]),
    )


def _of_call(call: Call, compared: int, stored: Sequence[bool]) -> Counts:
    """`stored`: per input whether it is an initializer; none where the call is not the main graph's."""
    if compared or not call.outputs:
        return Counts({"compared": compared})
    node, elements = call.node, call.outputs[0].elements or 0
    if node.op_type in LINEAR:
        return _linear(call, call.outputs[0])
    if node.op_type == "Pow":
        return Counts({"squares": elements})
    if node.op_type == "Mul" and not any(fact is not None and fact.constant for fact in call.inputs):
        return Counts({"products": elements})
    if node.op_type == "Mul":
        factors = zip(stored, call.inputs, strict=False)
        secret = [fact.elements or 0 for is_stored, fact in factors if fact is not None and is_stored]
        return Counts({"scalings": elements, "stored": elements + sum(secret) if secret else 0})
    return Counts({"scalings": elements} if node.op_type in _AVERAGES else {})


def _linear(call: Call, output: Fact) -> Counts:
    x, weight = call.given(0), call.given(1)
    elements = output.elements or 0
    if x is None or weight is None or weight.shape is None or not weight.constant:
        return Counts({"products": elements})
    inputs = patches = x.elements or 0
    if call.node.op_type == "Conv":
        positions = elements // weight.shape[0]
        patches = positions * prod(weight.shape[1:]) * call.attributes.get("group", 1)
    return Counts({"inputs": inputs, "patches": patches, "weights": weight.elements or 0, "outputs": elements})


def estimate(work: Work) -> list[Row]:
    """Per protocol: `bytes` of one image, `weight_opening` in them, `rounds` where they are known, and `sites`."""
    return [
        {"framework": framework.name, **estimate_protocol(protocol, work.nodes)}
        for framework in FRAMEWORKS.values()
        for protocol in framework.protocols
        if protocol.bytes_per is not None
    ]


def estimate_protocol(protocol: Protocol, nodes: Sequence[tuple[str, Counts]]) -> Row:
    """`bytes`, `weight_opening`, `rounds` and bytes per site of `nodes`, as in `Work`."""
    per = protocol.bytes_per or {}
    sites: Counter[str] = Counter()
    for name, counts in nodes:
        sites[name] += round(sum(per.get(key, 0) * count for key, count in counts.items()))
    rounds = None
    if protocol.rounds_per is not None:
        rounds = sum(protocol.rounds_per.get(key, 0) for _, counts in nodes for key in counts)
    return {
        "protocol": protocol.name,
        "bytes": sum(sites.values()),
        "weight_opening": round(sum(per.get("weights", 0) * counts["weights"] for _, counts in nodes)),
        "rounds": rounds,
        "sites": dict(sites),
    }
