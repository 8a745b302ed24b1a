"""The model-local functions of the canonical graph, and the same arithmetic written out.

    ai.aurep::Polynomial(x, c2, c1, c0) = (x c2 + c1) x + c0        one product of two computed values
    ai.aurep::Affine(x, c1, c0)         = x c1 + c0                 none

Constants stand second in Mul: CrypTen takes them only there. It also gets x^2 as a square: x (c2 x + c1) would open
both factors, 32 bytes an element on the wire instead of 16. Fixed point has no trouble with x^2 alone; floats of half
precision would, so that nobody else gets that form.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from aurep.exporters.graph import Builder
from aurep.exporters.site import DOMAIN, Site
from aurep.exporters.targets import Target

FUNCTION_OF_DEGREE = {1: "Affine", 2: "Polynomial"}


def add_polynomial(builder: Builder, x: gs.Tensor, site: Site, target: Target) -> gs.Tensor:
    """p(x) at every element, as the nodes that the target takes; x itself at degree 0."""
    if site.degree == 0:
        return x
    columns = site.columns()
    constants = [builder.constant(f"c{k}", columns[k]) for k in reversed(range(len(columns)))]
    if target.functions:
        function = FUNCTION_OF_DEGREE[site.degree]
        return builder.add(function, x, *constants, label="Polynomial", domain=DOMAIN)
    if target.square and site.degree == 2:
        return _add_square(builder, x, constants)
    return add_horner(builder, x, constants, "Polynomial/")


def _add_square(builder: Builder, x: gs.Tensor, constants: list[gs.Tensor]) -> gs.Tensor:
    """c2 x^2 + c1 x + c0, one square and no other product of computed values."""
    two = builder.constant("two", np.array(2.0, dtype=np.float32))
    square = builder.add("Pow", x, two, label="Polynomial/Square")
    value = builder.add("Mul", square, constants[0], label="Polynomial/Mul_c2")
    linear = builder.add("Mul", x, constants[1], label="Polynomial/Mul_c1")
    value = builder.add("Add", value, linear, label="Polynomial/Add")
    return builder.add("Add", value, constants[2], label="Polynomial/Add_c0")


def add_horner(builder: Builder, x: gs.Tensor, constants: list[gs.Tensor], prefix: str = "") -> gs.Tensor:
    """((c_d x + c_{d-1}) x + ...) + c0 for `constants` in descending order, at least two."""
    degree = len(constants) - 1
    value = builder.add("Mul", x, constants[0], label=f"{prefix}Mul_c{degree}")
    value = builder.add("Add", value, constants[1], label=f"{prefix}Add_c{degree - 1}")
    if degree == 2:
        value = builder.add("Mul", value, x, label=f"{prefix}Mul_x")
        value = builder.add("Add", value, constants[2], label=f"{prefix}Add_c0")
    return value


def functions_used(model: onnx.ModelProto, opset: int) -> list[onnx.FunctionProto]:
    """Definitions of the aurep functions that the graph calls, in a fixed order."""
    called = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    return [_definition(degree, opset) for degree, name in FUNCTION_OF_DEGREE.items() if name in called]


def _definition(degree: int, opset: int) -> onnx.FunctionProto:
    last = "y" if degree == 1 else "slope"
    body = [
        helper.make_node("Mul", ["x", f"c{degree}"], ["scaled"]),
        helper.make_node("Add", ["scaled", f"c{degree - 1}"], [last]),
    ]
    if degree == 2:
        body.append(helper.make_node("Mul", ["slope", "x"], ["product"]))
        body.append(helper.make_node("Add", ["product", "c0"], ["y"]))
    inputs = ["x", *(f"c{k}" for k in reversed(range(degree + 1)))]
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, FUNCTION_OF_DEGREE[degree], inputs, ["y"], body, opsets)
