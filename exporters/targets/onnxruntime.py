"""ONNX Runtime: one Max for a whole site, which it runs faster than any other form."""

from __future__ import annotations

from aurep.exporters.targets.target import ONNX_RUNTIME, Target
from aurep.frameworks.onnxruntime import FRAMEWORK

TARGET = Target(
    FRAMEWORK,
    "the fastest plain serving, for testing and for comparison; not for private inference",
    form="max",
    note="Every element of a site with kept elements passes through a Max, so this form saves nothing under "
    "private inference; export for `onnx`, `crypten` or `spu` for that.",
    loading=ONNX_RUNTIME,
)
