"""Tensors by name while a graph or a function is walked."""

from __future__ import annotations

import onnx

from aurep.validators.graph.facts import Fact, UncountableError, describe


class Scope:
    """Facts by name; a name means one tensor."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}

    def define(self, name: str, fact: Fact) -> None:
        if name in self.facts:
            raise UncountableError(f"the graph defines the tensor {name!r} twice; export the model again.")
        self.facts[name] = fact

    def find(self, name: str, node: onnx.NodeProto) -> Fact:
        if name not in self.facts:
            raise UncountableError(
                f"{describe(node)} reads {name!r}, which nothing before it computes; export the model again."
            )
        return self.facts[name]


def check_fit(node: onnx.NodeProto, fits: bool) -> None:
    if not fits:
        raise UncountableError(f"{describe(node)} does not fit the function it runs; export the model again.")
