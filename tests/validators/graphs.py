"""A small graph builder: text in the ONNX parser's syntax in, a checked model out."""

from __future__ import annotations

from pathlib import Path

import onnx

HEADER = '<ir_version: 8, opset_import: ["" : {opset}, "ai.aurep" : 1, "evil" : 1, "two" : 1]>\n'


def parse(text: str, opset: int = 17) -> onnx.ModelProto:
    """A model from `text`, a graph and its functions; functions may use the domains ai.aurep, evil and two."""
    return onnx.parser.parse_model(HEADER.format(opset=opset) + text)


def body(lines: str, shape: str = "N, 4, 6, 6", opset: int = 17, out: str | None = None) -> onnx.ModelProto:
    """A graph from x (float) to y whose nodes are `lines`."""
    return parse(f"g (float[{shape}] x) => (float[{out or shape}] y) {{ {lines} }}", opset)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
