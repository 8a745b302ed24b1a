"""The canonical graph: what ONNX itself says, with polynomials as calls of functions that the file defines."""

from __future__ import annotations

from aurep.exporters.targets.target import ONNX_RUNTIME, Target
from aurep.frameworks.onnx import FRAMEWORK

TARGET = Target(
    FRAMEWORK,
    "the canonical graph, for any ONNX tool",
    functions=True,
    loading=ONNX_RUNTIME,
)
