"""Checks on exported models: what a graph really costs under private inference, and whether it still is the model.

Nothing that an exporter wrote is believed: counts are taken from the graph, masks and coefficients are recovered from
it, accuracy and parity are measured again.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurep.validators.entry import count_relus, inspect, validate
    from aurep.validators.graph.facts import UncountableError
    from aurep.validators.relu_count import ReluCount
    from aurep.validators.report import Check, Report
    from aurep.validators.sandbox.limits import Limits

__all__ = ["Check", "Limits", "ReluCount", "Report", "UncountableError", "count_relus", "inspect", "validate"]

_HOMES = {
    "Check": "report",
    "Limits": "sandbox.limits",
    "ReluCount": "relu_count",
    "Report": "report",
    "UncountableError": "graph.facts",
    "count_relus": "entry",
    "inspect": "entry",
    "validate": "entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aurep.validators' has no attribute {name!r}")
    return getattr(import_module(f"aurep.validators.{_HOMES[name]}"), name)
