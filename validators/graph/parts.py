"""A graph cut into parts that are run one after the other: what runtimes take to load one grows with its square."""

from __future__ import annotations

import onnx

_BODIES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def parts_of(model: onnx.ModelProto, most: int) -> list[onnx.ModelProto]:
    """Models of `most` nodes of `model` in order, each with the weights that it reads.

    What one makes and a later one reads is an output of the one and an input of the other, of no type. Where nodes run
    graphs of their own, or a result is no node's, there is one part: the whole.
    """
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    nested = any(attribute.type in _BODIES for node in graph.node for attribute in node.attribute)
    if nested or not made.issuperset(value.name for value in graph.output):
        return [model]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    pieces = [nodes[start : start + most] for start in range(0, len(nodes), most)]
    typed = {value.name: value for value in (*graph.input, *graph.output)}
    wanted = {value.name for value in graph.output}
    parts = []
    for piece in reversed(pieces):
        own = dict.fromkeys(name for node in piece for name in node.output if name)
        read = dict.fromkeys(name for node in piece for name in node.input if name and name not in own)
        part = onnx.ModelProto(
            ir_version=max(model.ir_version, 4),  # before that, weights had to be listed as inputs
            opset_import=model.opset_import,
            functions=model.functions,
        )
        part.graph.name = graph.name
        part.graph.node.extend(piece)
        part.graph.initializer.extend(stored[name] for name in read if name in stored)
        part.graph.input.extend(_value(name, typed) for name in read if name not in stored)
        leaving = [name for name in own if name in wanted] or list(own)[-1:]  # dead nodes are run as well
        part.graph.output.extend(_value(name, typed) for name in leaving)
        wanted.update(read)
        parts.append(part)
    return parts[::-1]


def _value(name: str, typed: dict[str, onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    return typed[name] if name in typed else onnx.ValueInfoProto(name=name)
