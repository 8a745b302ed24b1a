"""Tensors by name while a graph is walked, and what a body may take in and give back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx

from aurep.validators.graph.facts import UNKNOWN, Fact, UncountableError, describe


class Scope:
    """Facts by name; a name means one tensor, here and in what encloses it."""

    def __init__(self, outer: Mapping[str, Fact]) -> None:
        self.outer = outer
        self.facts: dict[str, Fact] = {}

    @property
    def everything(self) -> dict[str, Fact]:
        return {**self.outer, **self.facts}

    def define(self, name: str, fact: Fact) -> None:
        if name in self.facts or name in self.outer:
            raise UncountableError(f"the graph defines the tensor {name!r} twice; export the model again.")
        self.facts[name] = fact

    def find(self, name: str, node: onnx.NodeProto) -> Fact:
        fact = self.facts.get(name) or self.outer.get(name)
        if fact is None:
            raise UncountableError(
                f"{describe(node)} reads {name!r}, which nothing before it computes; export the model again."
            )
        return fact


def results_of(body: onnx.GraphProto, facts: Mapping[str, Fact], scope: Scope, node: onnx.NodeProto) -> list[Fact]:
    return [facts[value.name] if value.name in facts else scope.find(value.name, node) for value in body.output]


def check_fit(node: onnx.NodeProto, fits: bool) -> None:
    if not fits:
        raise UncountableError(f"{describe(node)} does not fit the body or function it runs; export the model again.")


def either(a: Fact, b: Fact, fixed: bool) -> Fact:
    shape = a.shape if a.shape == b.shape else None
    return Fact(a.elem_type if a.elem_type == b.elem_type else 0, shape, fixed and a.constant and b.constant)


def stacked(fact: Fact, trips: int, axis: int) -> Fact:
    if fact.shape is None:
        return Fact(fact.elem_type, None)
    place = axis % (len(fact.shape) + 1)
    return Fact(fact.elem_type, (*fact.shape[:place], trips, *fact.shape[place:]))


def as_carried(fact: Fact | None) -> Fact:
    """What a body may assume of a value that it changes from trip to trip: type and shape."""
    return replace(fact or UNKNOWN, constant=False, data=None, uniform=False, rows=False)


def check_carried(node: onnx.NodeProto, before: Iterable[Fact], after: Iterable[Fact]) -> None:
    for a, b in zip(before, after, strict=True):
        if a.shape is None or a.shape != b.shape:
            raise UncountableError(
                f"{describe(node)} changes the shape of what it carries, so its cost is unknown; unroll it."
            )
