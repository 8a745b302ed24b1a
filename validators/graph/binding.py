"""Calls of model-local functions: the opsets they import, and their attributes put in place of references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from aurep.validators.graph.facts import UncountableError
from aurep.validators.graph.infer import STANDARD


def versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Opset version by domain, the standard one under the empty name. Raises UncountableError where ONNX has none."""
    for entry in imports:
        if entry.domain in STANDARD and not 1 <= entry.version <= onnx.defs.onnx_opset_version():
            raise UncountableError(
                f"opset {entry.version} is none that ONNX has, so what its operators do is unknown; export with opset "
                f"{onnx.defs.onnx_opset_version()} or below."
            )
    return {"" if entry.domain in STANDARD else entry.domain: entry.version for entry in imports}


def bound(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """`node` of a function body with the references to the function's attributes resolved."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    bound = onnx.NodeProto()
    bound.CopyFrom(node)
    del bound.attribute[:]
    bound.attribute.extend(_bound_attributes(node, given))
    return bound


def _bound_attributes(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> Iterator[onnx.AttributeProto]:
    for attribute in node.attribute:
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue  # an optional attribute that the call leaves at the operator's default
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
        yield copy
