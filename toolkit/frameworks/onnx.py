"""The canonical graph: exactly what the exporter writes, for any ONNX tool."""

from __future__ import annotations

from aurep.frameworks.framework import Framework

FRAMEWORK = Framework("onnx", opsets=(17, 17), ir_versions=(8, 8), functions=True, fixed_batch=False)
