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
from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from aurep.frameworks import FRAMEWORKS, Protocol
from aurep.frameworks.framework import Unit
from aurep.operators import LINEAR, PRODUCTS, depth, operators
from aurep.validators.graph.batch import UNFIXED, fixed_batch, walk_at
from aurep.validators.graph.call import Call
from aurep.validators.graph.facts import Fact, site_name
from aurep.validators.graph.walk import Visit

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


def count_work(model: onnx.ModelProto) -> Work:
    """Raises UncountableError."""
    batch = fixed_batch(model) or UNFIXED
    walk, _ = walk_at(model, batch)
    stored = {tensor.name for tensor in model.graph.initializer}
    nodes = []
    products, compared = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for visit in walk.visits:
        outermost = visit.outermost
        inside = visit.call.node is not outermost
        work = _of_visit(visit, () if inside else stored)
        shares: Counts = Counter({key: n if key == "weights" else n // batch for key, n in work.items()})
        if any(shares.values()):
            nodes.append((site_name(outermost), +shares))
        products[tuple(outermost.output)] += visit.call.node.op_type in PRODUCTS
        compared[tuple(outermost.output)] += visit.compared > 0
    return Work(
        tuple(nodes),
        depth(model.graph, lambda node: products[tuple(node.output)]),
        depth(model.graph, lambda node: compared[tuple(node.output)]),
    )


def _of_visit(visit: Visit, stored: Container[str]) -> Counts:
    if visit.compared or not visit.call.outputs:
        return Counts({"compared": visit.compared})
    return _multiplied(visit.call, stored)


def _multiplied(call: Call, stored: Container[str]) -> Counts:
    """`stored`: names that stand for initializers where the call is."""
    node, elements = call.node, call.outputs[0].elements or 0
    if node.op_type in LINEAR:
        return _linear(call, call.outputs[0])
    if node.op_type == "Pow":
        return Counts({"squares": elements})
    if node.op_type == "Mul" and not any(fact is not None and fact.constant for fact in call.inputs):
        return Counts({"products": elements})
    if node.op_type == "Mul":
        factors = zip(node.input, call.inputs, strict=True)
        secret = [fact.elements or 0 for name, fact in factors if fact is not None and name in stored]
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
