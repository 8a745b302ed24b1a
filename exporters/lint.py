"""The framework's rules (`aurep.frameworks`), checked on the graph that is about to be written."""

from __future__ import annotations

import onnx

from aurep.errors import AurepError
from aurep.exporters.site import DOMAIN
from aurep.exporters.targets import Target
from aurep.frameworks import find_faults

_SHOWN = 3


def lint(model: onnx.ModelProto, target: Target) -> None:
    """Raise AurepError, naming the first violations, unless `model` obeys the rules of `target`."""
    found = [str(fault) for fault in find_faults(model, target.name)]
    if not target.functions and any(node.domain == DOMAIN for node in model.graph.node):
        found.append("functions are called; write them out [function-call]")
    if found:
        more = f" (and {len(found) - _SHOWN} more)" if len(found) > _SHOWN else ""
        raise AurepError(f"target {target.name} cannot take this model: {'; '.join(found[:_SHOWN])}{more}.")
