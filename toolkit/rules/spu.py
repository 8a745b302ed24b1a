"""What SPU takes by way of JAX: the operators that both jaxonnxruntime 0.3.0 and aurep's own party translate."""

from __future__ import annotations

from collections.abc import Iterator

from aurep.rules.common import unknown_operators
from aurep.rules.fault import Call, Fault, Graph, Rule, apply, operators

KNOWN = operators(
    "Add Sub Mul Div Neg Pow Max Relu Clip Sigmoid Constant Conv Gemm MatMul AveragePool GlobalAveragePool MaxPool "
    "ReduceMean Flatten Reshape Transpose Squeeze Unsqueeze Slice Split Pad Concat Gather Identity BatchNormalization"
)
_SPOKEN = {
    "Reshape": (1,),
    "Pow": (1,),
    "Gather": (1,),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Pad": (1,),
}


def faults(graph: Graph) -> Iterator[Fault]:
    yield from unknown_operators(graph, KNOWN, "spu")
    yield from apply(_RULES, graph)


def _computed_parameter(call: Call) -> bool:
    """Under SPU what is computed is secret, and a program's shapes and indices must be public."""
    return any(call.name(slot) and call.known(slot) is None for slot in _SPOKEN.get(call.op, ()))


def _fractional_power(call: Call) -> bool:
    exponent = call.known(1) if call.op == "Pow" else None
    return exponent is not None and (exponent.size != 1 or float(exponent.reshape(-1)[0]) not in range(1, 17))


def _padded_by_name(call: Call) -> bool:
    return call.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or bool(call.attributes.get("ceil_mode", 0))


_RULES: tuple[Rule, ...] = (
    (
        "computed-parameter",
        _computed_parameter,
        "takes a shape, an index or an exponent from computed values, which are secret",
        "make it a constant",
    ),
    ("whole-power", _fractional_power, "raises to no whole number from 1 to 16", "write it as products"),
    ("explicit-pads", _padded_by_name, "leaves its padding to auto_pad or ceil_mode", "write the pads out"),
)
