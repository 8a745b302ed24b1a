"""PyTorch -> ONNX that a private-inference framework runs cheaper.

The way of a model: `capture` (torch's exporter) -> `passes` (graph surgery, one file each) -> `lint` (the target's
rules) -> `claims` (metadata, stamped last) -> `parity` (against the eager module) -> `bundle` (the folder handed over).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurep.exporters.pipeline import export
    from aurep.exporters.runs import export_run
    from aurep.exporters.targets import TARGETS, Target, find_target

__all__ = ["TARGETS", "Target", "export", "export_run", "find_target"]

_HOMES = {
    "TARGETS": "targets",
    "Target": "targets",
    "export": "pipeline",
    "export_run": "runs",
    "find_target": "targets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aurep.exporters' has no attribute {name!r}")
    return getattr(import_module(f"aurep.exporters.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
