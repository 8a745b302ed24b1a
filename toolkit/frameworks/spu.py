"""SecretFlow SPU 0.9.5, which runs JAX programs: two or three parties.

It takes the operators that both jaxonnxruntime 0.3.0 and aurep's own party translate to JAX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aurep.frameworks.common import unknown_operators
from aurep.frameworks.fault import Call, Fault, Graph, Rule, apply
from aurep.frameworks.framework import PAIR, FixedPoint, Framework, Parties, Protocol
from aurep.operators import operators

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

_OPERATOR = re.compile(
    r"- (?P<op>[\w.]+), executed (?P<times>\d+) times, duration \S+, send bytes (?P<sent>\d+) recv bytes \d+, "
    r"send actions (?P<actions>\d+)"
)
_LINK = re.compile(r"Link details: total send bytes (?P<sent>\d+), recv bytes \d+, send actions (?P<actions>\d+)")


def read_log(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(one entry of `bytes_sent` and `rounds` a run, what each operator sent in the first run).

    SPU logs this after every run of a program with its profile switched on:

        ... - pphlo.less, executed 3 times, duration 0.04s, send bytes 258048 recv bytes 258048, send actions 21, ...
        ... Link details: total send bytes 601544, recv bytes 601544, send actions 33, recv actions 33
    """
    runs = [{"bytes_sent": int(m["sent"]), "rounds": int(m["actions"])} for m in _LINK.finditer(text)]
    first = text.split("Link details", 1)[0]
    operators = [
        {"op": m["op"], "times": int(m["times"]), "bytes_sent": int(m["sent"]), "rounds": int(m["actions"])}
        for m in _OPERATOR.finditer(first)
        if int(m["sent"])
    ]
    return runs, operators


# Fitted to measurements by benchmarks/pi_cost.py; SEMI2K's are exact on every network tried, ABY3's within 0.1 %.
# CHEETAH packs its ciphertexts, so that its bytes grow in steps.
_SEMI2K = Protocol(
    "SEMI2K",
    PAIR,
    opens_weights=True,
    bytes_per={
        "compared": 144,
        "products": 40,
        "squares": 40,
        "scalings": 8,
        "patches": 16,
        "weights": 16,
        "outputs": 8,
    },
)
_ABY3 = Protocol(
    "ABY3",
    (*PAIR, "helper"),
    bytes_per={"compared": 172, "products": 52, "squares": 52, "scalings": 28, "outputs": 52},
)

FRAMEWORK = Framework(
    "spu",
    opsets=(11, 21),
    faults=faults,
    fixed_point=FixedPoint(64, 18),
    protocols=(_SEMI2K, _ABY3, Protocol("CHEETAH", PAIR)),
    parties=Parties(
        requirements=(
            "spu==0.9.5",
            "jax==0.4.34",
            "jaxlib==0.4.34",
            "numpy==1.26.4",
            "onnx==1.23.2",
            "protobuf==7.36.2",
        ),
        pythons=(10, 11),
        modules=("spu", "jax", "onnx"),
        rounds="messages sent one after the other by one party, at most",
        read_log=read_log,
    ),
)
