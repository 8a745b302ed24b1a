"""HElayers (pyhelayers 1.5.5.4, CKKS in SEAL): no comparison, few levels, its importer's own forms.

Levels. A ciphertext stands a limited number of products one after the other. HElayers plans one level for every
product on the longest path (linear layers, squares, coefficients; means over windows are free) and one more; SEAL has
21 at 128 bits of security. Breaking a form may abort the process without a word, so each is checked before.
"""

from __future__ import annotations

from collections.abc import Iterator

from aurep.frameworks.common import unknown_operators
from aurep.frameworks.fault import Call, Fault, Graph, Rule, apply
from aurep.frameworks.framework import PAIR, Framework, Parties, Protocol
from aurep.operators import LINEAR, PRODUCTS, depth, operators

LEVELS = 21
KNOWN = operators("Add Sub Mul Pow Constant Flatten Reshape Gemm MatMul Conv AveragePool ReduceMean BatchNormalization")
_COMPARING = operators("Relu MaxPool GlobalMaxPool Max Min Clip LeakyRelu PRelu Abs Sign HardSigmoid HardSwish Sigmoid")


def faults(graph: Graph) -> Iterator[Fault]:
    """Comparisons alone where there are any: what surrounds a ReLU goes with it."""
    found = list(_comparisons(graph))
    if found:
        yield from found
        return
    yield from unknown_operators(graph, KNOWN, "helayers")
    yield from apply(_RULES, graph)
    needed = levels(graph)
    if needed > LEVELS:
        yield Fault(
            "too-deep",
            "the network",
            f"needs {needed} multiplicative levels, and HElayers with SEAL has {LEVELS}",
            "use fewer layers, or polynomials of degree 1",
        )


def levels(graph: Graph) -> int:
    """Multiplicative levels that HElayers plans for the graph: products on the longest path, and one."""
    return 1 + depth(graph.model.graph, lambda node: node.op_type in PRODUCTS)


def _comparisons(graph: Graph) -> Iterator[Fault]:
    for call in graph.calls:
        if call.op in _COMPARING and not call.node.domain:
            yield Fault("comparison", call.where, "compares", _without(call.op))


def _without(op: str) -> str:
    if op == "MaxPool":
        return "prepare the model with maxpool='avg'"
    return "search with budget 0, so that every activation is a polynomial" if op == "Relu" else "replace it"


def _loose_weight(call: Call) -> bool:
    return call.op in LINEAR and call.name(1) not in call.graph.initializers


def _no_kernel(call: Call) -> bool:
    return call.op == "Conv" and "kernel_shape" not in call.attributes


def _several_axes(call: Call) -> bool:
    import numpy as np

    if call.op != "ReduceMean":
        return False
    axes = call.attributes.get("axes", call.known(1))
    return axes is None or np.size(axes) != 1


def _ranked_exponent(call: Call) -> bool:
    exponent = call.known(1) if call.op == "Pow" else None
    return call.op == "Pow" and (exponent is None or exponent.ndim != 0)


def _batched_coefficient(call: Call) -> bool:
    """[C, 1, 1] is taken, [1, C, 1, 1] aborts the process."""
    if call.op not in ("Mul", "Add", "Sub"):
        return False
    known = [value for value in (call.known(0), call.known(1)) if value is not None]
    return any(value.ndim == 4 for value in known)


_RULES: tuple[Rule, ...] = (
    ("weight-initializer", _loose_weight, "has a weight that is no initializer", "store the weight as an initializer"),
    ("kernel-shape", _no_kernel, "does not say its kernel_shape", "write the attribute out"),
    ("one-axis", _several_axes, "averages over several axes", "use AveragePool of the full size"),
    ("scalar-exponent", _ranked_exponent, "has an exponent that is no constant of rank 0", "make it a scalar"),
    (
        "coefficient-shape",
        _batched_coefficient,
        "has a coefficient of rank 4, which aborts HElayers",
        "store it as [C, 1, 1]",
    ),
)

FRAMEWORK = Framework(
    "helayers",
    opsets=(9, 21),
    faults=faults,
    protocols=(Protocol("CKKS", PAIR),),
    parties=Parties(
        requirements=("pyhelayers==1.5.5.4", "numpy==2.4.6"),
        pythons=(11, 12, 13),
        modules=("pyhelayers",),
    ),
)
