"""ONNX Runtime, for plain serving: one maximum over a whole site is what it runs fastest."""

from __future__ import annotations

from aurep.frameworks.framework import Framework

FRAMEWORK = Framework("onnxruntime", functions=True, fixed_batch=False, compares_everywhere=True, pushes=True)
