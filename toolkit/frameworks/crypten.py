"""CrypTen 0.4.1: two parties, secret sharing, products by Beaver's method.

Its importer encrypts every initializer and leaves the values of Constant nodes public, as float32 tensors. The rules
are what it lacks or gets wrong, often silently or with an error far from its cause.
"""

from __future__ import annotations

from collections.abc import Iterator

from aurep.frameworks.common import unknown_operators
from aurep.frameworks.fault import Call, Fault, Graph, Rule, apply
from aurep.frameworks.framework import PAIR, FixedPoint, Framework, Parties, Protocol
from aurep.operators import operators

_FLOAT = 1  # TensorProto.FLOAT
_EXACT_IN_FLOAT32 = 2**24  # constants become float32 tensors, so larger indices are rounded

# As the importer resolves operator names, less those that it takes wrongly: Pad reads its pads in torch's order,
# ReduceSum and Squeeze want their axes as an attribute.
KNOWN = operators(
    "Add Sub Mul Div Pow Sqrt Exp Erf Transpose Unsqueeze Slice Expand Constant ConstantOfShape Flatten Concat "
    "Reshape Dropout Gather Gemm MatMul Conv Relu Clip Sigmoid Softmax LogSoftmax MaxPool AveragePool "
    "GlobalAveragePool BatchNormalization ReduceMean"
)
_NEEDED = {
    "Conv": ("kernel_shape", "strides", "pads", "dilations", "group"),
    "Gemm": ("alpha", "beta"),
    "AveragePool": ("kernel_shape", "strides"),
    "MaxPool": ("kernel_shape", "strides"),
    "Transpose": ("perm",),
    "Concat": ("axis",),
}
_SPOKEN = {"Reshape": (1,), "Pow": (1,), "Clip": (1, 2), "Gather": (1,), "Slice": (1, 2, 3, 4), "Expand": (1,)}


def faults(graph: Graph) -> Iterator[Fault]:
    yield from unknown_operators(graph, KNOWN, "crypten")
    for name, tensor in graph.initializers.items():
        if tensor.data_type != _FLOAT:
            yield Fault(
                "encrypted-integer",
                f"initializer {name!r}",
                "is not float32 and would be encrypted",
                "make it a Constant node",
            )
    yield from apply(_RULES, graph)


def _input_twice(call: Call) -> bool:
    given = [name for name in call.node.input if name]
    return len(set(given)) != len(given)


def _constant_first(call: Call) -> bool:
    return call.op in ("Mul", "Sub", "Div", "Add") and call.constant(0).size > 0


def _joins_a_constant(call: Call) -> bool:
    return call.op == "Concat" and any(name in call.graph.constants for name in call.node.input)


def _secret_parameter(call: Call) -> bool:
    """Float initializers only: those of integers break another rule."""
    names = (call.name(slot) for slot in _SPOKEN.get(call.op, ()))
    stored = (call.graph.initializers[name] for name in names if name in call.graph.initializers)
    return any(tensor.data_type == _FLOAT for tensor in stored)


def _valueless(call: Call) -> bool:
    return call.op == "Constant" and not any(a.name == "value" and a.HasField("t") for a in call.node.attribute)


def _implicit(call: Call) -> bool:
    needed = (name for name in _NEEDED.get(call.op, ()) if name not in call.attributes)
    return any(needed) or call.attributes.get("auto_pad", b"NOTSET") != b"NOTSET"


def _uneven(call: Call) -> bool:
    """One number is taken for all four pads; of a pool, one for both kernel sizes and strides as well."""
    keys = {"Conv": ("pads",)}.get(call.op, ("pads", "kernel_shape", "strides"))
    windowed = call.op in ("Conv", "MaxPool", "AveragePool")
    return windowed and any(len(set(call.attributes.get(key, ()))) > 1 for key in keys)


def _dilated_pool(call: Call) -> bool:
    return call.op == "MaxPool" and any(step != 1 for step in call.attributes.get("dilations", ()))


def _pads_left_out(call: Call) -> bool:
    pool = call.op == "AveragePool" and any(call.attributes.get("pads", ()))
    return pool and not call.attributes.get("count_include_pad", 0)


def _axes_as_input(call: Call) -> bool:
    return call.op == "ReduceMean" and "axes" not in call.attributes


def _zero_in_shape(call: Call) -> bool:
    return call.op == "Reshape" and 0 in call.constant(1)


def _large_index(call: Call) -> bool:
    return call.op == "Gather" and bool(call.constant(1).max(initial=0) >= _EXACT_IN_FLOAT32)


def _open_slice(call: Call) -> bool:
    if call.op != "Slice":
        return False
    bounds = [*call.constant(1).tolist(), *call.constant(2).tolist()]
    steps = call.constant(4)
    return any(not 0 <= bound < _EXACT_IN_FLOAT32 for bound in bounds) or bool((steps != 1).any())


def _half_clip(call: Call) -> bool:
    return call.op == "Clip" and not (call.constant(1).size and call.constant(2).size)


def _no_bias(call: Call) -> bool:
    return call.op == "Gemm" and not call.name(2)


_RULES: tuple[Rule, ...] = (
    ("input-twice", _input_twice, "reads one input twice", "write x + x as 2 * x and x * x as a power"),
    ("constant-first", _constant_first, "has its constant first", "swap the factors, or add the negative"),
    ("concat-constant", _joins_a_constant, "joins a constant", "pad the tensor in another way"),
    (
        "secret-parameter",
        _secret_parameter,
        "takes an exponent, bound or shape from an initializer, which is encrypted",
        "make it a Constant node",
    ),
    ("constant-value", _valueless, "holds no tensor in its attribute `value`", "write the value as a tensor"),
    (
        "explicit-attributes",
        _implicit,
        "leaves attributes to their defaults or to auto_pad, which CrypTen does not know",
        "write strides, pads, dilations, group, kernel_shape, alpha, beta, perm out",
    ),
    (
        "uneven-window",
        _uneven,
        "has uneven pads, kernel or strides, which CrypTen gets silently wrong",
        "use the same along both axes",
    ),
    ("dilated-pool", _dilated_pool, "is dilated, which CrypTen ignores", "use a dense window"),
    (
        "pads-left-out",
        _pads_left_out,
        "leaves its padding out of the mean, which CrypTen counts in",
        "use count_include_pad=True",
    ),
    ("axes-as-input", _axes_as_input, "has its axes as an input", "use opset 17 or below, where they are an attribute"),
    ("zero-in-shape", _zero_in_shape, "has a 0 in its shape", "use -1"),
    ("large-index", _large_index, "has indices of 2^24 and more, which CrypTen rounds", "use a smaller input"),
    (
        "open-slice",
        _open_slice,
        "has negative, open or stepped bounds, which CrypTen gets wrong",
        "slice with plain numbers",
    ),
    ("half-clip", _half_clip, "lacks a constant bound", "give both min and max"),
    ("gemm-bias", _no_bias, "has no bias, which CrypTen needs", "give a bias of zeros, or use MatMul"),
)

# Beaver's method opens each factor, masked: 8 bytes (an int64) from each of two parties. A comparison takes the sign
# bit from a binary adder: a first AND and six levels (log2 of 64 bits) of two, each opening two factors (26 openings);
# then the bit becomes arithmetic (1) and is multiplied with x (2). The adder's steps, the bit and the product are
# rounds one after the other.
_OPENED = 16
_COMPARISON = (26 + 1 + 2) * _OPENED  # 464 bytes
_COMPARISON_ROUNDS = 1 + 6 + 1 + 1

FRAMEWORK = Framework(
    "crypten",
    opsets=(11, 21),
    faults=faults,
    fixed_point=FixedPoint(64, 16),
    protocols=(
        Protocol(
            "Beaver",
            PAIR,
            opens_weights=True,
            bytes_per={
                "compared": _COMPARISON,
                "squares": _OPENED,
                "products": 2 * _OPENED,
                "stored": _OPENED,
                "inputs": _OPENED,
                "weights": _OPENED,
            },
            rounds_per={"compared": _COMPARISON_ROUNDS, "squares": 1, "products": 1, "stored": 1, "weights": 1},
        ),
    ),
    parties=Parties(
        requirements=(
            "torch==2.13.0",
            "numpy==2.4.6",
            "onnx==1.23.2",
            "omegaconf==2.4.0",
            "pyyaml==6.0.3",
            "future==1.0.0",
            "scipy==1.17.1",
        ),
        pythons=(11, 12, 13),
        modules=("torch", "onnx", "omegaconf", "scipy", "yaml"),
        alone=("crypten==0.4.1",),
    ),
)
