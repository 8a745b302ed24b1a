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

A protocol's bytes are a linear function of these counts. CrypTen's coefficients follow from its protocols: Beaver's
method opens every factor, 8 bytes from each of two parties; a comparison takes nine rounds. SPU's are fitted to
measurements by `benchmarks/pi_cost.py`, which also says by how much they miss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from aurep.validators.graph.batch import walk_once
from aurep.validators.graph.call import Call
from aurep.validators.graph.costs import comparisons
from aurep.validators.graph.facts import Fact, attributes, site_name

LINEAR = frozenset({"Conv", "Gemm", "MatMul"})
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
Row = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """Bytes on the wire, all parties together, per unit of each count; rounds per node of a kind."""

    name: str
    framework: str
    bytes_per: Mapping[str, float]
    rounds_per: Mapping[str, int] | None = None


PROTOCOLS = (
    Protocol(
        "Beaver",
        "crypten",
        {"compared": 464, "squares": 16, "products": 32, "stored": 16, "inputs": 16, "weights": 16},
        {"compared": 9, "squares": 1, "products": 1, "stored": 1, "weights": 1},
    ),
    # Fitted by benchmarks/pi_cost.py; SEMI2K's are exact on every network tried, ABY3's within 0.1 %.
    Protocol(
        "SEMI2K",
        "spu",
        {"compared": 144, "products": 40, "squares": 40, "scalings": 8, "patches": 16, "weights": 16, "outputs": 8},
    ),
    Protocol("ABY3", "spu", {"compared": 172, "products": 52, "squares": 52, "scalings": 28, "outputs": 52}),
)


def count_work(model: onnx.ModelProto) -> list[tuple[str, Counter[str]]]:
    """(site or layer, counts per image) of every node that costs something, in order. Raises UncountableError."""
    facts, batch = walk_once(model)
    bodies = {(f.domain, f.name): f for f in model.functions}
    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        body = bodies.get((node.domain, node.op_type))
        work = _of_function(node, body, facts) if body is not None else _of_node(node, facts, stored)
        shares = {key: count if key == "weights" else count // batch for key, count in work.items()}
        if any(shares.values()):
            found.append((site_name(node), Counter({key: count for key, count in shares.items() if count})))
    return found


def _of_node(node: onnx.NodeProto, facts: Mapping[str, Fact], stored: Container[str]) -> Counter[str]:
    inputs = [facts.get(name) if name else None for name in node.input]
    outputs = tuple(facts[name] for name in node.output if name in facts)
    computed = [fact for fact in inputs if fact is not None and not fact.constant]
    if not computed or not outputs:
        return Counter()
    elements = outputs[0].elements or 0
    if node.op_type in LINEAR:
        return _linear(node, inputs, outputs[0])
    if node.op_type == "Pow":
        return Counter(squares=elements)
    if node.op_type == "Mul" and len(computed) > 1:
        return Counter(products=elements)
    if node.op_type == "Mul":
        secret = [facts[name].elements or 0 for name in node.input if name in stored]
        return Counter(scalings=elements, stored=elements + sum(secret) if secret else 0)
    if node.op_type in _AVERAGES:
        return Counter(scalings=elements)
    call = Call(node, attributes(node), tuple(inputs), outputs, 17)
    return Counter(compared=comparisons(call))


def _linear(node: onnx.NodeProto, inputs: Sequence[Fact | None], output: Fact) -> Counter[str]:
    x, weight = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is None or weight is None or weight.shape is None or not weight.constant:
        return Counter(products=(output.elements or 0))
    patches = x.elements or 0
    if node.op_type == "Conv":
        group = attributes(node).get("group", 1)
        positions = (output.elements or 0) // weight.shape[0]
        patches = positions * prod(weight.shape[1:]) * group
    return Counter(inputs=x.elements or 0, patches=patches, weights=weight.elements or 0, outputs=output.elements or 0)


def _of_function(node: onnx.NodeProto, body: onnx.FunctionProto, facts: Mapping[str, Fact]) -> Counter[str]:
    """A call of a polynomial: the products in its body, at every element."""
    computed = {
        inner
        for inner, outer in zip(body.input, node.input, strict=False)
        if outer in facts and not facts[outer].constant
    }
    elements = facts[node.output[0]].elements or 0
    work: Counter[str] = Counter()
    for step in body.node:
        factors = sum(name in computed for name in step.input)
        if factors:
            computed.update(step.output)
        if step.op_type == "Mul" and factors:
            work["products" if factors > 1 else "scalings"] += elements
    return work


def estimate(work: Sequence[tuple[str, Mapping[str, int]]]) -> list[Row]:
    """Per protocol: `bytes` of one image, `weight_opening` in them, `rounds` where they are known, and `sites`."""
    rows = []
    for protocol in PROTOCOLS:
        sites: Counter[str] = Counter()
        opening = 0.0
        for name, counts in work:
            sites[name] += round(sum(protocol.bytes_per.get(key, 0) * count for key, count in counts.items()))
            opening += protocol.bytes_per.get("weights", 0) * counts.get("weights", 0)
        rounds = None
        if protocol.rounds_per is not None:
            rounds = sum(protocol.rounds_per.get(key, 0) for _, counts in work for key in counts)
        rows.append(
            {
                "framework": protocol.framework,
                "protocol": protocol.name,
                "bytes": sum(sites.values()),
                "weight_opening": round(opening),
                "rounds": rounds,
                "sites": dict(sites),
            }
        )
    return rows
