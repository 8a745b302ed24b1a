"""Rules of every framework, and the one that holds for any file."""

from __future__ import annotations

from collections.abc import Iterator

from aurep.frameworks.fault import Fault, Graph, Rule, apply

_STANDARD = ("", "ai.onnx")


def faults(graph: Graph) -> Iterator[Fault]:
    """Besides a framework's own rules."""
    for value in graph.model.graph.input:
        sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in value.type.tensor_type.shape.dim]
        if value.name not in graph.initializers and (not sizes or min(sizes) < 1):
            yield Fault(
                "fixed-shape",
                f"input {value.name!r}",
                "has no fixed shape",
                "export with a number as its batch, and static sizes",
            )
    yield from apply(_RULES, graph)


def custom_operators(graph: Graph) -> Iterator[Fault]:
    """Operators that neither ONNX nor the file itself defines."""
    defined = {(function.domain, function.name) for function in graph.model.functions}
    for call in graph.calls:
        if call.node.domain not in _STANDARD and (call.node.domain, call.op) not in defined:
            yield Fault(
                "custom-operator",
                call.where,
                "is a custom operator",
                "use operators of torch that ONNX has, or define it in the file",
            )


def unknown_operators(graph: Graph, known: frozenset[str], framework: str) -> Iterator[Fault]:
    """Operators that the framework's importer lacks, and calls of functions, which none of the importers inlines."""
    defined = {(function.domain, function.name) for function in graph.model.functions}
    for call in graph.calls:
        if (call.node.domain, call.op) in defined:
            yield Fault(
                "function-call", call.where, "is a function call", "write its body out, at the place of the call"
            )
        elif call.node.domain not in _STANDARD:
            yield Fault("custom-operator", call.where, "is a custom operator", "use operators of torch that ONNX has")
        elif call.op not in known:
            yield Fault(
                "unknown-operator",
                call.where,
                f"is an operator that {framework} does not know",
                "rewrite that part of the model",
            )


_RULES: tuple[Rule, ...] = (
    (
        "batch-norm",
        lambda call: call.op == "BatchNormalization",
        "is not folded",
        "fold it into the convolution before it, as `aurep export` does",
    ),
    (
        "node-metadata",
        lambda call: bool(call.node.metadata_props),
        "carries metadata of its own, which may leak paths",
        "remove its metadata_props",
    ),
)
