"""The canonical graph: what ONNX itself says, with polynomials as calls of functions that the file defines."""

from __future__ import annotations

from aurep.exporters.targets.target import ONNX_RUNTIME, Target

TARGET = Target(
    "onnx",
    "the canonical graph, for any ONNX tool",
    functions=True,
    fixed_batch=False,
    loading=ONNX_RUNTIME,
)
