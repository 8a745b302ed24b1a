"""SecretFlow SPU, which runs JAX programs."""

from __future__ import annotations

from aurep.exporters.targets.target import Target
from aurep.frameworks.spu import FRAMEWORK

_LOADING = """\
import onnx, onnx_to_jax  # aurep/handoff/parties/onnx_to_jax.py; it needs JAX and onnx only
graph = onnx.load("model.onnx").graph
secret = onnx_to_jax.secret_names(graph)  # the weights; onnx_to_jax.evaluate(graph, values) is the function
# compile it with spu.utils.frontend.compile(Kind.JAX, ...), one process per party: `aurep handoff` does"""

TARGET = Target(FRAMEWORK, "SecretFlow SPU, by way of JAX", loading=_LOADING)
