"""Tensors by name while a graph or a function is walked."""

from __future__ import annotations

import onnx

from aurep.validators.graph.alike import Tensor
from aurep.validators.graph.facts import UncountableError, describe


class Scope:
    """A name means one tensor."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def define(self, name: str, tensor: Tensor) -> None:
        if name in self.tensors:
            raise UncountableError(f"the graph defines the tensor {name!r} twice; export the model again.")
        self.tensors[name] = tensor

    def find(self, name: str, node: onnx.NodeProto) -> Tensor:
        if name not in self.tensors:
            raise UncountableError(
                f"{describe(node)} reads {name!r}, which nothing before it computes; export the model again."
            )
        return self.tensors[name]


def check_fit(node: onnx.NodeProto, fits: bool) -> None:
    if not fits:
        raise UncountableError(f"{describe(node)} does not fit the function it runs; export the model again.")
